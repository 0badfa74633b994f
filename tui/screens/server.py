"""One server, on six tabs: how it stands and to which moment it can be restored, backups, WAL, timelines, jobs,
configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult

from engine.repository.backupinfo import BackupInfo
from engine.status import ServerStatus
from tui import commands
from tui.commands import Command
from tui.format import listed, plain
from tui.glyphs import ASCII
from tui.inspection import Answered, BeatsAsked, Inspected, Inspection, MomentAsked, RowsAsked
from tui.screens.prompting import Movable
from tui.screens.room import Room
from tui.screens.server_backups import Backups
from tui.screens.server_config import Settings
from tui.screens.server_jobs import ServerJobs
from tui.screens.server_overview import Overview
from tui.screens.server_pane import Pane
from tui.screens.server_timelines import Timelines
from tui.screens.wal import Wal
from tui.snapshot import Snapshot
from tui.widgets.lines import Lines
from tui.widgets.tabs import Tabs

if TYPE_CHECKING:
    from textual.types import CSSPathType

PANES: tuple[type[Pane], ...] = (Overview, Backups, Wal, Timelines, ServerJobs, Settings)


def _passed_on(verb: str) -> tuple[Callable[[ServerRoom], None], Callable[[ServerRoom], str]]:
    """Return do_<verb> and refuse_<verb> that leave it to the open tab."""

    def do(room: ServerRoom) -> None:
        getattr(room.pane, f"do_{verb}")()

    def refuse(room: ServerRoom) -> str:
        if not hasattr(room.pane, f"do_{verb}"):
            homes = [f"{pane.NAME} ({n})" for n, pane in enumerate(PANES, 1) if hasattr(pane, f"do_{verb}")]
            return f"That is for the tab{'s' if len(homes) > 1 else ''} {listed(homes)}."
        return str(getattr(room.pane, f"refuse_{verb}", lambda: "")())

    return do, refuse


class ServerRoom(Room):
    """One server."""

    ROOM = "server"
    TABS = tuple(pane.NAME for pane in PANES)
    CSS_PATH: ClassVar[CSSPathType | None] = ["room.tcss", "server.tcss"]
    BINDINGS = commands.bindings("server")

    def __init__(self, server: str, tab: str = "overview") -> None:
        super().__init__()
        self._server_name = server
        self.tab = tab
        self.timeline = 0
        """The one whose chart is wanted; 0 is the one that matters."""
        self.inspection: Inspection | None = None
        self._mark: object = None

    def body(self) -> ComposeResult:
        yield Tabs(self.TABS, id="tabs")
        yield Lines(id="gone")
        for pane in PANES:
            yield pane()

    def crumbs(self) -> Sequence[str]:
        return ["servers", plain(self._server_name), self.tab]

    @property
    def subject(self) -> str:
        return self._server_name

    @property
    def address(self) -> str:
        return f"{self.tab} {self._server_name}"

    @property
    def pane(self) -> Pane:
        """The open tab."""
        return self.query_one(f"#tab-{self.tab}", Pane)

    @property
    def server(self) -> ServerStatus | None:
        return self.app.snapshot.server(self._server_name)

    def moving(self) -> Movable | None:
        return self.pane.moving()

    def paint(self, snapshot: Snapshot) -> None:
        self.query_one("#tabs", Tabs).mark(self.tab)
        server = snapshot.server(self._server_name)
        if server is None:
            gone = "This server is no longer in the configuration." if snapshot.looked else "Reading the disk."
            self.query_one("#gone", Lines).show([((f"  {gone}", "quiet"),)])
            return
        self.query_one("#gone", Lines).show([])
        self._inspect(server)
        self.pane.paint(snapshot, server)

    def _inspect(self, server: ServerStatus) -> None:
        """Have the WAL looked at when the disk says that something is new."""
        mark = (server.wal, server.gaps, len(server.backups), self.timeline)
        if mark == self._mark:
            return
        self._mark = mark
        known = self.app.inspector.look(self._server_name, self.timeline, mark[:3], self)
        if known is not None and self.inspection is None:
            self._take(known)

    def _take(self, inspection: Inspection) -> None:
        self.inspection = inspection
        for pane in self.query(Pane):
            pane.inspected(inspection)

    @on(Inspected)
    def _inspected(self, event: Inspected) -> None:
        if event.inspection.server == self._server_name:
            self._take(event.inspection)
            self.repaint()

    @on(Answered)
    def _answered(self, event: Answered) -> None:
        for pane in self.query(Pane):
            pane.answered(event)

    def ask(self, question: MomentAsked | BeatsAsked | RowsAsked) -> None:
        """Have something looked up; the panes are told."""
        self.app.inspector.ask(question, self)

    def turn_to(self, timeline: int) -> None:
        """Have another timeline charted."""
        self.timeline = timeline
        self.repaint()

    @on(Tabs.Chosen)
    def _chosen_tab(self, event: Tabs.Chosen) -> None:
        self.open_tab(event.name)

    def word(self, command: Command) -> str:
        word = self.pane.WORDS.get(command.verb, "") if command.room == self.ROOM else ""
        return word.replace("…", "...") if word and self.glyphs is ASCII else word or super().word(command)

    def changed(self, said: str) -> None:
        """Look again at what was changed from here, and say how it went."""
        self._look_anew()
        self.app.say(said, "text")

    def _look_anew(self) -> None:
        self.app.inspector.forget()
        self._mark = None
        self.app.lookout.wake()
        self.repaint()

    def do_refresh(self) -> None:
        self._look_anew()
        super().do_refresh()

    def do_jobs(self) -> None:
        self.open_tab("jobs")

    def refuse_jobs(self) -> str:
        return "They are on screen." if self.tab == "jobs" else ""

    def do_wal(self) -> None:
        self.open_tab("wal")

    def refuse_wal(self) -> str:
        return "It is on screen." if self.tab == "wal" else ""

    def do_restore(self) -> None:
        info = self.backup
        if info is not None and info.usable:
            self.app.open_restore(self._server_name, None, info.id)
        else:
            super().do_restore()

    def restore_to(self, target: datetime) -> None:
        """Open the restore wizard at a moment."""
        self.app.open_restore(self._server_name, target)

    def refuse_fetch(self) -> str:
        found = self.inspection
        lacking = found is not None and any(f.breaks for f in found.findings)
        return self._under_way("fetch") if lacking else super().refuse_fetch()

    @property
    def backup(self) -> BackupInfo | None:
        """The backup under the cursor of the tab with the backups, while that is open."""
        pane = self.pane
        return pane.chosen if isinstance(pane, Backups) else None

    def choose(self, backup: str) -> bool:
        """Put the cursor on a backup of the tab with the backups: an id, a name, latest or oldest; tell if there is
        one."""
        usable = [info for info in (self.server.backups if self.server else ()) if info.usable]
        known = {info.backup_name: info.id for info in reversed(usable) if info.backup_name}
        known |= {info.id: info.id for info in (self.server.backups if self.server else ())}
        known |= {"latest": usable[0].id, "oldest": usable[-1].id} if usable else {}
        if backup in known:
            self.query_one(Backups).table.point_at(known[backup])
        return backup in known

    do_open, refuse_open = _passed_on("open")
    do_copy, refuse_copy = _passed_on("copy")
    do_verify, refuse_verify = _passed_on("verify")
    do_left, refuse_left = _passed_on("left")
    do_right, refuse_right = _passed_on("right")
    do_closer, refuse_closer = _passed_on("closer")
    do_wider, refuse_wider = _passed_on("wider")
    do_form, refuse_form = _passed_on("form")
    do_next, refuse_next = _passed_on("next")
    do_previous, refuse_previous = _passed_on("previous")
    do_turn, refuse_turn = _passed_on("turn")
    do_accept, refuse_accept = _passed_on("accept")
