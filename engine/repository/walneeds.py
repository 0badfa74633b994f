"""Which archived WAL the backups need: pure rules on names, backups and history files.

A backup needs every segment from its begin on, on its own timeline and on each timeline that branched off after it;
one that is kept standalone only needs its begin to its end. What is not known counts as needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from engine.postgres import segment
from engine.postgres.lsn import Lsn
from engine.postgres.timeline import Lineage
from engine.repository.backupinfo import BackupInfo

_WANTS_WAL = frozenset(("DONE", "WAITING_FOR_WALS", "SYNCING", "STARTED", "EMPTY"))
_SEGMENT_LIKE = frozenset((segment.SEGMENT, segment.PARTIAL, segment.BACKUP_HISTORY))


@dataclass(frozen=True, slots=True)
class Need:
    """The segments from number `first` on that one backup needs; up to `last` on its own timeline only when closed."""

    timeline: int
    first: int
    last: int | None
    begin: Lsn
    segment_size: int

    def covers(self, name: str, lineages: Mapping[int, Lineage | None]) -> bool:
        """Tell whether the file `name` is one of them; a name that cannot be placed counts as one."""
        try:
            timeline, number = segment.parse_segment(name, self.segment_size)
        except ValueError:
            return True
        if number < self.first:
            return False
        if self.last is not None:
            return timeline == self.timeline and number <= self.last
        return self.may_reach(timeline, lineages)

    def reaches(self, timeline: int, lineages: Mapping[int, Lineage | None]) -> bool:
        """Tell whether recovery from this backup can be shown to follow on to `timeline`."""
        if self.last is not None:
            return False
        if timeline == self.timeline:
            return True
        lineage = lineages.get(timeline)
        return lineage is not None and lineage.contains(self.timeline, self.begin)

    def may_reach(self, timeline: int, lineages: Mapping[int, Lineage | None]) -> bool:
        """As `reaches`, but a younger timeline whose history is missing or unreadable counts as reached."""
        unknown = timeline > self.timeline and lineages.get(timeline) is None
        return unknown or self.reaches(timeline, lineages)


def need_of(info: BackupInfo) -> Need | None:
    """Return what WAL a backup needs, or None when it needs none, being failed, going, or not begun.

    Raises ValueError when its names cannot be placed.
    """
    if info.begin_wal is None or info.deleting or info.status not in _WANTS_WAL:
        return None
    return span_of(info)


def span_of(info: BackupInfo) -> Need | None:
    """Return the WAL that belongs to a backup, whatever became of it."""
    if info.begin_wal is None:
        return None
    size = info.xlog_segment_size
    timeline, first = segment.parse_segment(info.begin_wal, size)
    last = None
    if info.keep == "standalone" and info.end_wal is not None:
        last = segment.parse_segment(info.end_wal, size)[1]
    begin = info.begin_xlog if info.begin_xlog is not None else Lsn(segment.segment_start(first, size))
    return Need(timeline, first, last, begin, size)


def unneeded(
    names: Iterable[str], gone: Need, needs: Iterable[Need], lineages: Mapping[int, Lineage | None]
) -> Iterator[str]:
    """Yield those of `names` that lie on the timelines of the backup that goes and that no remaining need covers.

    Nothing is yielded when no remaining backup has WAL since its begin as its need: then nobody is served by less.
    """
    wanted = list(needs)
    if all(need.last is not None for need in wanted):
        return
    for name in names:
        if segment.kind_of(name) not in _SEGMENT_LIKE or not _was_of(name, gone, lineages):
            continue
        if not any(need.covers(name, lineages) for need in wanted):
            yield name


def _was_of(name: str, gone: Need, lineages: Mapping[int, Lineage | None]) -> bool:
    timeline = int(name[:8], 16)
    return timeline == gone.timeline or (gone.last is None and gone.reaches(timeline, lineages))
