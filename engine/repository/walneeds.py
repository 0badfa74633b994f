"""Which archived WAL the backups need: pure rules on names, backups and history files.

A backup needs every segment from its begin on, on its own timeline and on each timeline that branched off after it;
one that is kept standalone only needs its begin to its end. What is not known counts as needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

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

    Nothing is yielded when no remaining backup needs the WAL since its begin, since nobody is served by less, or when
    one counts in segments of another size, since names then mean different places.
    """
    wanted = list(needs)
    if all(need.last is not None for need in wanted) or any(need.segment_size != gone.segment_size for need in wanted):
        return
    spans: dict[int, _Spans | None] = {}
    for name in names:
        if segment.kind_of(name) not in _SEGMENT_LIKE:
            continue
        timeline = int(name[:8], 16)
        if timeline not in spans:
            spans[timeline] = _spans(timeline, gone, wanted, lineages)
        held = spans[timeline]
        if held is not None and not _covered(name, held, gone.segment_size):
            yield name


class _Spans(NamedTuple):
    """The segment numbers of one timeline that are needed: all from `first` on, and some closed ranges."""

    first: int | None
    closed: tuple[tuple[int, int], ...]


def _spans(timeline: int, gone: Need, needs: list[Need], lineages: Mapping[int, Lineage | None]) -> _Spans | None:
    """Return what is needed of a timeline; None when the backup that goes never led there: it is not touched then."""
    if timeline != gone.timeline and not gone.reaches(timeline, lineages):
        return None
    beginnings = [need.first for need in needs if need.last is None and need.may_reach(timeline, lineages)]
    closed = tuple((n.first, n.last) for n in needs if n.last is not None and n.timeline == timeline)
    return _Spans(min(beginnings, default=None), closed)


def _covered(name: str, held: _Spans, size: int) -> bool:
    try:
        number = segment.parse_segment(name, size)[1]
    except ValueError:
        return True  # a name that cannot be placed counts as needed
    if held.first is not None and number >= held.first:
        return True
    return any(first <= number <= last for first, last in held.closed)
