"""libpq connection strings without libpq: taken apart, and shown without the password in them.

Both forms of PostgreSQL's documentation, "Connection Strings": `key=value …` with quotes and backslashes
(conninfo_parse in fe-connect.c), and `postgresql://` URIs (conninfo_uri_parse).
"""

from __future__ import annotations

import os
import re

MASK = "********"
_SECRETS = ("password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret")
_KEY = re.compile(r"\s*([^=\s]+)\s*=\s*", re.ASCII)
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'\s*", re.ASCII | re.DOTALL)
_BARE = re.compile(r"((?:[^\s\\]|\\.|\\$)*)\s*", re.ASCII | re.DOTALL)
_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)
_KEYWORD_SECRET = re.compile(
    rf"\b({'|'.join(_SECRETS)}|PGPASSWORD)(\s*=\s*)('(?:[^'\\]|\\.)*'|(?:[^\s'\"&\\]|\\.)+)",
    re.IGNORECASE | re.DOTALL,
)
_URI_SECRET = re.compile(r"(postgres(?:ql)?://[^\s:@/?]*:)([^\s@/]+)(@)")


def is_uri(conninfo: str) -> bool:
    return conninfo.startswith(("postgresql://", "postgres://"))


def parse(conninfo: str) -> dict[str, str]:
    r"""Return what a connection string says, by libpq's keywords; raise ValueError where libpq would refuse it.

    >>> parse("host=pg user='o\\'neil' dbname = postgres")
    {'host': 'pg', 'user': "o'neil", 'dbname': 'postgres'}
    >>> parse("postgresql://barman:s%20t@pg:5433/postgres?sslmode=require")
    {'user': 'barman', 'password': 's t', 'host': 'pg', 'port': '5433', 'dbname': 'postgres', 'sslmode': 'require'}
    >>> parse("host pg")
    Traceback (most recent call last):
        ...
    ValueError: key=value pairs, and there is a word without "=" in it
    """
    if is_uri(conninfo):
        return _parse_uri(conninfo)
    found: dict[str, str] = {}
    at, text = 0, conninfo.lstrip(" \t\n\r\f\v")
    while at < len(text):
        key = _KEY.match(text, at)
        if key is None:
            raise ValueError('key=value pairs, and there is a word without "=" in it')
        quoted = text.startswith("'", key.end())
        value = (_QUOTED if quoted else _BARE).match(text, key.end())
        if value is None:
            raise ValueError(f"key=value pairs, and the quotes of {key[1]} never end")
        found[key[1]] = _ESCAPE.sub(r"\1", value[1])
        at = value.end()
    return found


def _parse_uri(uri: str) -> dict[str, str]:
    from urllib.parse import parse_qsl, unquote

    rest = uri.partition("://")[2]
    rest, _, query = rest.partition("?")
    authority, _, dbname = rest.partition("/")
    login, at, hosts = authority.rpartition("@")
    found: dict[str, str] = {}
    if at:
        user, _, password = login.partition(":")
        found |= {"user": unquote(user), "password": unquote(password)}
    places = [re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d*))?", place) for place in hosts.split(",")]
    if not all(places):
        raise ValueError("postgresql://user@host:port/dbname, and what it has for host:port is neither")
    found["host"] = ",".join(unquote(place[1].strip("[]")) for place in places if place)
    found["port"] = ",".join(place[2] or "" for place in places if place)
    found["dbname"] = unquote(dbname)
    found |= dict(parse_qsl(query, keep_blank_values=True))
    return {key: value for key, value in found.items() if value.strip(",")}


def has_password(conninfo: str) -> bool:
    """Tell whether a password stands in the connection string itself."""
    try:
        return not parse(conninfo).keys().isdisjoint(_SECRETS)
    except ValueError:
        return redact(conninfo) != conninfo


def redact(text: str) -> str:
    """Return text with the passwords of any connection strings in it hidden, and that of PGPASSWORD.

    >>> redact("could not use host=pg password=hunter2 user=x or postgresql://u:pw@h/db")
    'could not use host=pg password=******** user=x or postgresql://u:********@h/db'
    """
    text = _KEYWORD_SECRET.sub(rf"\1\2{MASK}", text)
    text = _URI_SECRET.sub(rf"\1{MASK}\3", text)
    known = os.environ.get("PGPASSWORD", "")
    return text.replace(known, MASK) if len(known) > 3 else text
