"""The one registry of commands: keys, footer, help and palette all come from here.

A command's id is `<room>.<verb>`; the room named `every` is all of them. The screen runs `do_<verb>()`, and says why
not by `refuse_<verb>()` where that depends on what it shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from textual.binding import Binding, BindingType

from engine.permission import Action

ROOMS = ("servers", "server", "jobs", "job", "events", "help", "welcome", "restore", "commits", "check")


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
    takes: Literal["", "server", "backup"] = ""
    """What the command line may name behind the word: a server, or a server and one of its backups."""
    also: tuple[str, ...] = ()
    """Other words for it on the command line."""
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
    Command("servers.backup", "b", "backup", "Back the server up now; asks once.", "backup", takes="server", weight=1),
    Command("servers.restore", "r", "restore…", "Get the server back to a moment, as a copy.", weight=2),
    Command("servers.wal", "w", "wal", "See the server's WAL archive and its gaps.", weight=6),
    Command("servers.check", "c", "check", "See whether all is as it must be, and what mends what is not.", weight=6),
    Command("servers.fetch", "f", "fetch…", "Look for missing WAL; asks first.", "fetch", takes="server", weight=2),
    Command("servers.jobs", "j", "jobs", "See running and past jobs of all servers.", weight=2),
    Command("servers.events", "l", "events", "Who did what, and how it ended.", weight=7),
    Command("servers.copy", "y", "copy", "Copy the server's name to the clipboard.", footer=False),
    Command("server.backup", "b", "backup", "Back this server up now; asks once.", "backup", takes="server", weight=1),
    Command(
        "server.restore", "r", "restore…", "Get the server back to a moment, as a copy: asks for each step.", weight=2
    ),
    Command(
        "server.open",
        "enter",
        "open",
        "Restore to the moment under the cursor, follow what runs, or open what is under the cursor.",
        shown="enter",
        weight=1,
    ),
    Command("server.left", "left,h", "left", "The moment or cell before; idle time is passed over.", footer=False),
    Command("server.right", "right,l", "move", "The next moment or cell.", shown="arrows", weight=3),
    Command("server.closer", "plus,equals_sign", "closer", "See less, more closely.", shown="+", weight=4),
    Command("server.wider", "minus", "wider", "See more at once.", shown="-", weight=4),
    Command("server.next", "n", "next", "The next gap; on the axis the next backup or gap.", weight=3),
    Command("server.previous", "N", "before", "The gap, backup or end before.", weight=5),
    Command("server.form", "m", "map list gaps", "Show the WAL as a map, as a list, or only its gaps.", weight=3),
    Command("server.turn", "t", "timeline", "Show the WAL of the next timeline.", weight=4),
    Command(
        "server.fetch",
        "f",
        "fetch…",
        "Look for missing WAL everywhere; asks first.",
        "fetch",
        takes="server",
        also=("fetch-missing",),
        weight=2,
    ),
    Command(
        "server.aftermath",
        "o",
        "prove…",
        "Prove the loop: a marker through each WAL lane, a restore in a sandbox, the marker read back.",
        "aftermath",
        takes="server",
        also=("prove",),
        weight=7,
    ),
    Command("server.accept", "A", "accept…", "Bear a gap: it alarms no more. Asks for a reason.", "accept", weight=3),
    Command(
        "server.verify",
        "v",
        "verify",
        "Read every byte of the backup against its manifest.",
        "verify",
        takes="backup",
        weight=2,
    ),
    Command("server.check", "c", "check", "See whether all is as it must be, and what mends what is not.", weight=6),
    Command(
        "server.keep",
        "p",
        "keep…",
        "Keep the backup from retention, or let it go again.",
        "keep",
        takes="backup",
        weight=5,
    ),
    Command(
        "server.label",
        "a",
        "label…",
        "Write a line about the backup, for people.",
        "label",
        takes="backup",
        also=("annotate",),
        weight=7,
    ),
    Command(
        "server.delete",
        "D",
        "delete…",
        "Delete the backup and WAL that only it needs; its id is typed.",
        "delete",
        takes="backup",
    ),
    Command(
        "server.switch",
        "W",
        "switch WAL…",
        "End the current WAL segment, so that it is archived.",
        "switch",
        takes="server",
        also=("switch-wal",),
        weight=8,
    ),
    Command(
        "server.point",
        "P",
        "restore point…",
        "Give this moment a name to restore to.",
        "restore-point",
        takes="server",
        also=("restore-point",),
        weight=8,
    ),
    Command("server.copy", "y", "copy", "Copy what is under the cursor to the clipboard.", weight=6),
    Command("server.wal", "w", "wal", "See the WAL archive and its gaps.", weight=5),
    Command("server.jobs", "j", "jobs", "See this server's jobs.", weight=6),
    Command("jobs.open", "enter", "open", "Open the job: progress, log and result.", shown="enter", weight=1),
    Command("jobs.all", "a", "all servers", "Show the jobs of all servers, or of one again.", weight=3),
    Command("jobs.copy", "y", "copy id", "Copy the job's id to the clipboard.", weight=5),
    Command("jobs.cancel", "C", "cancel…", "Stop the job; asks first.", "cancel", weight=3),
    Command("events.open", "enter", "open", "Open the job that it tells of.", shown="enter", weight=1),
    Command("events.copy", "y", "copy", "Copy the command line to the clipboard.", weight=4),
    Command("restore.next", "enter", "next", "Go on, when nothing stands in the way.", shown="enter", weight=0),
    Command("restore.previous", "shift+tab", "back a step", "Go back a step; what was chosen stays.", weight=6),
    Command("restore.type", "t", "type a moment", "Type a time, an LSN, a transaction or a name.", weight=1),
    Command(
        "restore.commits", "L,f3", "transactions", "List what happened around the moment, to stop beside it.", weight=3
    ),
    Command(
        "restore.newest",
        "w,f5",
        "newest WAL",
        "Have the server hand over the WAL it writes now.",
        "switch",
        weight=2,
    ),
    Command("restore.nearest", "n,f7", "nearest", "Take the nearest moment that can be reached.", weight=1),
    Command("restore.auto", "a,f8", "any backup", "Let Cellarman choose the backup again.", weight=2),
    Command("restore.stop", "x,f4", "with it", "Stop just before the moment, or with it.", weight=4),
    Command("restore.zone", "z,f2", "zone", "Show and read times in the next zone.", weight=5),
    Command("restore.timeline", "T", "timeline", "Follow another timeline.", weight=6),
    Command("restore.save", "s,f6", "save plan…", "Save the plan to a file, to be run later.", weight=3),
    Command("restore.copy", "y", "copy", "Copy the command line that does the same.", weight=4),
    Command("commits.before", "enter", "before it", "Stop just before this transaction.", shown="enter", weight=1),
    Command("commits.after", "a", "after it", "Stop just after this transaction.", weight=1),
    Command("check.again", "c", "ask again", "Make all checks anew.", weight=1),
    Command("check.copy", "y", "copy what mends it", "Copy what mends it to the clipboard.", weight=2),
    Command("job.pause", "space", "pause", "Hold the view still, or let it go on; the job goes on.", weight=5),
    Command(
        "job.cancel", "C", "cancel…", "Stop the job; asks first. What it made is marked as failed.", "cancel", weight=1
    ),
    Command("job.log", "l", "log", "Give the log the whole screen, or give it back.", weight=2),
    Command("job.copy", "y", "copy id", "Copy the job's id; of a restore that runs, the psql that opens it.", weight=4),
    Command("welcome.add", "a", "add a server", "Add a server to the configuration.", weight=1),
    Command("welcome.demo", "d", "demo", "Leave this and see it all on a throw-away server.", weight=2),
    Command("help.run", "enter", "run", "Run the command under the cursor.", shown="enter", weight=1),
    Command("every.filter", "slash", "filter", "Keep only some rows: text, !text, column=text.", shown="/", weight=4),
    Command(
        "every.command",
        "colon",
        "command",
        "Go anywhere by a word: :backups main, :jobs, :q; tab completes.",
        shown=":",
        weight=6,
    ),
    Command("every.palette", "ctrl+p", "palette", "Find a command by its words.", footer=False),
    Command(
        "every.help",
        "question_mark,f1",
        "keys",
        "Every key of this screen, and why some do nothing now.",
        shown="?",
        weight=0,
    ),
    Command("every.back", "q", "back", "Back to where you came from; at home, leave.", weight=0),
    Command(
        "every.escape", "escape", "back", "Show all rows again; when all are shown, back.", shown="esc", footer=False
    ),
    Command("every.earlier", "left_square_bracket", "earlier", "Where you were before.", shown="[", footer=False),
    Command("every.later", "right_square_bracket", "later", "Where you were after that.", shown="]", footer=False),
    Command("every.export", "e", "export…", "Write what this screen shows to a file.", weight=7),
    Command("every.zoom", "z", "zoom", "Give one part of the screen all of it, the next part, none.", footer=False),
    Command("every.ran", "at", "commands", "The command lines that this console ran.", shown="@", footer=False),
    Command(
        "every.mode", "exclamation_mark", "read-only", "Leave read-only, or enter it; asks.", shown="!", footer=False
    ),
    Command("every.refresh", "R", "refresh", "Look at the disk again now.", footer=False),
    Command("every.quit", "ctrl+q", "quit", "Leave the console; jobs go on.", footer=False),
    Command(
        "every.interrupt", "ctrl+c", "copy", "Copy the selected text; without one, say how to leave.", footer=False
    ),
)


@dataclass(frozen=True, slots=True)
class Place:
    """What the command line goes to, or sets, by a word; the app's `open_<word>` does it."""

    word: str
    help: str
    takes: Literal["", "server", "job", "theme", "seconds"] = ""
    optional: bool = False
    """Whether it can do without."""
    also: tuple[str, ...] = ()


