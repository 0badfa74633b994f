"""Marks in the WAL that the server is told to make: the end of a segment, a named restore point."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.widgets import Input

from engine.actions import command_line, restore_point_words
from tui.acting import act
from tui.format import Line, plain
from tui.screens.form import Form
from tui.widgets.pick import Pick


class SwitchForm(Form):
    """The end of the current segment."""

    WORD: ClassVar[str] = "switch"
    AUTO_FOCUS = ""

    def __init__(self, server: str) -> None:
        super().__init__()
        self._server_name = server

    def says(self) -> list[Line]:
        return [
            ((f"End the current WAL segment of {plain(self._server_name)}?", "strong"),),
            (),
            (("What was committed until now is then archived at once, and can be restored to.", "text"),),
        ]

    def command(self) -> str:
        return command_line(self.app.config, "wal", "switch", self._server_name)

    def go(self) -> None:
        self.app.note_ran(self.command())
        server = self._server_name
        act(
            self.app, lambda actions: f"The segment ended at {actions.switch_wal(server)}; its archiving is on its way."
        )


class PointForm(Form):
    """A named restore point."""

    WORD: ClassVar[str] = "make it"

    def __init__(self, server: str) -> None:
        super().__init__()
        self._server_name = server

    def says(self) -> list[Line]:
        return [
            ((f"Make a restore point on {plain(self._server_name)}.", "strong"),),
            (),
            (("A name for this moment, to restore to later: before an upgrade, before a big change.", "text"),),
            (),
        ]

    def inputs(self) -> ComposeResult:
        yield self.line("name", Input(placeholder="before-upgrade", compact=True, max_length=63, id="point"))
        yield Pick("archive it", ("at once", "when its segment is full"), id="switch")

    @property
    def _point(self) -> str:
        return self.query_one("#point", Input).value.strip()

    @property
    def _switch(self) -> bool:
        return self.query_one("#switch", Pick).chosen == 0

    def problem(self) -> str:
        if not self._point:
            return "Give it a name."
        return "" if len(self._point.encode()) <= 63 else "PostgreSQL takes 63 bytes at most."

    def command(self) -> str:
        return command_line(self.app.config, *restore_point_words(self._server_name, self._point, self._switch))

    def go(self) -> None:
        self.app.note_ran(self.command())
        server, name, switch = self._server_name, self._point, self._switch
        act(self.app, lambda actions: f"{name} is at {actions.restore_point(server, name, switch=switch).lsn}.")
