"""The few facts about a running server that are asked again and again: one statement, cheap for both sides."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from engine.postgres.lsn import Lsn

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_PULSE = """
SELECT current_setting('server_version_num')::int, pg_is_in_recovery(),
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text,
       a.last_failed_wal, a.last_failed_time,
       a.last_failed_time IS NOT NULL AND (a.last_archived_time IS NULL OR a.last_failed_time > a.last_archived_time),
       s.active, s.wal_status
  FROM pg_stat_archiver a LEFT JOIN {slots} ON s.slot_name = %s
"""
_SLOTS = "pg_replication_slots s"
_SLOTS_BEFORE_13 = "(SELECT slot_name, active, NULL::text AS wal_status FROM pg_replication_slots) s"


@dataclass(frozen=True, slots=True)
class Pulse:
    """A server that answers."""

    version_num: int
    in_recovery: bool
    lsn: Lsn | None
    """What is written on a primary, what is replayed on a standby."""
    failed_wal: str
    """What archive_command failed for last, when that was its latest attempt; else empty."""
    failed_at: datetime | None
    slot_active: bool | None
    """Whether somebody reads from the slot; None when there is no such slot."""
    slot_lost: bool
    """Whether the server has removed WAL that the slot still needed."""


def feel(connection: Connection, slot_name: str = "") -> Pulse:
    """Ask a server for its pulse; `slot_name` is the slot that is ours."""
    with connection.cursor() as cursor:
        slots = _SLOTS if connection.server_version >= 130000 else _SLOTS_BEFORE_13
        cursor.execute(_PULSE.format(slots=slots), (slot_name,))
        row = cursor.fetchone()
    assert row is not None
    version, recovering, lsn, failed_wal, failed_at, failing, active, wal_status = row
    return Pulse(
        version,
        recovering,
        Lsn.parse(lsn) if lsn else None,
        (failed_wal or "") if failing else "",
        failed_at if failing else None,
        active,
        wal_status == "lost",
    )
