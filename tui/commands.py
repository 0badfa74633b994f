"""The one registry of commands: keys, footer, help and palette all come from here.

A command's id is `<room>.<verb>`; the room named `every` is all of them. The screen runs `do_<verb>()`, and says why
not by `refuse_<verb>()` where that depends on what it shows.
"""

from __future__ import annotations

from dataclasses import dataclass

from textual.binding import Binding, BindingType

from engine.permission import Action

ROOMS = ("servers", "server", "jobs", "job", "help", "welcome")


@dataclass(frozen=True, slots=True)
class Command:
    """Something that a key does."""

    id: str
    keys: str
    """Textual's names, the first one is shown."""
    word: str
    """In the footer, beside the key."""
    help: str
    """One sentence."""
    action: Action = "look"
    shown: str = ""
    """How the key is written, where it is not its own name."""
    footer: bool = True
    weight: int = 5
    """What leaves the footer first when it is narrow: the highest."""

    @property
    def room(self) -> str:
        return self.id.partition(".")[0]

    @property
    def verb(self) -> str:
        return self.id.partition(".")[2]

    @property
    def key(self) -> str:
        """How the first key is written."""
        return self.shown or self.keys.split(",")[0]


COMMANDS = (
    Command(
        "servers.open", "enter", "open", "Open the server: its backups and what they reach.", shown="enter", weight=1
    ),
    Command("servers.backup", "b", "backup", "Back the server up now; asks once.", "backup", weight=1),
    Command("servers.jobs", "j", "jobs", "See running and past jobs of all servers.", weight=2),
    Command("server.backup", "b", "backup", "Back this server up now; asks once.", "backup", weight=1),
    Command("server.verify", "v", "verify", "Read every byte of the backup against its manifest.", "verify", weight=2),
    Command("server.follow", "enter,f", "follow", "Watch what runs on this server.", shown="enter", weight=1),
    Command("server.copy", "y", "copy id", "Copy the backup's id to the clipboard.", weight=4),
    Command("server.jobs", "j", "jobs", "See this server's jobs.", weight=3),
    Command("jobs.open", "enter", "open", "Open the job: progress, log and result.", shown="enter", weight=1),
    Command("jobs.all", "a", "all servers", "Show the jobs of all servers, or of one again.", weight=3),
    Command(
        "job.cancel", "C", "cancel…", "Stop the job; asks first. What it made is marked as failed.", "cancel", weight=1
    ),
    Command("job.log", "l", "log", "Give the log the whole screen, or give it back.", weight=2),
    Command("job.copy", "y", "copy id", "Copy the job's id to the clipboard.", weight=4),
    Command("help.run", "enter", "run", "Run the command under the cursor.", shown="enter", weight=1),
    Command("every.palette", "colon,ctrl+p", "command", "Find a command by its words.", shown=":", weight=6),
    Command(
        "every.help",
        "question_mark,f1",
        "keys",
        "Every key of this screen, and why some do nothing now.",
        shown="?",
        weight=0,
    ),
    Command("every.back", "q,escape", "back", "Back to where you came from; at home, leave.", weight=0),
    Command("every.refresh", "R", "refresh", "Look at the disk again now.", footer=False),
    Command("every.quit", "ctrl+q", "quit", "Leave the console; jobs go on.", footer=False),
    Command(
        "every.interrupt", "ctrl+c", "copy", "Copy the selected text; without one, say how to leave.", footer=False
    ),
)

MOVES = (
    ("up", "up", "The row above.", ""),
    ("down", "down", "The row below.", ""),
    ("page_up", "pageup,ctrl+u", "A page up.", "page up"),
    ("page_down", "pagedown,ctrl+d", "A page down.", "page down"),
    ("first", "home,g", "The first row.", "g"),
    ("last", "end,G", "The last row.", "G"),
)
"""Verb, keys, help and shown key of what moves in a list."""


def of(room: str) -> list[Command]:
    """Return a room's commands, its own first."""
    return [c for c in COMMANDS if c.room == room] + [c for c in COMMANDS if c.room == "every"]


def named(command_id: str) -> Command:
    """Return the command with this id."""
    return next(c for c in COMMANDS if c.id == command_id)


def bindings(room: str) -> list[BindingType]:
    """Return Textual's bindings of a room."""
    found: list[BindingType] = []
    for command in of(room):
        action = f"command({command.id!r})"
        found.append(Binding(command.keys, action, command.help, show=False, id=f"{room}:{command.id}"))
    for verb, keys, say, _ in MOVES:
        found.append(Binding(keys, f"move({verb!r})", say, show=False, id=f"{room}:move.{verb}"))
    return found
