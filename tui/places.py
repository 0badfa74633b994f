"""Going somewhere: what the `:` line says, what `[` and `]` remember, and the room that each place opens."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from textual.app import App
from textual.screen import Screen

if TYPE_CHECKING:
    from engine.config import Config
    from tui.commands import Command, Place
    from tui.screens.room import Room
    from tui.snapshot import Snapshot


class Places(App[None]):
    """The part of the console that opens rooms."""

    config: Config
    snapshot: Snapshot
    read_only: bool

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._trail: list[str] = []
        self._trail_at = -1
        self._home_at = 0
        """Which screen of the stack is home."""

    def say(self, text: str, role: str = "soon") -> None:
        """Say something in the room that is open."""
        raise NotImplementedError

    @property
    def home(self) -> Screen[Any]:
        """The first screen."""
        return self.screen_stack[self._home_at]

    def been_at(self, address: str) -> None:
        """Remember a place for `[` and `]`."""
        if address and (self._trail_at < 0 or self._trail[self._trail_at] != address):
            del self._trail[self._trail_at + 1 :]
            self._trail.append(address)
            self._trail_at = len(self._trail) - 1

    def can_go(self, by: int) -> bool:
        """Tell whether there is a place that many steps along."""
        return 0 <= self._trail_at + by < len(self._trail)

    def go_along(self, by: int) -> None:
        """Go to the place that many steps along the way that was come."""
        self._trail_at += by
        self.obey(self._trail[self._trail_at])

    def obey(self, line: str) -> None:
        """Do what a `:` line says, or say why not."""
        from tui import commandline
        from tui.screens.room import Room

        room = next((s for s in reversed(self.screen_stack) if isinstance(s, Room)), None)
        order = commandline.parse(line, room.ROOM if room else "servers")
        if isinstance(order, str):
            self.say(order)
        elif order.place is not None:
            self._open(order.place, order.about, order.kept)
        elif order.command is not None and room is not None:
            self._command(room, order.command, order.about)

    def _command(self, room: Room, command: Command, about: str) -> None:
        """Run a command here, or in the server's own room when it is about another server, or about a backup."""
        server, _, backup = about.partition(" ")
        if about and server not in self.config.servers:
            if command.takes != "backup" or " " in about:
                self.say(f"There is no server {server}.")
                return
            server, backup = room.subject, about
        server = server or room.subject
        here = server == room.subject and not backup and command.room in (room.ROOM, "every")
        if here and not (command.takes == "backup" and room.backup is None):
            room.action_command(command.id)
        elif not server:
            self.say(f":{command.verb} needs a server.")
        else:
            self.open_server(server, "backups" if command.takes == "backup" else "")
            self.call_after_refresh(lambda: self._in_its_room(command, backup.strip()))

    def _in_its_room(self, command: Command, backup: str) -> None:
        """Run a command in the server's room that has just been opened, about a backup when one is named."""
        from tui.screens.server import ServerRoom

        room = self.screen
        if not isinstance(room, ServerRoom):
            return
        if backup and not room.choose(backup):
            self.say(f"{room.subject} has no backup {backup}.")
        else:
            room.action_command(f"server.{command.verb}")

    def _open(self, place: Place, about: str, kept: str) -> None:
        from tui.screens.room import Room

        if place.takes == "server" and not about and not place.optional:
            room = next((s for s in reversed(self.screen_stack) if isinstance(s, Room) and s.subject), None)
            about = room.subject if room else ""
        if place.takes == "server" and (about or not place.optional) and about not in self.config.servers:
            self.say(f"There is no server {about}." if about else f":{place.word} needs a server.")
            return
        argument = [about] if place.takes else []
        getattr(self, f"open_{place.word}")(*argument)
        if kept and isinstance(self.screen, Room):
            self.screen.call_after_refresh(self.screen.keep_only, kept)

    def _back_to(self, address: str) -> bool:
        """Close screens until the room with this address is open; tell whether there is one."""
        from tui.screens.room import Room

        if not any(isinstance(screen, Room) and screen.address == address for screen in self.screen_stack):
            return False
        while not (isinstance(self.screen, Room) and self.screen.address == address):
            self.pop_screen()
        return True

    def open_servers(self) -> None:
        """Show all servers."""
        while self.screen is not self.home:
            self.pop_screen()

    def open_server(self, server: str, tab: str = "") -> None:
        """Show a server, one of its tabs."""
        from tui.screens.server import ServerRoom

        open_rooms = [s for s in self.screen_stack if isinstance(s, ServerRoom) and s.subject == server]
        if open_rooms:
            while self.screen is not open_rooms[-1]:
                self.pop_screen()
            room = open_rooms[-1]
        else:
            room = ServerRoom(server, tab or ServerRoom.TABS[0])
            self.push_screen(room)
        if tab and tab != room.tab:
            room.open_tab(tab)

    def open_overview(self, server: str) -> None:
        """Show how a server stands."""
        self.open_server(server, "overview")

    def open_backups(self, server: str) -> None:
        """Show a server's backups."""
        self.open_server(server, "backups")

    def open_wal(self, server: str) -> None:
        """Show a server's WAL archive."""
        self.open_server(server, "wal")

    def open_timeline(self, server: str) -> None:
        """Show a server's timelines."""
        self.open_server(server, "timeline")

    def open_config(self, server: str) -> None:
        """Show a server's settings."""
        self.open_server(server, "config")

    def open_jobs(self, server: str = "") -> None:
        """Show the jobs of all servers, or of one."""
        from tui.screens.jobs import Jobs

        if not self._back_to(f"jobs {server}".strip()):
            self.push_screen(Jobs(server))

    def open_job(self, job_id: str) -> None:
        """Show a job, by its id or as `latest`."""
        from tui.screens.job import JobRoom

        if job_id == "latest" and self.snapshot.jobs:
            job_id = self.snapshot.jobs[0].id
        if not self._back_to(f"job {job_id}"):
            self.push_screen(JobRoom(job_id))

    def open_events(self, server: str = "") -> None:
        """Show who did what, on all servers or on one."""
        from tui.screens.events import Events

        if not self._back_to(f"events {server}".strip()):
            self.push_screen(Events(server))

    def open_restore(self, server: str, target: datetime | None = None, backup: str = "auto") -> None:
        """Show the wizard of a restore: of a server, to a moment, from a backup."""
        from tui.screens.restore import RestoreRoom

        self.push_screen(RestoreRoom(server, target, backup))

    def open_check(self, server: str) -> None:
        """Show what the checks say of a server."""
        from tui.screens.check import CheckRoom

        if not self._back_to(f"check {server}"):
            self.push_screen(CheckRoom(server))

    def open_add(self) -> None:
        """Show the form that adds a server."""
        from tui.screens.add_server import AddServer

        if self.read_only:
            self.say("No server is added: this console is read-only.")
        else:
            self.push_screen(AddServer())

    def open_keys(self) -> None:
        """Show every key of the room that is open."""
        from tui.screens.room import Room

        if isinstance(self.screen, Room):
            self.screen.do_help()
