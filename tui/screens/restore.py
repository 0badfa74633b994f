"""Getting a moment back: from which backup, to when, to where, then the plan and a typed yes.

Everything that is said is reckoned by the engine in a thread of its own, again at each change; this screen only holds
what was chosen. The plan that is started is reckoned once more: when it is not the one that was shown, it is shown
again instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import ContentSwitcher, Input

from engine.actions import command_line
from engine.recovery.target import Target
from tui import commands, moments
from tui.commands import Command
from tui.format import plain
from tui.screens.prompting import Movable
from tui.screens.restore_chosen import AUTO, LOOK_AGAIN, OWN, PICKED, STEPS
from tui.screens.restore_parts import BASES, Picked, beside_typing
from tui.screens.restore_start import Start
from tui.widgets.frame import Rule
from tui.widgets.lines import Lines
from tui.widgets.page import Page
from tui.widgets.pick import Pick
from tui.widgets.table import Table

if TYPE_CHECKING:
    from textual.types import CSSPathType


class RestoreRoom(Start):
    """The wizard of one restore."""

    ROOM = "restore"
    CSS_PATH: ClassVar[CSSPathType | None] = ["room.tcss", "restore.tcss"]
    BINDINGS = commands.bindings("restore")

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
            with Vertical(id="confirm"), Page(id="page"):
                yield Lines(id="told", wrapped=True)

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

    def moving(self) -> Movable | None:
        name = {0: "#bases", 1: "#moments", 3: "#page"}.get(self._step)
        return self.query_one(name) if name else None  # type: ignore[return-value]

    def _go_to(self, step: int) -> None:
        self._agreed = self._agreed if step >= 2 else None
        forward = step > self._step
        self._step = step
        self.query_one("#stage", ContentSwitcher).current = STEPS[step]
        # On the way back no field takes the letters, so that the key that goes back goes on doing it.
        self.set_focus(self.query_one("#directory", Input) if step == 2 and forward else None)
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
        self.say(f"Saved. Run it with: {command_line(self.app.config, 'restore', '--plan-file', path)}")

    def refuse_copy(self) -> str:
        return "" if self._step == 3 and self._plan is not None else "There is no command line to copy yet."

    def do_copy(self) -> None:
        if self._plan is not None:
            self.copy(self._plan.order.command().line(self.app.config.named), "the command line")

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
