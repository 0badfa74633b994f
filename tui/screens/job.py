"""One job, live or past: how far, how fast, how long, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical

from engine import event as ev
from engine.job.spec import PHASES
from engine.job.state import JobState
from tui import cancelling, commands, moments, wording
from tui.commands import Command
from tui.format import Line, Span, counted, day_and_time, fit, part_of, percent, plain, rate, size, stopwatch
from tui.glyphs import Glyphs
from tui.screens.room import Room
from tui.snapshot import JobView, Snapshot
from tui.widgets.frame import Rule
from tui.widgets.lines import Lines
from tui.widgets.log import Log
from tui.widgets.progress import bar, chart

if TYPE_CHECKING:
    from textual.types import CSSPathType


LEVEL_ROLE = {"info": "text", "warn": "soon", "error": "bad"}


class JobRoom(Room):
    """One job. It belongs to no console: leaving this screen changes nothing."""

    ROOM = "job"
    CSS_PATH: ClassVar[CSSPathType | None] = ["room.tcss", "job.tcss"]
    BINDINGS = commands.bindings("job")

    def __init__(self, job_id: str) -> None:
        super().__init__()
        self._job_id = job_id
        self._held = self._seen = False
        """Whether the view is held still; whether the job was ever found."""
        self._opened_on: Snapshot | None = None
        """What was known when this was opened: too old to know a job that has just begun."""
        self._told: list[Line] = []
        """The log's lines so far."""
        self._notes: tuple[ev.Note | ev.Phase, ...] = ()
        """What they were made from."""

    def body(self) -> ComposeResult:
        yield Lines(id="sentence", wrapped=True)
        with Horizontal(id="middle"):
            with Vertical(id="figures"):
                yield Lines(id="phases")
                yield Lines(id="bar")
                yield Lines(id="numbers")
                yield Lines(id="lanes")
                yield Lines(id="chart")
                yield Lines(id="facts", wrapped=True)
            yield Rule(self.glyphs.rule, id="parting")
            yield Log(id="log")
        yield Lines(id="note")

    def crumbs(self) -> Sequence[str]:
        job = self._job(self.app.snapshot)
        return ["jobs", f"{plain(job.server)} {job.kind}" if job else self._job_id]

    @property
    def address(self) -> str:
        return f"job {self._job_id}"

    @property
    def subject(self) -> str:
        job = self._job(self.app.snapshot)
        return job.server if job else ""

    def on_mount(self) -> None:
        self.set_interval(1.0, self._tick)

    def on_screen_resume(self) -> None:
        self.app.lookout.look_at(self._job_id)

    def on_unmount(self) -> None:
        self.app.lookout.look_at("")

    def _tick(self) -> None:
        job = self._job(self.app.snapshot)
        if job is not None and job.status == "running" and self.is_current and not self._held:
            self._paint_numbers(job, self._view(self.app.snapshot))

    def moving(self) -> Log:
        return self.query_one("#log", Log)

    def _view(self, snapshot: Snapshot) -> JobView | None:
        view = snapshot.job
        return view if view is not None and view.state.id == self._job_id else None

    def _job(self, snapshot: Snapshot) -> JobState | None:
        view = self._view(snapshot)
        return view.state if view else next((job for job in snapshot.jobs if job.id == self._job_id), None)

    def paint(self, snapshot: Snapshot) -> None:
        if self._held:
            return
        job, view = self._job(snapshot), self._view(snapshot)
        self._opened_on = self._opened_on or snapshot
        if job is None:
            reading = not self._seen and snapshot is self._opened_on
            missing = "Reading its journal." if reading else "There is no such job any more."
            self.query_one("#sentence", Lines).show([((missing, "quiet"),)])
            return
        self._seen = True
        glyphs = self.glyphs
        self.query_one("#sentence", Lines).show(_said(job, self._programs(job)))
        self.query_one("#phases", Lines).show(
            [wording.phases(job, PHASES.get(job.kind, ()), self._figures_width(), glyphs)]
        )
        self._paint_bar(job)
        self._paint_numbers(job, view)
        self._paint_lanes(job)
        self._paint_chart(job, view)
        self.query_one("#facts", Lines).show(_facts(job))
        self.moving().show(self._log(view.notes if view else ()))
        self.query_one("#note", Lines).show([_note(job, bool(self.app.banner))])

    def _log(self, notes: tuple[ev.Note | ev.Phase, ...]) -> list[Line]:
        """Return the log's lines; only those of new notes are made."""
        known = len(self._notes)
        if notes[:known] != self._notes:
            self._told, known = [], 0
        self._told += [_log_line(event) for event in notes[known:]]
        self._notes = notes
        return self._told

    def _programs(self, job: JobState) -> str:
        server = self.app.config.servers.get(job.server)
        return server.path_prefix if server else ""

    def _figures_width(self) -> int:
        width = self.app.size.width
        return width // 2 - 4 if self.wide else width - 4

    def _paint_bar(self, job: JobState) -> None:
        self.query_one("#bar", Lines).show([_bar(job, self._figures_width(), self.glyphs)])

    def _paint_numbers(self, job: JobState, view: JobView | None) -> None:
        self.query_one("#numbers", Lines).show([_numbers(job, view, self.app.now())])

    def _paint_lanes(self, job: JobState) -> None:
        room = 8 if self.app.size.height >= 36 else 4 if self.app.size.height >= 28 else 2
        self.query_one("#lanes", Lines).show(_lanes(job, self._figures_width(), room, self.glyphs))

    def _paint_chart(self, job: JobState, view: JobView | None) -> None:
        short = self.app.size.height < 28
        height = 5 if self.app.size.height >= 36 else 2 if short else 3
        rates = view.rates if view and not (short and job.status != "running") else ()
        lines = chart(rates, self._figures_width() - 16, height, self.glyphs) if len(rates) > 1 else []
        self.query_one("#chart", Lines).show(lines)

    def refuse_cancel(self) -> str:
        return cancelling.refusal(self._job(self.app.snapshot))

    def do_cancel(self) -> None:
        job = self._job(self.app.snapshot)
        if job is not None:
            cancelling.ask(self.app, job)

    def do_pause(self) -> None:
        self._held = not self._held
        self.repaint()
        self.say("The view is held still; the job goes on. space lets it go on." if self._held else "Live again.")

    def do_log(self) -> None:
        self.toggle_class("-log")
        self.call_after_refresh(self.repaint)

    def _look(self) -> str:
        job = self._job(self.app.snapshot)
        return moments.look(job, self._programs(job)) if job else ""

    def _start(self) -> str:
        job = self._job(self.app.snapshot)
        return moments.start(job, self._programs(job)) if job else ""

    def word(self, command: Command) -> str:
        if command.verb != "copy":
            return super().word(command)
        return "copy psql" if self._look() else "copy pg_ctl" if self._start() else super().word(command)

    def do_copy(self) -> None:
        look, start = self._look(), self._start()
        what = "the command that looks at it" if look else "the command that starts it" if start else self._job_id
        self.copy(look or start or self._job_id, what)


