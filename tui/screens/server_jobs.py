"""The tab with a server's jobs: what runs on it and what ran."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult

from tui import wording
from tui.format import Line, day_and_time, percent, plain, stopwatch
from tui.glyphs import Glyphs
from tui.screens.server_pane import Pane
from tui.snapshot import Snapshot
from tui.widgets.frame import Rule
from tui.widgets.lines import Lines
from tui.widgets.progress import bar
from tui.widgets.table import Column, Row, Table

if TYPE_CHECKING:
    from engine.job.state import JobState
    from engine.status import ServerStatus

COLUMNS = (
    Column("STATE"),
    Column("JOB"),
    Column("STARTED (UTC)"),
    Column("TOOK", align="right"),
    Column("BACKUP", yields=2),
    Column("HOW FAR", yields=1, limit=48),
    Column("BY", yields=3),
)


class ServerJobs(Pane):
    """The jobs of one server, newest first."""

    NAME = "jobs"
    WORDS: ClassVar[dict[str, str]] = {"open": "open", "copy": "copy id"}

    def compose(self) -> ComposeResult:
        yield Table(COLUMNS, id="server-jobs", glyphs=self.glyphs)
        yield Rule(self.glyphs.rule)
        yield Lines(id="job-detail", wrapped=True, fixed=True)

    @property
    def table(self) -> Table:
        return self.query_one("#server-jobs", Table)

    def moving(self) -> Table:
        return self.table

    def _jobs(self, snapshot: Snapshot) -> list[JobState]:
        return [job for job in snapshot.jobs if job.server == self.room.subject]

    def paint(self, snapshot: Snapshot, server: ServerStatus) -> None:
        self.table.show([_row(job, self.glyphs) for job in self._jobs(snapshot)])
        self._paint_detail(snapshot)

    def _paint_detail(self, snapshot: Snapshot) -> None:
        job = next((job for job in self._jobs(snapshot) if job.id == self.table.key), None)
        nothing: list[Line] = [((f"No job has run on {plain(self.room.subject)} yet.", "quiet"),)]
        self.query_one("#job-detail", Lines).show(_about(job, snapshot.minute) if job else nothing)

    @on(Table.Moved)
    def _moved(self) -> None:
        self._paint_detail(self.app.snapshot)
        self.room.offer_keys()

    @on(Table.Opened)
    def _opened(self) -> None:
        self.room.action_command("server.open")

    def refuse_open(self) -> str:
        return "" if self.table.key else "There is no job yet."

    def do_open(self) -> None:
        self.app.open_job(self.table.key)

    refuse_copy = refuse_open

    def do_copy(self) -> None:
        self.room.copy(self.table.key, self.table.key)


def _row(job: JobState, glyphs: Glyphs) -> Row:
    sign, role = wording.job_sign(job, glyphs)
    took = (job.ended - job.started).total_seconds() if job.started and job.ended else None
    progress = job.progress
    far: Line = ((plain(wording.remark(job)), "quiet"),)
    if job.status == "running" and progress and progress.total_bytes:
        done = percent(progress.done_bytes, progress.total_bytes)
        far = (*bar(progress.done_bytes, progress.total_bytes, 14, glyphs), (f"  {job.phase} {done}", "moving"))
    elif job.status == "running":
        far = ((job.phase or "starting", "moving"),)
    return Row(
        job.id,
        (
            ((f"{sign} {job.status}", role),),
            ((job.kind, "text"),),
            ((day_and_time(job.started) if job.started else "", "quiet"),),
            ((stopwatch(took) if took is not None else "", "text"),),
            ((job.backup, "quiet"),),
            far,
            ((plain(job.user), "quiet"),),
        ),
    )


def _about(job: JobState, now: datetime) -> list[Line]:
    lines: list[Line] = [(*wording.job_sentence(job), (f"   {job.id}", "quiet")), ()]
    if job.reason:
        lines.append((("why  ", "quiet"), (plain(job.reason), "text")))
    if job.fix:
        lines.append((("now  ", "quiet"), (plain(job.fix), "text")))
    elif job.log:
        lines += [((f"{note.at:%H:%M:%S}  ", "quiet"), (plain(note.text), "text")) for note in job.log[-3:]]
    return lines
