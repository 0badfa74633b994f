"""The moments that can be reached: for each backup and lineage from where to where, and what ends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from engine.postgres.clock import pg_time
from engine.postgres.lsn import Lsn
from engine.postgres.segment import segment_of
from engine.recovery.candidates import Miss, Run, core_maximum, keys, open_run
from engine.recovery.facts import Base, Facts
from engine.wal.gaps import Archive, core_range, newest_readable

Bound = Literal["end_of_archive", "gap", "invalid_segment", "branch_hazard", "standalone", "wal_level_minimal"]
_BOUNDS: dict[str, Bound] = {
    "open_end": "end_of_archive",
    "hole": "gap",
    "invalid_segment": "invalid_segment",
    "branch_hazard": "branch_hazard",
    "bad_history": "gap",
    "minimal": "wal_level_minimal",
}


@dataclass(frozen=True, slots=True)
class Window:
    """One backup's reach on one lineage."""

    backup: str
    timeline: int
    from_lsn: Lsn
    from_time: datetime
    to_lsn: Lsn
    to_time: datetime
    """Of the last transaction that can be replayed, or of the backup's end when there is none."""
    bounded_by: Bound
    missing: str = ""
    """The segment or the history that ends it, when it is not the end of the archive."""

    def to_json(self) -> dict[str, Any]:
        return {
            "backup": self.backup,
            "timeline": self.timeline,
            "from_lsn": str(self.from_lsn),
            "from_time": self.from_time.isoformat(),
            "to_lsn": str(self.to_lsn),
            "to_time": self.to_time.isoformat(),
            "bounded_by": self.bounded_by,
        }


def windows(bases: Sequence[Base], archive: Archive, facts: Facts) -> tuple[list[Window], list[Miss]]:
    """Return the windows of every backup, in the order given, and the backups that have none, with the reason.

    Each backup is followed to `latest`, as far as that can be told, and, where that is another lineage, along its own
    timeline.
    """
    found: list[Window] = []
    without: list[Miss] = []
    ends: dict[tuple[int, int], dict[int, int]] = {}
    for base in bases:
        newest = str(newest_readable(archive, base.timeline))
        runs = [open_run(base, choice, archive) for choice in (newest, "current")]
        lines = {run.lineage.timeline: run for run in runs if isinstance(run, Run)}
        found += [_window(run, archive, facts, ends) for run in lines.values()]
        if not lines:
            without += [run for run in runs[:1] if isinstance(run, Miss)]
    return found, without


def _window(run: Run, archive: Archive, facts: Facts, ends: dict[tuple[int, int], dict[int, int]]) -> Window:
    base, far = run.base, run.reach
    size = archive.segment_size
    last = far.last or 0
    inside = core_maximum(run, archive, facts)
    begin = max([base.ended] + ([pg_time(inside)] if inside is not None else []))
    cached = ends.setdefault((run.lineage.timeline, last), {})
    latest = _latest(run, archive, facts, cached)
    key = (run.lineage.canonical(last, size), last)
    row = facts.row(key) or facts.walk(key)
    bound = _BOUNDS[far.end_kind]
    if base.standalone and bound != "end_of_archive" and last <= core_range(base.start, base.stop, size)[1]:
        bound = "standalone"
    missing = ""
    if far.end_kind == "bad_history":
        missing = far.reason.split()[0]
    elif far.missing_first and bound != "end_of_archive":
        missing = archive.name(far.timeline, far.missing_first)
    return Window(
        base.id,
        run.lineage.timeline,
        base.stop,
        begin,
        max(base.stop, row.end),
        max(begin, pg_time(latest)) if latest is not None else begin,
        bound,
        missing,
    )


def _latest(run: Run, archive: Archive, facts: Facts, cached: dict[int, int]) -> int | None:
    """Return the latest time of a commit or abort after the backup's stop, to the run's end.

    `cached` maps a segment's number to the latest time from it to the end, shared by the runs that end there. Where
    the index does not know a segment, only the newest such are read: the latest of the rest is not later by much.
    """
    stop = run.base.stop
    number = segment_of(stop, archive.segment_size)
    if number + 1 not in cached:
        latest = -1
        for key in reversed(list(keys(run, archive, number + 1))):
            row = facts.row(key)
            if row is None and latest < 0:
                row = facts.walk(key)
            if row is not None and row.max_time is not None:
                latest = max(latest, row.max_time)
            cached[key[1]] = latest
    times = [cached.get(number + 1, -1)]
    for key in keys(run, archive, number, number):
        row = facts.row(key)
        if row is None or (row.max_time or -1) > times[0]:
            times += [mark.time for mark in facts.marks(key) if mark.lsn >= stop]
    return max((time for time in times if time >= 0), default=None)
