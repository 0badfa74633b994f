"""The recovery axis: one line of time, solid where every moment can be reached, broken where recovery breaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tui.format import Line, utc, width_of
from tui.glyphs import Glyphs

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_STEPS = (
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
class Scale:
    """Maps moments to columns."""

    begin: datetime
    end: datetime
    width: int

    def column(self, at: datetime) -> int:
        length = max(1.0, (self.end - self.begin).total_seconds())
        share = (at - self.begin).total_seconds() / length
        return max(0, min(self.width - 1, round(share * (self.width - 1))))


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
    return [_dates(to, now), _line(to, stretches, marks, glyphs, broken), _names(to, stretches, marks, broken)]


def row(
    stretches: Sequence[Stretch], marks: Sequence[Mark], now: datetime, width: int, glyphs: Glyphs, broken: bool
) -> Line:
    """Return the axis alone, for one row of a table."""
    if not stretches:
        return ((" " * width, "text"),)
    return _line(scale(stretches, marks, now, width), stretches, marks, glyphs, broken)


def _line(to: Scale, stretches: Sequence[Stretch], marks: Sequence[Mark], glyphs: Glyphs, broken: bool) -> Line:
    lost = (glyphs.lost, "bad")
    cells = [(" ", "text")] * to.width
    if stretches:
        first, last = to.column(stretches[0].begin), to.column(stretches[-1].end)
        for column in range(first, last):
            cells[column] = lost
        for column in range(last, to.width):
            cells[column] = lost if broken else (glyphs.lost, "quiet")
    for stretch in stretches:
        for column in range(to.column(stretch.begin), to.column(stretch.end) + 1):
            cells[column] = (glyphs.line, "good")
    for stretch in stretches if broken else stretches[:-1]:
        cells[to.column(stretch.end)] = (glyphs.broken, "bad!")
    for mark in marks:
        cells[to.column(mark.at)] = (glyphs.full if mark.full else glyphs.incremental, "hand" if mark.good else "faint")
    return _merged(cells)


def _dates(to: Scale, now: datetime) -> Line:
    step = _step(to)
    first = utc(to.begin).timestamp()
    tick = (int(first // step) + 1) * step
    texts: list[tuple[int, str, str]] = []
    while tick < to.end.timestamp():
        at = datetime.fromtimestamp(tick, tz=utc(now).tzinfo)
        texts.append((to.column(at), _label(at, step), "quiet"))
        tick += step
    return _placed([*texts, (to.width - 3, "now", "quiet")], to.width)


def _label(at: datetime, step: int) -> str:
    if step >= 365 * _DAY:
        return f"{at:%Y}"
    return f"{at:%m-%d}" if step >= _DAY or (at.hour, at.minute) == (0, 0) else f"{at:%H:%M}"


def _step(to: Scale) -> int:
    length = (to.end - to.begin).total_seconds()
    ticks = max(1, to.width // _LABEL_ROOM)
    return next((step for step in _STEPS if length / step <= ticks), _STEPS[-1])


def _names(to: Scale, stretches: Sequence[Stretch], marks: Sequence[Mark], broken: bool) -> Line:
    breaks = stretches if broken else stretches[:-1]
    gaps = [(to.column(stretch.end), "gap", "bad") for stretch in breaks]
    named = [(to.column(m.at), ("full" if m.full else "incr") if m.good else "failed", "quiet") for m in marks]
    return _placed(gaps + sorted(named, reverse=True), to.width)


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
