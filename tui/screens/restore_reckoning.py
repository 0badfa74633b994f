"""What the engine says of a choice: the plan or why there is none, the moments that are offered, the tablespaces."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime
from typing import TYPE_CHECKING

from textual import on, work
from textual.containers import Horizontal, Vertical
from textual.widgets import Input

from engine.errors import CellarmanError, UsageError
from engine.recovery import choices, suggest
from engine.recovery.plan import Order, Plan
from engine.recovery.planner import PROVING_QUICKLY, make_plan
from tui import crash
from tui.format import plain
from tui.reckoning import Reckoner
from tui.screens.restore_chosen import AUTO, Chosen
from tui.screens.restore_parts import Offered, Reckoned, key_of, space_place
from tui.widgets.lines import Lines

if TYPE_CHECKING:
    from engine.repository.backupinfo import BackupInfo, Tablespace


class Reckoning(Chosen):
    """The restore with what is known of it. Everything is reckoned in threads of its own, again at each change."""

    def __init__(self, server: str, target: datetime | None = None, backup: str = AUTO) -> None:
        super().__init__(server, target, backup)
        self._reckoner: Reckoner[Order, Plan] = Reckoner("restore plan", self._reckoned, self._tell)

    def _show_moments(self) -> None:
        """Show the moments that are offered."""
        raise NotImplementedError

    def _reckoned(self, order: Order) -> Plan:
        return make_plan(
            self._server,
            order,
            now=self.app.now(),
            read_only=self._no_writing,
            proving=PROVING_QUICKLY,
            state_directory=self.app.config.state_directory,
        )

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
        await asyncio.shield(holder.remove_children())  # given up in the middle, it would take the fields' tasks along
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
