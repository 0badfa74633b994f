"""A million WAL segments on one screen: as a map of cells, or as a list with a row each; painted line by line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.format import Line, Span
from tui.glyphs import Glyphs
from tui.widgets.lines import Painter

if TYPE_CHECKING:
    from engine.wal.chart import Chart

LABEL = 15
"""Cells at the left that hold a row's address."""
ARCHIVED, ACCEPTED, WAITING, UNKNOWN, FETCHABLE, BAD, LOST = (1 << bit for bit in range(7))
"""The flags of `engine.wal.chart`, which is not loaded before it is needed."""
BEFORE = 0x80
"""Of cells before the first segment."""
WORDS = {
    LOST: "lost",
    BAD: "bad",
    FETCHABLE: "can be had",
    UNKNOWN: "not known",
    WAITING: "on its way",
    ACCEPTED: "accepted",
    ARCHIVED: "archived",
    0: "not written yet",
}
ROLES = {
    LOST: "bad!",
    BAD: "bad!",
    FETCHABLE: "soon!",
    UNKNOWN: "soon",
    WAITING: "soon",
    ACCEPTED: "quiet",
    ARCHIVED: "good",
    0: "faint",
}


def sign(flags: int, glyphs: Glyphs) -> Span:
    """Return how a segment, or the worst of many, is drawn."""
    worst = worst_of(flags)
    glyph = {
        LOST: glyphs.broken,
        BAD: glyphs.warning,
        FETCHABLE: glyphs.fetch,
        UNKNOWN: glyphs.unknown,
        WAITING: glyphs.queued,
        ACCEPTED: glyphs.accepted,
        ARCHIVED: glyphs.cell,
        0: glyphs.waiting,
    }[worst]
    return glyph, ROLES[worst]


def worst_of(flags: int) -> int:
    """Return the worst of a set of states.

    >>> worst_of(ARCHIVED | LOST) == LOST, worst_of(0)
    (True, 0)
    """
    return 1 << (flags.bit_length() - 1) if flags else 0


def legend(states: bytes, glyphs: Glyphs) -> Line:
    """Return what the signs mean, only of the states that there are; `states` are flags."""
    there = [word for word in WORDS if (word == 0 or re.search(bytes((word,)), states))]
    spans: list[Span] = []
    for state in reversed(there):
        glyph, role = sign(state, glyphs)
        spans += [(glyph, role), (f" {WORDS[state]}   ", "quiet")]
    return tuple(spans)


