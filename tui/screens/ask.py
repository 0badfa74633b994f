"""Yes or no, before something that cannot simply be pressed again."""

from __future__ import annotations

from collections.abc import Callable

from textual.binding import Binding

from tui.format import Line
from tui.screens.dialog import Dialog


class Ask(Dialog):
    """A question whose default is no."""

    BINDINGS = [
        Binding("y", "yes", "Yes.", show=False),
        Binding("n,escape,q,enter", "no", "No.", show=False),
    ]

    def __init__(self, question: str, effect: str, word: str, yes: Callable[[], object]) -> None:
        super().__init__()
        self._question, self._effect, self._word, self._yes = question, effect, word, yes

    def says(self) -> list[Line]:
        return [((self._question, "strong"),), (), ((self._effect, "text"),)]

    def answers(self) -> list[tuple[str, str]]:
        return [("y", self._word), ("n", "no")]

    def action_yes(self) -> None:
        self.dismiss()
        self._yes()

    def action_no(self) -> None:
        self.dismiss()
