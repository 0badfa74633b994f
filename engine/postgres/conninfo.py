"""Connection strings: read, changed, and shown without their secrets."""

from __future__ import annotations

import re

from engine.errors import ConfigError, Refused

SECRETS = ("password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret")
"""Parameters that are never shown."""

_QUOTED = re.compile(r'"[^"]*"')


def parse_conninfo(conninfo: str) -> dict[str, str]:
    """Return the parameters of a connection string, in keyword or URI form.

    Raises ConfigError that quotes no part of it, since any part may be a password.
    """
    import psycopg2
    from psycopg2.extensions import parse_dsn

    try:
        parameters = dict(parse_dsn(conninfo))
    except psycopg2.Error as error:
        # libpq quotes the word that it stumbled over, which may be part of a password.
        why = _QUOTED.sub('"…"', str(error).strip())
        raise ConfigError(
            "a connection string cannot be read",
            why,
            'write it as in libpq\'s documentation: conninfo = "host=pg user=barman dbname=postgres"',
        ) from None
    scheme, _, rest = conninfo.partition("://")
    authority, _, path = rest.partition("?")[0].partition("/")
    if scheme in ("postgresql", "postgres") and (authority.count("@") > 1 or "@" in path):
        raise ConfigError(
            "a connection string cannot be read",
            "a password with an unescaped @ or / in it would be taken for the host's name",
            "write @ as %40 and / as %2F in it, or keep the password in ~/.pgpass",
        )
    return parameters


def with_options(conninfo: str, **options: str | int) -> str:
    """Return the connection string with these parameters set over its own, in keyword form.

    >>> with_options("host=pg user=barman", dbname="replication")
    'user=barman host=pg dbname=replication'
    """
    from psycopg2.extensions import make_dsn

    merged = {**parse_conninfo(conninfo), **{key: str(value) for key, value in options.items()}}
    return str(make_dsn(**merged))


def without_password(conninfo: str) -> tuple[str, str | None]:
    """Return the connection string safe to show and to pass as an argument, and the password taken out of it.

    Hand the password to a child program as PGPASSWORD in its environment. Raises Refused for other secrets, which
    libpq takes only from the connection string itself.

    >>> without_password("postgresql://barman:s3cret@pg/postgres")
    ('user=barman dbname=postgres host=pg', 's3cret')
    """
    from psycopg2.extensions import make_dsn

    parameters = parse_conninfo(conninfo)
    password = parameters.pop("password", None)
    for secret in SECRETS[1:]:
        if secret in parameters:
            raise Refused(
                f"a connection string holds {secret}, which PostgreSQL's programs take only as a visible argument",
                "",
                "move it to a service file (pg_service.conf) and write service=NAME in the connection string",
            )
    return str(make_dsn(**parameters)), password


def where(conninfo: str) -> str:
    """Return the server that a connection string leads to, for messages: `host=pg port=5432 user=barman`."""
    parameters = parse_conninfo(conninfo)
    shown = ("service", "host", "hostaddr", "port", "user", "dbname")
    return " ".join(f"{key}={parameters[key]}" for key in shown if parameters.get(key)) or "the local default server"
