"""A tmux of its own for a test: programs in a pane of a given size, keys into it, what is seen of it."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.waiting import until

# The account that runs the tests may have a login shell that refuses to start anything.
SHELL = ("set-option", "-g", "default-shell", "/bin/sh")


class Pane:
    """One session with one pane. The program in it ends with the session."""

    def __init__(self, root: Path, command: list[str], size: tuple[int, int], environ: dict[str, str]) -> None:
        self._tmux = ["tmux", "-S", str(root / "tmux.sock"), "-f", "/dev/null"]
        columns, rows = (str(number) for number in size)
        words = "exec " + shlex.join(["env", *(f"{key}={value}" for key, value in environ.items()), *command])
        start = ["new-session", "-d", "-x", columns, "-y", rows, words]
        # The pane stays when its program has ended, so that its last words can be read.
        self._run(*SHELL, ";", *start, ";", "set-option", "-w", "remain-on-exit", "on")

    def _run(self, *words: str) -> str:
        done = subprocess.run([*self._tmux, *words], capture_output=True, text=True, timeout=20, check=True)
        return done.stdout

    @property
    def text(self) -> str:
        """What is on the screen, without the blanks at the ends of lines."""
        return self._run("capture-pane", "-p")

    @property
    def ended(self) -> bool:
        """Whether the program has ended."""
        return self._run("display-message", "-p", "#{pane_dead}").strip() == "1"

    @property
    def pid(self) -> int:
        """The process in the pane."""
        return int(self._run("display-message", "-p", "#{pane_pid}"))

    def press(self, *keys: str) -> None:
        """Press keys, by tmux's names (Enter, Escape, Down, C-p)."""
        self._run("send-keys", *keys)

    def type(self, text: str) -> None:
        """Type text as it stands."""
        self._run("send-keys", "-l", text)

    def until(self, wanted: str, seconds: float = 30) -> str:
        """Wait until the screen shows `wanted` and return the screen."""
        there = until(
            lambda: text if wanted in (text := self.text) else "",
            f"{wanted!r} on the screen",
            seconds,
            seen=lambda: self.text,
        )
        return str(there)

    @property
    def buffer(self) -> str:
        """What was copied last."""
        return self._run("show-buffer")

    def kill(self) -> None:
        """End tmux and with it the terminal, as a closed window or a lost connection does."""
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, timeout=20, check=False)


@contextlib.contextmanager
def pane(root: Path, command: list[str], *, size: tuple[int, int] = (80, 24), **environ: str) -> Iterator[Pane]:
    """Run a command in a pane; the socket and HOME are in `root`."""
    known = {"PATH": os.environ["PATH"], "HOME": str(root), "LANG": "C.UTF-8", "TERM": "tmux-256color"}
    made = Pane(root, command, size, {**known, **environ})
    try:
        yield made
    finally:
        made.kill()
