"""A live PostgreSQL server: connections to it, and the few things that are done through them.

Every connection has a connect timeout, a statement timeout and a bound on the network's silence. Passwords come from
libpq's own places or the connection string, and are cut out of every message.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from engine.commands import cellarman
from engine.errors import Advice, CellarmanError
from engine.postgres import hba
from engine.postgres.conninfo import SECRETS, parse_conninfo, where, with_options, without_password
from engine.postgres.encoding import accept_any_bytes
from engine.postgres.facts import Archiver, ServerFacts, Tablespace, server_facts
from engine.postgres.lsn import Lsn
from engine.postgres.quoting import ident

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extras import ReplicationCursor

__all__ = [
    "Archiver",
    "BasebackupProgress",
    "ConnectionFailed",
    "Identity",
    "QueryFailed",
    "ServerFacts",
    "Slot",
    "Tablespace",
    "basebackup_progress",
    "connect",
    "create_physical_slot",
    "create_restore_point",
    "drop_slot",
    "identify_system",
    "parse_conninfo",
    "server_compression",
    "server_facts",
    "slot",
    "stream_wal",
    "switch_wal",
    "timeline_histories",
    "where",
    "with_options",
    "without_password",
]

CONNECT_TIMEOUT = 10
STATEMENT_TIMEOUT = 60

_LABEL_TOO_LONG = "22023"
_WAL_LEVEL_TOO_LOW = "55000"
_LONGEST_LABEL = 1024


class ConnectionFailed(CellarmanError):
    """The server could not be reached, or would not let us in."""


class QueryFailed(CellarmanError):
    """The server refused or failed a statement; `sqlstate` is its code, or "" when it never answered."""

    def __init__(self, what: str, why: str = "", fix: str | Advice = "", sqlstate: str = "") -> None:
        super().__init__(what, why, fix)
        self.sqlstate = sqlstate


@dataclass(frozen=True, slots=True)
class Identity:
    """What IDENTIFY_SYSTEM answers on a replication connection."""

    system_id: int
    timeline: int
    lsn: Lsn


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot."""

    name: str
    kind: str
    """`physical` or `logical`."""
    active: bool
    active_pid: int | None
    restart_lsn: Lsn | None
    wal_status: str | None
    """`reserved`, `extended`, `unreserved`, `lost`, or None when it holds nothing."""
    temporary: bool


@dataclass(frozen=True, slots=True)
class BasebackupProgress:
    """A row of pg_stat_progress_basebackup; bytes are those before any compression."""

    phase: str
    total: int | None
    streamed: int | None


@contextlib.contextmanager
def connect(
    conninfo: str,
    *,
    timeout: int = CONNECT_TIMEOUT,
    statement_timeout: int = STATEMENT_TIMEOUT,
    application_name: str = "cellarman",
) -> Iterator[Connection]:
    """Give a connection in autocommit mode, closed afterwards; times in seconds.

    Raises ConnectionFailed with libpq's own words and what to do, also when a statement within loses the server; a
    statement that fails for another reason raises QueryFailed.
    """
    import psycopg2

    connection = _open(conninfo, timeout, application_name)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false),"
                " set_config('datestyle', 'ISO', false), set_config('timezone', 'UTC', false)",
                (f"{statement_timeout}s", f"{statement_timeout}s"),
            )
        yield connection
    except psycopg2.Error as error:
        raise _failed(conninfo, error, lost=bool(connection.closed)) from None
    finally:
        connection.close()


@contextlib.contextmanager
def _replication(conninfo: str, timeout: int) -> Iterator[ReplicationCursor]:
    import psycopg2
    from psycopg2.extras import PhysicalReplicationConnection

    connection = _open(conninfo, timeout, "cellarman", connection_factory=PhysicalReplicationConnection)
    try:
        with connection.cursor() as cursor:
            yield cast("ReplicationCursor", cursor)
    except psycopg2.Error as error:
        raise _failed(conninfo, error, lost=bool(connection.closed)) from None
    finally:
        connection.close()


def _open(conninfo: str, timeout: int, application_name: str, **factory: Any) -> Connection:
    import psycopg2

    accept_any_bytes()
    bounds = {
        "connect_timeout": max(timeout, 2),
        "keepalives_idle": max(timeout, 2),
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": max(timeout, 2) * 1000,
    }
    said = parse_conninfo(conninfo)
    missing = {key: value for key, value in bounds.items() if said.get(key, "0") == "0"}
    dsn = with_options(conninfo, application_name=application_name, **missing)
    try:
        connection: Connection = psycopg2.connect(dsn, **factory)
        return connection
    except psycopg2.Error as error:
        why = _words(conninfo, error)
        raise ConnectionFailed(f"cannot connect to {where(conninfo)}", why, _advice(why, conninfo)) from None


