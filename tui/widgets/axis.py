"""The recovery axis: one line of time, solid where every moment can be reached, broken where recovery breaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tui.format import Line, utc, width_of
from tui.glyphs import Glyphs

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_STEPS = (
    *(1, 2, 5, 10, 15, 30),
    *(m * _MINUTE for m in (1, 2, 5, 10, 15, 30)),
    *(h * _HOUR for h in (1, 2, 3, 6, 12)),
    *(d * _DAY for d in (1, 2, 5, 7, 14, 30, 61, 91, 182, 365, 730)),
)
_LABEL_ROOM = 13


@dataclass(frozen=True, slots=True)
class Stretch:
    """Moments from `begin` to `end` that can be reached."""

    begin: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Mark:
    """A backup on the axis."""

    at: datetime
    full: bool = True
    good: bool = True


@dataclass(frozen=True, slots=True)
class Branch:
    """The part of a timeline that is not on the axis itself: where it leaves, and what of it can be reached."""

    timeline: int
    begin: datetime
    end: datetime
    stretches: tuple[Stretch, ...] = ()
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps moments to columns."""

    begin: datetime
    end: datetime
    width: int

    @property
    def length(self) -> timedelta:
        return self.end - self.begin

    @property
    def cell(self) -> timedelta:
        """How much time one column is."""
        return self.length / max(1, self.width - 1)

    def column(self, at: datetime) -> int:
        share = (at - self.begin) / max(self.length, _TINY)
        return max(0, min(self.width - 1, round(share * (self.width - 1))))

    def at(self, column: int) -> datetime:
        """Return the moment of a column."""
        return self.begin + self.length * (column / max(1, self.width - 1))

    def shows(self, at: datetime) -> bool:
        return self.begin <= at <= self.end

    def columns(self, begin: datetime, end: datetime) -> range:
        """Return the columns of a period, none when it is not in view."""
        if end < self.begin or begin > self.end:
            return range(0)
        return range(self.column(begin), self.column(end) + 1)


_TINY = timedelta(microseconds=1)
CLOSEST = timedelta(seconds=4)
"""The shortest period that one can zoom in to."""
ZOOM = 4
_GAP_ROOM = 9
"""Columns of a gap that has its name in its middle; beside what begins and ends it, the backups' names come first."""


def zoomed(view: Scale, at: datetime, whole: Scale, *, closer: bool) -> Scale:
    """Return the view with a quarter or four times of its period, the cursor staying where it is on screen."""
    length = view.length / ZOOM if closer else view.length * ZOOM
    length = min(max(length, CLOSEST), whole.length)
    begin = at - length * ((at - view.begin) / max(view.length, _TINY))
    return placed(Scale(begin, begin + length, view.width), whole)


def placed(view: Scale, whole: Scale) -> Scale:
    """Return the view moved so that it lies within the whole."""
    begin = max(whole.begin, min(view.begin, whole.end - view.length))
    return Scale(begin, begin + view.length, view.width)


def following(view: Scale, at: datetime, whole: Scale) -> Scale:
    """Return the view moved so that the cursor is in it, with some room on its far side."""
    margin = view.length / 20
    if view.begin + margin <= at <= view.end - margin:
        return view
    begin = at - view.length * (3 / 4 if at > view.end - margin else 1 / 4)
    return placed(Scale(begin, begin + view.length, view.width), whole)


def step(view: Scale, at: datetime, beats: Sequence[datetime], *, forward: bool) -> datetime:
    """Return where the cursor goes: to the next transaction that is seen as another column, over what is idle; a
    column further where none is known.

    >>> from datetime import timezone
    >>> zero = datetime(2026, 1, 1, tzinfo=timezone.utc)
    >>> view = Scale(zero, zero + timedelta(seconds=99), 100)
    >>> later = [zero + timedelta(seconds=s) for s in (10, 10.2, 40)]
    >>> (step(view, zero, later, forward=True) - zero).seconds
    10
    >>> (step(view, later[0], later, forward=True) - zero).seconds
    40
    """
    ahead = [beat for beat in beats if (beat > at if forward else beat < at)]
    half = view.cell / 2
    far = [beat for beat in ahead if abs(beat - at) >= half]
    if far and view.shows(far[0] if forward else far[-1]):
        return far[0] if forward else far[-1]
    return at + view.cell if forward else at - view.cell


