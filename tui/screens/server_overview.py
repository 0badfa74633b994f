"""The tab with the recovery axis: how the server stands, and the moment that one could restore to."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message

from tui import wording
from tui.format import Line, counted, exactly, plain, said_span, size, utc
from tui.inspection import Answered, BeatsAsked, MomentAsked
from tui.screens.server_pane import Pane
from tui.screens.servers import recent_backups, recent_jobs
from tui.screens.wal_segments import backups_on
from tui.snapshot import Snapshot
from tui.widgets.axis import Branch, Scale, Stretch, closely, following, placed, scale, step, zoomed
from tui.widgets.frame import Rule
from tui.widgets.lines import Lines
from tui.widgets.page import Page
from tui.widgets.walmap import SegmentMap, legend

if TYPE_CHECKING:
    from textual.timer import Timer

    from engine.recovery.facts import Mark as Commit
    from engine.recovery.moments import Around
    from engine.recovery.strands import Strand
    from engine.status import ServerStatus
    from tui.inspection import Inspection

QUIET = 0.12
"""Seconds that the cursor rests before the transactions around it are looked up."""
_BRANCHES = 4
_CLOSE = timedelta(milliseconds=1)


class Axis(Lines):
    """The lines of the axis; a click puts the cursor there."""

    class Pointed(Message):
        """A column was clicked."""

        def __init__(self, column: int) -> None:
            super().__init__()
            self.column = column

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is not None:
            self.post_message(self.Pointed(offset.x))


class Overview(Pane):
    """How a server stands, and the axis to move on."""

    NAME = "overview"
    WORDS: ClassVar[dict[str, str]] = {"open": "restore to it…", "copy": "copy the moment"}

    def __init__(self) -> None:
        super().__init__()
        self.at: datetime | None = None
        """The moment under the cursor; None is the latest that can be reached."""
        self.view: Scale | None = None
        """What of the axis is seen; None is all of it."""
        self._beats: tuple[datetime, ...] = ()
        self._around: Around | None = None
        self._asked: datetime | None = None
        self._asked_beats: BeatsAsked | None = None
        self._timer: Timer | None = None

    def compose(self) -> ComposeResult:
        yield Lines(id="sentence", wrapped=True)
        yield Axis(id="axis")
        yield Rule(self.glyphs.rule)
        with Horizontal(id="about"):
            with Page(id="moment-page"):
                yield Lines(id="moment", wrapped=True)
            yield Lines(id="recent", fixed=True)
        with Vertical(id="glance"):
            yield Rule(self.glyphs.rule)
            yield Lines(id="glance-head")
            yield SegmentMap(self.glyphs, id="glance-map")

    def moving(self) -> Page:
        return self.query_one("#moment-page", Page)

    def paint(self, snapshot: Snapshot, server: ServerStatus) -> None:
        self.query_one("#sentence", Lines).show([wording.verdict(server, snapshot.minute)])
        self._paint_axis(server)
        self._paint_about(snapshot, server)
        self._look_up()

    @property
    def _width(self) -> int:
        return self.app.size.width - 4

    def _whole(self, server: ServerStatus) -> Scale:
        return scale(wording.stretches(server), wording.marks(server), self.app.snapshot.minute, self._width)

    def _seen(self, server: ServerStatus) -> Scale:
        """Return what is seen, as the terminal and the archive are by now."""
        whole = self._whole(server)
        if self.view is None or self.view.length >= whole.length:
            return whole
        return placed(replace(self.view, width=self._width), whole)

    def moment(self, server: ServerStatus) -> datetime | None:
        """Return the moment under the cursor."""
        return self.at if self.at is not None else server.recoverable_to

    def _paint_axis(self, server: ServerStatus) -> None:
        at = self.moment(server)
        lines: list[Line] = []
        stretches, marks = wording.stretches(server), wording.marks(server)
        if at is not None:
            inspection = self.room.inspection
            branches = branches_of(inspection.strands, self.app.snapshot.minute) if inspection else []
            lines = closely(
                self._seen(server),
                at,
                self.app.snapshot.minute,
                stretches,
                marks,
                branches[:_BRANCHES],
                self.glyphs,
                not server.open_end,
            )
        self.query_one("#axis", Axis).show(lines)

    def _paint_about(self, snapshot: Snapshot, server: ServerStatus) -> None:
        now, glyphs = snapshot.minute, self.glyphs
        at = self.moment(server)
        around = self._around if self._around is not None and self._around.at == at else None
        moment = (
            moment_lines(server, at, around, now, asked=self._asked == at and around is None) if at else empty(server)
        )
        stands = [line for finding in server.findings[:6] for line in wording.finding_line(finding, glyphs)]
        stands += [(), *standing(server, self.room.inspection, now)]
        self.query_one("#moment", Lines).show([*moment, (), *stands])
        if self.room.wide:
            room = self.app.size.width * 2 // 5 - 6
            jobs = [job for job in snapshot.jobs if job.server == server.name][:5]
            recent = [*recent_backups(server, room, glyphs), (), *recent_jobs(jobs, room, glyphs, now)]
            self.query_one("#recent", Lines).show(recent)
            self._paint_glance(server)

    def _paint_glance(self, server: ServerStatus) -> None:
        """Show the WAL archive's end, where there is room for it."""
        inspection = self.room.inspection
        chart = inspection.chart if inspection else None
        glance = self.query_one("#glance-map", SegmentMap)
        head: Line = (("WAL", "quiet"),)
        if chart is not None and chart.states:
            fresh = chart is not glance.chart
            glance.show(chart, backups_on(chart, server))
            if fresh:
                glance.go(chart.gaps.span(chart.gaps.runs - 1)[0] if chart.gaps.runs else chart.last)
            head = (*head, (f"   timeline {chart.timeline}   ", "text"), *legend(chart.states, self.glyphs))
            head = (*head, ("   w", "hand!"), (" has it whole", "quiet"))
        self.query_one("#glance-head", Lines).show([head])

    def _look_up(self) -> None:
        """Have the transactions around the cursor looked up, once it rests."""
        if self._timer is None:
            self._timer = self.set_timer(QUIET, self._ask)

    def _ask(self) -> None:
        self._timer = None
        server = self.room.server
        at = self.moment(server) if server else None
        if server is None or at is None:
            return
        if at != self._asked:
            self._asked = at
            self.room.ask(MomentAsked(server.name, at))
        seen = self._seen(server)
        margin = seen.length / 2
        wanted = BeatsAsked(server.name, seen.begin - margin, seen.end + margin)
        if wanted != self._asked_beats:
            self._asked_beats = wanted
            self.room.ask(wanted)

    def inspected(self, inspection: Inspection) -> None:
        self._asked = self._asked_beats = None

    def answered(self, answer: Answered) -> None:
        if isinstance(answer.question, BeatsAsked):
            self._beats = answer.answer if isinstance(answer.answer, tuple) else ()
        elif isinstance(answer.question, MomentAsked):
            self._around = answer.answer
            server = self.room.server
            if server is not None and self.room.pane is self:
                self._paint_about(self.app.snapshot, server)

    def _go(self, at: datetime, server: ServerStatus) -> None:
        whole = self._whole(server)
        self.at = max(whole.begin, min(at, whole.end))
        seen = self._seen(server)
        if seen.length < whole.length:
            self.view = following(seen, self.at, whole)
        self._paint_axis(server)
        self._paint_about(self.app.snapshot, server)
        self._look_up()
        self.room.offer_keys()

    def refuse_left(self) -> str:
        server = self.room.server
        return "" if server and self.moment(server) else "There is no moment to go to yet."

    refuse_right = refuse_closer = refuse_next = refuse_previous = refuse_copy = refuse_left

    def do_left(self) -> None:
        self._step(forward=False)

    def do_right(self) -> None:
        self._step(forward=True)

    def _step(self, *, forward: bool) -> None:
        server = self.room.server
        at = self.moment(server) if server else None
        if server is not None and at is not None:
            self._go(step(self._seen(server), at, self._beats, forward=forward), server)

    def do_closer(self) -> None:
        self._zoom(closer=True)

    def refuse_wider(self) -> str:
        return "" if self.view is not None else "All of it is seen."

    def do_wider(self) -> None:
        self._zoom(closer=False)

    def _zoom(self, *, closer: bool) -> None:
        server = self.room.server
        at = self.moment(server) if server else None
        if server is None or at is None:
            return
        whole = self._whole(server)
        view = zoomed(self._seen(server), at, whole, closer=closer)
        self.view = view if view.length < whole.length - _CLOSE else None
        self._go(at, server)

    def do_next(self) -> None:
        self._jump(forward=True)

    def do_previous(self) -> None:
        self._jump(forward=False)

    def _jump(self, *, forward: bool) -> None:
        """Go to the next backup's end, or to the next edge of what can be reached."""
        server = self.room.server
        at = self.moment(server) if server else None
        if server is None or at is None:
            return
        places = {mark.at for mark in wording.marks(server)}
        places |= {edge for each in wording.stretches(server) for edge in (each.begin, each.end)}
        ahead = sorted(place for place in places if (place > at if forward else place < at))
        if ahead:
            self._go(ahead[0] if forward else ahead[-1], server)
        else:
            self.room.say("There is no backup and no gap further on." if forward else "There is none before this.")

    def on_axis_pointed(self, event: Axis.Pointed) -> None:
        server = self.room.server
        if server is not None and self.moment(server) is not None:
            self._go(self._seen(server).at(event.column), server)

    def refuse_open(self) -> str:
        server = self.room.server
        at = self.moment(server) if server else None
        if server is None or at is None:
            return "There is nothing that it could be restored from yet."
        return "" if reached(server, at) else "This moment cannot be restored."

    def do_open(self) -> None:
        server = self.room.server
        at = self.moment(server) if server else None
        if at is not None:
            self.room.restore_to(at)

    def do_copy(self) -> None:
        server = self.room.server
        at = self.moment(server) if server else None
        if at is not None:
            text = f"{utc(at):%Y-%m-%d %H:%M:%S.%f}+00:00"
            self.room.copy(text, text)


