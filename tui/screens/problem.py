"""An action that failed: what, why, what now."""

from __future__ import annotations

from textual.binding import Binding

from engine.errors import CellarmanError
from tui.format import Line, capital, plain
from tui.screens.dialog import Dialog


class Problem(Dialog):
    """One error, in the words of the engine and of the program that failed."""

    BINDINGS = [
        Binding("enter,escape,q", "close", "Close.", show=False),
        Binding("y", "copy", "Copy.", show=False),
    ]

    def __init__(self, error: CellarmanError) -> None:
        super().__init__()
        self._error = error

    def says(self) -> list[Line]:
        lines: list[Line] = [((f"{capital(plain(self._error.what))}.", "bad!"),)]
        if self._error.why:
            lines += [(), *(((plain(line), "text"),) for line in self._error.why.splitlines())]
        if self._error.fix:
            lines += [(), (("now  ", "quiet"), (plain(self._error.now(self.app.config.named)), "text"))]
        return lines

    def answers(self) -> list[tuple[str, str]]:
        return [("enter", "close"), ("y", "copy")]

    def action_close(self) -> None:
        self.dismiss()

    def action_copy(self) -> None:
        self.app.copy_to_clipboard("\n".join(self._error.lines(self.app.config.named)))
        self.dismiss()
