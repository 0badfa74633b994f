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
from tui.widgets.pick import Pick

if TYPE_CHECKING:
    from textual.types import CSSPathType


CHECKPOINTS = ("fast", "spread")


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
        chosen = CHECKPOINTS.index("fast" if self._server.immediate_checkpoint else "spread")
        yield Pick("checkpoint", CHECKPOINTS, chosen=chosen, room=13, id="checkpoint")

    def answers(self) -> list[tuple[str, str]]:
        return [("enter", "start"), ("tab", "next"), ("esc", "not now")]

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self.action_start()

    def action_start(self) -> None:
        name = self.query_one("#name", Input).value.strip()
        fast = CHECKPOINTS[self.query_one("#checkpoint", Pick).chosen] == "fast"
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