def scale(stretches: Sequence[Stretch], marks: Sequence[Mark], now: datetime, width: int) -> Scale:
    """Return the scale that shows everything from the first backup or moment until now."""
    marked = [mark.at for mark in marks]
    end = max([now, *(stretch.end for stretch in stretches), *marked])
    begin = min([end - timedelta(minutes=2), *(stretch.begin for stretch in stretches), *marked])
    return Scale(begin - (end - begin) * 0.02, end, width)


def axis(
    stretches: Sequence[Stretch], marks: Sequence[Mark], now: datetime, width: int, glyphs: Glyphs, broken: bool
) -> list[Line]:
    """Return three lines: dates, the axis, names of the marks. `broken` tells that the last stretch ends in a gap."""
    if width < 20:
        return []
    to = scale(stretches, marks, now, width)
    return [
        _dates(to, stretches, now),
        _line(to, stretches, marks, glyphs, broken),
        _names(to, stretches, marks, broken),
    ]


def closely(
    to: Scale,
    at: datetime,
    now: datetime,
    stretches: Sequence[Stretch],
    marks: Sequence[Mark],
    branches: Sequence[Branch],
    glyphs: Glyphs,
    broken: bool,
) -> list[Line]:
    """Return the lines of an axis that one moves on: dates, the axis, the cursor, names, and a line a branch."""
    if to.width < 20:
        return []
    pointer = _placed([(to.column(at), glyphs.cursor, "hand!")], to.width)
    return [
        _dates(to, stretches, now),
        _line(to, stretches, marks, glyphs, broken),
        pointer,
        _names(to, stretches, marks, broken),
        *(_branch(to, branch, glyphs) for branch in branches),
    ]


def _branch(to: Scale, branch: Branch, glyphs: Glyphs) -> Line:
    """Draw a branch below the axis: where it leaves, what of it can be reached, its number behind it."""
    cells = [(" ", "text")] * to.width
    columns = to.columns(branch.begin, branch.end)
    for column in columns:
        cells[column] = (glyphs.lost, "quiet")
    for stretch in branch.stretches:
        for column in to.columns(max(stretch.begin, branch.begin), stretch.end):
            cells[column] = (glyphs.line, "good")
        if branch.broken and to.shows(stretch.end):
            cells[to.column(stretch.end)] = (glyphs.broken, "bad!")
    if to.shows(branch.begin):
        cells[to.column(branch.begin)] = (glyphs.fork, "quiet")
    label = f"timeline {branch.timeline}"
    free = columns.stop + 1 if columns else 0
    if free + len(label) > to.width:
        free = columns.start - len(label) - 1
    if free >= 0:
        cells[free : free + len(label)] = [(letter, "quiet") for letter in label]
    return _merged(cells)


def row(
    stretches: Sequence[Stretch], marks: Sequence[Mark], now: datetime, width: int, glyphs: Glyphs, broken: bool
) -> Line:
    """Return the axis alone, for one row of a table."""
    if not stretches:
        return ((" " * width, "text"),)
    return _line(scale(stretches, marks, now, width), stretches, marks, glyphs, broken)


