"""Leaving while jobs run, which go on, or a demo, which ends: this says so once."""

from __future__ import annotations

from textual.binding import Binding

from engine.commands import cellarman
from tui.format import Line, capital, number, plain
from tui.screens.dialog import Dialog


class Leave(Dialog):
    """How many jobs go on without this console; of a demo, that nothing is left of it."""

    BINDINGS = [
        Binding("enter,y", "leave", "Leave.", show=False),
        Binding("q", "again", "Leave, where nothing is lost by it.", show=False),
        Binding("escape,n", "stay", "Stay.", show=False),
    ]

    def __init__(self, running: int, *, demo: bool = False) -> None:
        super().__init__()
        self._count = running
        self._demo = demo

    def says(self) -> list[Line]:
        if self._demo:
            what = "Its server, its backups and what was restored from them are removed."
            return [(("The demo ends with this console.", "strong"),), (), ((what, "text"),)]
        jobs = cellarman("jobs").line(self.app.config.named)
        what = "job goes" if self._count == 1 else "jobs go"
        return [
            ((f"{capital(number(self._count))} {what} on without this console.", "strong"),),
            (),
            (("See them again here, or with ", "text"), (plain(jobs), "moving"), (".", "text")),
        ]

    def answers(self) -> list[tuple[str, str]]:
        return [("enter", "leave"), ("esc", "stay")]

    def action_again(self) -> None:
        if not self._demo:
            self.action_leave()

    def action_leave(self) -> None:
        self.app.exit()

    def action_stay(self) -> None:
        self.dismiss()
