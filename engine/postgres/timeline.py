"""Timelines: history files and the lineage that recovery follows.

Source: PostgreSQL's readTimeLineHistory, tliOfPointInHistory (src/backend/access/transam/timeline.c) and
XLogFileReadAnyTLI (src/backend/access/transam/xlogrecovery.c). Light: no heavy imports.
"""

from __future__ import annotations

from collections import namedtuple

from engine.postgres.lsn import Lsn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Switch(namedtuple("Switch", ("timeline", "lsn", "reason"))):
    """One line of a history file: `timeline` ended at `lsn`, for `reason`."""

    __slots__ = ()
    timeline: int
    lsn: Lsn
    reason: str


class Span(namedtuple("Span", ("timeline", "begin", "end"))):
    """A stretch of a lineage: `timeline` from `begin` (inclusive) to `end` (exclusive; None is open)."""

    __slots__ = ()
    timeline: int
    begin: Lsn
    end: Lsn | None


def parse_history(timeline: int, text: str) -> tuple[Switch, ...]:
    """Return the switches of `timeline`'s history file, oldest first; the last one is the direct parent.

    Raises ValueError, naming the line, for anything that PostgreSQL would refuse: fields missing, parents not
    strictly increasing, a parent not older than the timeline itself, no line at all. Only a line feed ends a line: the
    reason has the name of a restore point, in which any other character may be.

    >>> parse_history(3, "1\\t0/5000000\\tno recovery target specified\\n\\n2\\t0/A000000\\tafter LSN\\n")[1].lsn
    Lsn('0/A000000')
    """
    switches: list[Switch] = []
    for line in text.split("\n"):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        fields = line.split(None, 2)
        if len(fields) < 2 or not fields[0].isdigit():
            raise ValueError(f"history of timeline {timeline}: cannot read {line!r}")
        parent = int(fields[0])
        if switches and parent <= switches[-1].timeline:
            raise ValueError(f"history of timeline {timeline}: timelines do not increase at {line!r}")
        switches.append(Switch(parent, Lsn.parse(fields[1]), fields[2] if len(fields) > 2 else ""))
    if not switches:
        raise ValueError(f"history of timeline {timeline} is empty")
    if switches[-1].timeline >= timeline:
        raise ValueError(f"history of timeline {timeline}: its parent {switches[-1].timeline} is not older")
    return tuple(switches)


def first_segment(switches: tuple[Switch, ...], size: int) -> int:
    """Return the number of the segment in which the timeline of this history began: it has no WAL from before that."""
    return int(switches[-1].lsn // size) if switches else 0


def left_after(timeline: int, number: int, switches: tuple[Switch, ...], size: int) -> Switch | None:
    """Return the switch by which a history leaves `timeline` in a segment after `number`, which it needs then."""
    return next((s for s in switches if s.timeline == timeline and s.lsn // size > number), None)


def history_of(timeline: int, histories: Mapping[int, tuple[Switch, ...]]) -> tuple[Switch, ...]:
    """Return a timeline's history, from its own file, or else from that of a timeline which comes from it; () without.

    >>> third = parse_history(3, "1\\t0/5000000\\t\\n2\\t0/A000000\\t\\n")
    >>> [len(history_of(timeline, {3: third})) for timeline in (1, 2, 3, 4)]
    [0, 1, 2, 0]
    """
    if timeline in histories:
        return histories[timeline]
    found = (switches for _, switches in sorted(histories.items()) if any(s.timeline == timeline for s in switches))
    return tuple(switch for switch in next(found, ()) if switch.timeline < timeline)


class Lineage(namedtuple("Lineage", ("spans",))):
    """The timelines that recovery to one target timeline follows, oldest first."""

    __slots__ = ()
    spans: tuple[Span, ...]

    @classmethod
    def of(cls, timeline: int, switches: tuple[Switch, ...] = ()) -> Lineage:
        """Build the lineage of `timeline` from its history; without one PostgreSQL assumes no parents."""
        spans: list[Span] = []
        begin = Lsn(0)
        for switch in switches:
            spans.append(Span(switch.timeline, begin, switch.lsn))
            begin = switch.lsn
        spans.append(Span(timeline, begin, None))
        return cls(tuple(spans))

    @property
    def timeline(self) -> int:
        """The target timeline, the newest of the lineage."""
        return int(self.spans[-1].timeline)

    def timeline_at(self, lsn: int) -> int:
        """Return the timeline that holds the byte at `lsn`: the newest that has begun there.

        A recovery along timeline 2 may have stopped before that began, and opened as a timeline 3 that comes from it.

        >>> line = Lineage.of(3, (Switch(1, Lsn.parse("0/5800000"), ""), Switch(2, Lsn.parse("0/5400000"), "")))
        >>> [line.timeline_at(Lsn.parse(lsn)) for lsn in ("0/53FFFFF", "0/5400000", "0/5900000")]
        [1, 3, 3]
        """
        for span in reversed(self.spans):
            if span.begin <= lsn:
                return int(span.timeline)
        raise AssertionError("the oldest span begins at zero")

    def contains(self, timeline: int, lsn: int) -> bool:
        """Tell whether a point of `timeline` at `lsn` lies on this lineage."""
        return self.timeline_at(lsn) == timeline

    def canonical(self, number: int, size: int) -> int:
        """Return the timeline whose file recovery asks for first for segment `number`: the newest one that has begun.

        >>> line = Lineage.of(2, (Switch(1, Lsn.parse("0/5800000"), ""),))
        >>> [line.canonical(n, 16 << 20) for n in (4, 5, 6)]
        [1, 2, 2]
        """
        for span in reversed(self.spans):
            if span.begin // size <= number:
                return int(span.timeline)
        raise AssertionError("the oldest span begins at zero")

    def candidates(self, number: int, size: int) -> list[int]:
        """Return the timelines whose file recovery tries for segment `number`, newest first."""
        return [int(span.timeline) for span in reversed(self.spans) if span.begin // size <= number]
