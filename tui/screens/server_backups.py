"""The tab with a server's backups: newest first, what each reaches, and what can be done with it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical

from engine.job.state import JobState
from engine.repository.backupinfo import BackupInfo
from engine.status import ServerStatus
from tui import wording
from tui.format import (
    Line,
    calm_span,
    day_and_time,
    exactly,
    listed,
    part_of,
    percent,
    plain,
    size,
    stopwatch,
    version,
)
from tui.glyphs import Glyphs
from tui.screens.server_pane import Pane
from tui.screens.servers import recent_jobs
from tui.snapshot import Snapshot
from tui.widgets.frame import Rule
from tui.widgets.lines import Lines
from tui.widgets.progress import bar
from tui.widgets.table import Column, Row, Table

COLUMNS = (
    Column("", gap=1),
    Column("BACKUP"),
    Column("TYPE", yields=3),
    Column("ENDED (UTC)"),
    Column("TOOK", align="right", yields=4),
    Column("SIZE", align="right"),
    Column("TL", align="right", yields=5),
    Column("WAL FROM", yields=6),
    Column("NAME", yields=2, limit=30),
)


class Backups(Pane):
    """The backups of one server."""

    NAME = "backups"
    WORDS: ClassVar[dict[str, str]] = {"open": "follow", "copy": "copy id"}

    def compose(self) -> ComposeResult:
        with Horizontal(id="middle"):
            yield Table(COLUMNS, id="backups", glyphs=self.glyphs)
            with Vertical(id="right"):
                yield Lines(id="right-detail", wrapped=True)
        yield Rule(self.glyphs.rule)
        with Horizontal(id="below"):
            yield Lines(id="detail", wrapped=True)
            yield Lines(id="events", wrapped=True)

    @property
    def table(self) -> Table:
        return self.query_one("#backups", Table)

    def moving(self) -> Table:
        return self.table

    def paint(self, snapshot: Snapshot, server: ServerStatus) -> None:
        now, glyphs = snapshot.minute, self.glyphs
        rows = [_row(info, _worker(info, server.jobs), now, glyphs) for info in server.backups]
        rows += [_unreadable_row(entry.id, entry.reason, glyphs) for entry in server.unreadable]
        self.table.show(rows)
        self._paint_detail(snapshot)

    def _paint_detail(self, snapshot: Snapshot) -> None:
        server = self.room.server
        if server is None:
            return
        info = self._under_cursor(server)
        job = _worker(info, server.jobs) if info else None
        if job is not None and job.kind == "backup":
            detail = _being_made(job, self.glyphs)
        else:
            detail = about(info, server, snapshot.minute, self.glyphs) if info else self._without_entry(server)
        found = [line for finding in server.findings[:4] for line in wording.finding_line(finding, self.glyphs)]
        jobs = [job for job in snapshot.jobs if job.server == server.name][:8]
        if self.room.wide:
            self.query_one("#right-detail", Lines).show(detail)
            self.query_one("#detail", Lines).show(found or [(("Nothing is wrong with it.", "quiet"),)])
            happening = recent_jobs(jobs, self.app.size.width // 2 - 4, self.glyphs, snapshot.minute)
            self.query_one("#events", Lines).show(happening)
        else:
            self.query_one("#detail", Lines).show(detail)

    def _without_entry(self, server: ServerStatus) -> list[Line]:
        broken = next((entry for entry in server.unreadable if entry.id == self.table.key), None)
        if broken is None:
            return _empty(server)
        return [((plain(broken.id), "strong"),), (), (("cannot be read  ", "soon"), (plain(broken.reason), "text"))]

    def _under_cursor(self, server: ServerStatus) -> BackupInfo | None:
        return next((info for info in server.backups if info.id == self.table.key), None)

    @property
    def chosen(self) -> BackupInfo | None:
        """The backup under the cursor."""
        server = self.room.server
        return self._under_cursor(server) if server else None

    @on(Table.Moved)
    def _moved(self) -> None:
        self._paint_detail(self.app.snapshot)
        self.room.offer_keys()

    @on(Table.Opened)
    def _opened(self) -> None:
        self.room.action_command("server.open")

    def _at_work(self) -> JobState | None:
        jobs = [job for job in self.app.snapshot.running if job.server == self.room.subject]
        return next((job for job in jobs if job.backup == self.table.key), jobs[0] if jobs else None)

    def refuse_open(self) -> str:
        return "" if self._at_work() else "Nothing runs on this server now."

    def do_open(self) -> None:
        job = self._at_work()
        if job is not None:
            self.app.open_job(job.id)

    def refuse_copy(self) -> str:
        return "" if self.table.key else "There is no backup yet."

    def do_copy(self) -> None:
        self.room.copy(self.table.key, self.table.key)

    def refuse_verify(self) -> str:
        info = self.chosen
        if info is None:
            return "There is no backup yet."
        if not info.usable:
            return f"{info.id} is not a finished backup ({info.status.lower()})."
        jobs = self.app.snapshot.running
        busy = next((job for job in jobs if job.server == self.room.subject and job.backup == info.id), None)
        return f"A {busy.kind} works on {info.id} already." if busy else ""

    def do_verify(self) -> None:
        info = self.chosen
        if info is not None:
            self.app.start_job("verify", self.room.subject, backup=info.id)


def _worker(info: BackupInfo, jobs: Sequence[JobState]) -> JobState | None:
    return next((job for job in jobs if job.backup == info.id), None)


def _row(info: BackupInfo, job: JobState | None, now: datetime, glyphs: Glyphs) -> Row:
    sign, role = wording.backup_state(info, job, glyphs)
    pin = f" {glyphs.pinned}" if info.keep else ""
    ended = day_and_time(info.end_time) if info.end_time else ""
    ended_role = "text"
    if job is not None and job.kind == "backup":
        progress = job.progress
        done = percent(progress.done_bytes, progress.total_bytes) if progress else ""
        ended, ended_role = f"{job.phase or 'starting'} {done}".rstrip(), "moving"
    elif info.cancelled:
        ended, ended_role = "cancelled", "quiet"
    elif info.status == "FAILED":
        ended, ended_role = "failed", "bad"
    elif info.status == "WAITING_FOR_WALS":
        ended, ended_role = "waits for wal", "soon"
    elif info.status != "DONE":
        ended, ended_role = "left unfinished", "soon"
    took = (info.end_time - info.begin_time).total_seconds() if info.end_time and info.begin_time else None
    good = info.status == "DONE"
    return Row(
        info.id,
        (
            ((sign, role), (pin, "hand")),
            ((info.id, "text" if good or job else "quiet"),),
            ((wording.type_of(info), "quiet"),),
            ((ended, ended_role),),
            ((stopwatch(took) if took is not None and good else "", "quiet"),),
            ((size(info.size) if info.size and good else "", "text"),),
            ((str(info.timeline or ""), "quiet"),),
            ((info.begin_wal or "", "quiet"),),
            ((plain(info.backup_name or ""), "hand"),),
        ),
    )


def _unreadable_row(backup_id: str, reason: str, glyphs: Glyphs) -> Row:
    blank: Line = ()
    what: Line = ((f"cannot be read: {plain(reason)}"[:60], "soon"),)
    return Row(backup_id, (((glyphs.unknown, "soon"),), ((plain(backup_id), "quiet"),), blank, what, *[blank] * 5))


def _empty(server: ServerStatus) -> list[Line]:
    if any(job.kind == "backup" for job in server.jobs):
        return [(("The first backup is being taken; ", "text"), ("enter", "hand!"), (" follows it.", "text"))]
    return [
        ((f"No backup of {plain(server.name)} yet.", "strong"),),
        (("b", "hand!"), (" takes the first one.", "text")),
    ]


def _being_made(job: JobState, glyphs: Glyphs) -> list[Line]:
    """Return what is said about a backup that is being taken."""
    lines: list[Line] = [((job.backup, "strong"), ("   is being taken", "moving")), ()]
    progress = job.progress
    if progress is not None:
        done = percent(progress.done_bytes, progress.total_bytes)
        left = f", about {stopwatch(progress.eta_seconds)} left" if progress.eta_seconds is not None else ""
        how = f"   {part_of(progress.done_bytes, progress.total_bytes)}{left}"
        lines.append(
            (*bar(progress.done_bytes, progress.total_bytes, 24, glyphs), (f"  {done}", "strong"), (how, "quiet"))
        )
    else:
        lines.append(((wording.PHASE_WORDS.get(job.phase, job.phase) or "starting", "moving"),))
    return [*lines, (), (("enter", "hand!"), (" follows it", "quiet"))]


def about(info: BackupInfo, server: ServerStatus, now: datetime, glyphs: Glyphs) -> list[Line]:
    """Return what is said about one backup: what it is, what it reaches, where it lies in the WAL."""
    how = {"postgres": "pg_basebackup", "rsync": "file copy"}.get(info.method, info.method)
    form = f"tar, {info.compression}" if info.is_tar else "plain files"
    head: Line = ((info.id, "strong"), (f"   {wording.type_of(info)}, {how}, {form}", "quiet"))
    if info.backup_name:
        head = (*head, (f"   {plain(info.backup_name)}", "hand"))
    lines: list[Line] = [head, ()]
    if info.cancelled:
        gone = "the operator stopped it; what was copied is removed, older backups are as they were"
        return [*lines, (("cancelled  ", "soon"), (gone, "text"))]
    if info.status == "FAILED":
        return [*lines, (("failed  ", "bad"), (plain(info.error or "no reason was recorded"), "text"))]
    facts: list[tuple[str, str, str]] = [("reaches", *_reaches(info, server))]
    if info.end_time:
        facts.append(
            ("ended", f"{exactly(info.end_time)}, {calm_span((now - info.end_time).total_seconds())} ago", "text")
        )
    if info.begin_xlog is not None and info.end_xlog is not None:
        tail = f"   timeline {info.timeline}   PG {version(info.version)}"
        facts.append(("wal", f"{info.begin_xlog} to {info.end_xlog}{tail}", "text"))
    if info.size:
        cluster = f" of a cluster of {size(info.cluster_size)}" if info.cluster_size and info.is_tar else ""
        facts.append(("size", f"{size(info.size)}{cluster}", "text"))
    if info.tablespaces:
        facts.append(("tablespaces", plain(listed([space.name for space in info.tablespaces])), "text"))
    if info.keep:
        facts.append(("kept", f"pinned ({info.keep}): retention leaves it alone", "hand"))
    if info.children_backup_ids:
        facts.append(("children", f"{len(info.children_backup_ids)} incrementals need it", "text"))
    return lines + [((f"{label:<13}", "quiet"), (text, role)) for label, text, role in facts]


def _reaches(info: BackupInfo, server: ServerStatus) -> tuple[str, str]:
    """Return to which moments a backup can be restored."""
    if not info.usable or info.end_time is None:
        return "nothing: it is not finished", "soon"
    window = next((w for w in server.windows if w.begin <= info.end_time <= w.end), None)
    if window is None:
        return "nothing: WAL that it needs is missing", "bad"
    return f"any moment from its end to {exactly(window.end)}", "good"
