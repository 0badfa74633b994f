"""What a running server says for checks: its facts, its clock, its rate of WAL, and what lets us in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from engine.config import Server
from engine.postgres.connection import ServerFacts, Slot

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_CONFIGURE = "SELECT coalesce((SELECT setting FROM pg_catalog.pg_config WHERE name = 'CONFIGURE'), '')"
_CHECKPOINT_SETTINGS = """
SELECT name, setting FROM pg_settings
 WHERE name IN ('checkpoint_timeout', 'checkpoint_completion_target', 'max_wal_size')
"""
_SINCE = "extract(epoch FROM clock_timestamp() - stats_reset)::float8"
_CHECKPOINTS = f"SELECT num_timed, num_requested, {_SINCE} FROM pg_stat_checkpointer"
_CHECKPOINTS_BEFORE_17 = f"SELECT checkpoints_timed, checkpoints_req, {_SINCE} FROM pg_stat_bgwriter"
_WAL = f"SELECT wal_bytes::float8, {_SINCE} FROM pg_stat_wal WHERE clock_timestamp() > stats_reset"
_MAY_SEE_HBA = """
SELECT has_table_privilege('pg_catalog.pg_hba_file_rules', 'SELECT')
   AND has_function_privilege('pg_catalog.pg_hba_file_rules()', 'EXECUTE')
"""
_HBA_ERRORS = "SELECT line_number, error FROM pg_catalog.pg_hba_file_rules WHERE error IS NOT NULL ORDER BY line_number"
_SAFE_WAL_SIZE = "SELECT safe_wal_size FROM pg_replication_slots WHERE slot_name = %s"
_LEAST_OBSERVED = 60.0
"""Seconds of statistics below which a rate says nothing."""


@dataclass(frozen=True, slots=True)
class Live:
    """What the running server says."""

    facts: ServerFacts
    slot: Slot | None
    """The one that is configured."""
    clock_skew: float
    """Seconds that the server's clock is ahead of ours; negative: behind."""
    configure: str
    """The flags that it was built with (view pg_config); "" when the role may not know or the build does not tell."""
    clock_doubt: float = 0.0
    """Seconds by which `clock_skew` may be wrong: half of the time that asking took."""
    client_address: str = ""
    """The address that the server sees us at; "" for a socket."""
    used_password: bool = False
    """Whether logging in took a password."""
    hba_errors: tuple[str, ...] | None = None
    """What is wrong in pg_hba.conf, a text a line; None when the role may not see it."""
    safe_wal_size: int | None = None
    """Bytes that may still be written before the slot is lost; None: no limit, or no slot."""
    wal_rate: float | None = None
    """Bytes of WAL a second since its statistics began; None when that is not known."""
    checkpoints: tuple[int, int] = (0, 0)
    """Those by time, and those that something asked for, since the statistics began: the volume of WAL, a backup or
    CHECKPOINT, which PostgreSQL does not count apart."""
    checkpoint_wal: float | None = None
    """Bytes of WAL written since then, as far as statistics tell; None when they do not."""
    checkpoint_settings: Mapping[str, str] | None = None
    """checkpoint_timeout in seconds, checkpoint_completion_target, max_wal_size in megabytes."""


def look(server: Server, patience: int) -> Live:
    """Ask a server; `patience` bounds connecting and every statement, in seconds."""
    from engine.postgres import connection

    with connection.connect(server.conninfo, timeout=patience, statement_timeout=patience) as link:
        facts = connection.server_facts(link)
        slot = connection.slot(link, server.slot_name) if server.slot_name else None
        skew, doubt = _clock(link)
        before_17 = facts.version_num < 170000
        timed, requested, counted = _row(link, _CHECKPOINTS_BEFORE_17 if before_17 else _CHECKPOINTS)
        written, seconds = _written(link) if facts.version_num >= 140000 else (None, 0.0)
        safe = _rows(link, _SAFE_WAL_SIZE, server.slot_name) if slot is not None else []
        return Live(
            facts,
            slot,
            skew,
            str(_row(link, _CONFIGURE)[0]) if facts.superuser else "",
            doubt,
            str(_row(link, "SELECT coalesce(host(inet_client_addr()), '')")[0]),
            bool(link.info.used_password),
            _hba_errors(link),
            safe[0][0] if safe else None,
            written / seconds if written is not None and seconds >= _LEAST_OBSERVED else None,
            (int(timed), int(requested)),
            written * min(1.0, counted / seconds) if written is not None and counted is not None else None,
            dict(_rows(link, _CHECKPOINT_SETTINGS)),
        )


def _clock(link: Connection) -> tuple[float, float]:
    """Return how far the server's clock is ahead of ours, and how wrong that may be, in seconds."""
    before = datetime.now(timezone.utc)
    moment = _row(link, "SELECT clock_timestamp()")[0]
    after = datetime.now(timezone.utc)
    half = (after - before) / 2
    return (moment - (before + half)).total_seconds(), half.total_seconds()


def _hba_errors(link: Connection) -> tuple[str, ...] | None:
    if not _row(link, _MAY_SEE_HBA)[0]:
        return None
    return tuple(f"line {number}: {error}" for number, error in _rows(link, _HBA_ERRORS))


def _written(link: Connection) -> tuple[float | None, float]:
    """Return the bytes of WAL that statistics know of, and in how many seconds they were written."""
    rows = _rows(link, _WAL)
    return rows[0] if rows else (None, 0.0)


def _row(link: Connection, query: str, *arguments: Any) -> tuple[Any, ...]:
    return _rows(link, query, *arguments)[0]


def _rows(link: Connection, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    with link.cursor() as cursor:
        cursor.execute(query, arguments or None)
        return cursor.fetchall()
