"""Write what a screen shows to a file: which form, where."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal
from textual.widgets import Input

from tui import export
from tui.export import FORMS, View
from tui.format import Line, counted
from tui.screens.dialog import Dialog
from tui.widgets.lines import Lines
from tui.widgets.pick import Pick

if TYPE_CHECKING:
    from textual.types import CSSPathType


class ExportForm(Dialog):
    """A file about to be written; tab takes the next form."""

    CSS_PATH: ClassVar[CSSPathType | None] = ["dialog.tcss", "backup_form.tcss"]
    AUTO_FOCUS = "Input"
    BINDINGS = [
        Binding("escape", "close", "Not now.", show=False, priority=True),
        Binding("tab", "form", "The next form.", show=False, priority=True),
    ]

    def __init__(self, view: View) -> None:
        super().__init__()
        self._view = view
        self._form = FORMS[0]

    def says(self) -> list[Line]:
        what = counted(len(self._view.rows), "row") if self._view.fields else counted(len(self._view.lines), "line")
        return [(("Export what is on the screen", "strong"), (f"   {what}", "quiet")), ()]

    def fields(self) -> ComposeResult:
        yield Pick("as", FORMS, room=13, id="forms")
        with Horizontal(id="name-row"):
            yield Lines((("file", "quiet"),), id="label")
            yield Input(export.free_path(self._view.name, self._form, self.app.now()), compact=True, id="name")
        yield Lines((), id="refused", wrapped=True)

    def answers(self) -> list[tuple[str, str]]:
        return [("enter", "write"), ("tab", "other form"), ("esc", "not now")]

    def action_form(self) -> None:
        self.query_one("#forms", Pick).action_turn(1)

    @on(Pick.Changed)
    def _changed(self, event: Pick.Changed) -> None:
        before, self._form = self._form, FORMS[event.pick.chosen]
        field = self.query_one("#name", Input)
        if field.value.endswith(f".{before}"):
            field.value = field.value[: -len(before)] + self._form

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        path = event.value.strip()
        try:
            export.write(path, export.rendered(self._view, self._form))
        except OSError as error:
            self.query_one("#refused", Lines).show([(), ((f"It cannot be written: {error.strerror}.", "bad"),)])
            return
        self.dismiss()
        self.app.say(f"Written to {path}.", "text")

    def action_close(self) -> None:
        self.dismiss()
