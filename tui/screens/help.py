"""Every key of a room, and why some of them do nothing now; a row can be run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult

from tui import commands
from tui.format import Line, plain
from tui.screens.room import Room
from tui.snapshot import Snapshot
from tui.widgets.lines import Lines
from tui.widgets.table import Column, Row, Table

if TYPE_CHECKING:
    from textual.types import CSSPathType


SIGNS = (
    ("ok", "good", "can be restored"),
    ("warning", "soon", "needs a look"),
    ("critical", "bad", "failed"),
    ("running", "moving", "is moving"),
    ("unknown", "quiet", "not known"),
)


class Help(Room):
    """The keys of the room that it was opened from."""

    ROOM = "help"
    CSS_PATH: ClassVar[CSSPathType | None] = ["room.tcss", "help.tcss"]
    BINDINGS = commands.bindings("help")

    def __init__(self, room: Room) -> None:
        super().__init__()
        self._room = room

    def body(self) -> ComposeResult:
        yield Lines(id="sentence")
        columns = (Column("KEY"), Column("", name="word"), Column("", name="help"))
        yield Table(columns, id="commands", glyphs=self.glyphs)
        yield Lines(id="told", wrapped=True)
        yield Lines(id="signs")

    def crumbs(self) -> Sequence[str]:
        return [*self._room.crumbs(), "keys"]

    def moving(self) -> Table:
        return self.query_one("#commands", Table)

    def paint(self, snapshot: Snapshot) -> None:
        title: Line = (("  The keys here.", "strong"), ("  enter runs the one under the cursor.", "quiet"))
        self.query_one("#sentence", Lines).show([title])
        rows = [self._row(command) for command in commands.of(self._room.ROOM)]
        moves = [
            Row(
                f"move.{verb}",
                (
                    (("  ".join((shown, *(key for key in keys.split(",") if len(key) == 1))), "hand!"),),
                    (("move", "quiet"),),
                    ((say, "quiet"),),
                ),
            )
            for verb, keys, say, shown in commands.moves(self._room.ROOM)
        ]
        self.moving().show([*rows, *moves])
        signs = [(f"{getattr(self.glyphs, name)} {meaning}   ", role) for name, role, meaning in SIGNS]
        self.query_one("#signs", Lines).show([tuple(signs)])
        self._tell()

    def _tell(self) -> None:
        """Say in full what the command under the cursor does, and why not."""
        key = self.moving().key
        if not key or key.startswith("move."):
            self.query_one("#told", Lines).show([()])
            return
        command = commands.named(key)
        reason = self._room.refusal(command)
        lines: list[Line] = [((command.help, "quiet"),)]
        self.query_one("#told", Lines).show([*lines, ((plain(reason), "soon"),)] if reason else lines)

    @on(Table.Moved)
    def _moved(self) -> None:
        self._tell()
        self.offer_keys()

    def _row(self, command: commands.Command) -> Row:
        reason = self._room.refusal(command)
        keys = "  ".join(_written(key, command) for key in command.keys.split(","))
        role = "faint" if reason else "hand!"
        told = (plain(reason), "soon") if reason else (command.help, "text")
        word = (self._room.word(command), "quiet" if reason else "strong")
        return Row(command.id, (((keys, role),), (word,), (told,)))

    @on(Table.Opened)
    def _opened(self) -> None:
        self.action_command("help.run")

    def refuse_run(self) -> str:
        key = self.moving().key
        if not key or key.startswith("move."):
            return "That one only moves the cursor."
        return self._room.refusal(commands.named(key))

    def do_run(self) -> None:
        chosen = self.moving().key
        self.app.pop_screen()
        if chosen != "every.help":
            self._room.call_after_refresh(self._room.action_command, chosen)


def _written(key: str, command: commands.Command) -> str:
    if key == command.keys.split(",")[0]:
        return command.key
    return {"question_mark": "?", "colon": ":", "escape": "esc", "equals_sign": "="}.get(key, key)
