"""Receiving WAL by streaming: one supervisor of pg_receivewal a server, in the foreground or detached.

It holds Barman's `.S-receive-wal.lock` with its pid, so Barman starts no second one and sees that one runs.
pg_receivewal writes into streaming/ with the server's replication slot and reports only what it has synced, so the
server gives up nothing that a crash of this host could lose.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from engine.commands import cellarman
from engine.config import Server
from engine.errors import Advice, Busy, CellarmanError, Refused
from engine.event import Level, Reporter, Silent
from engine.host.endpoint import Endpoint
from engine.postgres.connection import Slot
from engine.repository import locks
from engine.repository.layout import Layout
from engine.repository.locks import Holder
from engine.wal import started
from engine.wal.supervisor import STOPPED, Supervisor

_START_WAIT = 15.0
_MODULE = "engine.wal.receiver"
_LOG_LIMIT = 1 << 20
_READY = b"receiving\n"
_TAKEN = b"taken\n"


def alive(layout: Layout) -> Holder | None:
    """Return who receives this server's WAL now, Barman's own receive-wal included; None when nobody does."""
    return locks.holder(layout.lock("receive-wal"))


def log_path(layout: Layout) -> str:
    """Return where a detached receiver writes what it and pg_receivewal say."""
    return os.path.join(layout.own, "receive-wal.log")


def last_words(layout: Layout, lines: int = 5) -> str:
    """Return the last lines of the detached receiver's log, "" when there is none."""
    try:
        with open(log_path(layout), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
            tail = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(tail[-lines:])


def gets_nothing(slot: Slot | None, said: str) -> bool:
    """Tell whether a receiver that runs gets nothing: nobody reads its slot, and its log ends in a failure, `said`."""
    return slot is not None and not slot.active and STOPPED in said


def receive(server: Server, report: Reporter | None = None, reread: Callable[[], Server] | None = None) -> None:
    """Receive WAL into streaming/ until SIGTERM or SIGINT; run in the main thread of a process of its own.

    After a failure it goes on with what `reread` returns, the server as it is configured then.
    Raises Busy when another process receives already, Refused for a server that does not stream.
    """
    if not server.streaming_archiver:
        raise Refused(
            f"{server.name} does not stream its WAL",
            "streaming_archiver is false",
            f"set streaming_archiver = true in [servers.{server.name}]",
        )
    with locks.hold(server.layout.lock("receive-wal"), what=f"receive the WAL of {server.name}") as lock:
        Supervisor(server, lock, report or Silent(), reread).run()


def ensure(server: Server, *, renew: bool = False) -> bool:
    """Start the server's receiver in a session of its own unless one runs; tell whether it was started.

    `renew` is for who has just read the configuration: one that was started so with other settings is replaced.
    It outlives this process and its terminal, and is nobody's child. Raises CellarmanError, with the end of its log,
    when it does not come up.
    """
    layout = server.layout
    if not server.streaming_archiver:
        return False
    running = alive(layout)
    if running is not None and not (renew and _is_outdated(server, running) and _ended(layout, running)):
        return False
    answer = _launch(server)
    if answer == _READY:
        return True
    if answer == _TAKEN:
        return False
    raise CellarmanError(
        f"receiving the WAL of {server.name} could not be started",
        last_words(layout) or "it said nothing",
        Advice(f"see {log_path(layout)}, or run it in the foreground: ", cellarman("wal", "receive", server.name)),
    )


@dataclass(frozen=True, slots=True)
class Detached:
    """A receiver that `ensure` has started, by its process."""

    pid: int
    server: str
    origin: str
    """The configuration file that the server was in."""
    slot: str
    """Its replication slot; "" for none."""


def detached() -> list[Detached]:
    """Return the receivers that this account started detached and that run, whatever the configuration is now."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == os.geteuid():
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    words = os.fsdecode(file.read()).split("\0")
                if words[1:3] == ["-m", _MODULE] and len(words) == 7:
                    found.append(Detached(int(name), *words[3:6]))
    return found


def stop(receiver: Detached) -> bool:
    """Tell a receiver to end, and whether it did within some seconds."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(receiver.pid, signal.SIGTERM)
    deadline = time.monotonic() + _START_WAIT
    while receiver in detached():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def _is_outdated(server: Server, running: Holder) -> bool:
    """Tell whether the receiver was started by `ensure` with other settings; one in the foreground is its starter's."""
    return _MODULE in running.command and started.differs(server, running.pid)


def _ended(layout: Layout, running: Holder) -> bool:
    """Tell a receiver to end, and whether it did."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(running.pid, signal.SIGTERM)
    deadline = time.monotonic() + _START_WAIT
    while alive(layout) is not None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def _launch(server: Server) -> bytes:
    """Start the detached process and return its first word; b"" when it ended, or was silent, without one."""
    log = log_path(server.layout)
    os.makedirs(os.path.dirname(log), exist_ok=True)
    _rotate(log)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    try:
        # It forks and ends at once, so that the receiver leaves no zombie in a long-lived console.
        first = subprocess.Popen(
            [sys.executable, "-m", _MODULE, server.name, server.origin, server.slot_name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(output)
    assert first.stdin is not None and first.stdout is not None
    with first.stdout as answers:
        # The whole server goes through the pipe: its connection string may hold a password.
        with contextlib.suppress(BrokenPipeError), first.stdin as pipe:
            pipe.write(json.dumps(asdict(server)).encode())
        answered, _, _ = select.select([answers], [], [], _START_WAIT)
        word = answers.readline() if answered else b""
    try:
        first.wait(_START_WAIT)
    except subprocess.TimeoutExpired:
        first.kill()
        first.wait()
    return word


def _rotate(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if os.path.getsize(path) > _LOG_LIMIT:
            os.replace(path, path + ".1")


class LogReporter(Silent):
    """A Reporter that writes notes to standard error, each with its time."""

    def note(self, text: str, level: Level = "info") -> None:
        print(time.strftime("%Y-%m-%d %H:%M:%S%z"), level, text, file=sys.stderr, flush=True)


def _detached() -> int:
    """Receive for the server that standard input describes; the arguments are for `detached`, and who reads ps."""
    document = json.load(sys.stdin)
    if os.fork():
        return 0
    ssh = document.pop("ssh")
    server = Server(**document, ssh=Endpoint(**ssh) if ssh else None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    log = LogReporter()
    try:
        with locks.hold(server.layout.lock("receive-wal"), what=f"receive the WAL of {server.name}") as lock:
            started.note(server)
            _answer(_READY)
            Supervisor(server, lock, log).run()
    except Busy as error:
        _answer(_TAKEN)
        log.note(str(error), "warn")
    except CellarmanError as error:
        log.note("\n".join(error.lines(server.named)), "error")
        return error.exit_code
    return 0


def _answer(word: bytes) -> None:
    """Tell the process that started us, which waits, and let go of its pipe."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, word)
    silent = os.open(os.devnull, os.O_RDWR)
    os.dup2(silent, 0)
    os.dup2(silent, 1)
    os.close(silent)


if __name__ == "__main__":
    sys.exit(_detached())
