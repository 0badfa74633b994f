"""Fetch what the archive lacks: where is looked, and what becomes of what is found."""

from __future__ import annotations

from typing import ClassVar

from engine.actions import command_line
from tui.format import Line, plain
from tui.screens.form import Form


class FetchForm(Form):
    """A search for everything that a server's archive lacks, about to be started as a job."""

    WORD: ClassVar[str] = "look"
    AUTO_FOCUS = ""

    def __init__(self, server: str) -> None:
        super().__init__()
        self._server_name = server

    def says(self) -> list[Line]:
        where = "pg_wal of the server and of its standbys, the queues, and what was refused"
        return [
            ((f"Look for missing WAL of {plain(self._server_name)}?", "strong"),),
            (),
            (("where        ", "quiet"), (where, "text")),
            (
                ("then         ", "quiet"),
                ("what is whole and fits its neighbours is archived; nothing good is replaced", "text"),
            ),
        ]

    def command(self) -> str:
        return command_line(self.app.config, "wal", "fetch-missing", self._server_name)

    def go(self) -> None:
        self.app.start_job("fetch", self._server_name)
