"""What `cellarman check` says of a server: what is wrong first, with what mends it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult

from engine.check.result import CheckResult
from engine.errors import CellarmanError
from tui import commands
from tui.format import Line, calm_span, counted, plain
from tui.screens.room import Room
from tui.snapshot import Snapshot
from tui.widgets.frame import Rule
from tui.widgets.lines import Lines
from tui.widgets.table import Column, Row, Table

if TYPE_CHECKING:
    from textual.types import CSSPathType

ORDER = {"fail": 0, "warn": 1, "ok": 2, "skip": 3}
ROLES = {"fail": "bad", "warn": "soon", "ok": "good", "skip": "quiet"}


class CheckRoom(Room):
    """The checks of one server."""

    ROOM = "check"
    CSS_PATH: ClassVar[CSSPathType | None] = ["room.tcss", "check.tcss"]
    BINDINGS = commands.bindings("check")

    def __init__(self, server: str) -> None:
        super().__init__()
        self._server_name = server
        self._results: tuple[CheckResult, ...] = ()
        self._at: datetime | None = None
        self._asking = False
        self._trouble = ""

    def body(self) -> ComposeResult:
        yield Lines(id="sentence", wrapped=True)
        columns = (Column("", name="status"), Column("CHECK", name="check"), Column("", name="detail"))
        yield Table(columns, id="checks", glyphs=self.glyphs)
        yield Rule(self.glyphs.rule)
        yield Lines(id="detail", wrapped=True)

    def crumbs(self) -> Sequence[str]:
        return ["servers", plain(self._server_name), "check"]

    @property
    def subject(self) -> str:
        return self._server_name

    @property
    def address(self) -> str:
        return f"check {self._server_name}"

    def moving(self) -> Table:
        return self.query_one("#checks", Table)

    def on_mount(self) -> None:
        self._ask()

    def _ask(self) -> None:
        if not self._asking:
            self._asking = True
            self._run()

    @work(thread=True, exit_on_error=False, group="check")
    def _run(self) -> None:
        from engine.check import runner

        app = self.app
        results: list[CheckResult] = []
        trouble = ""
        try:
            results = runner.run(app.config, app.config.servers[self._server_name], app.now())
        except (CellarmanError, OSError) as error:
            trouble = str(error)
        app.call_from_thread(self._take, results, trouble)

    def _take(self, results: Sequence[CheckResult], trouble: str) -> None:
        self._asking, self._trouble, self._at = False, trouble, self.app.now()
        if not trouble:
            self._results = tuple(sorted(results, key=lambda each: ORDER[each.status]))
        self.repaint()

    def paint(self, snapshot: Snapshot) -> None:
        self.query_one("#sentence", Lines).show([self._said()])
        self.moving().show([self._row(result) for result in self._results])
        self._tell()

    def _said(self) -> Line:
        if self._trouble:
            return ((f"The checks could not be made: {plain(self._trouble)}", "bad"),)
        if self._at is None or (self._asking and not self._results):
            seconds = 3 * self.app.config.servers[self._server_name].check_timeout
            return (
                (f"{self.glyphs.running} asking the server and looking at the disk, {seconds} s at most", "moving"),
            )
        count = {status: sum(result.status == status for result in self._results) for status in ORDER}
        again = f"   {self.glyphs.running} asking again" if self._asking else ""
        age = f"   asked {calm_span((self.app.now() - self._at).total_seconds())} ago"
        if count["fail"]:
            head = (f"{counted(count['fail'], 'check')} {'fails' if count['fail'] == 1 else 'fail'}.", "bad!")
        elif count["warn"]:
            head = ("Nothing fails.", "strong")
        else:
            head = ("All is well.", "good!")
        warns = (f"  {counted(count['warn'], 'warning')}.", "soon") if count["warn"] else ("", "soon")
        return (head, warns, (f"  {count['ok']} are good, {count['skip']} left out.", "text"), (age + again, "quiet"))

    def _row(self, result: CheckResult) -> Row:
        sign = {"fail": self.glyphs.critical, "warn": self.glyphs.warning, "ok": self.glyphs.ok}.get(
            result.status, self.glyphs.waiting
        )
        role = ROLES[result.status]
        return Row(
            result.name,
            (
                ((f"{sign} {result.status}", role),),
                ((plain(result.name), "strong" if result.status in ("fail", "warn") else "text"),),
                ((plain(result.detail), "text" if result.status in ("fail", "warn") else "quiet"),),
            ),
        )

    def _chosen(self) -> CheckResult | None:
        return next((result for result in self._results if result.name == self.moving().key), None)

    def _tell(self) -> None:
        result = self._chosen()
        lines: list[Line] = []
        if result is not None:
            lines.append(((plain(result.name), "strong"), (f"  {result.status}", ROLES[result.status])))
            lines += [((plain(line), "text"),) for line in result.detail.splitlines()]
            fix = result.fix.splitlines()
            lines += [
                (("now  " if i == 0 else "     ", "quiet"), (plain(line), "moving")) for i, line in enumerate(fix)
            ]
        self.query_one("#detail", Lines).show(lines)

    @on(Table.Moved)
    def _moved(self) -> None:
        self._tell()
        self.offer_keys()

    def refuse_again(self) -> str:
        return "They are being asked already." if self._asking else ""

    def do_again(self) -> None:
        self._ask()
        self.repaint()

    def do_refresh(self) -> None:
        self.action_command("check.again")

    def refuse_copy(self) -> str:
        result = self._chosen()
        return "" if result is not None and result.fix else "There is nothing to mend here."

    def do_copy(self) -> None:
        result = self._chosen()
        if result is not None:
            self.copy(result.fix, "what mends it")
