"""Leaving while jobs run: they go on, and this says so once."""

from __future__ import annotations

from textual.binding import Binding

from tui.format import Line, capital, number
from tui.screens.dialog import Dialog


class Leave(Dialog):
    """How many jobs go on without this console."""

    BINDINGS = [
        Binding("enter,q,y", "leave", "Leave.", show=False),
        Binding("escape,n", "stay", "Stay.", show=False),
    ]

    def __init__(self, running: int) -> None:
        super().__init__()
        self._count = running

    def says(self) -> list[Line]:
        what = "job goes" if self._count == 1 else "jobs go"
        return [
            ((f"{capital(number(self._count))} {what} on without this console.", "strong"),),
            (),
            (("See them again here, or with ", "text"), ("cellarman jobs", "moving"), (".", "text")),
        ]

    def answers(self) -> list[tuple[str, str]]:
        return [("enter", "leave"), ("esc", "stay")]

    def action_leave(self) -> None:
        self.app.exit()

    def action_stay(self) -> None:
        self.dismiss()
