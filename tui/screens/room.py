"""What all screens share: the frame around them, commands from the registry, painting from the snapshot."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen
from textual.widget import Widget

from engine import permission
from tui import commands
from tui.commands import Command
from tui.format import Line, counted, plain, span
from tui.glyphs import ASCII
from tui.screens.acts import Acts
from tui.widgets.frame import Keys, header
from tui.widgets.lines import Lines

if TYPE_CHECKING:
    from textual.timer import Timer
    from textual.types import CSSPathType

    from engine.job.state import JobState
    from tui.app import Console
    from tui.export import View
    from tui.filter import Filter
    from tui.glyphs import Glyphs
    from tui.operators import Operator
    from tui.snapshot import Snapshot
    from tui.widgets.prompt import Prompt

LEAST = (60, 16)
"""The columns and rows below which nothing useful can be shown."""
FLASH_SECONDS = 6.0
_FRAME = {"header", "bottom", "too-small"}
"""What a zoomed part leaves where it is."""


class Narrowable(Protocol):
    """What a filter can narrow: a table, a log."""

    def narrow(self, text: str) -> None:
        """Show only what `text` keeps; all with an empty one."""

    @property
    def narrowed(self) -> Filter | None:
        """What is kept, when not all is."""

    @property
    def rows(self) -> Sequence[object]:
        """What is shown."""

    @property
    def total(self) -> int:
        """How much there is."""


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


class Room(Acts, Screen[None]):
    """One screen of the console."""

    ROOM: ClassVar[str] = ""
    CSS_PATH: ClassVar[CSSPathType | None] = "room.tcss"
    AUTO_FOCUS = ""
    TABS: ClassVar[Sequence[str]] = ()
    """The names of its tabs, if it has any: tab `x` shows the widget with the id `tab-x` and hides the others'."""
    ZOOMS: ClassVar[Sequence[str]] = ()
    """The ids of the parts that can have the whole screen, in the order in which `z` gives it."""
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-normal"), (140, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall")]

    app: Console

    def __init__(self) -> None:
        super().__init__()
        self.tab = self.TABS[0] if self.TABS else ""
        """The tab that is open."""
        self._zoomed = ""
        self._prompt_since = 0.0
        """When the prompt was there, in seconds of the monotonic clock, as events have them."""
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

    def narrowing(self) -> Narrowable | None:
        """What `/` narrows: what the keys move, when it is a list."""
        moved = self.moving()
        return moved if moved is not None and hasattr(moved, "narrow") else None

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
            yield Lines((), id="flash")
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
            self.query_one("#too-small", Lines).show(_too_small(width, height))
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

    async def on_key(self, event: events.Key) -> None:
        """Open a prompt before the next key is looked at, and give it what was typed before it was there."""
        prompts = self.query("#prompt")
        if prompts and event.time < self._prompt_since:
            event.stop()
            event.prevent_default()
            from tui.widgets.prompt import Prompt

            prompts.first(Prompt).take(event)
            return
        opening = [commands.named("every.command"), commands.named("every.filter")]
        command = next((c for c in opening if event.key in c.keys.split(",")), None)
        if command is None or prompts:
            return
        event.stop()
        event.prevent_default()
        opened = self.action_command(command.id)
        if opened is not None:
            await opened
            self._prompt_since = time.monotonic()

    @on(Keys.Pressed)
    def _pressed(self, event: Keys.Pressed) -> None:
        self.action_command(event.command.id)

    def say(self, text: str, role: str = "text") -> None:
        """Say something in the line above the keys, for a few seconds."""
        line: Line = (("  ", "text"), (plain(text), role))
        self.query_one("#flash", Lines).show([line])
        self._hush()
        self._flash_timer = self.set_timer(FLASH_SECONDS, self._unsay)

    def _hush(self) -> None:
        if self._flash_timer is not None:
            self._flash_timer.stop()
            self._flash_timer = None

    def _unsay(self) -> None:
        self._flash_timer = None
        self.query_one("#flash", Lines).show([()])
        self._say_filter()

    def _say_filter(self) -> None:
        """Say above the keys what a filter keeps, while it does and nothing else is said."""
        if self._flash_timer is not None:
            return
        found = self.narrowing()
        kept = found.narrowed if found else None
        if found is None or kept is None:
            self.query_one("#flash", Lines).show([()])
            return
        how = "  as it stands: it is no regular expression" if kept.literal else ""
        count = f"  {len(found.rows):,} of {found.total:,}"
        line: Line = (("  / ", "hand!"), (plain(kept.text), "strong"), (count, "text"), (how, "soon"))
        self.query_one("#flash", Lines).show([(*line, ("   esc shows all", "quiet"))])

    def do_help(self) -> None:
        from tui.screens.help import Help

        self.app.push_screen(Help(self))

    def do_palette(self) -> None:
        self.app.action_command_palette()

    def refuse_filter(self) -> str:
        return "" if self.narrowing() else "There is no list here."

    def do_filter(self) -> Awaitable[object] | None:
        found = self.narrowing()
        kept = found.narrowed if found else None
        return self._prompt("/", kept.text if kept else "", lambda _: (), "text, !text or column=text; enter keeps it")

    def do_command(self) -> Awaitable[object] | None:
        from tui import commandline

        complete = commandline.completer(self)
        return self._prompt(":", "", complete, "a word, tab completes it; esc leaves")

    def _prompt(
        self, sign: str, text: str, complete: Callable[[str], Sequence[str]], hint: str
    ) -> Awaitable[object] | None:
        from tui.widgets.prompt import Prompt

        if self.query("#prompt"):
            return None
        self.add_class("-prompting")
        return self.query_one("#bottom").mount(Prompt(sign, text, self.app.history.lines(sign), complete, hint))

    def _end_prompt(self) -> None:
        self.set_focus(None)
        self.query("#prompt").remove()
        self.remove_class("-prompting")
        self._say_filter()

    def on_prompt_changed(self, event: Prompt.Changed) -> None:
        if event.sign == "/":
            self.keep_only(event.text)

    def on_prompt_closed(self, event: Prompt.Closed) -> None:
        if event.sign == "/":
            self.keep_only("")
        self._end_prompt()

    def on_prompt_accepted(self, event: Prompt.Accepted) -> None:
        self.app.history.add(event.sign, event.text)
        self._end_prompt()
        if event.sign == ":":
            self.app.obey(event.text)

    def keep_only(self, text: str) -> None:
        """Narrow the list that is here to what `text` keeps."""
        found = self.narrowing()
        if found is not None:
            found.narrow(text)
            self._hush()
            self._say_filter()
            self.offer_keys()

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

    def refuse_zoom(self) -> str:
        return "" if self.ZOOMS else "There is only one part here."

    def do_zoom(self) -> None:
        """Give the next part the whole screen; after the last, all parts are there again."""
        order = ["", *self.ZOOMS]
        self.zoom(order[(order.index(self._zoomed) + 1) % len(order)])

    def zoom(self, part: str) -> None:
        """Give the part with this id the whole screen; with an empty one, all parts theirs."""
        self._zoomed = part
        for widget in self.query(".-zoomed, .-zoomed-away"):
            widget.remove_class("-zoomed", "-zoomed-away")
        if part:
            widget = self.query_one(f"#{part}")
            widget.add_class("-zoomed")
            while widget is not self:
                above = widget.parent
                assert isinstance(above, Widget)
                for other in above.children:
                    if other is not widget and other.id not in _FRAME:
                        other.add_class("-zoomed-away")
                if above is not self:
                    above.add_class("-zoomed")
                widget = above
        self.call_after_refresh(self.repaint)

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


def operators(others: Sequence[Operator]) -> str:
    """Return who else has a console open, as the header lists them.

    >>> operators([])
    ''
    """
    names = dict.fromkeys(plain(o.user) + (" (read-only)" if o.read_only else "") for o in others)
    return ", ".join(names)


def _too_small(width: int, height: int) -> list[Line]:
    return [
        ((f"This terminal has {width} columns and {height} rows.", "strong"),),
        ((f"The console needs {LEAST[0]} by {LEAST[1]}; make it larger, or press q.", "text"),),
        (("Every view is a command too: cellarman servers", "quiet"),),
    ]
