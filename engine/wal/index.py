"""The derived index of the WAL archive: a row a segment with its commit times, and the events worth a name.

SQLite in .cellarman/, written under a lock by one process at a time, read by any number. Everything in it comes from
the archived files: it may be deleted at any time, and is made anew when it is damaged or of another schema.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from engine.errors import Busy, CellarmanError
from engine.event import Reporter, Silent
from engine.postgres import segment
from engine.postgres.lsn import Lsn
from engine.repository import locks
from engine.repository.layout import Layout
from engine.wal import condemned, derived, indexschema
from engine.wal.indexer import Indexer
from engine.wal.indexschema import (
    BACKUP_END,
    CHECKPOINT,
    DROP,
    END_OF_RECOVERY,
    MINIMAL,
    RESTORE_POINT,
    TABLESPACE,
    Event,
    SegmentRow,
)
from engine.wal.runs import Span

__all__ = [
    "BACKUP_END",
    "CHECKPOINT",
    "DROP",
    "END_OF_RECOVERY",
    "RESTORE_POINT",
    "Event",
    "SegmentRow",
    "catch_up",
    "events",
    "highest_time",
    "problems",
    "rebuild",
    "rows",
]

_LOCK_WAIT = 60.0
_ANOTHER = "the index of WAL commit times is of another version of cellarman and is made anew"
_Made = TypeVar("_Made")


def rows(layout: Layout, timeline: int, first: int, last: int) -> list[SegmentRow]:
    """Return the rows of a timeline's segments by number, `last` included; those not indexed are left out."""
    columns = ", ".join(SegmentRow._fields)
    query = f"SELECT {columns} FROM segment WHERE timeline = ? AND number BETWEEN ? AND ? ORDER BY number"
    return _read(layout, query, (timeline, first, last), SegmentRow._make)


def highest_time(layout: Layout, timeline: int, first: int, last: int) -> int | None:
    """Return the latest commit or abort in a stretch of segments, without reading their rows."""
    query = "SELECT max(max_commit) FROM segment WHERE timeline = ? AND number BETWEEN ? AND ? AND problem IS NULL"
    found = _read(layout, query, (timeline, first, last), tuple)
    return found[0][0] if found else None


def first_after(layout: Layout, timeline: int, time: int) -> int | None:
    """Return the number of a timeline's first segment with a commit or abort at `time` (microseconds since 2000-01-01
    UTC) or later."""
    query = "SELECT min(number) FROM segment WHERE timeline = ? AND max_commit >= ? AND problem IS NULL"
    found = _read(layout, query, (timeline, time), tuple)
    return found[0][0] if found else None


def events(layout: Layout, *kinds: str) -> list[Event]:
    """Return the events of these kinds (default: all) by timeline and LSN."""
    wanted = f"WHERE kind IN ({', '.join('?' * len(kinds))})" if kinds else ""
    query = f"SELECT {', '.join(Event._fields)} FROM event {wanted} ORDER BY timeline, lsn"
    return _read(layout, query, kinds, Event._make)


def minimal(layout: Layout) -> dict[tuple[int, int], Lsn]:
    """Return where WAL went on with wal_level = minimal, by (timeline, number): no backup can be replayed past it."""
    # The kind stands in the query as it does in the index's condition: a parameter would have all events read.
    query = f"SELECT timeline, number, min(lsn) FROM event WHERE kind = '{MINIMAL}' GROUP BY timeline, number"
    return {(timeline, number): Lsn(lsn) for timeline, number, lsn in _read(layout, query, (), tuple)}


