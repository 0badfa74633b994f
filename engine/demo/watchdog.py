"""Clears the demo away when the process that started it is gone, however it went: `python -m engine.demo.watchdog DIR`.

Standard input is a pipe from that process: its end is the sign. A changed parent is too, should a grandchild keep the
pipe.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from types import FrameType

from engine.demo import place


class Watchdog:
    """The watchdog of a demo, seen from the process that it watches."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._process = subprocess.Popen(
            [sys.executable, "-m", "engine.demo.watchdog", path],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    def clear(self) -> list[int]:
        """Have the demo cleared away and return the pids that would not end; without a watchdog do it here."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return place.clear(self._path)


def main() -> int:
    """Wait for the end of the demo, then clear it away; 0 when nothing is left."""
    parent = os.getppid()
    ended = False

    def end(signum: int, frame: FrameType | None) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    while not ended and os.getppid() == parent:
        readable, _, _ = select.select([sys.stdin], [], [], 0.5)
        if readable:
            break
    return 1 if place.clear(sys.argv[1]) else 0


if __name__ == "__main__":
    sys.exit(main())
