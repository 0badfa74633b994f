"""A real terminal for a program: a pseudo terminal of a given size, what was written to it, keys, signals."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from types import TracebackType

_ESCAPES = re.compile(
    rb"\x1b(?:\[[0-9;?<>=]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][0-9A-B]|P[^\x1b]*\x1b\\|[=>78])"
)


class Terminal:
    """A program on its own pseudo terminal."""

    def __init__(self, argv: list[str], *, size: tuple[int, int] = (80, 24), **environ: str) -> None:
        self.written = b""
        self.began = time.monotonic()
        self._status: int | None = None
        env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8"}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(argv[0], argv, {**env, "TERM": "xterm-256color", **environ})
        self.resize(*size)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.wait()
        os.close(self.fd)

    def read(self, seconds: float) -> bytes:
        """Return what is written within so many seconds."""
        deadline = time.monotonic() + seconds
        found = b""
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self.fd], [], [], left)[0]:
                break
            try:
                part = os.read(self.fd, 1 << 16)
            except OSError:
                break
            if not part:
                break
            found += part
        self.written += found
        return found

    def first(self, seconds: float) -> bytes:
        """Return what is written next, as soon as something is."""
        found = os.read(self.fd, 1 << 16) if select.select([self.fd], [], [], seconds)[0] else b""
        self.written += found
        return found

    @property
    def text(self) -> str:
        """Everything that was written, without control sequences."""
        return _ESCAPES.sub(b"", self.written).decode("utf-8", "replace")

    def until(self, text: str, seconds: float = 20) -> float:
        """Read until `text` was written; return how long after the start that was."""
        deadline = time.monotonic() + seconds
        while text not in self.text:
            if time.monotonic() > deadline:
                raise AssertionError(f"{text!r} did not come within {seconds} s:\n{self.text[-3000:]}")
            self.read(0.02)
        return time.monotonic() - self.began

    def press(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def wait(self, seconds: float = 20) -> int:
        """Return the exit code (128 + n for a signal), reading what is still written."""
        deadline = time.monotonic() + seconds
        while self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
                self.read(0.2)
            elif time.monotonic() > deadline:
                raise AssertionError(f"it has not ended within {seconds} s:\n{self.text[-3000:]}")
            else:
                self.read(0.02)
        return 128 - self._status if self._status < 0 else self._status


@contextlib.contextmanager
def console(config_file: str, *words: str, size: tuple[int, int] = (80, 24), **environ: str) -> Iterator[Terminal]:
    """Run the console on a configuration file in a terminal of its own."""
    argv = [sys.executable, "-m", "engine.cli.main", "--config", config_file, *words]
    with Terminal(argv, size=size, **environ) as terminal:
        yield terminal