def reached(server: ServerStatus, at: datetime) -> bool:
    """Tell whether a moment can be restored, as far as the disk tells."""
    return any(window.begin <= at <= window.end for window in server.windows)


def branches_of(strands: tuple[Strand, ...], now: datetime) -> list[Branch]:
    """Return the timelines that are drawn below the axis: the parts of those that the axis itself does not follow."""
    primary = max((s for s in strands if s.primary), key=lambda s: s.timeline, default=None)
    if primary is None:
        return []
    by_number = {strand.timeline: strand for strand in strands}
    path: dict[int, datetime | None] = {}
    at: Strand | None = primary
    while at is not None and at.parent is not None and at.parent not in path:
        path[at.parent] = at.left
        at = by_number.get(at.parent)
    found = []
    for strand in strands:
        begin = path.get(strand.timeline, strand.left)
        if strand is primary or begin is None:
            continue
        ends = [reach.end for reach in strand.reaches if reach.end > begin]
        stretches = tuple(Stretch(max(r.begin, begin), r.end) for r in strand.reaches if r.end > begin)
        broken = bool(strand.reaches) and strand.reaches[-1].broken
        if ends:
            found.append(Branch(strand.timeline, begin, max(ends), stretches, broken))
    return sorted(found, key=lambda branch: -branch.timeline)


