"""The tab with a server's timelines as a tree: who left whom, where, when and why, and which backups are on each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult

from tui.format import Line, counted, day_and_time, exactly, listed, plain
from tui.glyphs import Glyphs
from tui.screens.server_pane import Pane
from tui.snapshot import Snapshot
from tui.widgets.frame import Rule
from tui.widgets.lines import Lines
from tui.widgets.table import Column, Row, Table

if TYPE_CHECKING:
    from engine.recovery.strands import Strand
    from engine.status import ServerStatus
    from engine.wal.family import Branch
    from tui.inspection import Inspection

COLUMNS = (
    Column("TIMELINE"),
    Column("LEFT AT"),
    Column("WHEN (UTC)", yields=2),
    Column("SEGMENTS", align="right"),
    Column("MISSING", align="right", yields=3),
    Column("BACKUPS", align="right", yields=1),
    Column("", limit=40),
)
_SHOWN = 6


class Timelines(Pane):
    """The tree of timelines."""

    NAME = "timeline"
    WORDS: ClassVar[dict[str, str]] = {"open": "its wal", "copy": "copy reason"}

    def compose(self) -> ComposeResult:
        yield Table(COLUMNS, id="timelines", glyphs=self.glyphs)
        yield Rule(self.glyphs.rule)
        yield Lines(id="timeline-detail", wrapped=True, fixed=True)

    @property
    def table(self) -> Table:
        return self.query_one("#timelines", Table)

    def moving(self) -> Table:
        return self.table

    def paint(self, snapshot: Snapshot, server: ServerStatus) -> None:
        inspection = self.room.inspection
        branches = inspection.branches if inspection else ()
        strands = {strand.timeline: strand for strand in inspection.strands} if inspection else {}
        self.table.show([_row(b, strands.get(b.timeline), branches, self.glyphs) for b in branches])
        self._paint_detail(inspection)

    def _paint_detail(self, inspection: Inspection | None) -> None:
        branch = self._branch()
        if inspection is None:
            lines: list[Line] = [(("Reading the archive.", "quiet"),)]
        elif inspection.trouble:
            lines = [((plain(inspection.trouble), "soon"),)]
        elif branch is None:
            lines = [(("The archive has no WAL and no backup yet, so there is no timeline.", "quiet"),)]
        else:
            lines = _about(branch, next((s for s in inspection.strands if s.timeline == branch.timeline), None))
        self.query_one("#timeline-detail", Lines).show(lines)

    def _branch(self) -> Branch | None:
        inspection, key = self.room.inspection, self.table.key
        return next((b for b in inspection.branches if str(b.timeline) == key), None) if inspection else None

    @on(Table.Moved)
    def _moved(self) -> None:
        self._paint_detail(self.room.inspection)
        self.room.offer_keys()

    @on(Table.Opened)
    def _opened(self) -> None:
        self.room.action_command("server.open")

    def refuse_open(self) -> str:
        branch, inspection = self._branch(), self.room.inspection
        if branch is None or inspection is None:
            return "There is no timeline here."
        if branch.timeline not in inspection.timelines:
            return f"The archive has nothing of timeline {branch.timeline}."
        return ""

    def do_open(self) -> None:
        branch = self._branch()
        if branch is not None:
            self.room.turn_to(branch.timeline)
            self.room.open_tab("wal")

    def refuse_copy(self) -> str:
        branch = self._branch()
        return "" if branch and branch.reason else "No reason was recorded."

    def do_copy(self) -> None:
        branch = self._branch()
        if branch is not None:
            self.room.copy(branch.reason, f"the reason of timeline {branch.timeline}")


def _row(branch: Branch, strand: Strand | None, every: Sequence[Branch], glyphs: Glyphs) -> Row:
    name: Line = ((str(branch.timeline), "strong"),)
    if branch.depth:
        name = ((" " * (2 * branch.depth - 2) + glyphs.fork + glyphs.rule, "quiet"), *name)
    signs: list[tuple[str, str]] = []
    if branch.current:
        signs.append(("the server is on it", "good"))
    if branch.latest:
        signs.append(("latest", "good"))
    if branch.history in ("missing", "invalid"):
        signs.append((f"its history is {branch.history}", "bad"))
    said = tuple(part for sign in signs for part in (("  ", "text"), sign))[1:]
    left = strand.left if strand else None
    return Row(
        str(branch.timeline),
        (
            name,
            ((str(branch.begin) if branch.begin is not None else "", "text"),),
            ((day_and_time(left) if left else "", "quiet"),),
            ((f"{branch.count:,}", "text"),),
            ((f"{branch.lacking:,}" if branch.lacking else "", "bad"),),
            ((f"{len(branch.backups)}" if branch.backups else "", "text"),),
            said or ((plain(branch.reason), "quiet"),),
        ),
    )


def _about(branch: Branch, strand: Strand | None) -> list[Line]:
    lines: list[Line] = [((f"timeline {branch.timeline}", "strong"),), ()]
    facts: list[tuple[str, str, str]] = []
    if branch.parent is not None and branch.begin is not None:
        when = f", {exactly(strand.left)}" if strand and strand.left else ""
        facts.append(("left", f"timeline {branch.parent} at {branch.begin}{when}", "text"))
    if branch.reason:
        facts.append(("why", plain(branch.reason), "text"))
    history = {
        "none": ("the first one: it has no history file and needs none", "quiet"),
        "ok": ("its history file is in the archive", "text"),
        "missing": ("its history file is missing: recovery cannot follow it", "bad"),
        "invalid": ("its history file cannot be read: recovery cannot follow it", "bad"),
    }[branch.history]
    facts.append(("history", *history))
    if branch.first is not None:
        lacks = f"; {counted(branch.lacking, 'segment')} missing in between" if branch.lacking else ""
        facts.append(("wal", f"{branch.first} to {branch.last}{lacks}", "bad" if branch.lacking else "text"))
    if branch.backups:
        shown = list(branch.backups[:_SHOWN])
        more = [f"{len(branch.backups) - _SHOWN} more"] if len(branch.backups) > _SHOWN else []
        facts.append(("backups", plain(listed(shown + more)), "text"))
    for reach in strand.reaches if strand else ():
        ends = "a gap ends it" if reach.broken else "the end of the archive"
        facts.append(("restores", f"{exactly(reach.begin)} to {exactly(reach.end)}: {ends}", "text"))
    return lines + [((f"{label:<13}", "quiet"), (text, role)) for label, text, role in facts]