PLACES = (
    Place("servers", "All servers, worst first.", also=("home",)),
    Place("server", "One server.", "server"),
    Place("overview", "One server: how it stands.", "server"),
    Place("backups", "One server's backups.", "server"),
    Place("wal", "One server's WAL archive.", "server"),
    Place("timeline", "One server's timelines.", "server", also=("timelines",)),
    Place("config", "One server's settings, and where each was said.", "server"),
    Place("jobs", "What runs and what ran, of all servers or of one.", "server", optional=True),
    Place("job", "One job, live or past.", "job"),
    Place("events", "Who did what, and how it ended.", "server", optional=True, also=("log",)),
    Place("restore", "Get a server back to a moment, as a copy.", "server"),
    Place("check", "Whether all of a server is as it must be.", "server"),
    Place("add", "Add a server to the configuration."),
    Place("keys", "Every key of this screen.", also=("help",)),
    Place("theme", "Change the colours.", "theme"),
    Place("refresh", "How often the disk is read, in seconds.", "seconds"),
    Place("quit", "Leave the console; jobs go on.", also=("q", "exit")),
)
"""In the order in which the palette shows them."""

MOVES = (
    ("up", "up,k", "The row above.", "up"),
    ("down", "down,j", "The row below.", "down"),
    ("page_up", "pageup,ctrl+u", "A page up.", "page up"),
    ("page_down", "pagedown,ctrl+d", "A page down.", "page down"),
    ("first", "home,g", "The first row.", "home"),
    ("last", "end,G", "The last row.", "end"),
)
"""Verb, keys, help and shown key of what moves in a list."""
_TOGETHER = {"j", "k"}
"""Letters that move only where the room gives neither another meaning: one alone would mislead."""


