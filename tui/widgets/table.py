"""A table of at most a few thousand rows: pinned heading, one cursor, columns that give way when it is narrow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.filter import Filter, parse
from tui.format import Line, Span, width_of
from tui.glyphs import UNICODE, Glyphs
from tui.widgets.lines import Painter

Cell = Line
GAP = 3


@dataclass(frozen=True, slots=True)
class Column:
    """One column; the highest `yields` goes first when there is no room, 0 stays."""

    title: str
    align: Literal["left", "right"] = "left"
    yields: int = 0
    gap: int = GAP
    limit: int = 1000
    """Cells that it takes at most; longer texts are cut."""
    name: str = ""
    """What filters and exports call it, where the title does not say."""

    @property
    def field(self) -> str:
        """What filters and exports call it."""
        return self.name or self.title.lower()


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a key that lives as long as what it shows, and a cell a column."""

    key: str
    cells: tuple[Cell, ...]

    def texts(self, columns: Sequence[Column]) -> dict[str, str]:
        """Return its text by column; columns without a name are left out."""
        texts = {}
        for column, cell in zip(columns, self.cells, strict=False):
            if column.field:
                texts[column.field] = "".join(text for text, _ in cell).strip()
        return texts


def layout(columns: Sequence[Column], rows: Sequence[Row], width: int) -> list[tuple[int, int]]:
    """Return (index, width) of the columns to show, giving up those that yield until the rest fits `width`.

    >>> wide = [Column("A"), Column("B", yields=1)]
    >>> layout(wide, [Row("x", ((("12345", "text"),), (("123", "text"),)))], 20)
    [(0, 5), (1, 3)]
    >>> layout(wide, [Row("x", ((("12345", "text"),), (("123", "text"),)))], 9)
    [(0, 5)]
    """
    widths = [
        min(column.limit, max([len(column.title), *(width_of(row.cells[i]) for row in rows)]))
        for i, column in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    while True:
        needed = sum(widths[i] + columns[i].gap for i in shown) - (columns[shown[-1]].gap if shown else 0)
        yielding = [i for i in shown if columns[i].yields]
        if needed <= width or not yielding:
            return [(i, widths[i]) for i in shown]
        shown.remove(max(yielding, key=lambda i: columns[i].yields))


def _aligned(cell: Cell, width: int, column: Column, last: bool) -> tuple[Span, ...]:
    blank = max(0, width - width_of(cell))
    padding: Span = ("" if last and column.align == "left" else " " * blank, "text")
    gap: Span = ("" if last else " " * column.gap, "text")
    return (padding, *cell, gap) if column.align == "right" else (*cell, padding, gap)


class Table(ScrollView, Painter, can_focus=False):
    """Rows under a heading. The cursor stays on its row's key when rows come and go."""

    ALLOW_SELECT = False

    DEFAULT_CSS = """
    Table { height: 1fr; scrollbar-size-vertical: 1; overflow-x: hidden; }
    """
    cursor: reactive[int] = reactive(0, repaint=False)

    class Moved(Message):
        """The cursor is on another row."""

        def __init__(self, table: Table, key: str) -> None:
            super().__init__()
            self.table = table
            self.key = key

        @property
        def control(self) -> Table:
            return self.table

    class Opened(Message):
        """A row was clicked that had the cursor already."""

        def __init__(self, table: Table, key: str) -> None:
            super().__init__()
            self.table = table
            self.key = key

        @property
        def control(self) -> Table:
            return self.table

    def __init__(self, columns: Sequence[Column], *, id: str | None = None, glyphs: Glyphs = UNICODE) -> None:
        super().__init__(id=id)
        self._columns = tuple(columns)
        self._every: tuple[Row, ...] = ()
        self._rows: tuple[Row, ...] = ()
        self._filter: Filter | None = None
        self._laid: list[tuple[int, int]] = []
        self._glyphs = glyphs

    @property
    def key(self) -> str:
        """The key of the row under the cursor; empty when there is none."""
        return self._rows[self.cursor].key if self.cursor < len(self._rows) else ""

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows that are shown."""
        return self._rows

    @property
    def columns(self) -> tuple[Column, ...]:
        return self._columns

    @property
    def narrowed(self) -> Filter | None:
        """What is kept of the rows, when not all are."""
        return self._filter

    @property
    def total(self) -> int:
        """How many rows there are, shown or not."""
        return len(self._every)

    def narrow(self, text: str) -> None:
        """Show only the rows that `text` keeps (tui.filter); all with an empty one."""
        self._filter = parse(text, [column.field for column in self._columns])
        self.show(self._every)

    def show(self, rows: Sequence[Row], columns: Sequence[Column] | None = None) -> None:
        """Replace the rows; repaints only what changed."""
        self._every = tuple(rows)
        kept = self._filter
        new = tuple(row for row in self._every if kept.keeps(row.texts(self._columns))) if kept else self._every
        fresh_columns = columns is not None and tuple(columns) != self._columns
        if new == self._rows and not fresh_columns:
            return
        if columns is not None:
            self._columns = tuple(columns)
        before, key = self._rows, self.key
        self._rows = new
        laid = self._lay()
        places = {row.key: place for place, row in enumerate(new)}
        self.cursor = places.get(key, max(0, min(self.cursor, len(new) - 1)))
        self.virtual_size = Size(0, len(new) + 1)
        if laid or fresh_columns or len(before) != len(new):
            self.refresh()
        else:
            for place, (old, row) in enumerate(zip(before, new, strict=True)):
                if old != row:
                    self._refresh_row(place)
        if self.key != key:
            self.post_message(self.Moved(self, self.key))

    def _lay(self) -> bool:
        laid = layout(self._columns, self._rows, max(1, self.size.width - 3))
        changed = laid != self._laid
        self._laid = laid
        return changed

    def on_resize(self) -> None:
        self._lay()
        self._keep_in_view()
        self.refresh()

    def _refresh_row(self, place: int) -> None:
        y = place + 1 - self.scroll_offset.y
        if 1 <= y < self.size.height:
            self.refresh(Region(0, y, self.size.width, 1))

    def watch_cursor(self, before: int, after: int) -> None:
        if before != after:
            self._refresh_row(before)
            self._refresh_row(after)
            self._keep_in_view()

    def _keep_in_view(self) -> None:
        page = max(1, self.size.height - 1)
        top = self.scroll_offset.y
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, force=True)
        elif self.cursor >= top + page:
            self.scroll_to(y=self.cursor - page + 1, animate=False, force=True)

    def move(self, by: int) -> None:
        """Move the cursor by so many rows, as far as it goes."""
        to = max(0, min(self.cursor + by, len(self._rows) - 1))
        if to != self.cursor:
            self.cursor = to
            self.post_message(self.Moved(self, self.key))

    @property
    def page(self) -> int:
        """How many rows are seen at once."""
        return max(1, self.size.height - 2)

    def point_at(self, key: str) -> None:
        """Put the cursor on the row with this key, if it is there."""
        for place, row in enumerate(self._rows):
            if row.key == key:
                self.move(place - self.cursor)

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        if y == 0:
            line: list[Span] = [("  ", "text")]
            for index, cells in self._laid:
                column = self._columns[index]
                line += _aligned(((column.title, "quiet"),), cells, column, index == self._laid[-1][0])
            return self.strip_of(self.cut(tuple(line), width), width)
        place = y - 1 + self.scroll_offset.y
        if place >= len(self._rows):
            return self.strip_of((), width)
        here = place == self.cursor
        line = [(self._glyphs.hand if here else " ", "hand"), (" ", "text")]
        for index, cells in self._laid:
            cell = self.cut(self._rows[place].cells[index], cells)
            line += _aligned(cell, cells, self._columns[index], index == self._laid[-1][0])
        return self.strip_of(self.cut(tuple(line), width), width, cursor=here)

    def on_click(self, event: events.Click) -> None:
        place = event.y - 1 + self.scroll_offset.y
        if event.y < 1 or not 0 <= place < len(self._rows):
            return
        if place == self.cursor:
            self.post_message(self.Opened(self, self.key))
        else:
            self.move(place - self.cursor)
