"""Lines of pg_hba.conf."""

from __future__ import annotations

import re

_TURNED_AWAY = re.compile(
    r"(?:no pg_hba\.conf entry|pg_hba\.conf rejects(?: replication)? connection) for (?:replication connection from )?"
    r'host "(?P<host>[^"]*)", user "(?P<user>[^"]*)"(?:, database "(?P<database>[^"]*)")?'
)
_KEYWORDS = ("all", "samerole", "sameuser", "samegroup")


def word(name: str) -> str:
    """Return a name as pg_hba.conf reads it.

    >>> word("barman"), word("all"), word("replication"), word("a b")
    ('barman', '"all"', 'replication', '"a b"')
    """
    plain = name.replace("_", "").replace("-", "").isalnum() and name not in _KEYWORDS
    return name if plain else '"' + name.replace('"', '""') + '"'


def turned_away(words: str) -> bool:
    """Tell whether a server's words are about a line that pg_hba.conf lacks."""
    return _TURNED_AWAY.search(words) is not None


def wanted(words: str) -> str:
    """Return the line that would let in whom a server's words turn away, "" when they are about something else.

    >>> wanted('FATAL:  no pg_hba.conf entry for host "192.0.2.10", user "barman", database "a b", no encryption')
    'host "a b" barman 192.0.2.10/32 scram-sha-256'
    >>> wanted('no pg_hba.conf entry for replication connection from host "2001:db8::1", user "u", SSL encryption')
    'host replication u 2001:db8::1/128 scram-sha-256'
    >>> wanted('no pg_hba.conf entry for host "[local]", user "u", database "postgres", no encryption')
    'local postgres u scram-sha-256'
    """
    found = _TURNED_AWAY.search(words)
    if found is None:
        return ""
    host, names = found["host"], f"{word(found['database'] or 'replication')} {word(found['user'])}"
    if host == "[local]":
        return f"local {names} scram-sha-256"
    return f"host {names} {host}/{128 if ':' in host else 32} scram-sha-256"
