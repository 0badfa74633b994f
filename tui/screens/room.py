"""What all screens share: the frame around them, commands from the registry, painting from the snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen

from engine import permission
from tui import commands
from tui.commands import Command
from tui.format import Line, counted, plain
from tui.glyphs import ASCII
from tui.widgets.frame import Keys, header
from tui.widgets.lines import Lines

if TYPE_CHECKING:
    from textual.timer import Timer
    from textual.types import CSSPathType

    from engine.job.state import JobState
    from tui.app import Console
    from tui.glyphs import Glyphs
    from tui.snapshot import Snapshot

LEAST = (60, 16)
"""The columns and rows below which nothing useful can be shown."""
FLASH_SECONDS = 6.0


class Movable(Protocol):
    """What the moving keys can move: a table, a log."""

    def move(self, by: int) -> None:
        """Go on by so many rows."""

    @property
    def page(self) -> int:
        """How many rows are seen at once."""

    @property
    def rows(self) -> Sequence[object]:
        """All there are."""


class Room(Screen[None]):
    """One screen of the console."""

    ROOM: ClassVar[str] = ""
    CSS_PATH: ClassVar[CSSPathType | None] = "room.tcss"
    AUTO_FOCUS = ""
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-normal"), (140, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall")]

    app: Console

    def __init__(self) -> None:
        super().__init__()
        self._flash_timer: Timer | None = None

    def body(self) -> ComposeResult:
        """Yield what is between header and footer."""
        raise NotImplementedError

    def crumbs(self) -> Sequence[str]:
        """Return where this is, outermost first."""
        raise NotImplementedError

    def paint(self, snapshot: Snapshot) -> None:
        """Bring the body up to date."""
        raise NotImplementedError

    @property
    def subject(self) -> str:
        """The server that commands are about, if any."""
        return ""

    def moving(self) -> Movable | None:
        """What the moving keys move."""
        return None

    @property
    def glyphs(self) -> Glyphs:
        return self.app.glyphs

    @property
    def wide(self) -> bool:
        return self.app.size.width >= 140

    def compose(self) -> ComposeResult:
        yield Lines(id="header")
        yield from self.body()
        with Vertical(id="bottom"):
            yield Lines((), id="flash")
            yield Keys(id="keys")
        yield Lines(id="too-small", wrapped=True)

    def on_mount(self) -> None:
        self.repaint()

    def on_screen_resume(self) -> None:
        self.repaint()

    def on_resize(self) -> None:
        width, height = self.app.size
        small = width < LEAST[0] or height < LEAST[1]
        self.set_class(small, "-too-small")
        if small:
            self.query_one("#too-small", Lines).show(_too_small(width, height))
        self.repaint()

    def repaint(self) -> None:
        """Paint header, body and footer from the app's snapshot."""
        if not self.is_mounted or not self.is_current:
            return
        snapshot = self.app.snapshot
        self.query_one("#header", Lines).show(
            header(self.crumbs(), self._going_on(snapshot), self.app.size.width, self.glyphs)
        )
        self.paint(snapshot)
        self.offer_keys()

    def _going_on(self, snapshot: Snapshot) -> list[tuple[str, str]]:
        running = len(snapshot.running)
        mode = ("read-only", "soon") if self.app.read_only else ("read-write", "quiet")
        jobs = f"{self.glyphs.running} {counted(running, 'job')}" if running else ""
        trouble = (f"{self.glyphs.warning} data is old", "soon") if snapshot.trouble or self.app.trouble else ("", "")
        return [
            (plain(self.app.banner), "hand"),
            trouble,
            (jobs, "moving"),
            mode,
            (f"{snapshot.minute:%H:%M} UTC", "quiet"),
        ]

    def offer_keys(self) -> None:
        """Show the keys that work here and now."""
        offered = [
            (command, self.word(command))
            for command in commands.of(self.ROOM)
            if command.footer and not self.refusal(command)
        ]
        self.query_one("#keys", Keys).offer(offered, self.glyphs)

    def word(self, command: Command) -> str:
        """Return what the footer calls a command."""
        at_home = command.id == "every.back" and len(self.app.screen_stack) <= 2
        word = "quit" if at_home else command.word
        return word.replace("…", "...") if self.glyphs is ASCII else word

    def refusal(self, command: Command) -> str:
        """Return why a command does nothing here and now; empty when it does."""
        reason = getattr(self, f"refuse_{command.verb}", lambda: "")()
        if reason:
            return str(reason)
        if command.action == "look":
            return ""
        server = self.subject
        known = self.app.snapshot.server(server)
        refused = permission.refusal(
            command.action,
            server or "anything",
            read_only=self.app.read_only,
            protected=bool(known and known.protected),
        )
        return f"{refused.what} ({refused.why})" if refused else ""

    def action_command(self, command_id: str) -> None:
        """Run a command of the registry, or say why not."""
        command = commands.named(command_id)
        reason = self.refusal(command)
        if reason:
            self.say(reason, "soon")
        else:
            getattr(self, f"do_{command.verb}")()

    def action_move(self, verb: str) -> None:
        moved = self.moving()
        if moved is not None:
            all_of_it = len(moved.rows)
            steps = {"up": -1, "down": 1, "page_up": -moved.page, "page_down": moved.page, "first": -all_of_it}
            moved.move(steps.get(verb, all_of_it))

    @on(Keys.Pressed)
    def _pressed(self, event: Keys.Pressed) -> None:
        self.action_command(event.command.id)

    def say(self, text: str, role: str = "text") -> None:
        """Say something in the line above the keys, for a few seconds."""
        line: Line = (("  ", "text"), (plain(text), role))
        self.query_one("#flash", Lines).show([line])
        if self._flash_timer is not None:
            self._flash_timer.stop()
        self._flash_timer = self.set_timer(FLASH_SECONDS, lambda: self.query_one("#flash", Lines).show([()]))

    def do_help(self) -> None:
        from tui.screens.help import Help

        self.app.push_screen(Help(self))

    def do_palette(self) -> None:
        self.app.action_command_palette()

    def do_back(self) -> None:
        if len(self.app.screen_stack) > 2:
            self.app.pop_screen()
        else:
            self.do_quit()

    def do_quit(self) -> None:
        self.app.leave()

    def do_refresh(self) -> None:
        self.app.lookout.wake()
        self.say("Looking again.", "quiet")

    def do_interrupt(self) -> None:
        selected = self.get_selected_text()
        if selected:
            self.copy(selected, "the selected text")
        elif self.app.banner:
            self.app.leave()
        else:
            self.say("q goes back, and leaves at home; ctrl+q leaves at once. Jobs go on.")

    def copy(self, text: str, what: str) -> None:
        """Copy to the terminal's clipboard and say so."""
        self.app.copy_to_clipboard(text)
        self.say(f"Copied {what} through the terminal (OSC 52).")

    def do_jobs(self) -> None:
        from tui.screens.jobs import Jobs

        self.app.push_screen(Jobs(self.subject if self.ROOM == "server" else ""))

    def refuse_backup(self) -> str:
        if not self.subject:
            return "There is no server to back up."
        busy = self._backing_up()
        return f"A backup of {plain(self.subject)} runs already (job {busy.id})." if busy else ""

    def _backing_up(self) -> JobState | None:
        jobs = self.app.snapshot.running
        return next((job for job in jobs if job.server == self.subject and job.kind == "backup"), None)

    def do_backup(self) -> None:
        from tui.screens.backup_form import BackupForm

        self.app.push_screen(BackupForm(self.subject))


def _too_small(width: int, height: int) -> list[Line]:
    return [
        ((f"This terminal has {width} columns and {height} rows.", "strong"),),
        ((f"The console needs {LEAST[0]} by {LEAST[1]}; make it larger, or press q.", "text"),),
        (("Every view is a command too: cellarman servers", "quiet"),),
    ]
