"""Lineages of interest, and what the archive holds of each one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.postgres.segment import segment_of
from engine.postgres.timeline import Lineage
from engine.wal.gaps import Archive, NoLineage, Stretch, core_range, newest_readable, resolve, stretches
from engine.wal.judgement.values import Base, Case
from engine.wal.runs import Runs, Span


@dataclass(frozen=True, slots=True)
class Line:
    """A lineage that recovery may follow, the backups on it, and the good segments under their canonical names."""

    lineage: Lineage
    stretches: tuple[Stretch, ...]
    good: Runs
    bases: tuple[Base, ...]
    """By where they are consistent, oldest first."""
    primary: bool
    """Where the server is now, or where recovery of the newest backup leads."""
    written: int | None = None
    """The last segment that was written on it for sure: by the running server, or as a file whose name has a codec's
    suffix."""

    @property
    def timeline(self) -> int:
        return self.lineage.timeline

    def reaches(self, first: int) -> int | None:
        """Return the last segment of the unbroken good run at `first`."""
        return next((last for begin, last in self.good.within(first, None) if begin == first), None)

    def canonical(self, number: int) -> int:
        """Return the timeline under whose name a segment is asked for."""
        return next(s.timeline for s in self.stretches if s.first <= number and (s.last is None or number <= s.last))

    def pieces(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """Yield (timeline, first, last) of a range, cut where another timeline's names begin."""
        for stretch in self.stretches:
            begin = max(first, stretch.first)
            end = last if stretch.last is None else min(last, stretch.last)
            if begin <= end:
                yield stretch.timeline, begin, end

    def usable(self, base: Base, size: int) -> bool:
        """Tell whether all WAL that a backup needs to be consistent is there."""
        first, last = core_range(base.start, base.stop, size)
        reached = self.reaches(first) if not base.lacking else None
        return reached is not None and reached >= last


def good_runs(archive: Archive, cuts: Sequence[Stretch]) -> Runs:
    """Return the good segments on a lineage's stretches: dead tails and invalid files left out."""
    spans: list[Span] = []
    for stretch in cuts:
        numbers = archive.segments.get(stretch.timeline, ())
        runs = numbers if isinstance(numbers, Runs) else Runs.of(numbers)
        bad = [n for t, n in archive.invalid if t == stretch.timeline]
        spans += (runs.without(bad) if bad else runs).within(stretch.first, stretch.last)
    return Runs(spans)


def lines(case: Case) -> list[Line]:
    """Return the lineages of interest: the server's, `latest` and `current` of each backup, and those selected."""
    found: dict[int, Lineage] = {}
    primary: set[int] = set()
    last = max(case.bases, key=lambda base: (base.ended, base.id), default=None)
    for base in case.bases:
        newest = newest_readable(case.archive, base.timeline)
        for choice in (newest, base.timeline):
            lineage = resolve(str(choice), base.timeline, base.checkpoint, case.archive, stop=base.end)
            if isinstance(lineage, NoLineage):
                continue
            found[lineage.timeline] = lineage
            if base is last and choice == newest:
                primary.add(lineage.timeline)
    now = None if case.past else _server_timeline(case)
    for timeline in (*([now] if now else []), *case.selected):
        if timeline not in case.archive.bad_histories:
            found[timeline] = Lineage.of(timeline, case.archive.histories.get(timeline, ()))
    if now in found:
        primary.add(now)
    return [_line(case, lineage, lineage.timeline in primary) for _, lineage in sorted(found.items())]


def _server_timeline(case: Case) -> int | None:
    """Return the timeline that the server is on: as it says, or else the newest one that has segments."""
    if case.live is not None:
        return case.live.timeline
    return max((t for t, numbers in case.archive.segments.items() if len(numbers)), default=None)


def _line(case: Case, lineage: Lineage, primary: bool) -> Line:
    cuts = tuple(stretches(lineage, case.archive.segment_size))
    bases = [base for base in case.bases if _on(base, lineage)]
    written = [number for timeline, number in case.encoded if timeline == lineage.timeline]
    if case.live is not None and case.live.timeline == lineage.timeline and case.live.written is not None:
        written.append(case.live.written)
    return Line(
        lineage,
        cuts,
        good_runs(case.archive, cuts),
        tuple(sorted(bases, key=lambda base: (base.stop, base.id))),
        primary,
        max(written, default=None),
    )


def _on(base: Base, lineage: Lineage) -> bool:
    """Tell whether a lineage leads through a backup, from its checkpoint to where it is consistent."""
    ends = base.end is None or lineage.contains(base.end[0], base.end[1] - 1)
    return ends and lineage.contains(base.timeline, base.checkpoint)


def holes(line: Line, size: int) -> list[Span]:
    """Return what lacks on a lineage between the first segment that is there or needed and the last; its timeline has
    gone on from the one before where it left it."""
    cores = [core_range(base.start, base.stop, size) for base in line.bases if not base.self_contained]
    present = list(line.good.spans())
    low = min([core[0] for core in cores] + ([present[0][0]] if present else []), default=None)
    high = max(
        [core[1] for core in cores]
        + ([present[-1][1]] if present else [])
        + ([line.written] if line.written is not None and (present or cores) else [])
        + ([line.stretches[-1].first - 1] if present or cores else []),
        default=None,
    )
    return [] if low is None or high is None else list(line.good.missing(low, high))


def begins_at(line: Line, timeline: int, size: int) -> int:
    """Return the segment in which a timeline of the lineage begins."""
    return next(segment_of(span.begin, size) for span in line.lineage.spans if span.timeline == timeline)
