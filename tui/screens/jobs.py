"""Jobs: what runs and what ran, of one server or of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult

from engine.job.spec import PHASES
from engine.job.state import JobState
from tui import cancelling, commands, wording
from tui.format import (
    Line,
    capital,
    counted,
    day_and_time,
    number,
    part_of,
    percent,
    plain,
    rate,
    size,
    stopwatch,
)
from tui.glyphs import Glyphs
from tui.screens.room import Room
from tui.snapshot import Snapshot
from tui.widgets.frame import Rule
from tui.widgets.lines import Lines
from tui.widgets.progress import bar
from tui.widgets.table import Column, Row, Table

if TYPE_CHECKING:
    from textual.types import CSSPathType


COLUMNS = (
    Column("STATE"),
    Column("SERVER", limit=24),
    Column("JOB"),
    Column("STARTED (UTC)", yields=3),
    Column("TOOK", align="right", yields=2),
    Column("SIZE", align="right", yields=2),
    Column("BACKUP", yields=4),
    Column("HOW FAR", yields=1, limit=44),
    Column("BY", yields=5),
)


class Jobs(Room):
    """All jobs, newest first."""

    ROOM = "jobs"
    ZOOMS = ("jobs", "detail")
    CSS_PATH: ClassVar[CSSPathType | None] = ["room.tcss", "jobs.tcss"]
    BINDINGS = commands.bindings("jobs")

    def __init__(self, server: str = "") -> None:
        super().__init__()
        self._of = server
        self._only = server

    def body(self) -> ComposeResult:
        yield Lines(id="sentence")
        yield Table(COLUMNS, id="jobs", glyphs=self.glyphs)
        yield Rule(self.glyphs.rule, id="parting")
        yield Lines(id="detail", wrapped=True)

    def crumbs(self) -> Sequence[str]:
        return ["servers", plain(self._of), "jobs"] if self._of else ["servers", "jobs"]

    @property
    def address(self) -> str:
        return f"jobs {self._of}".strip()

    @property
    def subject(self) -> str:
        job = self._chosen(self.app.snapshot)
        return job.server if job else self._of

    def _chosen(self, snapshot: Snapshot) -> JobState | None:
        return next((job for job in snapshot.jobs if job.id == self.moving().key), None)

    def moving(self) -> Table:
        return self.query_one("#jobs", Table)

    def _jobs(self, snapshot: Snapshot) -> list[JobState]:
        return [job for job in snapshot.jobs if not self._only or job.server == self._only]

    def paint(self, snapshot: Snapshot) -> None:
        jobs = self._jobs(snapshot)
        self.query_one("#sentence", Lines).show([(("  ", "text"), *_sentence(jobs, self._only))])
        self.moving().show([_row(job, self.app.size.width, self.glyphs) for job in jobs])
        self._paint_detail(snapshot)

    def _paint_detail(self, snapshot: Snapshot) -> None:
        job = self._chosen(snapshot)
        self.query_one("#detail", Lines).show(_about(job, self.app.size.width - 4, self.glyphs) if job else ())

    @on(Table.Moved)
    def _moved(self) -> None:
        self._paint_detail(self.app.snapshot)
        self.offer_keys()

    @on(Table.Opened)
    def _opened(self) -> None:
        self.action_command("jobs.open")

    def refuse_open(self) -> str:
        return "" if self.moving().key else "There is no job yet."

    def do_open(self) -> None:
        self.app.open_job(self.moving().key)

    def refuse_copy(self) -> str:
        return self.refuse_open()

    def do_copy(self) -> None:
        self.copy(self.moving().key, self.moving().key)

    def refuse_cancel(self) -> str:
        job = self._chosen(self.app.snapshot)
        return cancelling.refusal(job)

    def do_cancel(self) -> None:
        job = self._chosen(self.app.snapshot)
        if job is not None:
            cancelling.ask(self.app, job)

    def refuse_all(self) -> str:
        return "" if self._of else "The jobs of all servers are shown already."

    def do_all(self) -> None:
        self._only = "" if self._only else self._of
        self.repaint()


def _sentence(jobs: Sequence[JobState], server: str) -> Line:
    running = sum(job.status == "running" for job in jobs)
    where = f" on {plain(server)}" if server else ""
    if not jobs:
        return ((f"No job has run{where} yet.", "strong"),)
    if not running:
        return (f"Nothing runs{where}.", "strong"), (f"  {counted(len(jobs), 'job')} in the past.", "quiet")
    verb = "job runs" if running == 1 else "jobs run"
    return (f"{capital(number(running))} {verb}{where}.", "strong"), (
        f"  {'It goes' if running == 1 else 'They go'} on without this console.",
        "quiet",
    )


def _row(job: JobState, screen: int, glyphs: Glyphs) -> Row:
    width = 44 if screen >= 140 else 28 if screen >= 100 else 22
    sign, role = wording.job_sign(job, glyphs)
    took = (job.ended - job.started).total_seconds() if job.started and job.ended else None
    progress = job.progress
    far: Line = ()
    if job.status == "running" and progress and progress.total_bytes:
        done = percent(progress.done_bytes, progress.total_bytes)
        far = (
            *bar(progress.done_bytes, progress.total_bytes, 10, glyphs),
            (f"  {job.phase} {done}", "moving"),
        )
    elif job.status == "running":
        far = ((job.phase or "starting", "moving"),)
    elif wording.remark(job):
        reason = plain(wording.remark(job))
        far = ((reason if len(reason) <= width else reason[: width - 1] + glyphs.ellipsis, "quiet"),)
    return Row(
        job.id,
        (
            ((f"{sign} {job.status}", role),),
            ((plain(job.server), "strong"),),
            ((job.kind, "text"),),
            ((day_and_time(job.started) if job.started else "", "quiet"),),
            ((stopwatch(took) if took is not None else "", "text"),),
            ((size(made) if (made := wording.made(job)) is not None else "", "text"),),
            ((job.backup, "quiet"),),
            far,
            ((plain(job.user), "quiet"),),
        ),
    )


def _about(job: JobState, width: int, glyphs: Glyphs) -> list[Line]:
    lines: list[Line] = [(*wording.job_sentence(job), (f"   {job.id}", "quiet"))]
    if job.status == "running":
        lines.append(wording.phases(job, PHASES.get(job.kind, ()), width, glyphs))
        progress = job.progress
        if progress is not None and progress.rate_bytes is not None:
            how = f"{part_of(progress.done_bytes, progress.total_bytes)}   {rate(progress.rate_bytes)}"
            lines.append(((how, "text"),))
    else:
        lines.append(())
    if job.reason:
        lines.append((("why  ", "quiet"), (plain(job.reason), "text")))
    if job.fix:
        lines.append((("now  ", "quiet"), (plain(job.fix), "text")))
    elif job.log:
        lines += [((f"{note.at:%H:%M:%S}  ", "quiet"), (plain(note.text), "text")) for note in job.log[-3:]]
    return lines
