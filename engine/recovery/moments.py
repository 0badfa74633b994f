"""The transactions around a moment, on one lineage: found by halving in the index, then read in one or two segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from engine.errors import CellarmanError
from engine.postgres.clock import pg_microseconds, pg_time
from engine.postgres.lsn import Lsn
from engine.recovery.evidence import InvalidSegment, WalFacts
from engine.recovery.facts import Mark
from engine.repository.layout import Layout
from engine.wal import index
from engine.wal.gaps import Archive

_READ_AHEAD = 3
"""Segments that are read in search of the first commit after a moment."""
_EACH_COMMIT = 3
"""Up to so many segments are read for the moments of every single commit."""

Piece = tuple[int, int, int]
"""(timeline, first, last): segments and the timeline under whose name they are."""


@dataclass(frozen=True, slots=True)
class Around:
    """What lies on both sides of a moment; a side is None where nothing is known."""

    at: datetime
    kept: Mark | None
    """The last commit that a restore to the moment keeps."""
    dropped: Mark | None
    """The first one that it leaves out."""
    segment: str = ""
    """The segment in which replay would stop."""


class Moments:
    """The transactions of one lineage."""

    def __init__(self, layout: Layout, archive: Archive, pieces: Sequence[Piece], system_id: int | None) -> None:
        self._layout, self._archive, self._pieces = layout, archive, tuple(pieces)
        self._facts = WalFacts(layout, archive, system_id)

    def around(self, at: datetime) -> Around:
        """Return the commits before and after a moment."""
        moment = pg_microseconds(at)
        number = self._first_with_later(moment)
        if number is None:
            row = self._newest(None)
            return Around(at, _last_of(row), None, self._name(row.number) if row else "")
        kept, dropped = self._split(number, moment)
        if kept is None:
            kept = _last_of(self._newest(number - 1))
        ahead = number
        while dropped is None and ahead < min(number + _READ_AHEAD, self._last):
            ahead += 1
            dropped = self._split(ahead, moment)[1]
        return Around(at, kept, dropped, self._name(number))

    def beats(self, begin: datetime, end: datetime, most: int) -> tuple[datetime, ...]:
        """Return moments at which transactions ended, ascending, at most about `most`: each commit where the period
        is short, the first and the last of segments where it is long."""
        earliest, latest = pg_microseconds(begin), pg_microseconds(end)
        first = self._first_with_later(earliest - 1)
        if first is None:
            return ()
        behind = self._first_with_later(latest)
        last = self._last if behind is None else behind
        count = last - first + 1
        if count <= _EACH_COMMIT:
            times = [mark.time for number in range(first, last + 1) for mark in self._marks(number) if mark.commit]
        else:
            step = max(1, 2 * count // most)
            rows = [
                row
                for timeline, a, b in self._pieces
                if a <= last and b >= first
                for row in index.some_times(self._layout, timeline, max(a, first), min(b, last), step)
            ]
            times = [time for row in rows for time in (row.earliest, row.latest)]
        within = sorted({time for time in times if earliest <= time <= latest})
        thinned = within if len(within) <= most else within[:: -(-len(within) // most)]
        return tuple(pg_time(time) for time in thinned)

    @property
    def _first(self) -> int:
        return min((first for _, first, _ in self._pieces), default=0)

    @property
    def _last(self) -> int:
        return max((last for _, _, last in self._pieces), default=-1)

    def _newest(self, number: int | None) -> index.Times | None:
        """Return the newest segment up to a number in which a transaction ended; None is no bound."""
        for timeline, first, last in reversed(self._pieces):
            end = last if number is None else min(last, number)
            found = index.newest_times(self._layout, timeline, first, end) if first <= end else None
            if found is not None:
                return found
        return None

    def _first_with_later(self, moment: int) -> int | None:
        """Return the first segment in which a transaction ended after a moment."""
        low, high = self._first, self._last + 1
        while low < high:
            middle = (low + high) // 2
            row = self._newest(middle)
            if row is not None and row.latest > moment:
                high = row.number
            else:
                low = middle + 1
        return low if low <= self._last else None

    def _split(self, number: int, moment: int) -> tuple[Mark | None, Mark | None]:
        """Return the last commit of a segment before the first one later than a moment, and that one."""
        kept: Mark | None = None
        for mark in self._marks(number):
            if mark.commit and mark.time > moment:
                return kept, mark
            kept = mark if mark.commit else kept
        return kept, None

    def _marks(self, number: int) -> Sequence[Mark]:
        timeline = self._under(number)
        if timeline is None or not self._archive.good(timeline, number):
            return ()
        try:
            return self._facts.marks((timeline, number))
        except (InvalidSegment, CellarmanError, OSError):
            return ()

    def _under(self, number: int) -> int | None:
        return next((timeline for timeline, first, last in self._pieces if first <= number <= last), None)

    def _name(self, number: int) -> str:
        return self._archive.name(self._under(number) or 1, number)


def _last_of(row: index.Times | None) -> Mark | None:
    if row is None or row.last_commit is None:
        return None
    return Mark(Lsn(row.last_commit_lsn or 0), row.last_commit_xid or 0, row.last_commit)
