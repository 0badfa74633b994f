"""libpq's password file, looked at without ever returning a password.

Source: PostgreSQL's documentation, "The Password File", and passwordFromFile in fe-connect.c.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass

_FIELD = re.compile(r"((?:[^:\\]|\\.)*)(?::|$)", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Login:
    """One connection that may need a password, as the file's lines name it."""

    host: str
    port: str
    database: str
    """"replication" for a replication connection."""
    user: str

    def line(self, password: str) -> str:
        """Return the line that the file needs.

        >>> Login("pg", "5432", "postgres", "a:b").line("PASSWORD")
        'pg:5432:postgres:a\\\\:b:PASSWORD'
        """
        return ":".join(
            re.sub(r"([:\\])", r"\\\1", part) for part in (self.host, self.port, self.database, self.user)
        ) + (f":{password}")


@dataclass(frozen=True, slots=True)
class PasswordFile:
    """What there is of a password file."""

    path: str
    exists: bool
    mode: int
    """Its permission bits; 0 when there is none."""
    logins: tuple[tuple[str, str, str, str], ...]
    """Host, port, database and user of each line, `*` for any."""
    unreadable: str = ""
    """Why it could not be read."""

    @property
    def too_open(self) -> bool:
        """Whether others may read it, which makes libpq pass over all of it."""
        return self.exists and bool(self.mode & (stat.S_IRWXG | stat.S_IRWXO))

    def has(self, login: Login) -> bool:
        """Tell whether a line is for this login."""
        wanted = (login.host, login.port, login.database, login.user)
        return any(all(said in ("*", want) for said, want in zip(line, wanted, strict=True)) for line in self.logins)


def look(conninfo: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> PasswordFile:
    """Return what there is of the password file that a connection with these parameters uses."""
    path = conninfo.get("passfile") or environ.get("PGPASSFILE") or os.path.expanduser("~/.pgpass")
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            logins = tuple(found for line in file if (found := _login(line)) is not None)
    except FileNotFoundError:
        return PasswordFile(path, False, 0, ())
    except OSError as error:
        return PasswordFile(path, True, 0, (), str(error))
    return PasswordFile(path, True, mode, logins)


def _login(line: str) -> tuple[str, str, str, str] | None:
    """Return host, port, database and user of a line; None for a comment or what is no login.

    >>> _login("pg:5432:*:a\\\\:b:secret")
    ('pg', '5432', '*', 'a:b')
    """
    if line.startswith("#"):
        return None
    fields = [_ESCAPE.sub(r"\1", found[1]) for found in _FIELD.finditer(line.rstrip("\r\n"))]
    if len(fields) < 5:
        return None
    return fields[0], fields[1], fields[2], fields[3]


def login_of(conninfo: Mapping[str, str], *, replication: bool, account: str) -> Login:
    """Return how the password file names a connection with these parameters.

    >>> login_of({"host": "pg", "user": "barman"}, replication=False, account="me")
    Login(host='pg', port='5432', database='barman', user='barman')
    """
    host = conninfo.get("host") or conninfo.get("hostaddr") or "localhost"
    user = conninfo.get("user") or account
    database = "replication" if replication else conninfo.get("dbname") or user
    return Login("localhost" if host.startswith(("/", "@")) else host, conninfo.get("port") or "5432", database, user)
