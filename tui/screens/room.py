"""What all screens share: the frame around them, commands from the registry, painting from the snapshot."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen

from engine import permission
from engine.commands import cellarman
from tui import commands
from tui.commands import Command
from tui.format import Line, counted, plain, span
from tui.glyphs import ASCII
from tui.screens.acts import Acts
from tui.screens.prompting import Prompting
from tui.screens.zooming import Zooming
from tui.widgets.frame import Keys, header
from tui.widgets.lines import Lines

if TYPE_CHECKING:
    from textual.types import CSSPathType

    from tui.app import Console
    from tui.export import View
    from tui.glyphs import Glyphs
    from tui.operators import Operator
    from tui.snapshot import Snapshot

LEAST = (60, 16)
"""The columns and rows below which nothing useful can be shown."""


class Room(Acts, Prompting, Zooming, Screen[None]):
    """One screen of the console."""

    ROOM: ClassVar[str] = ""
    CSS_PATH: ClassVar[CSSPathType | None] = "room.tcss"
    AUTO_FOCUS = ""
    TABS: ClassVar[Sequence[str]] = ()
    """The names of its tabs, if it has any: tab `x` shows the widget with the id `tab-x` and hides the others'."""
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-normal"), (140, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall")]

    app: Console

    def __init__(self) -> None:
        super().__init__()
        self.tab = self.TABS[0] if self.TABS else ""
        """The tab that is open."""

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

    @property
    def address(self) -> str:
        """What the command line would say to come here; empty for what cannot be come back to."""
        return ""

    def view(self) -> View:
        """Return what an export writes: the table on screen, or its lines."""
        from tui.export import view_of

        return view_of(self)

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
            yield Lines((), wrapped=True, id="flash")
            yield Keys(id="keys")
        yield Lines(id="too-small", wrapped=True)

    def on_mount(self) -> None:
        if self.tab:
            self.open_tab(self.tab)
        self.repaint()

    def on_screen_resume(self) -> None:
        self.app.been_at(self.address)
        self.repaint()

    def on_resize(self) -> None:
        width, height = self.app.size
        small = width < LEAST[0] or height < LEAST[1]
        self.set_class(small, "-too-small")
        if small:
            self.query_one("#too-small", Lines).show(_too_small(width, height, self.app.config.named))
        self.repaint()

    def repaint(self) -> None:
        """Paint header, body and footer from the app's snapshot."""
        if not self.is_mounted or not self.is_current:
            return
        snapshot = self.app.snapshot
        top = self.query_one_optional("#header", Lines)
        if top is None:
            return  # not composed yet, or being taken away
        top.show(header(self.crumbs(), self._going_on(snapshot), self.app.size.width, self.glyphs))
        self.paint(snapshot)
        self.offer_keys()
        self._say_filter()

    def _going_on(self, snapshot: Snapshot) -> list[tuple[str, str]]:
        running = len(snapshot.running)
        mode = ("read-only", "soon") if self.app.read_only else ("read-write", "quiet")
        jobs = f"{self.glyphs.running} {counted(running, 'job')}" if running else ""
        return [
            (plain(self.app.banner), "hand"),
            (operators(snapshot.others), "quiet"),
            self._age(snapshot),
            (jobs, "moving"),
            mode,
            (f"{snapshot.minute:%H:%M} UTC", "quiet"),
        ]

    def _age(self, snapshot: Snapshot) -> tuple[str, str]:
        """Say how old what is shown is, when it is not of now."""
        if snapshot.trouble or self.app.trouble:
            return f"{self.glyphs.warning} data is old", "soon"
        if not snapshot.looked and self.app.remembered is not None:
            age = (self.app.now() - self.app.remembered.at).total_seconds()
            return f"{self.glyphs.unknown} data {span(age)} old", "quiet"
        return "", ""

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
        at_home = command.id == "every.back" and self is self.app.home
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
        if refused and self.app.read_only:
            leave = "" if self.app.mode_refusal() else " ! leaves it."
            return f"This console is read-only: no {command.action} of {server or 'anything'}.{leave}"
        return f"{refused.what} ({refused.why})" if refused else ""

    def action_command(self, command_id: str) -> Awaitable[object] | None:
        """Run a command of the registry, or say why not; what it returns is awaited before the next key is read."""
        command = commands.named(command_id)
        reason = self.refusal(command)
        if reason:
            self.say(reason, "soon")
            return None
        done = getattr(self, f"do_{command.verb}")()
        return done if isinstance(done, Awaitable) else None

    def action_tab(self, number: int) -> None:
        if number <= len(self.TABS):
            self.open_tab(self.TABS[number - 1])

    def action_tab_next(self, by: int) -> None:
        if self.TABS:
            self.open_tab(self.TABS[(self.TABS.index(self.tab) + by) % len(self.TABS)])

    def open_tab(self, name: str) -> None:
        """Show one tab and hide the others."""
        self.tab = name
        for other in self.TABS:
            for widget in self.query(f"#tab-{other}"):
                widget.display = other == name
        self.app.been_at(self.address)
        self.repaint()

    def action_move(self, verb: str) -> None:
        moved = self.moving()
        if moved is not None:
            all_of_it = len(moved.rows)
            steps = {"up": -1, "down": 1, "page_up": -moved.page, "page_down": moved.page, "first": -all_of_it}
            moved.move(steps.get(verb, all_of_it))

    @on(Keys.Pressed)
    def _pressed(self, event: Keys.Pressed) -> None:
        self.action_command(event.command.id)

    def do_help(self) -> None:
        from tui.screens.help import Help

        self.app.push_screen(Help(self))

    def do_palette(self) -> None:
        self.app.action_command_palette()

    def do_escape(self) -> None:
        found = self.narrowing()
        if found is not None and found.narrowed is not None:
            self.keep_only("")
        elif self is self.app.home:
            self.say("This is the first screen; q leaves.", "quiet")
        else:
            self.do_back()

    def do_earlier(self) -> None:
        self.app.go_along(-1)

    def refuse_earlier(self) -> str:
        return "" if self.app.can_go(-1) else "There is nothing before this."

    def do_later(self) -> None:
        self.app.go_along(1)

    def refuse_later(self) -> str:
        return "" if self.app.can_go(1) else "There is nothing after this."

    def do_export(self) -> None:
        from tui.screens.export_form import ExportForm

        self.app.push_screen(ExportForm(self.view()))

    def do_ran(self) -> None:
        from tui.screens.ran import Ran

        self.app.push_screen(Ran())

    def refuse_mode(self) -> str:
        return self.app.mode_refusal()

    def do_mode(self) -> None:
        from tui.screens.ask import Ask

        if self.app.read_only:
            effect = "Keys that change something work again, in this console alone. What is protected stays so."
            self.app.push_screen(Ask("Leave read-only?", effect, "leave it", lambda: self.app.use_mode(False)))
        else:
            self.app.use_mode(True)

    def do_back(self) -> None:
        if self is self.app.home:
            self.do_quit()
        else:
            self.app.pop_screen()

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
        """Copy to the clipboard by the way that this terminal has, and say which."""
        from tui import clipboard

        clipboard.copy(self.app, text, what, self.say)

    def do_events(self) -> None:
        self.app.open_events(self.subject if self.ROOM == "server" else "")

    def do_jobs(self) -> None:
        self.app.open_jobs(self.subject if self.ROOM == "server" else "")


def operators(others: Sequence[Operator]) -> str:
    """Return who else has a console open, as the header lists them.

    >>> operators([])
    ''
    """
    names = dict.fromkeys(plain(o.user) + (" (read-only)" if o.read_only else "") for o in others)
    return ", ".join(names)


def _too_small(width: int, height: int, named: str) -> list[Line]:
    servers = cellarman("servers").line(named)
    return [
        ((f"This terminal has {width} columns and {height} rows.", "strong"),),
        ((f"The console needs {LEAST[0]} by {LEAST[1]}; make it larger, or press q.", "text"),),
        ((f"Every view is a command too: {plain(servers)}", "quiet"),),
    ]
