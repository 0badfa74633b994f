"""What is chosen on the restore wizard's steps, and the order that it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from textual.widgets import Input

from engine.errors import CellarmanError, UsageError
from engine.recovery.choices import Ready
from engine.recovery.plan import Moment, Order, Plan
from engine.recovery.spoken import UTC, parse_moment, zones
from engine.recovery.target import EndOfArchive, Target, TimeTarget
from tui import moments
from tui.screens.restore_parts import Picked, absolute
from tui.screens.room import Room
from tui.widgets.pick import Pick
from tui.widgets.table import Table

if TYPE_CHECKING:
    from engine.config import Server
    from engine.repository.backupinfo import Tablespace

STEPS = ("from", "when", "where", "confirm")
OWN, PICKED, AUTO = "own", "picked", "auto"
ACTIONS = tuple(moments.ENDINGS)
LOOK_AGAIN = 5.0
"""Seconds between two looks for drops and restore points that have been archived meanwhile."""


class Chosen(Room):
    """The choices of one restore."""

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

    @property
    def _server(self) -> Server:
        return self.app.config.servers[self._server_name]

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
            config.alone,
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

    @property
    def _no_writing(self) -> bool:
        return self.app.read_only or self.app.config.read_only

    def _placeholder(self) -> str:
        return "13:40, 20 min ago, 0/5000028, xid 812, a restore point's name"

    def _at(self) -> datetime | None:
        """Return when the chosen moment is, as far as that is known."""
        key = self._moments.key
        if key in self._ready:
            return self._ready[key].at
        if key == PICKED and self._picked is not None:
            return self._picked.at
        return self._asked.target.at if self._asked and isinstance(self._asked.target, TimeTarget) else None

    def _timelines(self) -> list[str]:
        server = self.app.snapshot.server(self._server_name)
        known = {str(info.timeline) for info in server.backups if info.timeline} if server else set()
        if self._plan is not None and self._plan.timeline:
            known |= {str(number) for number in range(1, self._plan.timeline + 1)}
        return ["latest", "current", *sorted(known, key=int)]

    def _nearest(self) -> Moment | None:
        plan = self._plan
        return None if plan is None or plan.reachable else plan.before or plan.after
