"""A log that follows its end until one scrolls up."""

from __future__ import annotations

from collections.abc import Sequence

from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip

from tui.filter import Filter, parse
from tui.format import Line, wrap
from tui.widgets.lines import Painter

INDENT = 10
"""Continued lines begin below the text, not below the time."""


class Log(ScrollView, Painter, can_focus=False):
    """Lines in the order they came, wrapped; the newest at the bottom."""

    DEFAULT_CSS = """
    Log { height: 1fr; scrollbar-size-vertical: 1; overflow-x: hidden; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._every: tuple[Line, ...] = ()
        self._lines: tuple[Line, ...] = ()
        self._filter: Filter | None = None
        self._rows: list[Line] = []
        self._seen = Size(0, 0)
        """How much room there was when the lines were laid."""

    @property
    def narrowed(self) -> Filter | None:
        """What is kept of the lines, when not all are."""
        return self._filter

    @property
    def total(self) -> int:
        """How many lines there are, shown or not."""
        return len(self._every)

    @property
    def lines(self) -> Sequence[Line]:
        """The lines that are shown, as they came."""
        return self._lines

    def narrow(self, text: str) -> None:
        """Show only the lines that `text` keeps (tui.filter); all with an empty one."""
        self._filter = parse(text)
        self.show(self._every)

    def show(self, lines: Sequence[Line]) -> None:
        """Replace the lines; cheap when only some were added at the end."""
        self._every = tuple(lines)
        kept = self._filter
        new = tuple(line for line in lines if kept.keeps({"": _text(line)})) if kept else self._every
        if new == self._lines:
            return
        grown = new[: len(self._lines)] == self._lines
        added = new[len(self._lines) :] if grown else new
        self._rows = (self._rows if grown else []) + self._wrapped(added)
        self._lines = new
        self._laid()

    def _wrapped(self, lines: Sequence[Line]) -> list[Line]:
        return [row for line in lines for row in wrap(line, max(10, self.size.width - 2), INDENT)]

    def on_resize(self) -> None:
        if self.size.width != self._seen.width:
            self._rows = self._wrapped(self._lines)
        self._laid()

    def _laid(self) -> None:
        following = self.scroll_offset.y >= self.virtual_size.height - self._seen.height - 1
        self._seen = self.size
        self.virtual_size = Size(0, len(self._rows))
        if following:
            self.scroll_to(y=max(0, len(self._rows) - self.size.height), animate=False, force=True)
        self.refresh()

    def move(self, by: int) -> None:
        """Scroll by so many lines."""
        self.scroll_to(y=self.scroll_offset.y + by, animate=False)

    @property
    def page(self) -> int:
        return max(1, self.size.height - 1)

    @property
    def rows(self) -> Sequence[Line]:
        return self._rows

    def render_line(self, y: int) -> Strip:
        place = y + self.scroll_offset.y
        width = self.scrollable_content_region.width
        return self.strip_of(self._rows[place] if place < len(self._rows) else (), width, y=place)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        return selection.extract("\n".join(map(_text, self._rows))), "\n"


def _text(line: Line) -> str:
    return "".join(text for text, _ in line)
