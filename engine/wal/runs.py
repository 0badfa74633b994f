"""Segment numbers as unbroken runs: a million of them in a few bytes, searched in the time of the runs' number."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import overload

Span = tuple[int, int]
"""First and last number of an unbroken run, both included."""


class Runs(Sequence[int]):
    """Ascending numbers, each once, as a sequence; runs that touch are one.

    >>> runs = Runs([(1, 3), (7, 7)])
    >>> list(runs), len(runs), runs[3], 4 in runs, list(runs.missing(0, 9))
    ([1, 2, 3, 7], 4, 7, False, [(0, 0), (4, 6), (8, 9)])
    """

    __slots__ = ("_before", "_firsts", "_lasts")

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        """`spans` in any order; they may overlap."""
        firsts, lasts = array("Q"), array("Q")
        for first, last in sorted(spans):
            if lasts and first <= lasts[-1] + 1:
                if last > lasts[-1]:
                    lasts[-1] = last
            else:
                firsts.append(first)
                lasts.append(last)
        self._firsts, self._lasts = firsts, lasts
        self._before = array("Q", accumulate((b - a + 1 for a, b in zip(firsts, lasts, strict=True)), initial=0))

    @classmethod
    def of(cls, numbers: Iterable[int]) -> Runs:
        """Return the runs of numbers in any order."""
        return cls(spans_of(sorted(numbers)))

    def spans(self) -> Iterator[Span]:
        """Yield the runs, ascending."""
        return zip(self._firsts, self._lasts, strict=True)

    def within(self, first: int, last: int | None = None) -> Iterator[Span]:
        """Yield the runs cut to `first` .. `last`; None is no bound."""
        for at in range(bisect_left(self._lasts, first), len(self._firsts)):
            begin, end = max(self._firsts[at], first), self._lasts[at]
            if last is not None:
                if begin > last:
                    return
                end = min(end, last)
            yield begin, end

    def missing(self, first: int, last: int) -> Iterator[Span]:
        """Yield what lacks between `first` and `last`, both included."""
        at = first
        for begin, end in self.within(first, last):
            if begin > at:
                yield at, begin - 1
            at = end + 1
        if at <= last:
            yield at, last

    def place(self, number: int) -> int | None:
        """Return the place of the run that holds a number.

        >>> runs = Runs([(1, 3), (7, 7)])
        >>> [runs.place(n) for n in (0, 2, 3, 5, 7, 8)]
        [None, 0, 0, None, 1, None]
        """
        at = bisect_left(self._lasts, number)
        return at if at < len(self._firsts) and self._firsts[at] <= number else None

    def span(self, place: int) -> Span:
        """Return the run at a place, counted from 0."""
        return self._firsts[place], self._lasts[place]

    def beside(self, number: int, *, after: bool) -> int | None:
        """Return the place of the first run that begins after a number, or of the last that ends before it.

        >>> runs = Runs([(1, 3), (7, 7)])
        >>> [runs.beside(n, after=True) for n in (0, 1, 5, 7)], [runs.beside(n, after=False) for n in (1, 4, 7, 9)]
        ([0, 1, 1, None], [None, 0, 0, 1])
        """
        at = bisect_right(self._firsts, number) if after else bisect_left(self._lasts, number) - 1
        return at if 0 <= at < len(self._firsts) else None

    @property
    def runs(self) -> int:
        """How many runs there are."""
        return len(self._firsts)

    def without(self, numbers: Iterable[int]) -> Runs:
        """Return the runs without these numbers."""
        cut: list[Span] = []
        holes = Runs.of(numbers)
        for first, last in self.spans():
            cut.extend(holes.missing(first, last))
        return Runs(cut)

    def __len__(self) -> int:
        return int(self._before[-1])

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int):
            return False
        at = bisect_left(self._lasts, value)
        return at < len(self._firsts) and self._firsts[at] <= value

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> Runs: ...

    def __getitem__(self, index: int | slice) -> int | Runs:
        if isinstance(index, slice):
            begin, end, step = index.indices(len(self))
            if step != 1:
                return Runs.of(self[i] for i in range(begin, end, step))
            return Runs(self.within(self[begin], self[end - 1])) if begin < end else Runs()
        length = len(self)
        position = index + length if index < 0 else index
        if not 0 <= position < length:
            raise IndexError(index)
        at = bisect_right(self._before, position) - 1
        return int(self._firsts[at] + position - self._before[at])

    def __iter__(self) -> Iterator[int]:
        for first, last in self.spans():
            yield from range(first, last + 1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Runs) and self._firsts == other._firsts and self._lasts == other._lasts

    def __hash__(self) -> int:
        return hash((self._firsts.tobytes(), self._lasts.tobytes()))

    def __repr__(self) -> str:
        return f"Runs({list(self.spans())})"


def spans_of(numbers: Iterable[int]) -> Iterator[Span]:
    """Yield the unbroken runs of ascending numbers.

    >>> list(spans_of([1, 2, 5]))
    [(1, 2), (5, 5)]
    """
    first = last = None
    for number in numbers:
        if last is not None and number <= last + 1:
            last = number
            continue
        if first is not None and last is not None:
            yield first, last
        first = last = number
    if first is not None and last is not None:
        yield first, last
