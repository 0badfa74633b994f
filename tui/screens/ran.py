"""The command lines that this console ran: what would do the same from a shell."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen

from tui.format import Line, plain
from tui.widgets.lines import Lines
from tui.widgets.log import Log

if TYPE_CHECKING:
    from textual.types import CSSPathType

    from tui.app import Console


class Ran(ModalScreen[None]):
    """A drawer at the bottom of the screen."""

    CSS_PATH: ClassVar[CSSPathType | None] = "ran.tcss"
    AUTO_FOCUS = ""
    app: Console
    BINDINGS = [
        Binding("at,escape,q,enter", "close", "Close.", show=False),
        Binding("y", "copy", "Copy the last one.", show=False),
        Binding("up", "move(-1)", "Up.", show=False),
        Binding("down", "move(1)", "Down.", show=False),
    ]

    def compose(self) -> ComposeResult:
        with Vertical(id="drawer"):
            yield Lines((("What this console ran", "strong"), ("   the same from a shell", "quiet")), (), id="title")
            yield Log(id="ran")
            yield Lines((("y", "hand!"), (" copy the last one     ", "quiet"), ("@", "hand!"), (" close", "quiet")))

    def on_mount(self) -> None:
        ran = self.app.ran
        lines: list[Line] = [((f"{at:%H:%M:%S}  ", "quiet"), (plain(line), "text")) for at, line in ran]
        self.query_one(Log).show(lines or [(("Nothing yet. Reading needs no command.", "quiet"),)])

    def action_move(self, by: int) -> None:
        self.query_one(Log).move(by)

    def action_copy(self) -> None:
        from tui import clipboard

        if self.app.ran:
            line = self.app.ran[-1][1]
            self.dismiss()
            clipboard.copy(self.app, line, "the command line", lambda said: self.app.say(said, "text"))

    def action_close(self) -> None:
        self.dismiss()
