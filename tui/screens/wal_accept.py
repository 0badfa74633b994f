"""Accept a gap: it alarms no more, and still bounds what can be recovered; a reason is needed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal
from textual.widgets import Input

from engine.actions import command_line
from tui.format import Line, counted, plain
from tui.screens.dialog import Dialog
from tui.widgets.lines import Lines

if TYPE_CHECKING:
    from textual.types import CSSPathType

    from engine.wal.judgement.values import Finding
    from tui.app import Console
    from tui.screens.server import ServerRoom


class Accept(Dialog):
    """One gap, about to be accepted."""

    CSS_PATH: ClassVar[CSSPathType | None] = ["dialog.tcss", "wal_forms.tcss"]
    AUTO_FOCUS = "Input"
    BINDINGS = [Binding("escape", "close", "Not now.", show=False, priority=True)]

    def __init__(self, room: ServerRoom, finding: Finding) -> None:
        super().__init__()
        self._room, self._finding = room, finding
        self._first = finding.first or ""
        self._last = finding.last or self._first

    def says(self) -> list[Line]:
        span = self._first if self._first == self._last else f"{self._first}..{self._last}"
        count = self._finding.count or 1
        withdraw = command_line(self.app.config, "wal", "gaps", self._room.subject, "--withdraw", span)
        return [
            ((f"Accept that {counted(count, 'segment')} {'is' if count == 1 else 'are'} missing?", "strong"),),
            (),
            (("gap          ", "quiet"), (span, "text")),
            (("then         ", "quiet"), ("it alarms nobody any more; no restore gets past it, as before", "text")),
            (("again        ", "quiet"), (plain(withdraw), "text")),
        ]

    def fields(self) -> ComposeResult:
        with Horizontal(id="reason-row"):
            yield Lines((("reason", "quiet"),), id="label")
            yield Input(placeholder="why it is borne; kept with the gap", max_length=200, compact=True, id="reason")
        yield Lines((), id="refused")

    def answers(self) -> list[tuple[str, str]]:
        return [("enter", "accept"), ("esc", "not now")]

    @on(Input.Submitted)
    def _submitted(self) -> None:
        reason = " ".join(self.query_one("#reason", Input).value.split())
        if not reason:
            self.query_one("#refused", Lines).show([(("A gap is accepted with its reason.", "soon"),)])
            return
        app, room = self.app, self._room
        self.dismiss()
        threading.Thread(target=_accept, args=(app, room, self._first, self._last, reason), daemon=True).start()

    def action_close(self) -> None:
        self.dismiss()


def _accept(app: Console, room: ServerRoom, first: str, last: str, reason: str) -> None:
    """Write it down, in a thread: the file is locked while it is changed."""
    from engine.actions import Actions
    from engine.errors import CellarmanError

    actions = Actions(app.config, via="console", read_only=app.read_only)
    span = first if first == last else f"{first}..{last}"
    try:
        actions.accept_gap(room.subject, first, last, reason)
    except CellarmanError as error:
        app.call_from_thread(app.problem, error)
        return
    line = command_line(app.config, "wal", "gaps", room.subject, "--accept", span, "--reason", reason)
    app.call_from_thread(app.note_ran, line)
    app.call_from_thread(room.changed, f"Accepted: {span}.")
