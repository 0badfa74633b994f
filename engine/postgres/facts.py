"""What a running server says about itself: one frozen value, asked for in a handful of statements."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from engine.postgres.lsn import Lsn
from engine.postgres.quoting import ident

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg2.extensions import connection as Connection

RESTORE_SETTINGS = (
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
)
"""What a restored server must have at least as high as the primary (CheckRequiredParameterValues, xlogrecovery.c)."""

_SETTINGS = (
    *RESTORE_SETTINGS,
    "archive_command",
    "archive_library",
    "archive_mode",
    "archive_timeout",
    "config_file",
    "data_checksums",
    "data_directory",
    "hba_file",
    "ident_file",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "shared_preload_libraries",
    "summarize_wal",
    "wal_level",
)

_IDENTITY = """
SELECT current_setting('server_version_num')::int, current_setting('server_version'), system_identifier,
       pg_is_in_recovery(), pg_size_bytes(current_setting('wal_segment_size')),
       CASE WHEN pg_is_in_recovery()
            THEN coalesce(pg_last_wal_replay_lsn(), pg_last_wal_receive_lsn()) ELSE pg_current_wal_lsn() END::text,
       CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_walfile_name(pg_current_wal_insert_lsn()) END,
       (SELECT timeline_id FROM pg_control_checkpoint())
  FROM pg_control_system()
"""
RECEIVED_TIMELINE = "SELECT max(received_tli) FROM pg_stat_wal_receiver"
_TABLESPACES = """
SELECT spcname::text, oid::bigint, pg_tablespace_location(oid) FROM pg_tablespace
 WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY oid
"""
_SIZE = "SELECT sum(pg_tablespace_size(oid))::bigint FROM pg_tablespace"
ARCHIVER = """
SELECT archived_count, last_archived_wal, last_archived_time, failed_count, last_failed_wal, last_failed_time
  FROM pg_stat_archiver
"""
_IN_USE = "SELECT (SELECT count(*) FROM pg_stat_replication), (SELECT count(*) FROM pg_replication_slots)"
_ROLE = "SELECT rolname::text, rolsuper, rolreplication FROM pg_roles WHERE rolname = current_user"
_MAY_EXECUTE = "SELECT has_function_privilege(%s, 'EXECUTE')"
_MEMBER = "SELECT pg_has_role(current_user, %s, 'USAGE')"

_ROLES = ("pg_read_all_settings", "pg_read_all_stats")
_FUNCTIONS = ("pg_create_restore_point(text)", "pg_switch_wal()")
_COPY_FUNCTIONS = ("pg_backup_start(text, boolean)", "pg_backup_stop(boolean)")
_COPY_FUNCTIONS_BEFORE_15 = ("pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)")


@dataclass(frozen=True, slots=True)
class Tablespace:
    """A tablespace outside the data directory."""

    name: str
    oid: int
    location: str


@dataclass(frozen=True, slots=True)
class Archiver:
    """pg_stat_archiver: what archive_command did."""

    archived_count: int
    last_archived_wal: str | None
    last_archived_time: datetime | None
    failed_count: int
    last_failed_wal: str | None
    last_failed_time: datetime | None

    @property
    def failing(self) -> bool:
        """Whether the newest attempt failed."""
        if self.last_failed_time is None:
            return False
        return self.last_archived_time is None or self.last_failed_time > self.last_archived_time


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A running server; None where the role may not know."""

    version_num: int
    """As server_version_num: 150020 is 15.20."""
    version: str
    system_id: int
    timeline: int
    in_recovery: bool
    segment_size: int
    current_lsn: Lsn | None
    """What is written on a primary, what is replayed on a standby."""
    wal_level: str
    data_directory: str | None
    config_file: str | None
    hba_file: str | None
    ident_file: str | None
    data_checksums: bool
    tablespaces: tuple[Tablespace, ...]
    cluster_size: int | None
    """Bytes of all tablespaces."""
    archive_mode: str
    archive_command: str | None
    archive_library: str | None
    archiver: Archiver
    max_wal_senders: int
    wal_senders_used: int
    max_replication_slots: int
    replication_slots_used: int
    role: str
    superuser: bool
    replication: bool
    """Whether the role may open replication connections."""
    missing_privileges: tuple[str, ...]
    """The GRANT statements that a streaming backup still needs for this role, to run as a superuser."""
    missing_for_copy: tuple[str, ...]
    """The further ones that a backup by copying files needs."""
    settings: Mapping[str, str]
    """Settings by name, as SHOW would not print them but pg_settings does: plain numbers without units."""

    @property
    def major(self) -> int:
        return self.version_num // 10000

    @property
    def restore_settings(self) -> dict[str, str]:
        """The settings that a restored server must have at least as high."""
        return {name: self.settings[name] for name in RESTORE_SETTINGS if name in self.settings}


