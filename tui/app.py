"""The console's app: opens the rooms, holds the snapshot that they paint, ends cleanly whatever happens."""

from __future__ import annotations

import gc
import glob
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import SystemCommand
from textual.message import Message
from textual.screen import Screen
from textual.scrollbar import ScrollBar, ScrollBarRender
from textual.worker import Worker, WorkerState

from engine.commands import cellarman
from engine.errors import Advice, CellarmanError, Refused
from tui import commands, glyphs, operators, remembered, themes
from tui.format import counted, listed, plain
from tui.inspection import Inspector
from tui.memory import History
from tui.places import Places
from tui.snapshot import Snapshot, minute_of, utc_now
from tui.terminal import Departure
from tui.watch import STATUS_PAUSE, Watch

if TYPE_CHECKING:
    from engine.config import Config
    from engine.job.spec import JobKind
    from tui.remembered import Remembered
    from tui.screens.room import Room
    from tui.settings import Settings

os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")


HERE = os.path.dirname(os.path.abspath(__file__))
READY = 0.5
"""Seconds from the first look until the other rooms are prepared."""
ROOMS = ("server", "restore", "job", "jobs", "backup_form")
"""The modules of those that are opened most."""


class PlainBars(ScrollBarRender):
    """Scroll bars of coloured blanks, whose ends are whole cells."""

    VERTICAL_BARS: ClassVar[list[str]] = [" "]
    HORIZONTAL_BARS: ClassVar[list[str]] = [" "]


class Looked(Message):
    """The watch has found something new."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self.snapshot = snapshot

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, Looked)


class WatchBroke(Message):
    """The watch has ended by a defect; what is on screen is old from now on."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class Prepared(Message):
    """The modules of the other rooms are loaded."""


