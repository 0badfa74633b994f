"""A form over a room: what will be done, what can be chosen, the command line that does the same, one key."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal
from textual.widgets import Input

from tui.format import Line, plain
from tui.screens.dialog import Dialog
from tui.widgets.lines import Lines
from tui.widgets.pick import Pick

if TYPE_CHECKING:
    from textual.types import CSSPathType


class Form(Dialog):
    """The base of forms: enter does it, escape does not. Subclasses say what, and give the command line."""

    CSS_PATH: ClassVar[CSSPathType | None] = ["dialog.tcss", "form.tcss"]
    AUTO_FOCUS = "Input, Pick"
    BINDINGS = [
        Binding("escape", "close", "Not now.", show=False, priority=True),
        Binding("enter", "go", "Do it.", show=False),
    ]
    WORD: ClassVar[str] = "do it"
    """What enter does."""

    def command(self) -> str:
        """Return the command line that does the same as this form, as it is filled in now."""
        raise NotImplementedError

    def problem(self) -> str:
        """Return why it cannot be done as it is filled in; empty when it can."""
        return ""

    def note(self) -> str:
        """Return what it means as it is filled in, if that is not plain."""
        return ""

    def go(self) -> None:
        """Do it; the form is closed already."""
        raise NotImplementedError

    def inputs(self) -> ComposeResult:
        """Yield what can be filled in."""
        yield from ()

    def fields(self) -> ComposeResult:
        yield from self.inputs()
        yield Lines(id="command", wrapped=True)

    def line(self, label: str, field: Input) -> Horizontal:
        """Return a labelled field."""
        return Horizontal(Lines(((label, "quiet"),), classes="label"), field, classes="field")

    def answers(self) -> list[tuple[str, str]]:
        return [("enter", self.WORD), ("esc", "not now")]

    def on_mount(self) -> None:
        self._fill()

    @on(Input.Changed)
    @on(Pick.Changed)
    def _fill(self) -> None:
        problem = self.problem()
        same: Line = (("same without this console  ", "quiet"), (plain(self.command()), "moving"))
        note = self.note()
        lines: list[Line] = [((note, "text"),), ()] if note and not problem else []
        self.query_one("#command", Lines).show([(), *lines, ((problem, "soon"),) if problem else same])

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self.action_go()

    def action_go(self) -> None:
        if not self.problem():
            self.dismiss()
            self.go()

    def action_close(self) -> None:
        self.dismiss()
