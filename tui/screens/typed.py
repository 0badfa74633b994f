"""A question that is answered by typing a name: what removes, replaces, or makes a copy of a whole server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import Input

from tui.format import Line, plain
from tui.screens.dialog import Dialog
from tui.widgets.lines import Lines


class Typed(Dialog):
    """The answer is no until the name is typed."""

    CSS_PATH: ClassVar = ["dialog.tcss", "typed.tcss"]
    AUTO_FOCUS = "Input"
    BINDINGS = [
        Binding("escape", "cancel", "No.", show=False, priority=True),
        Binding("tab,shift+tab", "stay", "Only one thing can be filled in.", show=False, priority=True),
    ]

    def __init__(
        self, says: Sequence[Line], name: str, what: str, word: str, yes: Callable[[], object], command: str = ""
    ) -> None:
        """`name` is to be typed, `what` says what it is, `word` is what then happens."""
        super().__init__()
        self._says, self._wanted, self._what, self._word, self._yes = list(says), name, what, word, yes
        self._command = command

    def says(self) -> list[Line]:
        lines = list(self._says)
        if self._command:
            lines += [(), (("same without this console  ", "quiet"), (plain(self._command), "moving"))]
        ask: Line = (
            ("Type ", "text"),
            (f"{self._what}, ", "text"),
            (plain(self._wanted), "hand!"),
            (", to go on:", "text"),
        )
        return [*lines, (), ask]

    def fields(self) -> ComposeResult:
        yield Input(compact=True, max_length=200, id="name")
        yield Lines(self._choice(), id="choice")

    def _choice(self, typed: str = "") -> Line:
        """Return the two answers, the one that enter gives in brackets."""
        if typed == self._wanted:
            return ("  cancel   ", "faint"), (f"[ {self._word} ]", "hand!")
        return ("[ cancel ]", "hand!"), (f"   {self._word}  ", "faint")

    def answers(self) -> list[tuple[str, str]]:
        return [("enter", "the one in brackets"), ("esc", "cancel")]

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        self.query_one("#choice", Lines).show([self._choice(event.value.strip())])

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        typed = event.value.strip()
        if typed == self._wanted:
            self.dismiss()
            self._yes()
        elif not typed:
            self.dismiss()
        else:
            wrong: Line = (("That is not ", "soon"), (f"{self._what}; ", "soon"), ("nothing was done.", "text"))
            self.query_one("#choice", Lines).show([wrong])

    def action_cancel(self) -> None:
        self.dismiss()

    def action_stay(self) -> None:
        """Keep the cursor where it is."""