class Console(Places):
    """The console on one configuration."""

    TITLE = "cellarman"
    ENABLE_COMMAND_PALETTE = True
    COMMAND_PALETTE_BINDING = "ctrl+p"
    BINDINGS = []

    def __init__(
        self,
        config: Config,
        *,
        read_only: bool = False,
        banner: str = "",
        theme: str = "",
        ascii_only: bool | None = None,
        ui: Settings | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        chosen = themes.chosen(theme or (ui.theme if ui else ""))
        first = "servers" if config.servers else "welcome"
        super().__init__(
            # With the first screen's rules, so that all are parsed once.
            css_path=[os.path.join(HERE, name) for name in ("app.tcss", "screens/room.tcss", f"screens/{first}.tcss")],
            # Said at the start, so that NO_COLOR leaves out colours instead of turning them into greys.
            ansi_color=True if chosen == themes.TERMINAL.name else None,
        )
        self.config = config
        self.now = now
        self.read_only = read_only or config.read_only
        self.banner = banner
        self.glyphs = glyphs.chosen(ascii_only)
        self.snapshot = Snapshot(minute_of(now()), looked=False)
        self.remembered = remembered.load(config.state_directory)
        """The last look of an earlier console, until the disk was read."""
        self.look: Remembered | None = None
        """What the list of servers shows, for the next console."""
        self.history = History(config.state_directory)
        self.ran: list[tuple[datetime, str]] = []
        """When, and which command line would do the same, of all that this console did."""
        self.wants_demo = False
        """Whether the demo is to follow this console."""
        self.trouble = ""
        self.crashed: list[str] = []
        self.departure = Departure()
        self._ui = ui
        self._uncollected = not gc.isenabled()
        """Whether what is loaded is kept from garbage collection, which would make keys wait to go through it."""
        self.lookout = self._watch()
        self.inspector = self._inspector()
        for known in themes.THEMES.values():
            self.register_theme(known)
        self.theme = chosen
        self.set_class(self.glyphs is glyphs.ASCII, "-ascii")
        ScrollBar.renderer = PlainBars if self.glyphs is glyphs.ASCII else ScrollBarRender

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return dict(themes.CELLAR.variables)

    def _watch(self) -> Watch:
        return Watch(
            self.config,
            lambda snapshot: self._tell(Looked(snapshot)),
            lambda error: self._tell(WatchBroke(error)),
            self.now,
            pause=self._ui.refresh if self._ui else STATUS_PAUSE,
            read_only=self.read_only,
        )

    def _inspector(self) -> Inspector:
        return Inspector(self.config, lambda error: self._tell(WatchBroke(error)), self.now)

    def _tell(self, message: Message) -> None:
        if self.is_running:
            self.post_message(message)

    def on_mount(self) -> None:
        self._watch_signals()
        self.screen.call_after_refresh(self._painted)

    def _painted(self) -> None:
        """Begin what the first paint does not wait for."""
        if self._uncollected:
            gc.freeze()
            gc.enable()
        self.lookout.start()

    def get_default_screen(self) -> Room:
        """Return the first screen."""
        if self.config.servers:
            from tui.screens.servers import Servers

            return Servers()
        from tui.screens.welcome import Welcome

        return Welcome()

    def add_server(self, path: str, name: str, values: Mapping[str, str | bool | int], home: str) -> Config:
        """Write a server into the configuration file at `path`, return the configuration then; in a thread."""
        from engine import trail
        from engine.config import adding, load

        command = f"append to {path}: {adding.table(name, values)}"
        state = self.config.state_directory
        with trail.Acting(state, "add-server", name, subject=path, via="console", say=self._say_soon):
            alone = adding.add_server(path, name, values, barman_home=home)
        self.ran.append((self.now(), command))
        return alone if len(self.config.files) <= 1 else load(read_only=self.read_only)

    def reload(self, config: Config) -> None:
        """Go on with another configuration, from its first screen."""
        self.lookout.stop()
        self.inspector.stop()
        self.config = replace(config, read_only=self.read_only)
        self.snapshot = Snapshot(minute_of(self.now()), looked=False)
        self.lookout = self._watch()
        self.inspector = self._inspector()
        self.lookout.start()
        self.open_servers()
        # Textual cannot take away the screen that it began with.
        if self._home_at == 0:
            self._home_at = 1
            self.push_screen(self.get_default_screen())
        else:
            self.switch_screen(self.get_default_screen())

    def _watch_signals(self) -> None:
        import asyncio

        loop = asyncio.get_running_loop()

        def ended_by(number: int, frame: object) -> None:
            # Not by the loop alone: it stands still while the terminal takes nothing.
            self.departure.begin(number)
            loop.call_soon_threadsafe(lambda: self.exit(return_code=128 + number))

        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, ended_by)

    def on_looked(self, message: Looked) -> None:
        before, self.snapshot = self.snapshot, message.snapshot
        self.repaint()
        if message.snapshot.trouble and message.snapshot.trouble != before.trouble:
            self.say(f"What is shown is old: {message.snapshot.trouble}")
        elif message.snapshot.looked and not before.looked:
            self.run_worker(self.keep_look, thread=True, exit_on_error=False, group="keep")
            self.set_timer(READY, Thread(target=self._prepare, name="prepare", daemon=True).start)
            if self._ui is not None and self._ui.problem:
                self.say(self._ui.problem)
            elif message.snapshot.running:
                self._say_running(message.snapshot)

    def _prepare(self) -> None:
        """Load, while nobody waits for it, what the rooms beyond the first need; in a thread."""
        from importlib import import_module

        for room in ROOMS:
            import_module(f"tui.screens.{room}")
        self._tell(Prepared())

    def on_prepared(self) -> None:
        # Textual parses every rule again for each stylesheet that a screen brings; once is enough.
        for path in sorted(glob.glob(os.path.join(glob.escape(HERE), "screens", "*.tcss"))):
            self.stylesheet.read(path)
        self.stylesheet.reparse()
        if self._uncollected:
            gc.freeze()

    def _say_running(self, snapshot: Snapshot) -> None:
        """Say at the start what runs already, and who started it."""
        me = operators.myself(self.read_only).user
        others = list(dict.fromkeys(plain(job.user) for job in snapshot.running if job.user not in ("", me)))
        by = f" ({listed(others)} started {'it' if len(snapshot.running) == 1 else 'some'})" if others else ""
        verb = "runs" if len(snapshot.running) == 1 else "run"
        them = "it" if len(snapshot.running) == 1 else "them"
        self.say(f"{counted(len(snapshot.running), 'job')} {verb} already{by}. j shows {them}.", "text")

    def say(self, text: str, role: str = "soon") -> None:
        """Say something in the room that is open."""
        from tui.screens.room import Room

        if isinstance(self.screen, Room):
            self.screen.say(text, role)

    def _reports(self) -> str:
        """Return the directory for what is known of a defect; a demo's own is removed with it."""
        import tempfile

        return tempfile.gettempdir() if self.banner else self.config.state_directory

    def on_watch_broke(self, message: WatchBroke) -> None:
        from tui import crash

        self.trouble = crash.write_report(message.error, self._reports())
        self.repaint()
        self.say(f"What is shown is old from now on: a defect of cellarman, see {self.trouble}")

    def repaint(self) -> None:
        """Paint every screen that can be seen."""
        from tui.screens.room import Room

        for screen in reversed(self.screen_stack):
            if isinstance(screen, Room):
                screen.repaint()
                return

    def on_unmount(self) -> None:
        self.inspector.stop()

    def open_theme(self, name: str) -> None:
        """Change the colours, and say so."""
        if name in themes.THEMES or name in themes.ALSO:
            self.use_theme(themes.ALSO.get(name, name))
        else:
            self.say(f"There is no theme {name}; there are {listed(list(themes.SAYS))}.")

    def open_refresh(self, seconds: str) -> None:
        """Read the disk every so many seconds."""
        try:
            pause = float(seconds)
        except ValueError:
            pause = 0.0
        if not 1 <= pause <= 3600:
            self.say(f"{seconds} is no number of seconds from 1 to 3600.")
            return
        self.lookout.pause = pause
        self.lookout.wake()
        self._remember_setting("refresh", pause)
        self.say(f"The disk is read every {pause:g} s.", "text")

    def open_quit(self) -> None:
        """Leave."""
        self.leave()

    def mode_refusal(self) -> str:
        """Return why read-only cannot be left; empty when it can, or when it is not read-only."""
        said = self.config.sources.get(("", "read_only"))
        if self.read_only and said is not None and said.line:
            return f"read_only = true is set in {said}: change it there."
        return ""

    def use_mode(self, read_only: bool) -> None:
        """Change things from now on, or nothing any more."""
        self.read_only = read_only
        self.config = replace(self.config, read_only=read_only)
        if self.lookout.lease is not None:
            self.lookout.lease.mode(read_only)
        self.repaint()
        self.say("Read-only: nothing is changed from here." if read_only else "Read-write.", "text")

    def start_job(self, kind: JobKind, server: str, *, ran: str = "", **arguments: Any) -> None:
        """Start a job and show it; what is in the way is shown instead. `ran`: the command line that does the same."""
        self.run_worker(partial(self._start_job, kind, server, arguments, ran), thread=True, exit_on_error=False)

    def _start_job(self, kind: JobKind, server: str, arguments: dict[str, Any], ran: str) -> None:
        from engine.job import commandline, launch, spec

        try:
            order = spec.make(self.config, kind, server, **arguments)
            self.call_from_thread(self.note_ran, ran or commandline.of(order))
            job = launch.launch(self.config, order, read_only=self.read_only, via="console", say=self._say_soon)
        except CellarmanError as error:
            self.call_from_thread(self.problem, error)
            return
        self.lookout.look_at(job)
        self.call_from_thread(self.open_job, job)

    def _say_soon(self, text: str) -> None:
        """Say something from another thread."""
        self.call_from_thread(self.say, text)

    def note_ran(self, line: str) -> None:
        """Remember the command line that does what was just done; `@` shows it."""
        self.ran.append((self.now(), line))

    def problem(self, error: CellarmanError) -> None:
        """Show an action that failed."""
        from tui.screens.problem import Problem

        self.push_screen(Problem(error))

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        error = event.worker.error
        if event.state is WorkerState.ERROR and error is not None:
            self._handle_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))

    def keep_look(self) -> None:
        """Keep what the list of servers shows for the next console."""
        if self.look is not None:
            remembered.keep(self.config.state_directory, self.look)

    def leave(self) -> None:
        """Leave, after saying which jobs go on, or that a demo ends with this."""
        running = len(self.snapshot.running)
        if not running and not self.banner:
            self.exit()
            return
        from tui.screens.leave import Leave

        self.push_screen(Leave(running, demo=bool(self.banner)))

    def action_command_palette(self) -> None:
        """Open the palette, once."""
        from textual.command import CommandPalette

        if not CommandPalette.is_open(self):
            self.push_screen(CommandPalette(placeholder="a command by its words", id="--command-palette"))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Offer the registry's commands in the palette."""
        from tui.screens.room import Room

        room = next((s for s in reversed(self.screen_stack) if isinstance(s, Room)), None)
        if room is None:
            return
        for command in commands.of(room.ROOM):
            if command.verb != "palette" and not room.refusal(command):
                yield SystemCommand(
                    f"{room.word(command)}  ({command.key})", command.help, lambda c=command: room.action_command(c.id)
                )
        for place in commands.PLACES:
            if place.takes == "server":
                continue
            if not place.takes or place.optional:
                yield SystemCommand(place.word, place.help, lambda p=place: self._open(p, "", ""))
        for server in self.config.servers:
            yield SystemCommand(f"server {server}", "Open the server.", lambda s=server: self.open_server(s))
        for name, said in themes.SAYS.items():
            yield SystemCommand(f"theme {name}", said, lambda n=themes.ALSO[name]: self.use_theme(n))

    def use_theme(self, name: str) -> None:
        """Change the colours, now and the next time."""
        self.ansi_color = None
        self.theme = name
        self._remember_setting("theme", name)

    def _remember_setting(self, key: str, value: str | float) -> None:
        if self._ui is None:
            return
        from tui import settings

        try:
            self._ui = settings.keep(self._ui, key, value)
        except OSError as error:
            self.say(f"It is not remembered: {self._ui.path}: {error.strerror}.")

    def _handle_exception(self, error: Exception) -> None:
        if not self.crashed:
            from tui import crash

            self.crashed = crash.summary(error, crash.write_report(error, self._reports()), self.config.named)
        super()._handle_exception(error)

    def _fatal_error(self) -> None:
        # Textual's own traceback shows locals, and with them passwords.
        self._close_messages_no_wait()


