"""Prove the loop of a server: what is done for it, whether a backup is taken first, one key."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.app import ComposeResult

from engine.job import commandline
from tui.format import Line, plain
from tui.screens.form import Form
from tui.widgets.pick import Pick

TAKES: tuple[bool | None, ...] = (None, True, False)
WORDS = ("as needed", "a new one", "the last good one")
MEANINGS = (
    "A new backup is taken where none is good yet or the cluster is small; else the last good one is proven.",
    "A new backup is taken first, however large it is, and kept as any other.",
    "No backup is taken: the last good one is proven.",
)


HOW = (
    "A marker is written on the server and waited for on each WAL lane; a copy that nobody else can reach is restored "
    "and started, and the marker read there. A dated report stays; marker and copy are removed."
)


class ProofForm(Form):
    """A proof, about to be started as a job."""

    WORD: ClassVar[str] = "prove it"

    def __init__(self, server: str) -> None:
        super().__init__()
        self._server_name = server

    def says(self) -> list[Line]:
        return [
            ((f"Prove that {plain(self._server_name)} can be restored?", "strong"),),
            (),
            ((HOW, "text"),),
            (),
        ]

    def inputs(self) -> ComposeResult:
        yield Pick("backup", WORDS, room=13, id="backup")

    @property
    def _place(self) -> int:
        return self.query_one("#backup", Pick).chosen

    @property
    def _arguments(self) -> dict[str, Any]:
        take = TAKES[self._place]
        return {} if take is None else {"take_backup": take}

    def note(self) -> str:
        return MEANINGS[self._place]

    def command(self) -> str:
        return commandline.command("aftermath", self._server_name, self._arguments).line(self.app.config.named)

    def go(self) -> None:
        self.app.start_job("aftermath", self._server_name, **self._arguments)