def backup_ends(
    layout: Layout, wanted: Iterable[tuple[int, int, int, int]]
) -> dict[tuple[int, int], tuple[Lsn | None, int]]:
    """Return where the records are that backups ended, by the timeline and LSN where each began; where there is none,
    None and how many good segments of the backup's range are indexed.

    `wanted` are (timeline, first segment, last segment, LSN where the backup began).
    """
    where = "timeline = ? AND number BETWEEN ? AND ?"
    ended = f"SELECT min(lsn) FROM event WHERE {where} AND kind = ? AND value = ?"
    known = f"SELECT count(*) FROM segment WHERE {where} AND problem IS NULL"

    def look(database: sqlite3.Connection) -> dict[tuple[int, int], tuple[Lsn | None, int]]:
        found: dict[tuple[int, int], tuple[Lsn | None, int]] = {}
        for timeline, first, last, start in wanted:
            (lsn,) = database.execute(ended, (timeline, first, last, BACKUP_END, int(start))).fetchone()
            count = 0 if lsn is not None else database.execute(known, (timeline, first, last)).fetchone()[0]
            found[timeline, start] = (None if lsn is None else Lsn(lsn), count)
        return found

    return _ask(layout, look, {})


def tablespaces(layout: Layout) -> list[Event]:
    """Return where tablespaces were made, by timeline and LSN."""
    query = f"SELECT {', '.join(Event._fields)} FROM event WHERE kind = '{TABLESPACE}' ORDER BY timeline, number, lsn"
    return _read(layout, query, (), Event._make)


def problems(layout: Layout) -> dict[tuple[int, int], str]:
    """Return the archived segments that satisfy nothing, by (timeline, number), with the reason: those that the index
    knows, and those that the audit condemned."""
    query = "SELECT timeline, number, problem FROM segment WHERE problem IS NOT NULL"
    found = {(timeline, number): problem for timeline, number, problem in _read(layout, query, (), tuple)}
    condemned_now = list(condemned.each(layout))
    size = _segment_size(layout) if condemned_now else 0
    for name, problem in condemned_now:
        with contextlib.suppress(ValueError):
            found.setdefault(segment.parse_segment(name, size), problem)
    return found


def bad_files(layout: Layout) -> list[tuple[str, int, int, str]]:
    """Return (name, size, mtime_ns, problem) of the archived files that satisfy nothing, those that the audit condemned
    included."""
    query = "SELECT name, size, mtime_ns, problem FROM segment WHERE problem IS NOT NULL"
    found = _read(layout, query, (), tuple)
    for name, problem in condemned.each(layout):
        with contextlib.suppress(FileNotFoundError):
            now = os.stat(layout.wal(name))
            found.append((name, now.st_size, now.st_mtime_ns, problem))
    return found


def _segment_size(layout: Layout) -> int:
    found = _read(layout, "SELECT segment_size FROM segment WHERE problem IS NULL LIMIT 1", (), tuple)
    return found[0][0] if found else 16 << 20


def short_files(layout: Layout) -> list[tuple[str, int, int, str, int]]:
    """Return (name, size, mtime_ns, why, LSN) of the segments whose valid data ends before they do."""
    query = (
        "SELECT name, size, mtime_ns, ended_by, end_lsn FROM segment"
        " WHERE problem IS NULL AND ended_by NOT IN ('end', 'switch')"
    )
    return _read(layout, query, (), tuple)


def torn_files(layout: Layout) -> list[tuple[str, int, int, str, int, int]]:
    """Return (name, size, mtime_ns, name of the segment before, bytes that it lacks, bytes that this one continues)
    of the segments that do not go on where the one before ends; how one ends in which no record begins is known only
    with the one before it."""
    query = (
        "SELECT s.name, s.size, s.mtime_ns, p.name, p.carry_missing, s.rem_len FROM segment s INDEXED BY segment_loose"
        " JOIN segment p ON p.timeline = s.first_timeline AND p.number = s.number - 1"
        " WHERE s.joined = 0 AND s.problem IS NULL AND p.problem IS NULL AND p.ended_by IN ('end', 'switch')"
        " AND p.segment_size = s.segment_size AND p.system_id = s.system_id AND p.carry_missing IS NOT s.rem_len"
        " AND (p.joined = 1 OR p.last_record_lsn IS NOT NULL)"
    )
    return _read(layout, query, (), tuple)


