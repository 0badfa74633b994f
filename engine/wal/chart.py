"""A lineage's segments, one byte each: what a map of a million of them is painted from.

A byte is a set of flags, so that a stretch of segments is the OR of its bytes and its worst state the highest flag.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from engine.postgres.lsn import Lsn
from engine.postgres.segment import parse_segment, segment_name, segment_start
from engine.wal.judgement import states as where
from engine.wal.judgement.coverage import Line, holes, lines
from engine.wal.judgement.values import Case
from engine.wal.runs import Runs, Span

NOT_YET = 0
"""Not written yet, or being written."""
ARCHIVED = 1
ACCEPTED = 2
"""Lost, and somebody has said that this is borne."""
WAITING = 4
"""On its way: queued, or about to be pushed or streamed."""
UNKNOWN = 8
"""Not in the archive, and whether a copy is left is not known: a server that may have it was not asked."""
FETCHABLE = 16
"""Not in the archive, and a copy is known."""
BAD = 32
"""In the archive, and it satisfies nothing."""
LOST = 64

GAP = ACCEPTED | UNKNOWN | FETCHABLE | BAD | LOST
"""What recovery does not get past."""
_OF_STATE = {
    where.FUTURE: NOT_YET,
    where.WRITING: NOT_YET,
    where.RECEIVING: WAITING,
    where.PENDING: WAITING,
    where.DELAYED: WAITING,
    where.RECOVERABLE: FETCHABLE,
    where.PARTIAL_ONLY: LOST,
    where.LOST: LOST,
    where.UNKNOWN: UNKNOWN,
}
_MOST = 64 << 20
"""Segments that one chart has room for: a petabyte of them."""
LEVELS = 21
"""So many levels: the last one's cell is a million segments."""


@dataclass(frozen=True, slots=True, eq=False)
class Chart:
    """The segments of one lineage by number, under the names that recovery asks for."""

    timeline: int
    segment_size: int
    first: int
    """The number of the first byte's segment."""
    states: bytes
    pieces: tuple[tuple[int, int, int], ...]
    """(timeline, first, last): under whose name the segments are."""
    gaps: Runs
    levels: tuple[bytes, ...] = field(repr=False, default=())
    """The states of 1, 2, 4, 8, … segments together; a level's byte n stands for those from n << level on, counted
    from number `origin`."""
    origin: int = 0

    @property
    def last(self) -> int:
        return self.first + len(self.states) - 1

    def state(self, number: int) -> int:
        """Return the flags of one segment."""
        return self.states[number - self.first] if self.first <= number <= self.last else NOT_YET

    def under(self, number: int) -> int:
        """Return the timeline under whose name a segment is asked for."""
        for timeline, first, last in self.pieces:
            if first <= number <= last:
                return timeline
        return self.timeline

    def name(self, number: int) -> str:
        return segment_name(self.under(number), number, self.segment_size)

    def start(self, number: int) -> Lsn:
        return Lsn(segment_start(number, self.segment_size))

    def number(self, name: str) -> int | None:
        """Return the number of a segment's name; None when it cannot be one of these."""
        try:
            timeline, number = parse_segment(name, self.segment_size)
        except ValueError:
            return None
        return number if self.first <= number <= self.last and self.under(number) == timeline else None

    def row(self, level: int, first: int, count: int) -> bytes:
        """Return the flags of `count` cells of 1 << level segments each, from the segment `first` on (a multiple of
        the cell's size); cells outside are NOT_YET."""
        known = self.levels[level]
        at = (first - self.origin) >> level
        begin = max(0, at)
        before = bytes(min(count, begin - at))
        return (before + known[begin : max(begin, at + count)]).ljust(count, b"\0")

    def gap_at(self, number: int) -> tuple[int, Span] | None:
        """Return (place among the gaps, span) of the gap that holds a segment."""
        place = self.gaps.place(number)
        return None if place is None else (place, self.gaps.span(place))


def cells(states: bytes, offset: int, levels: int) -> tuple[bytes, ...]:
    """Return `levels` levels of states, each of two bytes of the one before; `offset` empty ones stand before them.

    >>> cells(bytes([1, 1, 64, 1, 1]), 0, 3)
    (b'\\x01\\x01@\\x01\\x01', b'\\x01A\\x01', b'A\\x01')
    """
    level = bytes(offset) + states
    found = [level]
    for _ in range(levels - 1):
        even, odd = level[0::2], level[1::2].ljust((len(level) + 1) // 2, b"\0")
        both = int.from_bytes(even, "little") | int.from_bytes(odd, "little")
        level = both.to_bytes(len(even), "little")
        found.append(level)
    return tuple(found)


def charted(case: Case) -> list[Line]:
    """Return every lineage that can be charted, the primary ones first, then the newest timeline first."""
    every = {*case.archive.segments, *case.archive.histories} - {*case.archive.bad_histories}
    known = lines(replace(case, selected=tuple(sorted({*case.selected, *every}))))
    there = [line for line in known if line.bases or len(line.good)]
    return sorted(there, key=lambda line: (not line.primary, -line.timeline))


def chart(case: Case, line: Line) -> Chart:
    """Return the chart of a lineage: from the first segment that is there or needed to the last that was written."""
    size = case.archive.segment_size
    spans = list(line.good.spans())
    lacking = list(_lacking(case, line))
    edges = [edge for first, last in spans for edge in (first, last)] + [n for _, a, b in lacking for n in (a, b)]
    if not edges:
        return Chart(line.timeline, size, 0, b"", (), Runs(), cells(b"", 0, LEVELS))
    first = min(edges)
    last = min(max(edges), first + _MOST - 1)
    states = bytearray(last - first + 1)
    for begin, end in spans:
        _fill(states, begin - first, end - first, ARCHIVED)
    for flag, begin, end in lacking:
        _fill(states, begin - first, end - first, flag)
    gaps = Runs((begin, end) for flag, begin, end in lacking if flag & GAP)
    origin = first & -(1 << (LEVELS - 1))
    return Chart(
        line.timeline,
        size,
        first,
        bytes(states),
        tuple(line.pieces(first, last)),
        gaps,
        cells(bytes(states), first - origin, LEVELS),
        origin,
    )


def _fill(states: bytearray, first: int, last: int, flag: int) -> None:
    end = min(last + 1, len(states))
    if first < end:
        states[first:end] = bytes((flag,)) * (end - first)


def _lacking(case: Case, line: Line) -> Iterator[tuple[int, int, int]]:
    """Yield (flag, first, last) of what is not there or not good, accepted gaps after the gaps that they are in."""
    states = where.Whereabouts(case)
    size = case.archive.segment_size
    for first, last in holes(line, size):
        following = next(line.good.within(last + 1, None), (None,))[0]
        for timeline, begin, end in line.pieces(first, last):
            for state, a, b in states.split(timeline, begin, end, following):
                asked = not case.unasked or (timeline, a) in case.kept
                yield UNKNOWN if state == where.LOST and not asked else _OF_STATE[state], a, b
            bad = sorted(n for t, n in case.archive.invalid if t == timeline and begin <= n <= end)
            yield from ((BAD, number, number) for number in bad if case.archive.present(timeline, number))
            yield from ((ACCEPTED, a, b) for a, b in _accepted(case, timeline, begin, end))


def _accepted(case: Case, timeline: int, first: int, last: int) -> Sequence[Span]:
    found = []
    for gap in case.accepted:
        numbers = gap.numbers(case.archive.segment_size) if gap.timeline == timeline else None
        if numbers is not None and numbers[0] <= last and numbers[1] >= first:
            found.append((max(first, numbers[0]), min(last, numbers[1])))
    return found