class OverChart(ScrollView, Painter, can_focus=False):
    """What is drawn from a chart and has one segment under its cursor."""

    ALLOW_SELECT = False
    DEFAULT_CSS = """
    OverChart { height: 1fr; scrollbar-size-vertical: 1; overflow-x: hidden; }
    """
    HEADING = 0
    """Lines at the top that do not scroll."""
    cursor: reactive[int] = reactive(0, repaint=False)
    """The number of the segment."""

    class Moved(Message):
        """The cursor is on another segment."""

    def __init__(self, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._glyphs = glyphs
        self.chart: Chart | None = None
        self.marks: Mapping[int, bool] = {}
        """Segments in which backups begin, and whether those are full ones."""

    def show(self, chart: Chart | None, marks: Mapping[int, bool]) -> None:
        """Draw a chart; the cursor stays on its segment, as far as there is one."""
        if chart is self.chart and marks == self.marks:
            return
        self.chart, self.marks = chart, dict(marks)
        if chart is not None:
            self.cursor = max(chart.first, min(self.cursor, chart.last))
        self._lay()

    def _lay(self) -> None:
        self.virtual_size = Size(0, self.HEADING + len(self.rows))
        self._keep_in_view()
        self.refresh()

    def on_resize(self) -> None:
        self._lay()

    @property
    def rows(self) -> Sequence[int]:
        raise NotImplementedError

    @property
    def page(self) -> int:
        """How many rows are seen at once."""
        return max(1, self.size.height - self.HEADING - 1)

    def row_of(self, number: int) -> int:
        """Return the row that a segment is in."""
        raise NotImplementedError

    def move(self, by: int) -> None:
        """Move the cursor by so many rows."""
        raise NotImplementedError

    def go(self, number: int) -> None:
        """Put the cursor on a segment, or on the nearest there is."""
        if self.chart is None or not self.chart.states:
            return
        to = max(self.chart.first, min(number, self.chart.last))
        if to != self.cursor:
            self.cursor = to
            self.post_message(self.Moved())

    def watch_cursor(self, before: int, after: int) -> None:
        if before != after and self.chart is not None:
            for number in {before, after}:
                self._refresh_row(self.row_of(number))
            self._keep_in_view()

    def _refresh_row(self, row: int) -> None:
        y = row + self.HEADING - self.scroll_offset.y
        if self.HEADING <= y < self.size.height:
            self.refresh(Region(0, y, self.size.width, 1))

    def _keep_in_view(self) -> None:
        if self.chart is None:
            return
        row, height = self.row_of(self.cursor), max(1, self.size.height - self.HEADING)
        top = self.scroll_offset.y
        if row < top:
            self.scroll_to(y=row, animate=False, force=True)
        elif row >= top + height:
            self.scroll_to(y=row - height + 1, animate=False, force=True)


class SegmentMap(OverChart):
    """One cell a bucket of segments, one row a power of two of cells; the worst state in a bucket wins."""

    def __init__(self, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(glyphs, id=id)
        self.level: int | None = None
        """A cell is 1 << level segments; None until there is a chart and room."""
        self.cells = 64
        """How many cells a row has: a power of two, as the width allows."""
        self._ground: tuple[str, Style] = ("", Style())
        """The widget's own style, and the theme that it is of."""
        self._signs = [sign(flags, glyphs) for flags in range(BEFORE)] + [(" ", "text")] * BEFORE

    @property
    def per_row(self) -> int:
        return self.cells << (self.level or 0)

    @property
    def per_log(self) -> int:
        return 0x1_0000_0000 // self.chart.segment_size if self.chart else 256

    @property
    def _base(self) -> int:
        return self.chart.first // self.per_row * self.per_row if self.chart else 0

    @property
    def rows(self) -> Sequence[int]:
        if self.chart is None or not self.chart.states:
            return range(0)
        return range((self.chart.last - self._base) // self.per_row + 1)

    def row_of(self, number: int) -> int:
        return (number - self._base) // self.per_row

    def _lay(self) -> None:
        if self.size.width:
            self.cells = 1 << max(4, max(16, self.size.width - LABEL - 1).bit_length() - 1)
        if self.level is None and self.chart is not None and self.size.height:
            self.level = self._fitting()
        super()._lay()

    def _fitting(self) -> int:
        """Return the level at which everything is seen, but no row is more than one log."""
        assert self.chart is not None
        level = 0
        count = len(self.chart.states)
        while (self.cells << level) < self.per_log and count > (self.cells << level) * self.size.height:
            level += 1
        return level

    def can_zoom(self, by: int) -> bool:
        """Tell whether there is something closer, or wider."""
        if self.chart is None:
            return False
        level = (self.level or 0) + by
        return 0 <= level < len(self.chart.levels) and (by < 0 or len(self.rows) > 1)

    def zoom(self, by: int) -> None:
        """Make a cell twice or half as many segments, the cursor's row staying where it is."""
        if not self.can_zoom(by):
            return
        y = self.row_of(self.cursor) - self.scroll_offset.y
        self.level = (self.level or 0) + by
        self.virtual_size = Size(0, len(self.rows))
        self.scroll_to(y=max(0, self.row_of(self.cursor) - y), animate=False, force=True)
        self.refresh()

    def move(self, by: int) -> None:
        self.go(self.cursor + by * self.per_row)

    def along(self, by: int) -> None:
        """Move the cursor by so many cells."""
        step = 1 << (self.level or 0)
        self.go((self.cursor // step + by) * step)

    def span(self) -> tuple[int, int]:
        """Return the first and last segment of the cell under the cursor."""
        step = 1 << (self.level or 0)
        first = self.cursor // step * step
        if self.chart is None:
            return first, first
        return max(first, self.chart.first), min(first + step - 1, self.chart.last)

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        row = y + self.scroll_offset.y
        chart = self.chart
        if chart is None or row >= len(self.rows):
            return self.strip_of((), width)
        level, cells = self.level or 0, self.cells
        first = self._base + row * self.per_row
        flags = chart.row(level, first, cells)
        blank = max(0, min(cells, (chart.first - first) >> level))
        shown = [self._signs[flag] for flag in bytes((BEFORE,)) * blank + flags[blank:]]
        for number, full in self.marks.items():
            cell = (number - first) >> level
            if 0 <= cell < cells and worst_of(flags[cell]) in (ARCHIVED, 0):
                shown[cell] = (self._glyphs.full if full else self._glyphs.incremental, "hand")
        here = (self.cursor - first) >> level if self.row_of(self.cursor) == row else -1
        return self._strip(self._address(first), shown, here, width)

    def _address(self, first: int) -> str:
        log, within = divmod(first, self.per_log)
        tail = f" {within:0{max(2, len(f'{self.per_log - 1:X}'))}X}" if self.per_row < self.per_log else ""
        return f"  {log:08X}{tail}"

    def _strip(self, label: str, shown: Sequence[Span], here: int, width: int) -> Strip:
        if self._ground[0] != self.app.theme:
            self._ground = (self.app.theme, self.rich_style)
        base = self._ground[1]
        segments = [Segment(f"{label:<{LABEL}}", base + self.role_style("quiet" if here >= 0 else "faint"))]
        for role, run in groupby(enumerate(shown), lambda each: ("", each[0]) if each[0] == here else (each[1][1], -1)):
            cells = list(run)
            style = base + self.role_style(role[0] or cells[0][1][1])
            text = "".join(glyph for _, (glyph, _) in cells)
            segments.append(Segment(text, style + Style(reverse=True) if role[1] >= 0 else style))
        return Strip(segments).adjust_cell_length(width, base)

    def on_click(self, event: events.Click) -> None:
        cell = event.x - LABEL
        row = event.y + self.scroll_offset.y
        if 0 <= cell < self.cells and row < len(self.rows):
            self.go(self._base + row * self.per_row + (cell << (self.level or 0)))


class SegmentList(OverChart):
    """One row a segment: name, state, where it begins, and what the index knows of its commits."""

    HEADING = 1

    class Shown(Message):
        """Other rows are in view than before."""

    def __init__(self, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(glyphs, id=id)
        self._told: Mapping[int, Line] = {}
        self._seen = (-1, -1)

    @property
    def rows(self) -> Sequence[int]:
        return range(len(self.chart.states) if self.chart else 0)

    def row_of(self, number: int) -> int:
        return number - self.chart.first if self.chart else 0

    def move(self, by: int) -> None:
        self.go(self.cursor + by)

    def in_view(self) -> tuple[int, int]:
        """Return the first and last number that is seen."""
        first = (self.chart.first if self.chart else 0) + int(self.scroll_offset.y)
        return first, first + max(1, self.size.height - 1)

    def tell(self, lines: Mapping[int, Line]) -> None:
        """Show these lines behind the segments' names."""
        self._told = dict(lines)
        self.refresh()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._say_seen()

    def _lay(self) -> None:
        super()._lay()
        self._say_seen()

    def _say_seen(self) -> None:
        if self.in_view() != self._seen:
            self._seen = self.in_view()
            self.post_message(self.Shown())

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        if y == 0:
            head = f"  {'SEGMENT':<26}{'STATE':<18}{'BEGINS AT':<16}COMMITS"
            return self.strip_of(((head, "quiet"),), width)
        chart = self.chart
        place = y - 1 + int(self.scroll_offset.y)
        if chart is None or place >= len(chart.states):
            return self.strip_of((), width)
        number = chart.first + place
        here = number == self.cursor
        flags = chart.states[place]
        glyph, role = sign(flags, self._glyphs)
        mark: Span = (" ", "text")
        if number in self.marks:
            mark = (self._glyphs.full if self.marks[number] else self._glyphs.incremental, "hand")
        line: Line = (
            (self._glyphs.hand if here else " ", "hand"),
            (" ", "text"),
            (chart.name(number), "text" if flags == ARCHIVED else "strong"),
            ("  ", "text"),
            (glyph, role),
            (f" {WORDS[worst_of(flags)]:<15} ", role),
            (f"{chart.start(number)!s:<13}", "quiet"),
            mark,
            ("  ", "text"),
            *self._told.get(number, ()),
        )
        return self.strip_of(self.cut(line, width), width, cursor=here)

    def on_click(self, event: events.Click) -> None:
        if event.y >= 1 and self.chart is not None:
            self.go(self.chart.first + event.y - 1 + int(self.scroll_offset.y))
