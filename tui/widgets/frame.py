"""What every room has around it: where one is, what is going on, which keys work here and now."""

from __future__ import annotations

from collections.abc import Sequence

from textual import events
from textual.message import Message
from textual.strip import Strip

from tui.commands import Command
from tui.format import Line, Span, fit, width_of
from tui.glyphs import Glyphs
from tui.widgets.lines import Lines


def header(crumbs: Sequence[str], right: Sequence[Span], width: int, glyphs: Glyphs) -> list[Line]:
    """Return the two lines at the top: where one is at the left, what is going on at the right, a rule below."""
    left: list[Span] = [(glyphs.hand, "hand"), (" cellarman", "strong"), ("   ", "text")]
    for place, crumb in enumerate(crumbs):
        last = place == len(crumbs) - 1
        left.append((crumb, "strong" if last and place else "quiet"))
        if not last:
            left.append((f" {glyphs.crumb} ", "faint"))
    ends = [span for span in right if span[0]]
    while ends and width_of(left) + width_of(ends) + 3 * len(ends) + 1 > width:
        ends.pop(0)
    shown: list[Span] = []
    for span in ends:
        shown += [("   ", "text"), span]
    blank = width - width_of(left) - width_of(shown) - 1
    return [
        fit((*left, (" " * max(0, blank), "text"), *shown), width, glyphs.ellipsis),
        ((glyphs.rule * width, "rule"),),
    ]


class Keys(Lines):
    """The footer: keys that work here and now; a click presses them."""

    class Pressed(Message):
        """A key was clicked."""

        def __init__(self, command: Command) -> None:
            super().__init__()
            self.command = command

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(((" ", "text"),), id=id)
        self._places: list[tuple[int, int, Command]] = []
        self._commands: list[tuple[Command, str]] = []
        self._glyphs: Glyphs | None = None

    def offer(self, commands: Sequence[tuple[Command, str]], glyphs: Glyphs) -> None:
        """Show these commands with their words, as many as fit; the weightiest leave first."""
        self._commands, self._glyphs = list(commands), glyphs
        self._fill()

    def on_resize(self) -> None:
        self._fill()

    def _fill(self) -> None:
        if self._glyphs is None:
            return
        width = self.size.width or 80
        shown = list(self._commands)
        while shown and self._length(shown) > width:
            heaviest = max(command.weight for command, _ in shown)
            last = max(i for i, (command, _) in enumerate(shown) if command.weight == heaviest)
            del shown[last]
        line: list[Span] = [("  ", "text")]
        self._places = []
        for command, word in shown:
            start = width_of(line)
            line += [(self._key(command), "hand!"), (" " + word, "quiet")]
            self._places.append((start, width_of(line), command))
            line.append(("   ", "text"))
        self.show([tuple(line[:-1])])

    def _key(self, command: Command) -> str:
        assert self._glyphs is not None
        return {"enter": self._glyphs.enter, "arrows": self._glyphs.arrows}.get(command.key, command.key)

    def _length(self, shown: Sequence[tuple[Command, str]]) -> int:
        return 2 + sum(width_of([(self._key(c) + " " + word, "")]) + 3 for c, word in shown) - 3

    def on_click(self, event: events.Click) -> None:
        for start, end, command in self._places:
            if start <= event.x < end:
                self.post_message(self.Pressed(command))


class Rule(Lines):
    """A thin line between what differs."""

    DEFAULT_CSS = """
    Rule { height: 1; }
    """

    def __init__(self, glyph: str, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._glyph = glyph

    def render_line(self, y: int) -> Strip:
        return self.strip_of(((self._glyph * self.size.width, "rule"),), self.size.width)