def server_facts(connection: Connection, *, with_size: bool = True) -> ServerFacts:
    """Ask a server about itself; `with_size` adds up its tablespaces, which can take seconds on a big one."""
    version_num, version, system_id, in_recovery, segment_size, lsn, walfile, checkpoint_timeline = _one(
        connection, _IDENTITY
    )
    timeline = int(walfile[:8], 16) if walfile else checkpoint_timeline
    if in_recovery:
        timeline = _one(connection, RECEIVED_TIMELINE)[0] or timeline
    settings = _settings(connection)
    role, superuser, replication = _one(connection, _ROLE)
    senders_used, slots_used = _one(connection, _IN_USE)
    return ServerFacts(
        version_num=version_num,
        version=version,
        system_id=system_id & 0xFFFF_FFFF_FFFF_FFFF,
        timeline=timeline,
        in_recovery=in_recovery,
        segment_size=segment_size,
        current_lsn=Lsn.parse(lsn) if lsn else None,
        wal_level=settings["wal_level"],
        data_directory=settings.get("data_directory"),
        config_file=settings.get("config_file"),
        hba_file=settings.get("hba_file"),
        ident_file=settings.get("ident_file"),
        data_checksums=settings["data_checksums"] == "on",
        tablespaces=tablespaces(connection),
        cluster_size=_cluster_size(connection) if with_size else None,
        archive_mode=settings["archive_mode"],
        archive_command=settings.get("archive_command"),
        archive_library=settings.get("archive_library"),
        archiver=Archiver(*_one(connection, ARCHIVER)),
        max_wal_senders=int(settings["max_wal_senders"]),
        wal_senders_used=senders_used,
        max_replication_slots=int(settings["max_replication_slots"]),
        replication_slots_used=slots_used,
        role=role,
        superuser=superuser,
        replication=superuser or replication,
        missing_privileges=() if superuser else _missing(connection, role, _ROLES, _FUNCTIONS),
        missing_for_copy=()
        if superuser
        else _missing(connection, role, (), _COPY_FUNCTIONS if version_num >= 150000 else _COPY_FUNCTIONS_BEFORE_15),
        settings=settings,
    )


def tablespaces(connection: Connection) -> tuple[Tablespace, ...]:
    """Return the tablespaces outside the data directory, and those that say they are in it (a relative location)."""
    return tuple(Tablespace(*row) for row in _all(connection, _TABLESPACES))


def _settings(connection: Connection) -> dict[str, str]:
    rows = _all(connection, "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", list(_SETTINGS))
    return {name: setting for name, setting in rows if setting is not None}


def _missing(connection: Connection, role: str, roles: tuple[str, ...], functions: tuple[str, ...]) -> tuple[str, ...]:
    quoted = ident(role)
    wanted = [f"GRANT {name} TO {quoted}" for name in roles if not _one(connection, _MEMBER, name)[0]]
    wanted += [
        f"GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {quoted}"
        for function in functions
        if not _one(connection, _MAY_EXECUTE, f"pg_catalog.{function}")[0]
    ]
    return tuple(wanted)


def _cluster_size(connection: Connection) -> int | None:
    from psycopg2 import errors

    try:
        return int(_one(connection, _SIZE)[0])
    except (errors.InsufficientPrivilege, errors.QueryCanceled, errors.UndefinedObject, errors.UndefinedFile):
        return None


def _one(connection: Connection, query: str, *arguments: Any) -> tuple[Any, ...]:
    rows = _all(connection, query, *arguments)
    assert len(rows) == 1, query
    return rows[0]


def _all(connection: Connection, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, arguments or None)
        return cursor.fetchall()