def _failed(conninfo: str, error: Exception, *, lost: bool) -> CellarmanError:
    why = _words(conninfo, error)
    if lost:
        return ConnectionFailed(f"lost the connection to {where(conninfo)}", why, _advice(why, conninfo))
    sqlstate = getattr(error, "pgcode", None) or ""
    return QueryFailed(f"{where(conninfo)} refused a statement", why, _ADVICE_BY_STATE.get(sqlstate, ""), sqlstate)


def _words(conninfo: str, error: Exception) -> str:
    """Return what libpq or the server said, without secrets."""
    said = "\n".join(map(str.strip, str(error).strip().splitlines())) or type(error).__name__
    parameters = parse_conninfo(conninfo)
    for secret in SECRETS:
        if parameters.get(secret):
            said = said.replace(parameters[secret], "********")
    return said


_ADVICE: tuple[tuple[str, str | Advice], ...] = (
    (
        r"password authentication failed",
        "the role is not there, or the password in ~/.pgpass is not its own: correct that line, or as a superuser in"
        " psql:\n\\password {role}",
    ),
    (
        r"no password supplied",
        "put the password into ~/.pgpass (mode 0600) of the account that runs cellarman, as"
        " host:port:database:user:password; for replication connections the database is `replication`",
    ),
    (
        r"replication role|permission denied to start WAL sender|REPLICATION attribute",
        "ALTER ROLE {role} REPLICATION;  -- in psql on the server, as a superuser",
    ),
    (
        r'exceeds "?max_wal_senders',
        "raise max_wal_senders on the server (needs a restart), or end a replication connection that is not needed",
    ),
    (r"too many (clients|connections)|remaining connection slots", "the server is full: raise max_connections"),
    (
        r'role ".*" does not exist',
        Advice("make it on the server; this prints how, with its rights: ", cellarman("setup", "SERVER")),
    ),
    (r'database ".*" does not exist', "name an existing database in conninfo: dbname=postgres"),
    (r"Connection refused|No such file or directory", "start the server, or correct host and port in conninfo"),
    (r"could not translate host name|Name or service not known", "correct the host in conninfo, or its DNS entry"),
    (r"timeout expired|timed out|No route to host|unreachable", "look at the network and the firewalls in between"),
    (
        r"closed the connection unexpectedly|terminating connection|terminated by",
        "look into the server's log for the reason, then try again",
    ),
    (r"starting up|not yet accepting|shutting down", "wait until the server accepts connections, then try again"),
    (r"certificate|SSL", "look at sslmode, sslrootcert, sslcert and sslkey in conninfo"),
)
_ADVICE_BY_STATE: dict[str, str | Advice] = {
    "42501": Advice(
        "grant the role what the message names; this lists what it needs, with the statements: ",
        cellarman("check", "SERVER"),
    ),
    "57014": "the server is slow or a lock is held there; try again when it is quieter",
}


def _advice(why: str, conninfo: str) -> str | Advice:
    if line := hba.wanted(why):
        return f"add to the server's pg_hba.conf, before lines that match the same:\n{line}\nSELECT pg_reload_conf();"
    for pattern, advice in _ADVICE:
        if re.search(pattern, why):
            return advice.replace("{role}", ident(_role(conninfo))) if isinstance(advice, str) else advice
    return "try the same with psql; what works there works here"


def _role(conninfo: str) -> str:
    """Return the role that libpq logs in as."""
    return parse_conninfo(conninfo).get("user") or os.environ.get("PGUSER") or getpass.getuser()


def identify_system(streaming_conninfo: str, *, timeout: int = CONNECT_TIMEOUT) -> Identity:
    """Ask a server who it is over a replication connection, which proves the right to one and a free WAL sender."""
    with _replication(streaming_conninfo, timeout) as cursor:
        cursor.execute("IDENTIFY_SYSTEM")
        row = cursor.fetchone()
    assert row is not None
    return Identity(int(row[0]), int(row[1]), Lsn.parse(row[2]))


def timeline_histories(
    streaming_conninfo: str, timelines: Iterable[int], *, timeout: int = CONNECT_TIMEOUT
) -> dict[int, str]:
    """Return the text of the server's own history files, by timeline; those that it does not have are left out."""
    from psycopg2 import errors

    found: dict[int, str] = {}
    with _replication(streaming_conninfo, timeout) as cursor:
        for timeline in timelines:
            try:
                cursor.execute(f"TIMELINE_HISTORY {timeline:d}")
            except errors.UndefinedFile:
                continue
            row = cursor.fetchone()
            assert row is not None
            content = row[1]
            found[timeline] = content if isinstance(content, str) else bytes(content).decode("utf-8", "replace")
    return found