_moved: dict[str, str] = {}
"""Command id to the keys that an operator gave it instead of its own."""


def move(keys: Mapping[str, str]) -> None:
    """Give commands other keys, before the first screen is shown; ids that are none are passed over."""
    _moved.update(keys)


def _known() -> list[Command]:
    if not _moved:
        return list(COMMANDS)
    return [replace(c, keys=_moved[c.id], shown="") if c.id in _moved else c for c in COMMANDS]


def of(room: str) -> list[Command]:
    """Return a room's commands, its own first; what it gives a key of every room to, that key does there."""
    known = _known()
    own = [c for c in known if c.room == room]
    taken = {key for c in own for key in c.keys.split(",")}
    return own + [c for c in known if c.room == "every" and not taken.intersection(c.keys.split(","))]


def of_servers() -> list[Command]:
    """Return what the command line does to a server, or to one of its backups, from any room."""
    return [c for c in _known() if c.room == "server" and c.takes]


def moves(room: str) -> list[tuple[str, str, str, str]]:
    """Return what moves in a room's lists, as MOVES has it, without the letters that mean something else there."""
    taken = {key for command in of(room) for key in command.keys.split(",")}
    gone = _TOGETHER if taken & _TOGETHER else set()
    return [
        (verb, ",".join(k for k in keys.split(",") if k not in gone), say, shown) for verb, keys, say, shown in MOVES
    ]


def named(command_id: str) -> Command:
    """Return the command with this id."""
    return next(c for c in _known() if c.id == command_id)


def bindings(room: str) -> list[BindingType]:
    """Return Textual's bindings of a room."""
    found: list[BindingType] = []
    for command in of(room):
        action = f"command({command.id!r})"
        found.append(Binding(command.keys, action, command.help, show=False, id=f"{room}:{command.id}"))
    for verb, keys, say, _ in moves(room):
        found.append(Binding(keys, f"move({verb!r})", say, show=False, id=f"{room}:move.{verb}"))
    for number in range(1, 10):
        found.append(Binding(str(number), f"tab({number})", "That tab.", show=False, id=f"{room}:tab.{number}"))
    found.append(Binding("tab", "tab_next(1)", "The next tab.", show=False, id=f"{room}:tab.next"))
    found.append(Binding("shift+tab", "tab_next(-1)", "The tab before.", show=False, id=f"{room}:tab.previous"))
    return found


def place(word: str) -> Place | None:
    """Return the place that a word of the command line names."""
    return next((found for found in PLACES if word == found.word or word in found.also), None)
