"""The console on a real pseudo-terminal: how soon it paints, and what it sends while nothing happens."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import statistics
import struct
import termios
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

from engine.config import Server
from tests.bench.measure import Result, at_most
from tests.support import cluster, programs
from tests.support.fleet import Fleet, write_config
from tests.support.terminal import Terminal
from tests.support.worker import Worker

SIZE = struct.pack("HHHH", 24, 80, 0, 0)
IDLE = 10.0
"""Seconds to listen to an idle console."""
SERVERS = 200
BACKUPS = 50
"""Of each server."""
HAND = "▌".encode()
"""What stands before the row under the cursor."""


def run(root: Path, scale: int, repeat: int) -> Iterator[Result]:
    installs = cluster.installs()
    with cluster.running(installs[max(installs)]) as server:
        ours = programs.configure(root, server, name="cellarbench")
        with ours.spawned("wal", "receive", "cellarbench"):
            ours.backup("cellarbench")
        paints = [_paint(ours.argv(), listen=0.0)[0] for _ in range(7)]
        yield at_most("console, start to first paint", 1000 * statistics.median(paints), 350, "ms")
        # The clock's minute may change once.
        idle = min(_paint(ours.argv(), listen=IDLE)[1] for _ in range(2))
        yield at_most("console, idle", idle / IDLE, 0, "bytes a second")


def crowd(root: Path, scale: int, repeat: int) -> Iterator[Result]:
    """Measure with 200 servers, 10,000 backups and four jobs that stream."""
    fleet = Fleet(root, datetime.now(timezone.utc))
    for number in range(SERVERS):
        _populate(fleet, fleet.server(f"server{number:03d}", archiver=True))
    config_file = write_config(fleet)
    for name in [f"server{number:03d}" for number in range(4)]:
        threading.Thread(target=_stream, args=(Worker(fleet.config, name),), daemon=True).start()
    argv = [str(programs.BIN / "cellarman"), "--config", config_file]
    with Terminal(argv, HOME=str(root)) as terminal:
        terminal.until("4 jobs")
        until_read = time.monotonic() - terminal.began
        terminal.read(6.0)
        before = _cpu(terminal.pid)
        times = sorted(_press(terminal, b"\x1b[B" if turn % 20 < 10 else b"\x1b[A") for turn in range(200))
        yield at_most("console, 200 servers, start to live data", until_read, 5, "s")
        yield at_most("console, key to paint, median", 1000 * times[len(times) // 2], 50, "ms")
        yield at_most("console, key to paint, 95 of 100", 1000 * times[len(times) * 95 // 100], 50, "ms")
        yield at_most("console, CPU of a key", 1000 * (_cpu(terminal.pid) - before) / len(times), 25, "ms")
        yield at_most("console, resident memory", _resident(terminal.pid) / (1 << 20), 110, "MB")
        before = _cpu(terminal.pid)
        terminal.read(IDLE)
        yield at_most("console, CPU while four jobs stream", 100 * (_cpu(terminal.pid) - before) / IDLE, 25, "%")


def _populate(fleet: Fleet, server: Server) -> None:
    fleet.segments(server, 100, [fleet.now - timedelta(hours=2), fleet.now - timedelta(minutes=1)])
    for number in range(BACKUPS):
        fleet.backup(server, fleet.now - timedelta(hours=1 + number), 100, minutes=2)


def _stream(worker: Worker) -> None:
    """Write progress again and again, as a copy does."""
    worker.report.phase("copy")
    done = 0
    while True:
        done += 1 << 20
        worker.report.progress(done, 1 << 40)
        time.sleep(0.01)


def _press(terminal: Terminal, key: bytes) -> float:
    """Return the seconds from a key until the cursor is painted at its new place."""
    begin = time.perf_counter()
    os.write(terminal.fd, key)
    seen = b""
    while HAND not in seen:
        seen += _read(terminal.fd, 5.0)
        if time.perf_counter() - begin > 5:
            raise SystemExit("the console does not answer")
    took = time.perf_counter() - begin
    while _read(terminal.fd, 0.06):
        pass
    return took


def _resident(pid: int) -> int:
    """Return the bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cpu(pid: int) -> float:
    """Return the seconds of CPU that a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _paint(argv: list[str], listen: float) -> tuple[float, int]:
    """Return the seconds until the server's name is on the screen, and the bytes sent in `listen` quiet seconds."""
    begin = time.perf_counter()
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execv(argv[0], argv)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, SIZE)
    try:
        screen = b""
        while b"cellarbench" not in screen:
            screen += _read(terminal, 10.0)
        painted = time.perf_counter() - begin
        while listen and _read(terminal, 1.5):
            pass  # until it has settled
        quiet_until = time.perf_counter() + listen
        idle = 0
        while (left := quiet_until - time.perf_counter()) > 0:
            idle += len(_read(terminal, left))
        return painted, idle
    finally:
        os.kill(pid, signal.SIGTERM)
        _drain(pid, terminal)


def _read(terminal: int, patience: float) -> bytes:
    readable, _, _ = select.select([terminal], [], [], patience)
    return os.read(terminal, 1 << 16) if readable else b""


def _drain(pid: int, terminal: int) -> None:
    """Read what it still says until it has ended; a process whose terminal is full cannot end."""
    deadline = time.monotonic() + 5
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            break
        try:
            _read(terminal, 0.05)
        except OSError:
            time.sleep(0.01)
    os.close(terminal)