def _said(job: JobState, programs: str) -> list[Line]:
    lines = [wording.job_sentence(job), *(moments.outcome(job, programs) or wording.outcome(job))]
    if job.status != "running":
        lines += _labelled("why", job.reason) + _labelled("now", job.fix)
    return lines


def _labelled(label: str, text: str) -> list[Line]:
    return [((f"{'' if i else label:<5}", "quiet"), (plain(line), "text")) for i, line in enumerate(text.splitlines())]


def _bar(job: JobState, width: int, glyphs: Glyphs) -> Line:
    progress = job.progress
    if progress is None:
        return ()
    done, total = progress.done_bytes, progress.total_bytes
    whole = _whole(job)
    if whole is not None:
        done = total = whole
    words: Line = (
        (f"  {percent(done, total):>5}", "strong"),
        (f"   {part_of(done, total)}", "quiet"),
    )
    role = "moving" if job.status == "running" else wording.JOB_ROLE[job.status]
    return (*bar(done, total, max(10, width - 30), glyphs, role), *words)


def _whole(job: JobState) -> int | None:
    """Return what a job that is done made, in bytes: its last progress is that of its last phase only."""
    made = job.result.get("size_bytes")
    return made if job.status == "done" and isinstance(made, int) else None


def _numbers(job: JobState, view: JobView | None, now: datetime) -> Line:
    if job.started is None:
        return (("not started yet", "quiet"),)
    elapsed = ((job.ended or now) - job.started).total_seconds()
    figures: list[tuple[str, str, str]] = []
    progress = job.progress
    if job.status == "running" and progress is not None and progress.rate_bytes is not None:
        figures.append(("now", rate(progress.rate_bytes), "text"))
    if view is not None and view.rates:
        figures.append(("average", rate(sum(view.rates) / len(view.rates)), "text"))
    figures.append(("elapsed" if job.status == "running" else "took", stopwatch(elapsed), "text"))
    if job.status == "running" and progress is not None and progress.eta_seconds is not None:
        figures.append(("left about", stopwatch(progress.eta_seconds), "strong"))
    spans: list[Span] = []
    for label, text, role in figures:
        spans += [(f"{label} ", "quiet"), (text, role), ("    ", "text")]
    return tuple(spans[:-1])


