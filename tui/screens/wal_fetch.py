"""Fetch what the archive lacks: where is looked, and what becomes of what is found."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from textual.binding import Binding

from tui.format import Line, counted, plain
from tui.screens.dialog import Dialog

if TYPE_CHECKING:
    from tui.app import Console
    from tui.screens.server import ServerRoom


class Fetch(Dialog):
    """A search for everything that lacks, about to be started."""

    BINDINGS = [
        Binding("escape,q,n", "close", "Not now.", show=False),
        Binding("enter", "start", "Start.", show=False),
    ]

    def __init__(self, room: ServerRoom) -> None:
        super().__init__()
        self._room = room

    def says(self) -> list[Line]:
        name = plain(self._room.subject)
        return [
            ((f"Look for the WAL that {name} lacks?", "strong"),),
            (),
            (("where        ", "quiet"), ("the server's pg_wal, the queues, and what was refused", "text")),
            (
                ("then         ", "quiet"),
                ("what is whole and fits its neighbours is archived; nothing good is replaced", "text"),
            ),
            (("the same     ", "quiet"), (f"cellarman wal fetch-missing {name}", "moving")),
        ]

    def answers(self) -> list[tuple[str, str]]:
        return [("enter", "look"), ("esc", "not now")]

    def action_start(self) -> None:
        app, room = self.app, self._room
        self.dismiss()
        room.say("Looking for what lacks.")
        threading.Thread(target=_fetch, args=(app, room), name="fetch", daemon=True).start()

    def action_close(self) -> None:
        self.dismiss()


def _fetch(app: Console, room: ServerRoom) -> None:
    """Look for it in a thread; what was archived stays when the console is closed meanwhile, each segment is whole."""
    from engine.actions import Actions, command_line
    from engine.errors import CellarmanError

    actions = Actions(app.config, via="console", read_only=app.read_only)
    app.call_from_thread(app.note_ran, command_line(app.config, "wal", "fetch-missing", room.subject))
    try:
        found, _ = actions.fetch_missing(room.subject)
    except CellarmanError as error:
        app.call_from_thread(app.problem, error)
        return
    fetched = sum(each.count for each in found if each.state == "fetched")
    left = sum(each.count for each in found if each.open)
    said = f"{counted(fetched, 'segment')} archived" if fetched else "No good copy was found"
    if left:
        said += f"; {counted(left, 'segment')} still lack"
    elif not fetched:
        said = "Nothing lacks that could be fetched"
    app.call_from_thread(room.changed, f"{said}.")
