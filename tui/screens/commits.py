"""The transactions around a moment, in the order of the WAL: stop just before one, or just after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult

from engine.errors import CellarmanError
from engine.recovery.facts import Mark
from engine.recovery.nearby import Nearby, nearby
from engine.recovery.plan import Plan
from engine.recovery.target import LsnTarget, Target, XidTarget
from tui import commands, moments
from tui.format import Line, plain
from tui.screens.room import Room
from tui.snapshot import Snapshot
from tui.widgets.lines import Lines
from tui.widgets.table import Column, Row, Table

if TYPE_CHECKING:
    from textual.types import CSSPathType

_FIRST_XID = 3


class Commits(Room):
    """Commits and aborts; the cursor is where the restore would stop."""

    ROOM = "commits"
    CSS_PATH: ClassVar[CSSPathType | None] = ["room.tcss", "commits.tcss"]
    BINDINGS = commands.bindings("commits")

    def __init__(self, plan: Plan, zone: str, pick: Callable[[Target, str, datetime | None], object]) -> None:
        super().__init__()
        self._plan, self._zone, self._pick = plan, zone, pick
        self._found: Nearby | None = None
        self._trouble = ""

    def body(self) -> ComposeResult:
        yield Lines(id="sentence", wrapped=True)
        columns = (
            Column(""),
            Column(f"ENDED ({self._zone})"),
            Column("TRANSACTION", align="right"),
            Column("LSN", yields=2),
            Column("", yields=1),
        )
        yield Table(columns, id="marks", glyphs=self.glyphs)
        yield Lines(id="detail", wrapped=True)

    def crumbs(self) -> Sequence[str]:
        return [plain(self._plan.order.server), "restore", "transactions"]

    @property
    def subject(self) -> str:
        return self._plan.order.server

    def moving(self) -> Table:
        return self.query_one("#marks", Table)

    def on_mount(self) -> None:
        self._read()

    @work(thread=True, exit_on_error=False, group="nearby")
    def _read(self) -> None:
        app = self.app
        try:
            found = nearby(app.config.servers[self._plan.order.server], self._plan)
        except (CellarmanError, OSError) as error:
            app.call_from_thread(self._take, None, str(error))
        else:
            app.call_from_thread(self._take, found, "")

    def _take(self, found: Nearby | None, trouble: str) -> None:
        self._found, self._trouble = found, trouble
        self.repaint()
        if found is not None and found.marks:
            self.moving().point_at(_key(found.marks[min(found.split, len(found.marks) - 1)]))

    def paint(self, snapshot: Snapshot) -> None:
        self.query_one("#sentence", Lines).show(self._said())
        found = self._found
        marks = found.marks if found else ()
        split = found.split if found else 0
        self.moving().show([self._row(mark, place < split) for place, mark in enumerate(marks)])
        self._tell()

    def _said(self) -> list[Line]:
        if self._trouble:
            return [((f"The WAL cannot be read: {plain(self._trouble)}", "bad"),)]
        if self._found is None:
            return [
                (
                    (
                        f"{self.glyphs.running} reading the WAL around {moments.target_words(self._plan.order.target)}",
                        "moving",
                    ),
                )
            ]
        if not self._found.marks:
            return [(("No transaction ended near this moment.", "text"),)]
        return [
            (
                ("What happened around ", "text"),
                (moments.target_words(self._plan.order.target).removeprefix("just before "), "strong"),
                (", in the order in which it is replayed.", "text"),
            )
        ]

    def _row(self, mark: Mark, stays: bool) -> Row:
        what = "drops or empties a table" if mark.drops else "" if mark.commit else "rolled back"
        return Row(
            _key(mark),
            (
                (("stays", "good") if stays else ("goes", "soon"),),
                ((moments.clock(mark.at, self._zone).rsplit(" ", 1)[0], "text"),),
                ((str(mark.xid or ""), "strong" if mark.drops else "text"),),
                ((str(mark.lsn), "quiet"),),
                ((what, "soon" if mark.drops else "quiet"),),
            ),
        )

    def _tell(self) -> None:
        mark = self._mark()
        lines: list[Line] = []
        if mark is not None:
            name = f"transaction {mark.xid}" if mark.xid else f"the record at {mark.lsn}"
            lines = [
                (("enter", "hand!"), (f"  stops just before {name}: it and all after it is lost", "text")),
                (("a", "hand!"), (f"      stops just after {name}: it stays, all after it is lost", "text")),
            ]
        self.query_one("#detail", Lines).show(lines)

    def _mark(self) -> Mark | None:
        key = self.moving().key
        return next((mark for mark in self._found.marks if _key(mark) == key), None) if self._found else None

    @on(Table.Moved)
    def _moved(self) -> None:
        self._tell()

    @on(Table.Opened)
    def _opened(self) -> None:
        self.action_command("commits.before")

    def refuse_before(self) -> str:
        return "" if self._mark() is not None else "There is no transaction here."

    def do_before(self) -> None:
        self._take_it(inclusive=False)

    def refuse_after(self) -> str:
        return self.refuse_before()

    def do_after(self) -> None:
        self._take_it(inclusive=True)

    def _take_it(self, *, inclusive: bool) -> None:
        mark = self._mark()
        if mark is None:
            return
        by_xid = mark.xid >= _FIRST_XID
        target: Target = XidTarget(mark.xid, inclusive) if by_xid else LsnTarget(mark.lsn, inclusive)
        side = "just after" if inclusive else "just before"
        words = f"{side} transaction {mark.xid}" if by_xid else f"{side} {mark.lsn}"
        self.app.pop_screen()
        self._pick(target, words, mark.at)


def _key(mark: Mark) -> str:
    return str(mark.lsn)