def sizes(layout: Layout, but: int) -> list[tuple[str, int]]:
    """Return (name, segment size) of the segments whose header states another size than `but`."""
    return _read(layout, "SELECT name, segment_size FROM segment WHERE segment_size <> ?", (but,), tuple)


def stats(layout: Layout, spans: Iterable[tuple[int, Span]], most: int) -> dict[str, tuple[int, int]]:
    """Return (size, mtime_ns) by name of segments as they were when they were indexed.

    `spans` are (timeline, run of numbers), the weightiest first; at most about `most` segments are returned, of the run
    with which they become so many its last ones.
    """
    query = "SELECT name, size, mtime_ns FROM segment WHERE timeline = ? AND number BETWEEN ? AND ?"
    found: dict[str, tuple[int, int]] = {}

    def look(database: sqlite3.Connection) -> dict[str, tuple[int, int]]:
        for timeline, (first, last) in spans:
            left = most - len(found)
            if left <= 0:
                break
            rows = database.execute(query, (timeline, max(first, last - left + 1), last))
            found.update({name: (size, mtime_ns) for name, size, mtime_ns in rows})
        return found

    return _ask(layout, look, {})


def looked_at(layout: Layout) -> dict[str, int]:
    """Return the directories of wals/ that are indexed whole, each with the mtime_ns that it had then."""
    return dict(_read(layout, "SELECT name, mtime_ns FROM directory", (), tuple))


def unproven(layout: Layout) -> int:
    """Return how many indexed segments nobody has verified the records of, counted to UNPROVEN_COUNTED."""
    query = (
        f"SELECT count(*) FROM (SELECT 1 FROM segment WHERE proven = 0 AND problem IS NULL LIMIT {UNPROVEN_COUNTED})"
    )
    found = _read(layout, query, (), tuple)
    return found[0][0] if found else 0


def last_time(layout: Layout, timeline: int, number: int) -> int | None:
    """Return the latest commit of the newest segment with one, of a timeline up to a number: microseconds since
    2000-01-01 UTC."""
    query = (
        "SELECT max(max_commit) FROM (SELECT max_commit FROM segment WHERE timeline = ? AND number <= ?"
        " AND problem IS NULL AND max_commit IS NOT NULL ORDER BY number DESC LIMIT 8)"
    )
    found = _read(layout, query, (timeline, number), tuple)
    return found[0][0] if found else None


class Times(NamedTuple):
    """When the commits of one segment were; microseconds since 2000-01-01 UTC."""

    number: int
    earliest: int
    latest: int
    """Of commits and aborts, as `earliest`."""
    last_commit: int | None
    last_commit_lsn: int | None
    last_commit_xid: int | None


UNPROVEN_COUNTED = 10_000
_TIMES = "number, min_commit, max_commit, last_commit, last_commit_lsn, last_commit_xid"


def newest_times(layout: Layout, timeline: int, first: int, last: int) -> Times | None:
    """Return the newest of a stretch of segments in which a transaction ended."""
    query = (
        f"SELECT {_TIMES} FROM segment WHERE timeline = ? AND number BETWEEN ? AND ? AND problem IS NULL"
        " AND max_commit IS NOT NULL ORDER BY number DESC LIMIT 1"
    )
    found = _read(layout, query, (timeline, first, last), Times._make)
    return found[0] if found else None


def some_times(layout: Layout, timeline: int, first: int, last: int, step: int) -> list[Times]:
    """Return every `step`-th of a stretch of segments in which a transaction ended, by number."""
    query = (
        f"SELECT {_TIMES} FROM segment WHERE timeline = ? AND number BETWEEN ? AND ? AND problem IS NULL"
        " AND max_commit IS NOT NULL AND number % ? = 0 ORDER BY number"
    )
    return _read(layout, query, (timeline, first, last, step), Times._make)


