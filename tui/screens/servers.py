"""Home: which servers can be restored, to when, and what to do about those that cannot."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical

from tui import commands, wording
from tui.format import Line, calm_span, counted, fit, percent, plain, size, version, when
from tui.glyphs import Glyphs
from tui.remembered import Remembered
from tui.screens.room import Room
from tui.snapshot import Snapshot
from tui.widgets.axis import axis, row
from tui.widgets.frame import Rule
from tui.widgets.lines import Lines
from tui.widgets.progress import bar
from tui.widgets.table import Column, Row, Table

if TYPE_CHECKING:
    from textual.types import CSSPathType

    from engine.job.state import JobState
    from engine.status import ServerStatus
    from engine.status.live import Live

COLUMNS = (
    Column("STATE"),
    Column("SERVER", limit=24),
    Column("PG", yields=3),
    Column("LAST BACKUP", align="right", yields=1, gap=2),
    Column("", yields=4, gap=2, name="type"),
    Column("SIZE", align="right", yields=5),
    Column("EXPOSED", align="right"),
    Column("WAL", yields=2),
    Column("KEPT", yields=6),
    Column("RECOVERABLE"),
)


class Servers(Room):
    """All servers, worst first, and the truth about the one under the cursor."""

    ROOM = "servers"
    ZOOMS = ("servers", "below")
    CSS_PATH: ClassVar[CSSPathType | None] = ["room.tcss", "servers.tcss"]
    BINDINGS = commands.bindings("servers")

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[str, tuple[object, Row]] = {}
        """Each server's row, and what it was made from."""
        self._looked = False
        """Whether what is listed was read from the disk."""

    def body(self) -> ComposeResult:
        yield Lines(id="sentence")
        yield Table(COLUMNS, id="servers", glyphs=self.glyphs)
        yield Rule(self.glyphs.rule, id="parting")
        with Horizontal(id="below"):
            yield Lines(id="detail", wrapped=True)
            with Vertical(id="side"):
                yield Lines(id="side-jobs")

    def crumbs(self) -> Sequence[str]:
        return ["servers"]

    @property
    def subject(self) -> str:
        return self.query_one("#servers", Table).key

    def moving(self) -> Table:
        return self.query_one("#servers", Table)

    def paint(self, snapshot: Snapshot) -> None:
        sentence = (
            wording.fleet(snapshot.servers, snapshot.minute) if snapshot.looked else (("Reading the disk.", "quiet"),)
        )
        if not snapshot.looked and snapshot.servers:
            count = len(self.app.config.servers)
            sentence = ((f"Reading the disk: {len(snapshot.servers)} of {counted(count, 'server')}.", "quiet"),)
        self.query_one("#sentence", Lines).show([(("  ", "text"), *sentence)])
        table = self.query_one("#servers", Table)
        if snapshot.looked:
            untouched = not self._looked and table.cursor == 0
            self._looked = True
            table.show(self._rows(snapshot))
            if untouched:
                table.move(-table.cursor)
        else:
            known = self._rows(snapshot)
            there = {row.key for row in known}
            table.show([*known, *(row for row in self._unread_rows() if row.key not in there)])
        self._paint_below(snapshot)
        if snapshot.looked:
            rows = tuple((row.key, row.cells) for row in table.rows)
            self.app.look = Remembered(self.app.now(), rows, tuple(self.query_one("#detail", Lines).lines))

    def _rows(self, snapshot: Snapshot) -> list[Row]:
        """Return a row for each server; only those of servers that changed are made again."""
        rows = []
        width = self.app.size.width
        for server in snapshot.servers:
            live = snapshot.live.get(server.name)
            source = (server, live, snapshot.minute, width)
            made = self._made.get(server.name)
            if made is None or made[0] != source:
                configured = self.app.config.servers[server.name]
                kept = wording.kept_cell(server, configured.retention_policy, snapshot.minute)
                made = (source, _row(server, live, kept, snapshot.minute, width, self.glyphs))
                self._made[server.name] = made
            rows.append(made[1])
        return rows

    def _unread_rows(self) -> list[Row]:
        """Return what an earlier console saw, or names alone, until the disk is read."""
        names = [server.name for server in self.app.config.servers.values() if server.active]
        before = self.app.remembered.rows if self.app.remembered else ()
        known = [Row(name, cells) for name, cells in before if name in names and len(cells) == len(COLUMNS)]
        there = {row.key for row in known}
        return known + [_unread_row(name, self.glyphs) for name in names if name not in there]

    def _paint_below(self, snapshot: Snapshot) -> None:
        server = snapshot.server(self.subject)
        detail = self.query_one("#detail", Lines)
        room = (self.app.size.width * 2 // 3 if self.wide else self.app.size.width) - 4
        if snapshot.looked or server is not None:
            live = snapshot.live.get(self.subject)
            named = self.app.config.named
            detail.show(about(server, live, snapshot.minute, room, self.glyphs, named) if server else ())
        elif self.app.remembered is not None:
            detail.show(self.app.remembered.detail if self.query_one("#servers", Table).cursor == 0 else ())
        if self.wide and server:
            width = self.app.size.width // 3 - 6
            jobs = recent_jobs(snapshot.jobs[:6], width, self.glyphs, snapshot.minute)
            self.query_one("#side-jobs", Lines).show([*jobs, (), *recent_backups(server, width, self.glyphs)])

    @on(Table.Moved)
    def _moved(self) -> None:
        self._paint_below(self.app.snapshot)
        self.offer_keys()

    @on(Table.Opened)
    def _opened(self) -> None:
        self.action_command("servers.open")

    @property
    def address(self) -> str:
        return "servers"

    def refuse_open(self) -> str:
        return "" if self.subject else "There is no server in the list."

    def do_open(self) -> None:
        self.app.open_server(self.subject)

    def refuse_wal(self) -> str:
        return self.refuse_open()

    def do_wal(self) -> None:
        self.app.open_wal(self.subject)

    def refuse_copy(self) -> str:
        return self.refuse_open()

    def do_copy(self) -> None:
        self.copy(self.subject, self.subject)


def _unread_row(name: str, glyphs: Glyphs) -> Row:
    """Return the row of a server before the disk was read."""
    blank: Line = ()
    return Row(name, (((glyphs.waiting, "faint"),), ((plain(name), "strong"),), *[blank] * 8))


def _row(server: ServerStatus, live: Live | None, kept: Line, now: datetime, screen: int, glyphs: Glyphs) -> Row:
    name: Line = ((plain(server.name), "strong"),)
    last = server.last_backup
    age = calm_span((now - last.end_time).total_seconds()) if last and last.end_time else "none"
    return Row(
        server.name,
        (
            wording.health_cell(server.health, glyphs),
            name,
            ((version(live.pulse.version_num if live and live.pulse else server.version), "quiet"),),
            ((age, "text" if last else "quiet"),),
            ((wording.type_of(last) if last else "", "quiet"),),
            ((size(last.size) if last and last.size else "", "quiet"),),
            wording.exposed_cell(server, now),
            wording.wal_cell(server),
            kept,
            _recoverable(server, live, now, screen, glyphs),
        ),
    )


def _recoverable(server: ServerStatus, live: Live | None, now: datetime, screen: int, glyphs: Glyphs) -> Line:
    """Return from when to when, with an axis between that takes what room the screen has; why it is not known."""
    begin, end = server.recoverable_from, server.recoverable_to
    if begin is None or end is None:
        if live is not None and live.pulse is None:
            return ((wording.no_answer(live), "quiet"),)
        return (("nothing", "quiet"),)
    marks = wording.marks(server) if screen >= 140 else []
    width = min(100, screen - 116) if screen >= 140 else 12 if screen >= 100 else 9
    line = row(wording.stretches(server), marks, now, width, glyphs, not server.open_end)
    reached = (f" {when(end, now)}", "text" if server.open_end else "bad")
    return ((f"{when(begin, now):>11} ", "quiet"), *line, reached) if screen >= 100 else (*line, reached)


def about(server: ServerStatus, live: Live | None, now: datetime, width: int, glyphs: Glyphs, named: str) -> list[Line]:
    """Return what the home screen says about one server: verdict, axis, findings, repair, and what it says itself."""
    lines: list[Line] = [wording.verdict(server, now), ()]
    if server.windows or wording.marks(server):
        lines += [*axis(wording.stretches(server), wording.marks(server), now, width, glyphs, bool(server.gaps)), ()]
    worst, *others = [wording.finding_line(finding, glyphs) for finding in server.findings[:3]] or [[]]
    keys = {command.verb: command.key for command in commands.of("servers")}
    repair = wording.repair(server, keys, named)
    lines += [*worst, *([(), repair] if repair else [])]
    if others:  # below the repair: a low screen has no room for all
        lines += [*([()] if repair else []), *(line for each in others for line in each)]
    said = wording.pulse(server, live)
    return [*lines, (), said] if said else lines


def recent_backups(server: ServerStatus, width: int, glyphs: Glyphs) -> list[Line]:
    """Return a server's newest backups, one a line."""
    lines: list[Line] = [((f"BACKUPS OF {plain(server.name)}", "quiet"),)]
    for info in server.backups[:8]:
        job = next((job for job in server.jobs if job.backup == info.id), None)
        sign, role = wording.backup_state(info, job, glyphs)
        extent = size(info.size) if info.size and info.status == "DONE" else wording.state_word(info)
        name = f"  {plain(info.backup_name)}" if info.backup_name else ""
        line = ((f"{sign} ", role), (info.id, "text"), (f"  {extent:>8}", "quiet"), (name, "hand"))
        lines.append(fit(line, width, glyphs.ellipsis))
    return lines if server.backups else [*lines, (("none yet", "quiet"),)]


def recent_jobs(jobs: Sequence[JobState], width: int, glyphs: Glyphs, now: datetime) -> list[Line]:
    """Return the latest jobs, one a line; one that runs has a bar."""
    if not jobs:
        return [(("No job has run yet.", "quiet"),)]
    lines: list[Line] = [(("JOBS", "quiet"),)]
    names, kinds = (max(map(len, words)) for words in ([plain(job.server) for job in jobs], [job.kind for job in jobs]))
    for job in jobs:
        sign, role = wording.job_sign(job, glyphs)
        name, kind = f"{plain(job.server):<{names}}  ", f"{job.kind:<{kinds}}"
        head: Line = ((f"{sign} ", role), (name, "strong"), (kind, "text"))
        progress = job.progress
        if job.status == "running" and progress and progress.total_bytes:
            done = percent(progress.done_bytes, progress.total_bytes)
            rest: Line = (
                ("  ", "text"),
                *bar(progress.done_bytes, progress.total_bytes, 12, glyphs),
                (f"  {done}", "text"),
            )
        elif job.status == "running":
            rest = ((f"  {job.phase}", "moving"),)
        else:
            rest = (
                (
                    f"  {job.status} {when(job.ended, now) if job.ended else ''}",
                    role if job.status != "done" else "quiet",
                ),
            )
        lines.append(fit((*head, *rest), width, glyphs.ellipsis))
    return lines
