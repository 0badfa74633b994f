"""Events: who did what, on which server, when, and how it ended; the newest first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult

from engine.job.state import JobState
from tui import commands, wording
from tui.app import command_line
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
    Column("WHEN (UTC)", name="when"),
    Column("WHO", limit=20),
    Column("SERVER", limit=24),
    Column("WHAT", limit=60),
    Column("OUTCOME", limit=60),
)


class Events(Room):
    """What was done, of all servers or of one."""

    ROOM = "events"
    ZOOMS = ("events", "detail")
    CSS_PATH: ClassVar[CSSPathType | None] = ["room.tcss", "events.tcss"]
    BINDINGS = commands.bindings("events")

    def __init__(self, server: str = "") -> None:
        super().__init__()
        self._only = server

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

    def _jobs(self, snapshot: Snapshot) -> list[JobState]:
        return [job for job in snapshot.jobs if not self._only or job.server == self._only]

    def paint(self, snapshot: Snapshot) -> None:
        jobs = self._jobs(snapshot)
        where = f" on {plain(self._only)}" if self._only else ""
        said: Line = ((f"{counted(len(jobs), 'event')}{where}.", "strong"), ("  The newest first.", "quiet"))
        if not jobs:
            said = ((f"Nothing was done{where} yet.", "strong"),)
        self.query_one("#sentence", Lines).show([(("  ", "text"), *said)])
        self.moving().show([_row(job, self.glyphs) for job in jobs])
        self._paint_detail(snapshot)

    def _chosen(self, snapshot: Snapshot) -> JobState | None:
        return next((job for job in snapshot.jobs if job.id == self.moving().key), None)

    def _paint_detail(self, snapshot: Snapshot) -> None:
        job = self._chosen(snapshot)
        self.query_one("#detail", Lines).show(_about(job, snapshot.minute) if job else ())

    @on(Table.Moved)
    def _moved(self) -> None:
        self._paint_detail(self.app.snapshot)
        self.offer_keys()

    @on(Table.Opened)
    def _opened(self) -> None:
        self.action_command("events.open")

    def refuse_open(self) -> str:
        return "" if self.moving().key else "Nothing was done yet."

    def do_open(self) -> None:
        self.app.open_job(self.moving().key)

    def refuse_copy(self) -> str:
        return self.refuse_open()

    def do_copy(self) -> None:
        job = self._chosen(self.app.snapshot)
        if job is not None:
            self.copy(_line(job), "the command line")


def _line(job: JobState) -> str:
    return command_line(job.kind, job.server, {"backup": job.backup} if job.backup and job.kind != "backup" else {})


def _row(job: JobState, glyphs: Glyphs) -> Row:
    sign, role = wording.job_sign(job.status, glyphs)
    outcome = plain(job.reason) if job.reason else job.status
    return Row(
        job.id,
        (
            ((day_and_time(job.created), "quiet"),),
            ((plain(job.user) or "unknown", "text"),),
            ((plain(job.server), "strong"),),
            ((_line(job), "text"),),
            ((f"{sign} {outcome}", role),),
        ),
    )


def _about(job: JobState, now: datetime) -> list[Line]:
    took = (job.ended - job.started).total_seconds() if job.ended and job.started else None
    lines: list[Line] = [
        wording.job_sentence(job),
        (),
        (("asked   ", "quiet"), (f"{exactly(job.created)} by {plain(job.user) or 'unknown'}", "text")),
    ]
    if job.ended is not None:
        after = f", after {stopwatch(took)}" if took is not None else ""
        lines.append((("ended   ", "quiet"), (f"{exactly(job.ended)}{after}", "text")))
    if job.reason:
        lines.append((("why     ", "quiet"), (plain(job.reason), "text")))
    if job.fix:
        lines.append((("now     ", "quiet"), (plain(job.fix), "text")))
    return lines
