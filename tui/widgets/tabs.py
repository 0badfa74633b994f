"""The line of a screen's tabs: a number each, the open one marked; a click opens one."""

from __future__ import annotations

from collections.abc import Sequence

from textual import events
from textual.message import Message

from tui.format import Span, width_of
from tui.widgets.lines import Lines


class Tabs(Lines):
    """The names of the tabs in a row."""

    class Chosen(Message):
        """A tab was clicked."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    def __init__(self, names: Sequence[str], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._names = tuple(names)
        self._places: list[tuple[int, int, str]] = []

    def mark(self, chosen: str) -> None:
        """Show which one is open."""
        line: list[Span] = [("  ", "text")]
        self._places = []
        for number, name in enumerate(self._names, 1):
            start = width_of(line)
            here = name == chosen
            line += [(f"{number} ", "hand!"), (name, "strong" if here else "quiet")]
            self._places.append((start, width_of(line), name))
            line.append(("   ", "text"))
        self.show([tuple(line)])

    def on_click(self, event: events.Click) -> None:
        for start, end, name in self._places:
            if start <= event.x < end:
                self.post_message(self.Chosen(name))