def _lanes(job: JobState, width: int, most: int, glyphs: Glyphs) -> list[Line]:
    """Return a line for each worker of a running phase: how far its share is, and the file at work; `most` of them."""
    progress = job.progress
    if progress is None or job.status != "running" or len(progress.lanes) < 2:
        return []
    lines: list[Line] = []
    for lane in progress.lanes[:most]:
        head: Line = (
            *bar(lane.done_bytes, lane.total_bytes, 10, glyphs),
            (f" {percent(lane.done_bytes, lane.total_bytes):>5}  ", "quiet"),
        )
        lines.append(fit((*head, (plain(lane.name), "text")), width, glyphs.ellipsis))
    if len(progress.lanes) > most:
        lines[-1] = ((f"and {counted(len(progress.lanes) - most + 1, 'more worker', 'more workers')}", "quiet"),)
    return lines


def _facts(job: JobState) -> list[Line]:
    facts: list[str] = []
    if job.backup:
        facts.append(f"backup {job.backup}")
    progress = job.progress
    whole = _whole(job)
    if whole is None and progress is not None and progress.files_done is not None:
        total = f" of {progress.files_total:,}" if progress.files_total else ""
        facts.append(f"{progress.files_done:,}{total} {progress.counts}")
    if whole is not None and progress is None:
        facts.append(size(whole))
    warnings = sum(note.level == "warn" for note in job.log)
    if warnings:
        facts.append(counted(warnings, "warning"))
    return [(("   ·   ".join(facts), "quiet"),)] if facts else []


def _log_line(event: ev.Note | ev.Phase) -> Line:
    at: Span = (f"{event.at:%H:%M:%S}  ", "quiet")
    if isinstance(event, ev.Phase):
        detail = f"  {plain(event.detail)}" if event.detail else ""
        return at, (wording.PHASE_WORDS.get(event.phase, event.phase), "moving"), (detail, "quiet")
    return at, (plain(event.text), LEVEL_ROLE[event.level])


def _note(job: JobState, demo: bool) -> Line:
    if job.status == "running":
        pid = f" (pid {job.pid})" if job.pid else ""
        leaving = "only the end of the demo ends it" if demo else "closing this console changes nothing"
        return ((f"runs by itself{pid}: {leaving}", "quiet"),)
    ended = f"ended {day_and_time(job.ended)} UTC" if job.ended else ""
    return ((f"{job.id}   {ended}", "quiet"),)
