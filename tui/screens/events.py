"""Events: who did what, on which server, from where, and how it ended; the newest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult

from engine.job.happenings import Happening
from tui import commands
from tui.format import Line, counted, day_and_time, exactly, plain, stopwatch
from tui.glyphs import Glyphs
from tui.screens.room import Room
from tui.snapshot import Snapshot
from tui.widgets.frame import Rule
from tui.widgets.lines import Lines
from tui.widgets.table import Column, Row, Table

if TYPE_CHECKING:
    from textual.types import CSSPathType


COLUMNS = (
    Column("STATE"),
    Column("WHEN (UTC)", name="when"),
    Column("WHO", limit=16),
    Column("SERVER", limit=24),
    Column("WHAT", limit=40),
    Column("FROM", yields=3, limit=20),
    Column("OUTCOME", yields=1, limit=60),
)
ROLES = {
    "running": "moving",
    "done": "good",
    "refused": "soon",
    "cancelled": "soon",
    "interrupted": "soon",
    "failed": "bad",
    "died": "bad",
}


class Events(Room):
    """What was done, on all servers or on one."""

    ROOM = "events"
    ZOOMS = ("events", "detail")
    CSS_PATH: ClassVar[CSSPathType | None] = ["room.tcss", "events.tcss"]
    BINDINGS = commands.bindings("events")

    def __init__(self, server: str = "") -> None:
        super().__init__()
        self._only = server
        self._read: tuple[Happening, ...] | None = None
        self._read_from: object = None
        """Of which trail and jobs that was read."""

    def body(self) -> ComposeResult:
        yield Lines(id="sentence")
        yield Table(COLUMNS, id="events", glyphs=self.glyphs)
        yield Rule(self.glyphs.rule, id="parting")
        yield Lines(id="detail", wrapped=True)

    def crumbs(self) -> Sequence[str]:
        return ["servers", plain(self._only), "events"] if self._only else ["servers", "events"]

    @property
    def address(self) -> str:
        return f"events {self._only}".strip()

    @property
    def subject(self) -> str:
        return self._only

    def moving(self) -> Table:
        return self.query_one("#events", Table)

    def paint(self, snapshot: Snapshot) -> None:
        if self._read_from != (snapshot.trail, snapshot.jobs):
            self._read_from = (snapshot.trail, snapshot.jobs)
            self._look(snapshot)
        if self._read is None:
            self.query_one("#sentence", Lines).show([(("  Reading the trail.", "quiet"),)])
            return
        where = f" on {plain(self._only)}" if self._only else ""
        said: Line = ((f"{counted(len(self._read), 'event')}{where}.", "strong"), ("  The newest first.", "quiet"))
        if not self._read:
            said = (
                (f"Nothing was done{where} yet.", "strong"),
                ("  What is done here or by a command shows.", "quiet"),
            )
        self.query_one("#sentence", Lines).show([(("  ", "text"), *said)])
        self.moving().show([_row(place, each, self.glyphs) for place, each in _numbered(self._read)])
        self._paint_detail()

    @work(thread=True, exclusive=True, exit_on_error=False, group="trail")
    def _look(self, snapshot: Snapshot) -> None:
        from engine.job.happenings import happenings

        found = happenings(self.app.config.state_directory, snapshot.jobs)
        mine = tuple(each for each in found if not self._only or each.server == self._only)
        self.app.call_from_thread(self._found, mine)

    def _found(self, read: tuple[Happening, ...]) -> None:
        if read != self._read:
            self._read = read
            self.repaint()

    def _chosen(self) -> Happening | None:
        key = self.moving().key
        return next((each for place, each in _numbered(self._read or ()) if place == key), None)

    def _paint_detail(self) -> None:
        chosen = self._chosen()
        self.query_one("#detail", Lines).show(_about(chosen) if chosen else ())

    @on(Table.Moved)
    def _moved(self) -> None:
        self._paint_detail()
        self.offer_keys()

    @on(Table.Opened)
    def _opened(self) -> None:
        self.action_command("events.open")

    def refuse_open(self) -> str:
        chosen = self._chosen()
        if chosen is None:
            return "Nothing was done yet."
        known = any(job.id == chosen.job for job in self.app.snapshot.jobs)
        return "" if known else "It was done at once: there is no job to look at."

    def do_open(self) -> None:
        chosen = self._chosen()
        if chosen is not None:
            self.app.open_job(chosen.job)

    def refuse_copy(self) -> str:
        chosen = self._chosen()
        return "" if chosen and chosen.command else "No command line is known for it."

    def do_copy(self) -> None:
        chosen = self._chosen()
        if chosen is not None:
            self.copy(chosen.command, "the command line")


def _numbered(read: Sequence[Happening]) -> list[tuple[str, Happening]]:
    """Return each with a key that stays when newer ones come."""
    return [(f"{len(read) - place} {each.at.isoformat()}", each) for place, each in enumerate(read)]


def _sign(each: Happening, glyphs: Glyphs) -> str:
    signs = {"running": glyphs.running, "done": glyphs.ok, "failed": glyphs.critical, "died": glyphs.critical}
    return signs.get(each.status, glyphs.warning)


def _row(key: str, each: Happening, glyphs: Glyphs) -> Row:
    role = ROLES[each.status]
    return Row(
        key,
        (
            ((f"{_sign(each, glyphs)} {each.status}", role),),
            ((day_and_time(each.at), "quiet"),),
            ((plain(each.who) or "?", "text"),),
            ((plain(each.server), "strong"),),
            ((f"{each.action} {plain(each.subject)}".strip(), "text"),),
            ((plain(each.where), "quiet"),),
            ((plain(each.detail), "quiet"),),
        ),
    )


def _about(each: Happening) -> list[Line]:
    by = plain(each.who) or "somebody who is not known"
    came = f" from {plain(each.where)}" if each.where else ""
    through = {"console": ", in a console", "command": ", by a command", "maintenance": ", by retention"}.get(
        each.via, ""
    )
    lines: list[Line] = [
        ((f"{each.action} on {plain(each.server)}", "strong"), (f"   {each.status}", ROLES[each.status])),
        (),
        (("when     ", "quiet"), (exactly(each.at), "text")),
        (("who      ", "quiet"), (f"{by}{came}{through}", "text")),
    ]
    if each.ended is not None:
        took = stopwatch((each.ended - each.at).total_seconds())
        lines.append((("ended    ", "quiet"), (f"{exactly(each.ended)}, after {took}", "text")))
    if each.command:
        lines.append((("command  ", "quiet"), (plain(each.command), "moving")))
    if each.detail:
        lines.append((("outcome  ", "quiet"), (plain(each.detail), "text")))
    return lines