def moment_lines(
    server: ServerStatus, at: datetime, around: Around | None, now: datetime, *, asked: bool
) -> list[Line]:
    """Return what is said about the moment under the cursor."""
    local = at.astimezone()
    ago = (now - at).total_seconds()
    said = f"   {said_span(ago)} ago" if ago >= 60 else ""
    head: Line = (("moment       ", "quiet"), (exact(at), "strong"), (said, "quiet"))
    if local.utcoffset():
        head = (*head, (f"   = {local:%H:%M:%S} {local.tzname()}", "quiet"))
    lines = [head]
    kept, dropped = (around.kept, around.dropped) if around else (None, None)
    none = "looking" if asked else "none in the archive" if around is not None else "not known"
    lines.append((("last kept    ", "quiet"), *(_commit(kept, at) if kept else ((none, "faint"),))))
    window = next((w for w in server.windows if w.begin <= at <= w.end), None)
    if window is not None and dropped is not None and dropped.at > window.end and not _is_open(server, window.end):
        lines.append((("then         ", "quiet"), ("the gap: what was committed after it is out of reach", "bad")))
    else:
        lines.append((("then         ", "quiet"), *(_commit(dropped, at) if dropped else ((none, "faint"),))))
    base = next((i for i in server.backups if i.usable and i.end_time and i.end_time <= at), None)
    if window is not None and base is not None and base.end_time is not None:
        name = f" ({plain(base.backup_name)})" if base.backup_name else ""
        replay = said_span((at - base.end_time).total_seconds())
        lines.append(
            (
                ("restore      ", "quiet"),
                ("can be restored", "good"),
                (f" from {base.id}{name} and {replay} of WAL", "text"),
            )
        )
        return lines
    before = max((w.end for w in server.windows if w.end < at), default=None)
    after = min((w.begin for w in server.windows if w.begin > at), default=None)
    near = [f"{word} {exactly(moment)}" for word, moment in (("before it", before), ("after it", after)) if moment]
    tail = f"; nearest {', '.join(near)}" if near else ""
    lines.append((("restore      ", "quiet"), ("cannot be restored", "bad!"), (tail, "text")))
    return lines


