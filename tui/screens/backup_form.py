"""Start a backup: what will be taken, two choices, one key."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal
from textual.widgets import Input

from engine.config import Server
from tui import wording
from tui.format import Line, plain
from tui.screens.dialog import Dialog
from tui.widgets.lines import Lines

if TYPE_CHECKING:
    from textual.types import CSSPathType


class Choice(Lines, can_focus=True):
    """One of two words; the space bar takes the other."""

    DEFAULT_CSS = """
    Choice { height: 1; }
    """
    BINDINGS = [Binding("space,left,right", "other", "The other one.", show=False)]

    def __init__(self, label: str, first: str, second: str, *, is_first: bool, id: str) -> None:
        super().__init__(id=id)
        self._label, self._words = label, (first, second)
        self.is_first = is_first

    def on_mount(self) -> None:
        self._fill()

    def on_focus(self) -> None:
        self._fill()

    def on_blur(self) -> None:
        self._fill()

    def on_click(self) -> None:
        self.action_other()

    def action_other(self) -> None:
        self.is_first = not self.is_first
        self._fill()

    def _fill(self) -> None:
        here = "hand!" if self.has_focus else "strong"
        words = [
            (f" {word} ", here if (place == 0) == self.is_first else "faint") for place, word in enumerate(self._words)
        ]
        signs = [("[", here), words[0], ("]", here), ("  ", "text"), words[1], (" ", "text")]
        if not self.is_first:
            signs = [(" ", "text"), words[0], ("  ", "text"), ("[", here), words[1], ("]", here)]
        hint = ("   space changes it" if self.has_focus else "", "quiet")
        self.show([((f"{self._label:<13}", "quiet"), *signs, hint)])


class BackupForm(Dialog):
    """A backup of one server, about to be started."""

    CSS_PATH: ClassVar[CSSPathType | None] = ["dialog.tcss", "backup_form.tcss"]
    AUTO_FOCUS = "Input"
    BINDINGS = [
        Binding("escape", "close", "Not now.", show=False, priority=True),
        Binding("enter", "start", "Start.", show=False),
    ]

    def __init__(self, server: str) -> None:
        super().__init__()
        self._server_name = server

    @property
    def _server(self) -> Server:
        return self.app.config.servers[self._server_name]

    def says(self) -> list[Line]:
        server = self._server
        now = self.app.snapshot.minute
        status = self.app.snapshot.server(self._server_name)
        facts = [("takes", _what(server)), ("into", plain(server.layout.base))]
        if status is not None and status.last_backup is not None:
            facts.append(("last one", wording.backup_facts(status.last_backup, now)))
        lines: list[Line] = [((f"Back up {plain(self._server_name)} now?", "strong"),), ()]
        return lines + [((f"{label:<13}", "quiet"), (text, "text")) for label, text in facts]

    def fields(self) -> ComposeResult:
        with Horizontal(id="name-row"):
            yield Lines((("name", "quiet"),), id="label")
            yield Input(placeholder="optional, to find it by", max_length=60, compact=True, id="name")
        yield Choice("checkpoint", "fast", "spread", is_first=self._server.immediate_checkpoint, id="checkpoint")

    def answers(self) -> list[tuple[str, str]]:
        return [("enter", "start"), ("tab", "next"), ("esc", "not now")]

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self.action_start()

    def action_start(self) -> None:
        name = self.query_one("#name", Input).value.strip()
        fast = self.query_one("#checkpoint", Choice).is_first
        self.dismiss()
        self.app.start_job("backup", self._server_name, name=name or None, immediate=fast)

    def action_close(self) -> None:
        self.dismiss()


def _what(server: Server) -> str:
    if server.backup_method != "postgres":
        return f"a full backup by {server.backup_method}"
    if server.backup_compression == "none":
        return "a full backup with pg_basebackup, plain files"
    at = server.backup_compression_location
    return f"a full backup with pg_basebackup, tar, {server.backup_compression} on the {at}'s side"
