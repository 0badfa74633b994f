"""How long a segment takes through each WAL lane, seen from both ends."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.aftermath.report import Step
from engine.commands import cellarman
from engine.config import Server
from engine.wal import receiver

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_POLL = 0.02
_ASK = 0.25
"""Seconds between two questions to the server."""
_ARCHIVED = "SELECT last_archived_wal, last_failed_wal, failed_count FROM pg_stat_archiver"
_FLUSHED = """
SELECT r.flush_lsn >= %s::pg_lsn FROM pg_replication_slots s JOIN pg_stat_replication r ON r.pid = s.active_pid
 WHERE s.slot_name = %s
"""


@dataclass
class Lane:
    """One way of a segment into the repository."""

    name: str
    done: float | None = None
    """Seconds that it took."""
    trouble: str = ""


def watch(link: Connection, server: Server, segment: str, end: str, patience: float) -> list[Step]:
    """Wait until the segment has come by every lane that is on, and return how long each took.

    `end` is the LSN that it must hold; a lane that takes longer than `patience` seconds has failed.
    """
    began = time.monotonic()
    failures = _archiver(link)[2] if server.archiver else 0
    lanes = [Lane("streaming")] * server.streaming_archiver + [Lane("archive_command")] * server.archiver
    asked = 0.0
    while any(lane.done is None for lane in lanes) and time.monotonic() - began < patience:
        ask = time.monotonic() - asked >= _ASK
        asked = time.monotonic() if ask else asked
        for lane in lanes:
            if lane.done is None and _came(lane, link, server, segment, end, failures, ask=ask):
                lane.done = time.monotonic() - began
        time.sleep(_POLL)
    return [_step(lane, server, segment, patience) for lane in lanes]


def _came(lane: Lane, link: Connection, server: Server, segment: str, end: str, failures: int, *, ask: bool) -> bool:
    """Tell whether a lane has delivered: by the file where only it puts one, or by the server's own word."""
    if lane.name == "streaming":
        if os.path.lexists(os.path.join(server.layout.streaming, segment)):
            return True
        return ask and _row(link, _FLUSHED, end, server.slot_name) == (True,)
    if not ask:
        return False
    archived, failed, count = _archiver(link)
    if failed == segment and count > failures:
        lane.trouble = f"archive_command failed {count - failures} times for it: see PostgreSQL's log"
    return archived is not None and segment <= archived[:24]


def _archiver(link: Connection) -> tuple[str | None, str | None, int]:
    row = _row(link, _ARCHIVED)
    assert row is not None
    return row[0], row[1], int(row[2])


def _row(link: Connection, query: str, *arguments: object) -> tuple[Any, ...] | None:
    with link.cursor() as cursor:
        cursor.execute(query, arguments or None)
        return cursor.fetchone()


def _step(lane: Lane, server: Server, segment: str, patience: float) -> Step:
    name = f"lane: {lane.name}"
    if lane.done is not None:
        return Step(name, "ok", lane.done, f"{segment} came in {lane.done:.1f} s")
    trouble = lane.trouble
    if not trouble and lane.name == "streaming" and receiver.alive(server.layout) is None:
        trouble = f"no receiver runs: {cellarman('cron').line(server.named)} starts it"
    return Step(
        name, "fail", patience, f"{segment} did not come within {patience:.0f} s" + (f"; {trouble}" if trouble else "")
    )