def _is_open(server: ServerStatus, end: datetime) -> bool:
    """Tell whether a window ends with the archive and not with a gap."""
    return server.open_end and end == server.windows[-1].end


def exact(at: datetime) -> str:
    """Return a moment with its zone, and with its parts of a second when it has any.

    >>> from datetime import timezone
    >>> exact(datetime(2026, 11, 22, 11, 48, 2, 10, tzinfo=timezone.utc))
    '2026-11-22 11:48:02.000010 UTC'
    """
    return f"{utc(at):%Y-%m-%d %H:%M:%S.%f} UTC" if at.microsecond else exactly(at)


def _commit(commit: Commit, at: datetime) -> Line:
    day = "%Y-%m-%d " if utc(commit.at).date() != utc(at).date() else ""
    when = f"{utc(commit.at):{day}%H:%M:%S.%f} UTC"
    drops: Line = (("   drops or empties a table", "soon"),) if commit.drops else ()
    return (when, "text"), (f"   xid {commit.xid}   LSN {commit.lsn}", "quiet"), *drops


def empty(server: ServerStatus) -> list[Line]:
    """Return what is said where there is no moment to go to."""
    if any(job.kind == "backup" for job in server.jobs):
        return [(("The first backup is being taken; ", "text"), ("j", "hand!"), (" shows it.", "text"))]
    if all(info.cancelled for info in server.backups):
        return [
            ((f"No backup of {plain(server.name)} yet.", "strong"),),
            (("b", "hand!"), (" takes the first one; from its end on every moment can be restored.", "text")),
        ]
    return [
        (("No backup of it is good.", "strong"),),
        (("2", "hand!"), (" shows them, ", "text"), ("b", "hand!"), (" takes a new one.", "text")),
    ]


def standing(server: ServerStatus, inspection: Inspection | None, now: datetime) -> list[Line]:
    """Return the facts about a server that are always worth a line."""
    facts: list[tuple[str, str, str]] = []
    last = server.last_backup
    if last is not None:
        name = f"   {plain(last.backup_name)}" if last.backup_name else ""
        facts.append(("last backup", f"{last.id}   {wording.backup_facts(last, now)}{name}", "text"))
    exposed = server.exposure(now)
    if exposed is not None:
        text = f"{said_span(exposed.total_seconds())} of commits would be lost if the server died now"
        facts.append(("exposed", text, "text" if server.open_end else "bad"))
    if server.wal.newest:
        queued = f", {counted(server.wal.queued, 'file')} queued" if server.wal.queued else ""
        facts.append(("wal", f"up to {server.wal.newest}{queued}", "text"))
    total = sum(info.size or 0 for info in server.backups)
    if total:
        facts.append(("holds", f"{counted(len(server.backups), 'backup')}, {size(total)}", "text"))
    for sentence in (inspection.unknown if inspection else ())[:2]:
        facts.append(("not known", plain(sentence), "quiet"))
    return [((f"{label:<13}", "quiet"), (text, role)) for label, text, role in facts]