def _line(to: Scale, stretches: Sequence[Stretch], marks: Sequence[Mark], glyphs: Glyphs, broken: bool) -> Line:
    cells = [(" ", "text")] * to.width
    if stretches:
        first, last = stretches[0].begin, stretches[-1].end
        for column in to.columns(last, to.end):
            cells[column] = (glyphs.lost, "bad" if broken else "quiet")
        for column in to.columns(first, last):
            cells[column] = (glyphs.lost, "bad")
    for stretch in stretches:
        for column in to.columns(stretch.begin, stretch.end):
            cells[column] = (glyphs.line, "good")
    for stretch in stretches if broken else stretches[:-1]:
        if to.shows(stretch.end):
            cells[to.column(stretch.end)] = (glyphs.broken, "bad!")
    for mark in marks:
        if to.shows(mark.at):
            glyph = glyphs.full if mark.full else glyphs.incremental
            cells[to.column(mark.at)] = (glyph, "hand" if mark.good else "faint")
    return _merged(cells)


def _dates(to: Scale, stretches: Sequence[Stretch], now: datetime) -> Line:
    step = _step(to)
    first = utc(to.begin).timestamp()
    tick = (int(first // step) + 1) * step
    texts: list[tuple[int, str, str]] = []
    if step < _DAY and to.length < timedelta(days=1):
        texts.append((0, f"{utc(to.begin):%Y-%m-%d}", "faint"))
    while tick < to.end.timestamp():
        at = datetime.fromtimestamp(tick, tz=utc(now).tzinfo)
        texts.append((to.column(at), _label(at, step), "quiet"))
        tick += step
    now = max([now, *(stretch.end for stretch in stretches)])  # a coarse clock may be behind them
    if to.shows(now):
        texts.append((max(0, to.column(now) - 2), "now", "quiet"))
    return _placed(texts, to.width)


def _label(at: datetime, step: int) -> str:
    if step >= 365 * _DAY:
        return f"{at:%Y}"
    if step >= _DAY or (at.hour, at.minute, at.second) == (0, 0, 0):
        return f"{at:%m-%d}"
    return f"{at:%H:%M:%S}" if step < _MINUTE else f"{at:%H:%M}"


def _step(to: Scale) -> int:
    length = to.length.total_seconds()
    ticks = max(1, to.width // _LABEL_ROOM)
    return next((step for step in _STEPS if length / step <= ticks), _STEPS[-1])


def _names(to: Scale, stretches: Sequence[Stretch], marks: Sequence[Mark], broken: bool) -> Line:
    begins = [stretch.begin for stretch in stretches[1:]] + ([to.end] if broken else [])
    gaps = [to.columns(stretch.end, begin) for stretch, begin in zip(stretches, begins, strict=False)]
    middles = [((gap.start + gap.stop) // 2 - 1, "gap", "bad") for gap in gaps if len(gap) >= _GAP_ROOM]
    narrow = [(gap.start, "gap", "bad") for gap in gaps if 0 < len(gap) < _GAP_ROOM]
    named = [
        (to.column(m.at), ("full" if m.full else "incr") if m.good else "failed", "quiet")
        for m in marks
        if to.shows(m.at)
    ]
    return _placed([*middles, *sorted(named, reverse=True), *narrow], to.width)


def _placed(texts: Sequence[tuple[int, str, str]], width: int) -> Line:
    """Put texts at their columns, earlier ones of the sequence winning where two would touch."""
    cells = [(" ", "text")] * width
    taken = [False] * (width + 2)
    for column, text, role in reversed(texts) if texts and texts[-1][1] == "now" else texts:
        start = max(0, min(column, width - len(text)))
        if any(taken[start : start + len(text) + 2]) or (start and taken[start - 1]):
            continue
        for offset, letter in enumerate(text):
            cells[start + offset] = (letter, role)
            taken[start + offset] = True
    return _merged(cells)


def _merged(cells: Sequence[tuple[str, str]]) -> Line:
    line: list[tuple[str, str]] = []
    for text, role in cells:
        if line and line[-1][1] == role:
            line[-1] = (line[-1][0] + text, role)
        else:
            line.append((text, role))
    assert width_of(line) == len(cells)
    return tuple(line)