def refuse_terminal(environ: Any = os.environ) -> None:
    """Raise Refused when this terminal cannot carry the console, naming the command line instead."""
    views = (cellarman("servers"), ", ", cellarman("backups", "SERVER"), ", ", cellarman("jobs"))
    plain = Advice("every view is a command: ", *views)
    if environ.get("TERM", "") in ("dumb", ""):
        raise Refused("the console cannot be shown here", f"TERM is {environ.get('TERM') or 'not set'}", plain)
    # The screen is painted to standard error, and keys are read from standard input.
    for stream, name in ((sys.__stderr__, "standard error"), (sys.__stdin__, "standard input")):
        if stream is None or not stream.isatty():
            raise Refused("the console cannot be shown here", f"{name} is not a terminal", plain)


def run(
    config: Config,
    *,
    read_only: bool = False,
    demo_banner: str | None = None,
    theme: str = "",
    ascii_only: bool | None = None,
    mouse: bool | None = None,
) -> int:
    """Open the console and return its exit code; raises Refused on a terminal that cannot show it."""
    refuse_terminal()
    from tui import settings

    ui = settings.read(os.environ)
    commands.move(ui.keys)
    app = Console(
        config,
        read_only=read_only,
        banner=demo_banner or "",
        theme=theme or os.environ.get("CELLARMAN_THEME", ""),
        ascii_only=ascii_only or (True if os.environ.get("CELLARMAN_ASCII") else ui.ascii),
        ui=ui,
    )
    app.departure.watch_output()
    app.departure.watch_terminal()
    app.run(mouse=ui.mouse if mouse is None else mouse)
    app.departure.done()
    app.lookout.stop()
    app.keep_look()
    if app.crashed:
        print("\n".join(app.crashed), file=sys.stderr)
        return 4
    if app.wants_demo:
        return _demo()
    running = len(app.snapshot.running)
    if running and not app.return_code and not demo_banner:
        goes = "goes" if running == 1 else "go"
        look = cellarman("jobs").line(config.named)
        print(f"{counted(running, 'job')} {goes} on without this console: {look}", file=sys.stderr)
    return app.return_code or 0


def _demo() -> int:
    from engine.cli import main

    return main.main(["demo"])
