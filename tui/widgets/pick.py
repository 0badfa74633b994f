"""One of a few words, chosen with the space bar or the arrow keys."""

from __future__ import annotations

from collections.abc import Sequence

from textual.binding import Binding
from textual.message import Message

from tui.format import Span, width_of
from tui.widgets.lines import Lines


class Pick(Lines, can_focus=True):
    """A label and words, one of them chosen."""

    DEFAULT_CSS = """
    Pick { height: 1; }
    """
    BINDINGS = [
        Binding("space,right", "turn(1)", "The next one.", show=False),
        Binding("left", "turn(-1)", "The one before.", show=False),
    ]

    class Changed(Message):
        """Another word was chosen."""

        def __init__(self, pick: Pick) -> None:
            super().__init__()
            self.pick = pick

        @property
        def control(self) -> Pick:
            return self.pick

    def __init__(self, label: str, words: Sequence[str], *, chosen: int = 0, room: int = 14, id: str) -> None:
        super().__init__(id=id)
        self._label, self._words, self._room = label, tuple(words), room
        self.chosen = chosen
        """Which of the words it is, from 0."""

    def on_mount(self) -> None:
        self._fill()

    def watch_has_focus(self, _has_focus: bool) -> None:
        super().watch_has_focus(_has_focus)
        self._fill()

    def on_resize(self) -> None:
        self._fill()

    def on_click(self) -> None:
        self.action_turn(1)

    def action_turn(self, by: int) -> None:
        self.choose((self.chosen + by) % len(self._words))

    def choose(self, place: int) -> None:
        """Choose the word at a place."""
        if place != self.chosen:
            self.chosen = place
            self.post_message(self.Changed(self))
        self._fill()

    def _fill(self) -> None:
        here = "hand!" if self.has_focus else "strong"
        spans: list[Span] = [(f"{self._label:<{self._room}}", "quiet")]
        for place, word in enumerate(self._words):
            left, right = ("[", "]") if place == self.chosen else (" ", " ")
            spans += [(left, here), (f" {word} ", here if place == self.chosen else "faint"), (right, here)]
        room = self.size.width - width_of(spans)
        hint = next((each for each in ("   space changes it", "   space") if len(each) <= room), "")
        self.show([(*spans, (hint if self.has_focus else "", "quiet"))])