def catch_up(
    layout: Layout, *, budget: float | None = None, report: Reporter | None = None, prove: float | None = None
) -> int:
    """Index the archived segments that are new or changed, forget those that are gone; returns how many were read.

    Up to `prove` seconds, by default half of the budget, are spent on verifying every record of them as well, and of
    those that an earlier call had no time to verify.
    Stops after `budget` seconds when one is given; the next call goes on. Raises Busy when another process keeps
    indexing; with a budget that is noted and 0 returned.
    """
    told = report or Silent()
    if prove is None:
        prove = math.inf if budget is None else budget / 2
    try:
        return _locked(layout, told, lambda: _repaired(layout, budget, told, prove), budget)
    except Busy as busy:
        if budget is None:
            raise
        told.note(f"{busy.what}: {busy.why}")
        return 0


def rebuild(layout: Layout, *, report: Reporter | None = None) -> int:
    """Make the index anew from the archive, every record verified; returns how many segments were read."""
    told = report or Silent()

    def work() -> int:
        derived.remove(layout.index)
        return _repaired(layout, None, told, prove=math.inf)

    return _locked(layout, told, work, None)


def _locked(layout: Layout, told: Reporter, work: Callable[[], int], budget: float | None) -> int:
    if not os.path.isdir(layout.wals):
        return 0
    try:
        os.makedirs(layout.own, mode=0o750, exist_ok=True)
        wait = _LOCK_WAIT if budget is None else min(budget, _LOCK_WAIT)
        with locks.hold(
            os.path.join(layout.own, "wal-index.lock"), wait=wait, what=f"index the WAL archive of {layout.name}"
        ):
            return work()
    except sqlite3.Error as error:
        raise CellarmanError(
            f"the index of WAL commit times cannot be written: {layout.index}",
            str(error),
            "see that the file system has room and belongs to this account; the file may be deleted, it is made anew",
        ) from error
    except OSError as error:
        raise CellarmanError(f"the WAL archive of {layout.name} cannot be indexed", str(error)) from error


def _repaired(layout: Layout, budget: float | None, told: Reporter, prove: float) -> int:
    """Catch up; a damaged index is made anew and tried once more."""
    deadline = None if budget is None else time.monotonic() + budget
    try:
        return _pass(layout, told, deadline, prove)
    except sqlite3.DatabaseError as error:
        # A full disk, missing rights and the like are operational errors too; those are not mended by beginning anew.
        if isinstance(error, sqlite3.OperationalError) and "no such" not in str(error):
            raise
        told.note(f"the index of WAL commit times was damaged ({error}) and is made anew", "warn")
        derived.remove(layout.index)
        return _pass(layout, told, deadline, prove)


def _pass(layout: Layout, told: Reporter, deadline: float | None, prove: float) -> int:
    made = derived.opened(layout.index, indexschema.VERSION, indexschema.SCHEMA, discarded=lambda: told.note(_ANOTHER))
    with contextlib.closing(made) as database:
        return Indexer(layout, database, told, deadline, prove=prove).run()


def _read(layout: Layout, query: str, arguments: tuple[object, ...], make: Callable[[Any], _Made]) -> list[_Made]:
    """Return what the index says to one question."""
    return _ask(layout, lambda database: list(map(make, database.execute(query, arguments))), [])


def _ask(layout: Layout, look: Callable[[sqlite3.Connection], _Made], nothing: _Made) -> _Made:
    """Return what `look` finds in the index; one that is missing, damaged or of another schema says `nothing`."""
    if not os.path.exists(layout.index):
        return nothing
    quoted = layout.index.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    # Without the right to write beside it a reader cannot join the writer's journal: it then reads the file as it is.
    for mode in ("mode=ro", "immutable=1"):
        try:
            with contextlib.closing(sqlite3.connect(f"file:{quoted}?{mode}", uri=True, timeout=5)) as database:
                if database.execute("PRAGMA user_version").fetchone() != (indexschema.VERSION,):
                    return nothing
                return look(database)
        except sqlite3.DatabaseError:
            continue
    return nothing
