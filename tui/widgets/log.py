"""A log that follows its end until one scrolls up."""

from __future__ import annotations

from collections.abc import Sequence

from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip

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
        self._lines: tuple[Line, ...] = ()
        self._rows: list[Line] = []
        self._width = 0

    def show(self, lines: Sequence[Line]) -> None:
        """Replace the lines; cheap when only some were added at the end."""
        new = tuple(lines)
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
        if self.size.width != self._width:
            self._width = self.size.width
            self._rows = self._wrapped(self._lines)
            self._laid()

    def _laid(self) -> None:
        following = self.scroll_offset.y >= self.virtual_size.height - self.size.height - 1
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
        return selection.extract("\n".join("".join(text for text, _ in row) for row in self._rows)), "\n"
