"""The console's app: opens the rooms, holds the snapshot that they paint, ends cleanly whatever happens."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from textual.app import App, SystemCommand
from textual.message import Message
from textual.screen import Screen
from textual.worker import Worker, WorkerState

from engine.errors import CellarmanError, Refused
from tui import glyphs, themes
from tui.format import counted
from tui.snapshot import Snapshot, minute_of, utc_now
from tui.watch import Watch

if TYPE_CHECKING:
    from engine.config import Config
    from engine.job.spec import JobKind

os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")


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


class Console(App[None]):
    """The console on one configuration."""

    TITLE = "cellarman"
    CSS_PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "app.tcss")
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
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        chosen = themes.chosen(theme)
        # Said at the start, so that NO_COLOR leaves out colours instead of turning them into greys.
        super().__init__(ansi_color=True if chosen == themes.TERMINAL.name else None)
        self.config = config
        self.now = now
        self.read_only = read_only or config.read_only
        self.banner = banner
        self.glyphs = glyphs.chosen(ascii_only)
        self.snapshot = Snapshot(minute_of(now()), looked=False)
        self.trouble = ""
        self.crashed: list[str] = []
        self.lookout = Watch(
            config,
            lambda snapshot: self._tell(Looked(snapshot)),
            lambda error: self._tell(WatchBroke(error)),
            now,
        )
        for known in themes.THEMES.values():
            self.register_theme(known)
        self.theme = chosen

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return dict(themes.CELLAR.variables)

    def _tell(self, message: Message) -> None:
        if self.is_running:
            self.post_message(message)

    def on_mount(self) -> None:
        self._watch_signals()
        if self.config.servers:
            from tui.screens.servers import Servers

            self.push_screen(Servers())
        else:
            from tui.screens.welcome import Welcome

            self.push_screen(Welcome())
        self.call_after_refresh(self.lookout.start)

    def _watch_signals(self) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._ended_by, number)

    def _ended_by(self, number: signal.Signals) -> None:
        self.exit(return_code=128 + number)

    def on_looked(self, message: Looked) -> None:
        before, self.snapshot = self.snapshot, message.snapshot
        self.repaint()
        if message.snapshot.trouble and message.snapshot.trouble != before.trouble:
            self.say(f"What is shown is old: {message.snapshot.trouble}")

    def say(self, text: str) -> None:
        """Say something in the room that is open."""
        from tui.screens.room import Room

        if isinstance(self.screen, Room):
            self.screen.say(text, "soon")

    def on_watch_broke(self, message: WatchBroke) -> None:
        from tui import crash

        self.trouble = crash.write_report(message.error, self.config.state_directory)
        self.repaint()
        self.say(f"What is shown is old from now on: a defect of cellarman, see {self.trouble}")

    def repaint(self) -> None:
        """Paint every screen that can be seen."""
        from tui.screens.room import Room

        for screen in reversed(self.screen_stack):
            if isinstance(screen, Room):
                screen.repaint()
                return

    def open_job(self, job_id: str) -> None:
        """Show a job."""
        from tui.screens.job import JobRoom

        self.push_screen(JobRoom(job_id))

    def start_job(self, kind: JobKind, server: str, **arguments: Any) -> None:
        """Start a job and show it; what is in the way is shown instead."""
        self.run_worker(partial(self._start_job, kind, server, arguments), thread=True, exit_on_error=False)

    def _start_job(self, kind: JobKind, server: str, arguments: dict[str, Any]) -> None:
        from engine import permission
        from engine.job import launch, spec

        protected = self.config.servers[server].protected
        try:
            permission.require(kind, server, read_only=self.read_only, protected=protected)
            job = launch.launch(self.config, spec.make(self.config, kind, server, **arguments))
        except CellarmanError as error:
            self.call_from_thread(self.problem, error)
            return
        self.lookout.look_at(job)
        self.call_from_thread(self.open_job, job)

    def problem(self, error: CellarmanError) -> None:
        """Show an action that failed."""
        from tui.screens.problem import Problem

        self.push_screen(Problem(error))

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        error = event.worker.error
        if event.state is WorkerState.ERROR and error is not None:
            self._handle_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))

    def leave(self) -> None:
        """Leave, after saying which jobs go on; a demo's end with it."""
        running = len(self.snapshot.running)
        if not running or self.banner:
            self.exit()
            return
        from tui.screens.leave import Leave

        self.push_screen(Leave(running))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Offer the registry's commands in the palette."""
        from tui import commands
        from tui.screens.room import Room

        room = next((s for s in reversed(self.screen_stack) if isinstance(s, Room)), None)
        if room is None:
            return
        for command in commands.of(room.ROOM):
            if command.verb != "palette" and not room.refusal(command):
                yield SystemCommand(
                    f"{room.word(command)}  ({command.key})", command.help, lambda c=command: room.action_command(c.id)
                )
        for name in themes.THEMES:
            yield SystemCommand(f"theme {name}", "Change the colours.", lambda n=name: self.use_theme(n))

    def use_theme(self, name: str) -> None:
        """Change the colours."""
        self.ansi_color = None
        self.theme = name

    def _handle_exception(self, error: Exception) -> None:
        if not self.crashed:
            from tui import crash

            self.crashed = crash.summary(error, crash.write_report(error, self.config.state_directory))
        super()._handle_exception(error)

    def _fatal_error(self) -> None:
        # Textual's own traceback shows locals, and with them passwords.
        self._close_messages_no_wait()


def refuse_terminal(environ: Any = os.environ) -> None:
    """Raise Refused when this terminal cannot carry the console, naming the command line instead."""
    plain = "every view is a command: cellarman servers, cellarman backups SERVER, cellarman jobs"
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
    mouse: bool = True,
) -> int:
    """Open the console and return its exit code; raises Refused on a terminal that cannot show it."""
    refuse_terminal()
    app = Console(
        config,
        read_only=read_only,
        banner=demo_banner or "",
        theme=theme or os.environ.get("CELLARMAN_THEME", ""),
        ascii_only=ascii_only or (True if os.environ.get("CELLARMAN_ASCII") else None),
    )
    app.run(mouse=mouse)
    app.lookout.stop()
    if app.crashed:
        print("\n".join(app.crashed), file=sys.stderr)
        return 4
    running = len(app.snapshot.running)
    if running and not app.return_code and not demo_banner:
        goes = "goes" if running == 1 else "go"
        print(f"{counted(running, 'job')} {goes} on without this console: cellarman jobs", file=sys.stderr)
    return app.return_code or 0
