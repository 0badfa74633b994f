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
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.measure import Result, at_most
from tests.support import cluster, programs

SIZE = struct.pack("HHHH", 24, 80, 0, 0)
IDLE = 10.0
"""Seconds to listen to an idle console."""


def run(root: Path, scale: int, repeat: int) -> Iterator[Result]:
    installs = cluster.installs()
    with cluster.running(installs[max(installs)]) as server:
        ours = programs.configure(root, server, name="cellarbench")
        with ours.spawned("wal", "receive", "cellarbench"):
            ours.backup("cellarbench")
        paints = [_paint(ours.argv(), listen=0.0)[0] for _ in range(7)]
        yield at_most("console, start to first paint", 1000 * statistics.median(paints), 350, "ms")
        idle = _paint(ours.argv(), listen=IDLE)[1]
        yield at_most("console, idle", idle / IDLE, 0, "bytes a second")


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
