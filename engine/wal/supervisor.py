"""pg_receivewal run again and again, until a signal says stop."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from engine.config import Server
from engine.errors import CellarmanError
from engine.event import Reporter
from engine.postgres import programs
from engine.postgres.connection import connect, parse_conninfo, slot, with_options, without_password
from engine.repository.layout import Layout
from engine.repository.locks import Lock
from engine.wal import anew, restream
from engine.wal.inventory import listed

STOPPED = "receiving stopped"
"""How the line begins that tells of a failure, until the next try."""
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_HEALTHY = 30.0
"""Seconds of running after which the next failure is a new one: the pause starts small again."""
_STOP_GRACE = 10
"""Seconds that pg_receivewal gets to finish after it was asked to stop."""
_PR_SET_PDEATHSIG = 1

_LIVENESS = {
    "keepalives_idle": "20",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
    "connect_timeout": "10",
}
"""libpq options by which a connection that was cut silently is noticed within about a minute."""


class Supervisor:
    """Keeps pg_receivewal running for one server, under a held `lock`; runs in the main thread.

    `reread` returns the server as it is configured now, and is asked before each new try.
    """

    def __init__(
        self, server: Server, lock: Lock, report: Reporter, reread: Callable[[], Server] | None = None
    ) -> None:
        self._server = server
        self._reread = reread
        self._lock = lock
        self._report = report
        self._child: subprocess.Popen[str] | None = None
        self._stopping = False

    def run(self) -> None:
        """Receive until SIGTERM or SIGINT; pauses between failures grow from a second to a minute.

        Also ends when the lock file is gone, with its repository or file system: another may hold a new one.
        """
        os.makedirs(self._server.layout.streaming, exist_ok=True)
        pause = _FIRST_PAUSE
        with self._signals():
            while not self._told_to_stop():
                began = time.monotonic()
                try:
                    said = self._once()
                except CellarmanError as error:
                    said = str(error)
                if self._told_to_stop():
                    break
                if not self._lock.is_current():
                    self._report.note(f"receiving ended: {self._lock.path} is gone", "error")
                    return
                if time.monotonic() - began >= _HEALTHY:
                    pause = _FIRST_PAUSE
                self._say_how_to_begin_anew(said)
                self._report.note(f"{STOPPED} ({said or 'no word'}); again in {pause:g} s", "warn")
                self._nap(pause)
                self._take_over_settings()
                pause = min(_LONGEST_PAUSE, pause * 2)
        self._report.note("receiving ended: it was told to stop")

    def _take_over_settings(self) -> None:
        """Go on as the configuration says now, unless it is broken or names other places, which the lock is not of."""
        if self._reread is None or self._told_to_stop():
            return
        try:
            now = self._reread()
        except CellarmanError as error:
            self._report.note(f"the configuration is not taken over: {error}", "error")
            return
        if _places(now.layout) == _places(self._server.layout):
            self._server = now

    def _told_to_stop(self) -> bool:
        return self._stopping

    def _once(self) -> str:
        """Run pg_receivewal until it ends; return why."""
        program, environment, connection = self._program()
        named = ["--slot", self._server.slot_name] if self._server.slot_name else []
        base = [program, "-d", connection, "--no-password", *named]
        ours = self._server.create_slot == "auto"
        if named and ours and not self._slot_is_there():
            said = self._spawn([*base, "--create-slot", "--if-not-exists"], environment)
            if said:
                return said
        restream.step_back(self._server, self._report)
        options = ["--synchronous"] if self._synchronous() else []
        if self._told_to_stop():
            return ""
        self._report.note(f"receiving with {program} into {self._server.layout.streaming}")
        said = self._spawn([*base, "--no-loop", *options, "-D", self._server.layout.streaming], environment)
        if said and restream.give_up_the_fork(self._server, self._report) and named:
            if ours:
                self._spawn([*base, "--drop-slot"], environment)  # it may stand at the fork by now
            else:
                self._say_how_to_renew_the_slot()
        return said

    def _say_how_to_begin_anew(self, said: str) -> None:
        received = listed(self._server.layout.streaming)
        commands = anew.commands(self._server, said, received, self._server.named)
        for number, command in enumerate(commands.splitlines()):
            self._report.note(f"{'     ' if number else 'now: '}{command}", "error")

    def _say_how_to_renew_the_slot(self) -> None:
        """Say what to do with a slot that is not ours to drop, and that may stand where the server has no WAL."""
        name = self._server.slot_name
        self._report.note(
            f'slot {name} may stand where the server has no WAL any more (create_slot = "manual"); renew it there: '
            f"SELECT pg_drop_replication_slot('{name}'); SELECT pg_create_physical_replication_slot('{name}')",
            "error",
        )

    def _program(self) -> tuple[str, dict[str, str], str]:
        """Return pg_receivewal's path, its environment and a connection string that is safe in an argument."""
        server = self._server
        given = server.streaming_conninfo or server.conninfo
        present = parse_conninfo(given)
        options = {key: value for key, value in _LIVENESS.items() if key not in present}
        safe, password = without_password(
            with_options(given, application_name=server.streaming_archiver_name, **options)
        )
        environment = {**os.environ, "LC_ALL": "C"}
        if password is not None:
            environment["PGPASSWORD"] = password
        return programs.find("pg_receivewal", server.path_prefix).path, environment, safe

    def _slot_is_there(self) -> bool:
        """Tell whether the slot is known to exist: asking to make it would then leave an error in the server's log."""
        server = self._server
        try:
            with connect(server.conninfo, timeout=server.check_timeout) as connection:
                return slot(connection, server.slot_name) is not None
        except CellarmanError:
            return False

    def _synchronous(self) -> bool:
        """Tell whether commits wait for this receiver, so that it must sync at once rather than by the segment."""
        names = ""
        try:
            with (
                connect(self._server.conninfo, timeout=self._server.check_timeout) as connection,
                connection.cursor() as cursor,
            ):
                cursor.execute("SHOW synchronous_standby_names")
                names = str((cursor.fetchone() or ("",))[0])
        except CellarmanError as error:
            self._report.note(f"whether commits wait for this receiver is not known: {error}", "warn")
        return "*" in names or self._server.streaming_archiver_name.lower() in names.lower()

    def _spawn(self, command: list[str], environment: dict[str, str]) -> str:
        """Run a program to its end, passing on what it says; return what it gave as the reason if it failed."""
        reason = last = ""
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
            preexec_fn=_die_with_parent,
        )
        self._child = child
        assert child.stderr is not None
        if self._told_to_stop():  # the signal came before there was a child to pass it on to
            self._stop()
        with child.stderr as words:
            for line in words:
                last = line.strip() or last
                reason = reason or (last if "error:" in last else "")
                self._report.note(line.rstrip())
        code = child.wait()
        signal.alarm(0)
        self._child = None
        return "" if code == 0 else reason or last or f"it ended with code {code}"

    def _nap(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._told_to_stop() and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.25))

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        wanted = {signal.SIGTERM: self._stop, signal.SIGINT: self._stop, signal.SIGALRM: self._kill}
        before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, *_: Any) -> None:
        """Ask pg_receivewal to stop, and see that it does."""
        self._stopping = True
        if self._child is not None:
            self._child.send_signal(signal.SIGINT)
            signal.alarm(_STOP_GRACE)

    def _kill(self, *_: Any) -> None:
        if self._child is not None:
            self._child.kill()


def _places(layout: Layout) -> list[str]:
    return [layout.locks, *layout.directories()]


def _die_with_parent() -> None:
    """Have the kernel end this child with its supervisor, however that dies: two must never write streaming/."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