def stream_wal(
    streaming_conninfo: str, timeline: int, start: Lsn, size: int, *, timeout: int = STATEMENT_TIMEOUT
) -> bytes:
    """Return `size` bytes of a timeline's WAL from `start` on, as a server streams them to its standbys.

    Raises QueryFailed when it has them no more, CellarmanError when it streams less or falls silent.
    """
    import select

    found = bytearray()
    with _replication(streaming_conninfo, timeout) as cursor:
        cursor.start_replication(start_lsn=int(start), timeline=timeline)
        deadline = time.monotonic() + timeout
        while len(found) < size:
            message = cursor.read_message()
            if message is not None:
                found += message.payload
                deadline = time.monotonic() + timeout
            elif cursor.closed or not select.select([cursor], [], [], max(0, deadline - time.monotonic()))[0]:
                raise CellarmanError(
                    f"{where(streaming_conninfo)} did not stream all of it",
                    f"{len(found)} of {size} bytes came from {start} on timeline {timeline}",
                )
    return bytes(found[:size])


def server_compression(streaming_conninfo: str, algorithm: str, *, timeout: int = CONNECT_TIMEOUT) -> str | None:
    """Return None when the server can compress a base backup with `algorithm` (gzip, lz4, zstd), else why it cannot.

    Nothing is started: the backup asked for has a label that is too long, which the server looks at after it has set
    up compression and before it does anything else (SendBaseBackup, do_pg_backup_start). It logs one ERROR.
    """
    if algorithm == "none":
        return None
    label = f"cellarman asks whether this server can compress with {algorithm}; this error is expected "
    with _replication(streaming_conninfo, timeout) as cursor:
        if cursor.connection.server_version < 150000:
            return "server-side compression came with PostgreSQL 15"
        try:
            cursor.execute(f"BASE_BACKUP (LABEL '{label.ljust(_LONGEST_LABEL + 1, '.')}', COMPRESSION '{algorithm}')")
        except cursor.connection.Error as error:
            if error.pgcode in (_LABEL_TOO_LONG, _WAL_LEVEL_TOO_LOW):
                return None
            return str(error).strip().removeprefix("invalid compression specification: ")
    raise AssertionError("a base backup with a label that is too long was accepted")


def create_restore_point(connection: Connection, name: str) -> Lsn:
    """Make a named restore point and return its LSN."""
    return Lsn.parse(_value(connection, "SELECT pg_create_restore_point(%s)::text", name))


def switch_wal(connection: Connection) -> Lsn:
    """End the current WAL segment early, so that it is archived; returns the end of what it holds."""
    return Lsn.parse(_value(connection, "SELECT pg_switch_wal()::text"))


def segment_before(connection: Connection, lsn: int) -> str:
    """Return the name of the segment that the byte before an LSN is in, on the server's timeline."""
    # Of the byte before: what a segment's first byte is named by changed with PostgreSQL 17.
    return str(_value(connection, "SELECT pg_walfile_name(%s::pg_lsn)", str(Lsn(lsn - 1))))


def slot(connection: Connection, name: str) -> Slot | None:
    """Return the replication slot of that name, None when there is none."""
    row = _row(
        connection,
        "SELECT slot_name::text, slot_type, active, active_pid, restart_lsn::text, wal_status, temporary"
        " FROM pg_replication_slots WHERE slot_name = %s"
        if connection.server_version >= 130000
        else "SELECT slot_name::text, slot_type, active, active_pid, restart_lsn::text, NULL, temporary"
        " FROM pg_replication_slots WHERE slot_name = %s",
        name,
    )
    if row is None:
        return None
    return Slot(row[0], row[1], row[2], row[3], Lsn.parse(row[4]) if row[4] else None, row[5], row[6])


def create_physical_slot(connection: Connection, name: str) -> Lsn:
    """Create a physical replication slot that holds WAL from now on; returns where it begins."""
    return Lsn.parse(_value(connection, "SELECT lsn::text FROM pg_create_physical_replication_slot(%s, true)", name))


def drop_slot(connection: Connection, name: str) -> None:
    """Drop a replication slot; QueryFailed when it is in use or is not there."""
    _row(connection, "SELECT pg_drop_replication_slot(%s)", name)


def basebackup_progress(connection: Connection, application_name: str) -> BasebackupProgress | None:
    """Return how far the base backup of the client `application_name` is, None when it is not seen.

    A role sees another role's backup only with pg_read_all_stats.
    """
    row = _row(
        connection,
        "SELECT p.phase, p.backup_total, p.backup_streamed FROM pg_stat_progress_basebackup p"
        " JOIN pg_stat_activity a USING (pid) WHERE a.application_name = %s AND p.phase IS NOT NULL",
        application_name,
    )
    return BasebackupProgress(row[0], row[1], row[2]) if row else None


def _row(connection: Connection, query: str, *arguments: Any) -> tuple[Any, ...] | None:
    import psycopg2

    try:
        with connection.cursor() as cursor:
            cursor.execute(query, arguments)
            return cursor.fetchone()
    except psycopg2.Error as error:
        raise _failed(connection.dsn, error, lost=bool(connection.closed)) from None


def _value(connection: Connection, query: str, *arguments: Any) -> Any:
    row = _row(connection, query, *arguments)
    assert row is not None
    return row[0]
