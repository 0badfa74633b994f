"""Getting a moment back: from which backup, to when, to where, then the plan and a typed yes.

Everything that is said is reckoned by the engine in a thread of its own, again at each change; this screen only holds
what was chosen. The plan that is started is reckoned once more: when it is not the one that was shown, it is shown
again instead.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from textual import events, on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import ContentSwitcher, Input

from engine import permission, trail
from engine.actions import command_line
from engine.errors import CellarmanError, UsageError
from engine.recovery import choices, suggest
from engine.recovery.choices import Ready
from engine.recovery.plan import Moment, Order, Plan
from engine.recovery.planner import make_plan
from engine.recovery.spoken import UTC, parse_moment, zones
from engine.recovery.target import EndOfArchive, Target, TimeTarget
from tui import commands, crash, moments, wording
from tui.commands import Command
from tui.format import Line, calm_span, day_and_time, plain, size
from tui.reckoning import Reckoner
from tui.screens.restore_parts import (
    BASES,
    Offered,
    Page,
    Picked,
    Reckoned,
    absolute,
    beside_typing,
    key_of,
    space_place,
    what_is_made,
)
from tui.screens.room import Movable, Room
from tui.snapshot import Snapshot
from tui.widgets.axis import axis, closely, scale
from tui.widgets.frame import Rule
from tui.widgets.lines import Lines
from tui.widgets.pick import Pick
from tui.widgets.table import Column, Row, Table

if TYPE_CHECKING:
    from textual.types import CSSPathType

    from engine.config import Server
    from engine.repository.backupinfo import BackupInfo, Tablespace
    from engine.status import ServerStatus

STEPS = ("from", "when", "where", "confirm")
OWN, PICKED, AUTO = "own", "picked", "auto"
ACTIONS = tuple(moments.ENDINGS)
LOOK_AGAIN = 5.0
"""Seconds between two looks for drops and restore points that have been archived meanwhile."""


class RestoreRoom(Room):
    """The wizard of one restore."""

    ROOM = "restore"
    CSS_PATH: ClassVar[CSSPathType | None] = ["room.tcss", "restore.tcss"]
    BINDINGS = commands.bindings("restore")

    def __init__(self, server: str, target: datetime | None = None, backup: str = AUTO) -> None:
        super().__init__()
        self._server_name = server
        self._backup = backup
        self._step = 1
        self._zones = zones()
        self._zone = self._zones[0]
        self._inclusive = False
        self._timeline = "latest"
        self._text = f"{target:%Y-%m-%d %H:%M:%S.%f} {UTC}" if target is not None else ""
        self._ready: dict[str, Ready] = {}
        self._picked: Picked | None = None
        self._directory = ""
        self._on = ""
        """The other host, once its name is whole."""
        self._spaces: tuple[Tablespace, ...] = ()
        self._agreed: Target | None = None
        """The moment, from the third step on: what the list offers by then changes nothing."""
        self._asked: Order | None = None
        self._plan: Plan | None = None
        self._error: CellarmanError | None = None
        self._looking = self._begun = False
        self._version: tuple[int, ...] | None = None
        """Of the index that the offered moments were read from."""
        self._first_key = OWN if target is not None else "end"
        self._starting = False
        self._reckoner: Reckoner[Order, Plan] = Reckoner("restore plan", self._reckoned, self._tell)

    @property
    def _server(self) -> Server:
        return self.app.config.servers[self._server_name]

    def body(self) -> ComposeResult:
        yield Lines(id="steps")
        with ContentSwitcher(initial=STEPS[self._step], id="stage"):
            with Vertical(id="from"):
                yield Lines(id="from-said", classes="said", wrapped=True)
                yield Table(BASES, id="bases", glyphs=self.glyphs)
            with Vertical(id="when"):
                with Horizontal(classes="field"):
                    yield Lines((("a moment", "quiet"),), classes="label")
                    yield Input(
                        self._text,
                        placeholder=self._placeholder(),
                        compact=True,
                        max_length=120,
                        select_on_focus=False,
                        id="typed",
                    )
                yield Table(self._columns(), id="moments", glyphs=self.glyphs)
                yield Rule(self.glyphs.rule, id="parting")
                yield Lines(id="axis")
                yield Lines(id="verdict", wrapped=True)
            with Vertical(id="where"):
                yield Lines(id="where-said", classes="said", wrapped=True)
                with Horizontal(classes="field"):
                    yield Lines((("on host", "quiet"),), classes="label")
                    example = str(self._server.ssh or "postgres@db07")
                    yield Input(placeholder=f"this one; another is reached by SSH: {example}", compact=True, id="on")
                with Horizontal(classes="field"):
                    yield Lines((("directory", "quiet"),), classes="label")
                    yield Input(placeholder="a new or empty directory", compact=True, id="directory")
                yield Pick("if there", ("refuse", "change it"), id="delta")
                yield Pick("then", [word for word, _ in moments.ENDINGS.values()], id="ending")
                yield Pick("start it", ("yes", "no"), id="start")
                with Horizontal(classes="field"):
                    yield Lines((("port", "quiet"),), classes="label")
                    yield Input(placeholder="its own, or a free one", compact=True, max_length=5, id="port")
                yield Vertical(id="spaces")
                yield Lines(id="place", wrapped=True)
            with Vertical(id="confirm"):
                yield Page(id="page")

    def crumbs(self) -> Sequence[str]:
        return ["servers", plain(self._server_name), "restore"]

    @property
    def subject(self) -> str:
        return self._server_name

    def action_tab(self, number: int) -> None:
        """Begin to type a moment with a digit."""
        if self._step == 1:
            self._begin_typing(str(number))

    def action_tab_next(self, by: int) -> None:
        self.action_command("restore.previous") if by < 0 else self._next_field()

    def on_mount(self) -> None:
        self.query_one("#delta", Pick).display = False
        self._look(catch_up=False)
        self.set_interval(LOOK_AGAIN, self._look_again)

    def on_unmount(self) -> None:
        self._reckoner.stop()

    # What is chosen

    def moving(self) -> Movable | None:
        name = {0: "#bases", 1: "#moments", 3: "#page"}.get(self._step)
        return self.query_one(name) if name else None  # type: ignore[return-value]

    @property
    def _moments(self) -> Table:
        return self.query_one("#moments", Table)

    @property
    def _typing(self) -> bool:
        return isinstance(self.focused, Input)

    def _target(self) -> Target:
        """Return the chosen moment; raises UsageError for a text that means none."""
        if self._agreed is not None:
            return self._agreed
        key = self._moments.key or self._first_key
        if key in self._ready:
            return self._ready[key].target
        if key == PICKED and self._picked is not None:
            return self._picked.target
        if key != OWN:
            return EndOfArchive()
        if not self._text.strip():
            raise UsageError("no moment is typed yet", "", f"for example {self._placeholder()}")
        return parse_moment(self._text, zone=self._zone, now=self.app.now(), inclusive=self._inclusive)

    def _order(self) -> Order:
        """Return what is chosen as an order; raises UsageError for what cannot be one."""
        config = self.app.config
        typed = self.query_one("#directory", Input).value.strip() or self._directory
        on_host = self._on if self._step >= 2 else ""
        if on_host and not typed.startswith("/"):
            raise UsageError(f"not a directory on {on_host}: {typed!r}", "", "write its whole path, from / on")
        if not typed and self._step >= 2:
            raise UsageError("no directory is named", "", "name one that is empty, or is to be made")
        port = self.query_one("#port", Input).value.strip()
        if port and not (port.isdigit() and 1 <= int(port) <= 65535):
            raise UsageError(f"not a port: {port!r}", "", "a number from 1 to 65535, or nothing")
        start = self.query_one("#start", Pick).chosen == 0
        return Order(
            self._server_name,
            absolute(typed or f"/srv/{self._server_name}-restored"),
            self._backup,
            self._target(),
            self._timeline,
            ACTIONS[self.query_one("#ending", Pick).chosen],
            self._spaces_chosen() if self._step >= 2 else {},
            start,
            int(port) if port and start else None,
            os.path.abspath(config.files[0]) if len(config.files) == 1 else "",
            on=on_host,
            delta=bool(on_host) and self.query_one("#delta", Pick).chosen == 1,
        )

    def _spaces_chosen(self) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for space in self._spaces:
            field = self.query_one(f"#space-{space.oid}", Input)
            if field.value.strip():
                found[space.name] = absolute(field.value.strip())
        return found

    # What is reckoned

    def _reckoned(self, order: Order) -> Plan:
        return make_plan(self._server, order, now=self.app.now(), read_only=self._no_writing)

    @property
    def _no_writing(self) -> bool:
        return self.app.read_only or self.app.config.read_only

    def _tell(self, order: Order, found: Plan | Exception) -> None:
        self.post_message(Reckoned(order, found))

    def reckon(self) -> None:
        """Ask what the present choice means."""
        try:
            order = self._order()
        except CellarmanError as error:
            self._asked, self._plan, self._error = None, None, error
        else:
            if order != self._asked:
                self._plan = self._error = None
            self._asked = order
            self._reckoner.ask(order)
        self.repaint()

    @on(Reckoned)
    def _told(self, message: Reckoned) -> None:
        if message.order != self._asked:
            return
        self._error = None
        if isinstance(message.found, Plan):
            self._plan = message.found
            self._offer_spaces(message.found)
        elif isinstance(message.found, UsageError) and message.order.tablespaces and self._spaces:
            self._spaces = ()  # the plan is of another backup by now, whose tablespaces are asked for anew
            self.reckon()
        elif isinstance(message.found, CellarmanError):
            self._error = message.found
        elif isinstance(message.found, OSError):
            self._error = CellarmanError("the repository cannot be read", str(message.found), "press R to try again")
        else:
            report = crash.write_report(message.found, self.app.config.state_directory)
            what = "the plan could not be reckoned, by a defect of cellarman"
            self._error = CellarmanError(what, f"{type(message.found).__name__}; see {report}", "report it")
        self.repaint()

    def _look_again(self) -> None:
        if self._step == 1 and self.is_current:
            self._look(catch_up=True)

    def _look(self, *, catch_up: bool) -> None:
        if not self._looking:
            self._looking = True
            self._look_for(catch_up and not self._no_writing)

    @work(thread=True, exit_on_error=False, group="look")
    def _look_for(self, catch_up: bool) -> None:
        """Find the moments that are offered, and at first a directory."""
        trouble, directory, found = "", None, list(self._ready.values())
        try:
            if catch_up:
                choices.catch_up(self._server)
            version = choices.version(self._server)
            if version != self._version or not found:
                found, self._version = choices.ready(self._server), version
            if not self._directory:
                directory = suggest.directory(self._server, self._newest())
        except (CellarmanError, OSError) as error:
            trouble = str(error)
        self.post_message(Offered(found, directory, trouble))

    def _newest(self) -> BackupInfo | None:
        server = self.app.snapshot.server(self._server_name)
        return server.last_backup if server else None

    @on(Offered)
    def _found(self, message: Offered) -> None:
        first, self._begun = not self._begun, True
        before, self._looking = self._ready.get("end"), False
        if message.trouble:
            self.say(f"Drops and restore points may be missing: {message.trouble}", "soon")
        if message.ready or not message.trouble:
            self._ready = {key_of(ready): ready for ready in message.ready}
        if message.directory is not None or first:
            self._directory = message.directory or f"/srv/{self._server_name}-restored"
            self.query_one("#directory", Input).value = self._directory
        self._show_moments()
        if first:
            self._moments.point_at(self._first_key)
            self.reckon()
            self._look(catch_up=True)
        elif before != self._ready.get("end") and self._moments.key == "end" and self._step == 1:
            self.reckon()
        self.repaint()

    # What is shown

    def paint(self, snapshot: Snapshot) -> None:
        self.query_one("#steps", Lines).show([self._steps()])
        self._show_moments()
        getattr(self, f"_paint_{STEPS[self._step]}")(snapshot)

    def _steps(self) -> Line:
        spans: list[tuple[str, str]] = []
        for place, word in enumerate(("from", "to when", "to where", "confirm")):
            if place == self._step:
                spans.append((f"{self.glyphs.hand} {word}", "hand!"))
            elif place < self._step:
                spans.append((f"{self.glyphs.ok} {word}", "good"))
            else:
                spans.append((f"{self.glyphs.waiting} {word}", "faint"))
            spans.append(("    ", "text"))
        return (*spans, (plain(self._said_so_far()), "quiet"))

    def _said_so_far(self) -> str:
        if self._step < 2:
            return ""
        if self._plan is not None:
            return moments.target_words(self._plan.order.target)
        return ""

    def _paint_from(self, snapshot: Snapshot) -> None:
        lines: list[Line] = [
            (
                ("From which backup?", "strong"),
                ("  Left to itself, Cellarman takes the newest one that ended before the moment.", "quiet"),
            )
        ]
        self.query_one("#from-said", Lines).show(lines)
        server = snapshot.server(self._server_name)
        rows = [Row(AUTO, ((("choose for me", "strong"),), *[()] * 5))]
        for info in server.backups if server else ():
            if info.status == "DONE" and info.end_time is not None:
                age = calm_span((snapshot.minute - info.end_time).total_seconds())
                rows.append(
                    Row(
                        info.id,
                        (
                            ((info.id, "text"),),
                            ((wording.type_of(info), "quiet"),),
                            ((day_and_time(info.end_time), "text"),),
                            ((age, "quiet"),),
                            ((size(info.size) if info.size else "", "text"),),
                            ((plain(info.backup_name or ""), "hand"),),
                        ),
                    )
                )
        self.query_one("#bases", Table).show(rows)

    def _columns(self) -> tuple[Column, ...]:
        ago = Column("", align="right", yields=1, name="ago")
        return (
            Column("TO", limit=46),
            Column(f"TIME ({self._zone})", name="time"),
            ago,
            Column("", yields=2, name="id"),
        )

    def _show_moments(self) -> None:
        now = self.app.now()
        rows = [Row(OWN, ((("a moment that you type", "text"),), *self._own_cells()))]
        if self._picked is not None:
            when = moments.short(self._picked.at, self._zone, now) if self._picked.at else ""
            rows.append(Row(PICKED, (((self._picked.words, "strong"),), ((when, "text"),), (), ())))
        for key, ready in self._ready.items():
            when = moments.short(ready.at, self._zone, now) if ready.at else ""
            past = moments.ago(ready.at, now) if ready.at else ""
            which = f"transaction {ready.xid}" if ready.xid is not None else str(ready.lsn or "")
            role = "strong" if ready.kind == "drop" else "text"
            cells = (
                ((moments.ready_words(ready), role),),
                ((when, "text"),),
                ((past, "quiet"),),
                ((which, "quiet"),),
            )
            rows.append(Row(key, cells))
        self._moments.show(rows, self._columns())

    def _own_cells(self) -> tuple[Line, Line, Line]:
        text = plain(self._text)
        return (((text, "strong"),) if text else (("t types it", "quiet"),)), (), ()

    def _placeholder(self) -> str:
        return "13:40, 20 min ago, 0/5000028, xid 812, a restore point's name"

    def _paint_when(self, snapshot: Snapshot) -> None:
        server = snapshot.server(self._server_name)
        lines: list[Line] = []
        if server is not None and self.app.size.height >= 30 and server.windows:
            lines = self._axis(server, snapshot.minute)
        self.query_one("#axis", Lines).show(lines)
        self.query_one("#verdict", Lines).show(self._verdict())

    def _axis(self, server: ServerStatus, now: datetime) -> list[Line]:
        """Return the axis with the chosen moment on it, as far as its time is known."""
        stretches, marks, width = wording.stretches(server), wording.marks(server), self.app.size.width - 4
        at = self._at()
        if at is None:
            return axis(stretches, marks, now, width, self.glyphs, not server.open_end)
        seen = scale(stretches, marks, now, width)
        return closely(seen, at, now, stretches, marks, (), self.glyphs, not server.open_end)

    def _at(self) -> datetime | None:
        """Return when the chosen moment is, as far as that is known."""
        key = self._moments.key
        if key in self._ready:
            return self._ready[key].at
        if key == PICKED and self._picked is not None:
            return self._picked.at
        return self._asked.target.at if self._asked and isinstance(self._asked.target, TimeTarget) else None

    def _meaning(self) -> Line:
        """Return what the chosen moment is, above whether it can be reached."""
        try:
            target = self._target()
        except CellarmanError:
            return ()
        said = moments.target_words(target)
        at = getattr(target, "at", None)
        if isinstance(at, datetime):
            here = "" if self._zone == UTC else f" = {moments.clock(at, self._zone)}"
            said = f"{said}{here}, {moments.ago(at, self.app.now())}"
        on_line = "" if self._timeline == "latest" else f", on timeline {self._timeline}"
        from_this = "" if self._backup == AUTO else f", from backup {self._backup}"
        return (f"{'to':<10}", "quiet"), (f"{said}{on_line}{from_this}", "strong")

    def _verdict(self) -> list[Line]:
        meaning = self._meaning()
        lead = [meaning] if meaning else []
        if self._error is not None:
            return [*lead, *moments.error_lines(self._error, self.glyphs)]
        if self._plan is None:
            waits = "reckoning whether it can be reached" + ("" if self._ready else "; reading the WAL archive")
            return [*lead, ((f"{self.glyphs.running} {waits}", "moving"),)]
        return [*lead, *moments.verdict(self._plan, self._zone, self.app.now(), self.glyphs)]

    def _paint_where(self, snapshot: Snapshot) -> None:
        said: list[Line] = [
            (
                ("Where should the restored copy go?", "strong"),
                (f"  {plain(self._server_name)} itself is not touched.", "quiet"),
            )
        ]
        self.query_one("#where-said", Lines).show(said)
        if self._error is not None:
            lines = moments.error_lines(self._error, self.glyphs)
        elif self._plan is None:
            where = f" on {plain(self._on)}" if self._on else ""
            lines = [((f"{self.glyphs.running} looking at the directory{where}", "moving"),)]
        elif not self._plan.reachable:
            lines = moments.verdict(self._plan, self._zone, self.app.now(), self.glyphs)
        else:
            lines = moments.place(self._plan, self.glyphs)
            about = moments.took(self._plan, snapshot.jobs)
            lines += moments.facts([("takes", f"{about}; then it replays", "text")]) if about else []
            lines.append(())
            meaning = moments.ENDINGS[self._plan.order.action][1]
            if isinstance(self._plan.order.target, EndOfArchive):
                meaning = "it replays all there is and opens for writing, on a timeline of its own"
            lines += moments.facts([("then", meaning, "quiet")])
        self.query_one("#place", Lines).show(lines)

    def _paint_confirm(self, snapshot: Snapshot) -> None:
        told = self.query_one("#told", Lines)
        if self._error is not None:
            told.show(moments.error_lines(self._error, self.glyphs))
            return
        if self._plan is None:
            told.show([((f"{self.glyphs.running} reckoning once more", "moving"),)])
            return
        plan = self._plan
        about = moments.took(plan, snapshot.jobs)
        lines: list[Line] = [moments.doing(plan, trail.account()), (), *moments.steps(plan), ()]
        if plan.refusals or not plan.reachable:
            lines = [*moments.place(plan, self.glyphs)] if plan.reachable else self._verdict()
        else:
            lines += moments.facts([("copying", about, "text")]) if about else []
            lines += [
                (("Nothing of the server is touched. To undo: stop the copy, remove its directory.", "text"),),
                (),
            ]
            lines += [*moments.warnings(plan, self.glyphs), ()] if plan.warnings else []
            lines += [tuple(moments.order_words(plan.order))]
        told.show(lines)

    # Keys

    def _go_to(self, step: int) -> None:
        self._agreed = self._agreed if step >= 2 else None
        self._step = step
        self.query_one("#stage", ContentSwitcher).current = STEPS[step]
        self.set_focus(self.query_one("#directory", Input) if step == 2 else None)
        self.reckon()

    def refuse_next(self) -> str:
        if self._starting:
            return "It is being started."
        if self._step == 0:
            return ""
        if self._error is not None:
            return f"{self._error.what}."
        if self._plan is None:
            return "It is being reckoned still."
        if not self._plan.reachable:
            return "This moment cannot be reached."
        if self._step >= 2 and self._plan.refused is not None:
            return f"{self._plan.refused.what}."
        return self._forbidden() if self._step == 3 else ""

    def _forbidden(self) -> str:
        replaces = self._plan is not None and self._plan.order.delta
        action: permission.Action = "replace" if replaces else "restore"
        protected = self._server.protected
        refused = permission.refusal(action, self._server_name, read_only=self._no_writing, protected=protected)
        return f"{refused.what} ({refused.why}); the plan can be saved." if refused else ""

    def do_next(self) -> None:
        if self._step == 0:
            self._backup = self.query_one("#bases", Table).key or AUTO
            self._go_to(1)
        elif self._step < 3:
            if self._step == 1 and self._plan is not None:
                self._agreed = self._plan.order.target
            self._go_to(self._step + 1)
        else:
            self._ask()

    def refuse_previous(self) -> str:
        return "" if self._step else "This is the first step."

    def do_previous(self) -> None:
        self._go_to(self._step - 1)

    def do_back(self) -> None:
        if self._typing and self._step == 1:
            self.set_focus(None)
            self.offer_keys()
        elif self._step >= 2:
            self.do_previous()
        else:
            super().do_back()

    def refuse_type(self) -> str:
        return "" if self._step == 1 else "A moment is typed on the second step."

    def do_type(self) -> None:
        self._moments.point_at(OWN)
        self.query_one("#typed", Input).focus()

    def _begin_typing(self, text: str) -> None:
        self.do_type()
        field = self.query_one("#typed", Input)
        field.value = text
        field.cursor_position = len(text)

    def _next_field(self) -> None:
        if self._step == 2:
            self.focus_next()
        elif self._step == 1 and self._typing:
            self.set_focus(None)
        elif self._step == 1:
            self.do_type()

    def refuse_zone(self) -> str:
        if self._step != 1:
            return "Zones matter on the second step."
        if len(self._zones) == 1:
            return "This host's clock is in UTC; another zone is written behind the time: 13:40 Europe/Paris."
        return ""

    def do_zone(self) -> None:
        self._zone = self._zones[(self._zones.index(self._zone) + 1) % len(self._zones)]
        self.say(f"Times are shown, and read where they name no zone, in {self._zone}.")
        self.reckon()

    def refuse_stop(self) -> str:
        if self._step != 1 or self._moments.key != OWN:
            return "Before or with it is chosen for a moment that is typed."
        return ""

    def do_stop(self) -> None:
        self._inclusive = not self._inclusive
        self.say("It stops after what happened at that moment." if self._inclusive else "It stops just before it.")
        self.reckon()

    def _timelines(self) -> list[str]:
        server = self.app.snapshot.server(self._server_name)
        known = {str(info.timeline) for info in server.backups if info.timeline} if server else set()
        if self._plan is not None and self._plan.timeline:
            known |= {str(number) for number in range(1, self._plan.timeline + 1)}
        return ["latest", "current", *sorted(known, key=int)]

    def refuse_timeline(self) -> str:
        if self._step != 1:
            return "The timeline is chosen on the second step."
        return "" if len(self._timelines()) > 3 else "There is one timeline only."

    def do_timeline(self) -> None:
        known = self._timelines()
        here = known.index(self._timeline) if self._timeline in known else 0
        self._timeline = known[(here + 1) % len(known)]
        meaning = {"latest": "the newest timeline", "current": "the backup's own timeline"}
        self.say(f"It follows {meaning.get(self._timeline, 'timeline ' + self._timeline)}.")
        self.reckon()

    def refuse_commits(self) -> str:
        return "" if self._step == 1 and self._plan is not None else "There is no moment to look around yet."

    def do_commits(self) -> None:
        from tui.screens.commits import Commits

        if self._plan is not None:
            self.app.push_screen(Commits(self._plan, self._zone, self.pick))

    def pick(self, target: Target, words: str, at: datetime | None = None) -> None:
        """Take a moment that was picked elsewhere."""
        self._picked = Picked(target, words, at)
        self._show_moments()
        self._moments.point_at(PICKED)
        self.set_focus(None)
        self.reckon()

    def _nearest(self) -> Moment | None:
        plan = self._plan
        return None if plan is None or plan.reachable else plan.before or plan.after

    def refuse_nearest(self) -> str:
        return "" if self._step == 1 and self._nearest() is not None else "The moment can be reached, or none is near."

    def do_nearest(self) -> None:
        near = self._nearest()
        if near is None:
            return
        if near.backup:
            self._backup = near.backup
        self.pick(near.target, "the nearest moment that can be reached", near.at)

    def refuse_auto(self) -> str:
        return "" if self._step == 1 and self._backup != AUTO else "The backup is chosen by Cellarman already."

    def do_auto(self) -> None:
        self._backup = AUTO
        self.say("Cellarman takes the newest backup that ended before the moment.")
        self.reckon()

    def refuse_newest(self) -> str:
        if self._step != 1:
            return "That is for the second step."
        return "" if self._server.conninfo else "The configuration does not say how to ask this server (conninfo)."

    def do_newest(self) -> None:
        from tui.acting import act

        self.say("Asking the server to hand over its latest WAL.", "moving")
        self.app.note_ran(command_line(self.app.config, "wal", "switch", self._server_name))
        act(self.app, lambda actions: actions.hand_over(self._server_name), then=lambda: self._look(catch_up=True))

    def refuse_save(self) -> str:
        if self._plan is None or not self._plan.reachable:
            return "There is no plan to save yet."
        return "" if self._step >= 2 else "A plan is saved once it says where to."

    def do_save(self) -> None:
        from tui.screens.save_plan import SavePlan

        if self._plan is not None:
            self.app.push_screen(SavePlan(self._plan, self.app.now(), self._saved))

    def _saved(self, path: str) -> None:
        self.say(f"Saved. Run it with: cellarman restore --plan-file {shlex.quote(path)}")

    def refuse_copy(self) -> str:
        return "" if self._step == 3 and self._plan is not None else "There is no command line to copy yet."

    def do_copy(self) -> None:
        if self._plan is not None:
            self.copy(self._plan.order.command(), "the command line")

    def word(self, command: Command) -> str:
        if command.id == "restore.next" and self._step == 3:
            return "restore..." if self.app.glyphs.ellipsis != "…" else "restore…"
        if command.id == "restore.stop":
            return "just before it" if self._inclusive else "with it"
        return super().word(command)

    def offer_keys(self) -> None:
        """While a field takes the letters, show the keys that work all the same."""
        from tui.widgets.frame import Keys

        if not self._typing and not isinstance(self.focused, Pick):
            super().offer_keys()
            return
        offered = [
            (replace(command, shown=shown), self.word(command))
            for command in commands.of(self.ROOM)
            if (command.footer or command.id == "every.escape")
            and (shown := beside_typing(command))
            and not self.refusal(command)
        ]
        self.query_one("#keys", Keys).offer(offered, self.glyphs)

    # What is pressed and typed

    def action_move(self, verb: str) -> None:
        if self._step == 2:
            if verb in ("up", "down"):
                self.focus_previous() if verb == "up" else self.focus_next()
            return
        if self._typing:
            self.set_focus(None)
        super().action_move(verb)

    def on_key(self, event: events.Key) -> None:
        if self._step == 1 and not self._typing and event.character == "0":
            self._begin_typing("0")
            event.stop()

    def on_descendant_focus(self) -> None:
        self.offer_keys()

    def on_descendant_blur(self) -> None:
        self.offer_keys()

    @on(Input.Changed, "#typed")
    def _typed(self, event: Input.Changed) -> None:
        if event.value != self._text:
            self._text = event.value
            self._show_moments()
            self._moments.point_at(OWN)
            self.reckon()

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        if event.input.id == "directory" and self._step == 2:
            self._move_spaces(self._directory, event.value.strip())
            self._directory = event.value.strip()
        if event.input.id not in ("typed", "on") and self._step == 2:
            self.reckon()

    @on(Input.Blurred, "#on")
    def _host_named(self) -> None:
        """Take a host's name once it is whole: each try of half a name would be a connection."""
        named = self.query_one("#on", Input).value.strip()
        if named != self._on:
            self._on = named
            self.query_one("#delta", Pick).display = bool(named)
            self.reckon()

    @on(Pick.Changed)
    def _turned(self) -> None:
        if self._step == 2:
            self.reckon()

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        if event.input.id == "on" and event.value.strip() != self._on:
            self._host_named()
            return
        self.action_command("restore.next")

    @on(Table.Moved)
    def _moved(self, event: Table.Moved) -> None:
        if event.table.id == "moments" and self._step == 1:
            self.reckon()

    @on(Table.Opened)
    def _opened(self, event: Table.Opened) -> None:
        self.action_command("restore.next")

    # Tablespaces

    def _offer_spaces(self, plan: Plan) -> None:
        """Have a field for each tablespace of the plan's backup."""
        if plan.info is None:
            return
        spaces = tuple(space for space in plan.info.tablespaces if os.path.isabs(space.location))
        if spaces == self._spaces:
            return
        self._spaces = ()
        self._mount_spaces(spaces)

    @work(exclusive=True, group="spaces")
    async def _mount_spaces(self, spaces: tuple[Tablespace, ...]) -> None:
        holder = self.query_one("#spaces", Vertical)
        await holder.remove_children()
        base = self.query_one("#directory", Input).value.strip() or self._directory
        rows = [
            Horizontal(
                Lines(((f"tablespace {plain(space.name)}"[:13], "quiet"),), classes="label"),
                Input(space_place(base, space), compact=True, id=f"space-{space.oid}"),
                classes="field",
            )
            for space in spaces
        ]
        await holder.mount_all(rows)
        self._spaces = spaces
        self.reckon()

    def _move_spaces(self, before: str, now: str) -> None:
        """Let the tablespaces' places follow the directory, those that nobody has changed."""
        for space in self._spaces:
            field = self.query_one(f"#space-{space.oid}", Input)
            if field.value == space_place(before, space):
                with self.prevent(Input.Changed):
                    field.value = space_place(now, space)

    # Doing it

    def _ask(self) -> None:
        from tui.screens.typed import Typed

        plan = self._plan
        if plan is None:
            return
        says: list[Line] = [
            ((f"Restore {plain(self._server_name)} to {moments.target_words(plan.order.target)}?", "strong"),),
            (),
            what_is_made(plan),
            ((f"{plain(self._server_name)} itself is not touched.", "text"),),
        ]
        self.app.push_screen(Typed(says, self._server_name, "the server's name", "restore", lambda: self._start(plan)))

    @work(thread=True, exclusive=True, exit_on_error=False, group="start")
    def _start(self, shown: Plan) -> None:
        """Reckon the plan once more, and start it when it is still what was shown."""
        from engine.job import launch, spec
        from engine.recovery.difference import differences

        self._starting = True
        config, app = self.app.config, self.app
        try:
            plan = make_plan(self._server, shown.order, now=app.now(), read_only=self._no_writing)
            changed = differences(shown, plan)
            if changed or plan.info is None:
                app.call_from_thread(self._has_changed, plan, changed)
                return
            agreed = {"backup": plan.info.id, "timeline": plan.timeline}
            arguments: dict[str, Any] = {**plan.order.to_arguments(), "planned": agreed}
            order = spec.make(config, "restore", self._server_name, **arguments)
            job = launch.launch(
                config,
                order,
                read_only=app.read_only,
                via="console",
                say=lambda text: app.call_from_thread(app.say, text),
            )
        except CellarmanError as error:
            app.call_from_thread(app.problem, error)
            return
        finally:
            self._starting = False
        app.lookout.look_at(job)
        app.call_from_thread(self._started, job, plan.order.command())

    def _has_changed(self, plan: Plan, changed: Sequence[str]) -> None:
        self._asked, self._plan, self._error = plan.order, plan, None
        self.repaint()
        self.app.problem(
            CellarmanError(
                "the plan has changed since it was shown, and nothing was started",
                "\n".join(changed),
                "look at the new plan, and confirm it if it is right",
            )
        )

    def _started(self, job: str, line: str) -> None:
        self.app.note_ran(line)
        if self.is_current:
            self.app.pop_screen()
        self.app.open_job(job)
