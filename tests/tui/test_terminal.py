"""The console in a real terminal: what it sends, how it ends, and what it refuses."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import sys
import termios
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import fleet as fleet_
from tests.support.fleet import write_config
from tests.support.terminal import Terminal, console
from tests.support.waiting import until

SHOWN = "One server."
COLOUR = re.compile(rb"\x1b\[[0-9;]*?(?:3[0-7]|4[0-7]|9[0-7]|10[0-7]|[34]8;[25];)[0-9;]*m")


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server, no job."""
    fleet = fleet_.Fleet(tmp_path_factory.mktemp("terminal"))
    fleet.server("main")
    yield write_config(fleet)


def restored(written: bytes) -> bool:
    """Tell whether the last words to the terminal left the other screen, showed the cursor and freed the mouse."""
    return all(
        written.rfind(off) > written.rfind(on)
        for on, off in (
            (b"\x1b[?1049h", b"\x1b[?1049l"),
            (b"\x1b[?25l", b"\x1b[?25h"),
            (b"\x1b[?1000h", b"\x1b[?1000l"),
        )
    )


def test_an_idle_console_sends_nothing(config_file: str) -> None:
    with console(config_file) as terminal:
        terminal.until(SHOWN)
        terminal.read(1.0)
        # The clock's minute may change once in between, not twice.
        assert not terminal.read(3.0) or not terminal.read(3.0)
        terminal.press("q")
        assert terminal.wait() == 0
        assert restored(terminal.written)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(config_file: str, number: signal.Signals) -> None:
    with console(config_file) as terminal:
        terminal.until(SHOWN)
        os.kill(terminal.pid, number)
        assert terminal.wait() == 128 + number
        assert restored(terminal.written)


def ended(pid: int) -> int:
    """Wait for a process without reading its terminal; return its wait status."""
    found: list[int] = []

    def over() -> bool:
        done, status = os.waitpid(pid, os.WNOHANG)
        found.append(status)
        return done == pid

    until(over, what="the console ends", seconds=30)
    return found[-1]


def test_a_terminal_that_vanishes_ends_it(config_file: str) -> None:
    with console(config_file) as terminal:
        terminal.until(SHOWN)
        os.close(terminal.fd)
        terminal.fd = os.open(os.devnull, os.O_RDWR)
        status = ended(terminal.pid)
        terminal.gone(status)
        # 120 is Python's own: it could not write what was left to the terminal.
        assert os.waitstatus_to_exitcode(status) in (128 + signal.SIGHUP, -signal.SIGHUP, 120)


def test_a_stalled_terminal_does_not_keep_it(config_file: str) -> None:
    """Nobody reads what it writes, as when a link hangs: it waits to write, and a signal ends it all the same."""
    with console(config_file) as terminal:
        terminal.until(SHOWN)
        for _ in range(60):
            terminal.press("?q")
        full = [0]

        def stalled() -> bool:
            """Some thousand bytes, and no more come."""
            full.append(unread(terminal.fd))
            return len(full) > 20 and full[-1] > 2000 and len(set(full[-20:])) == 1

        until(stalled, what="nothing more is taken")
        os.kill(terminal.pid, signal.SIGTERM)
        status = ended(terminal.pid)
        terminal.gone(status)
        assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGTERM


def unread(fd: int) -> int:
    """Return how many bytes wait in a terminal for somebody to read them."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_that_cannot_is_refused_with_the_command_line_named(config_file: str, term: str) -> None:
    with console(config_file, TERM=term) as terminal:
        assert terminal.wait() == 3
        assert f"cellarman --config {config_file} servers" in terminal.text
        assert b"\x1b" not in terminal.written


def test_no_color_means_no_colour(config_file: str) -> None:
    with console(config_file, NO_COLOR="1", COLORTERM="truecolor") as terminal:
        terminal.until(SHOWN)
        terminal.read(0.5)
        assert COLOUR.search(terminal.written) is None
        terminal.press("q")
        assert terminal.wait() == 0


def test_a_terminal_of_few_colours_gets_its_own_palette(config_file: str) -> None:
    with console(config_file, TERM="screen") as terminal:
        terminal.until(SHOWN)
        assert b"38;2;" not in terminal.written
        assert b"38;5;" not in terminal.written


def test_ascii_where_the_locale_is_not_utf8(config_file: str) -> None:
    with console(config_file, CELLARMAN_ASCII="1") as terminal:
        terminal.until(SHOWN)
        assert {c for c in terminal.text if not c.isascii()} == set()


def test_it_follows_the_terminals_size(config_file: str) -> None:
    with console(config_file, size=(50, 12)) as terminal:
        terminal.until("This terminal has 50 columns")
        terminal.resize(100, 30)
        os.kill(terminal.pid, signal.SIGWINCH)
        terminal.until(SHOWN)


CRASHING = """
    import sys
    from datetime import datetime
    from engine.config import load
    from tui import app

    class Broken(app.Console):
        def on_looked(self, message):
            secret = "hunter2"
            conninfo = f"host=a password={secret}"
            raise RuntimeError(f"cannot show {conninfo}")

    app.Console = Broken
    sys.exit(app.run(load(sys.argv[1])))
"""


def test_a_crash_tells_no_secret_and_says_where_the_report_is(config_file: str, tmp_path: Path) -> None:
    script = tmp_path / "crashing.py"
    script.write_text(textwrap.dedent(CRASHING))
    with Terminal([sys.executable, str(script), config_file], PYTHONPATH=os.getcwd()) as terminal:
        assert terminal.wait() == 4
        assert restored(terminal.written)
        assert "hunter2" not in terminal.text
        assert "defect of cellarman" in terminal.text
    reports = list((Path(config_file).parent / "state").glob("crash-*.txt"))
    assert len(reports) == 1
    assert reports[0].stat().st_mode & 0o777 == 0o600
    report = reports[0].read_text()
    assert "hunter2" not in report
    assert "RuntimeError" in report and "on_looked" in report


def test_the_first_start_is_a_screen_that_helps(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "engine.cli.main"]
    with Terminal(argv, HOME=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path), XDG_STATE_HOME=str(tmp_path)) as terminal:
        terminal.until("No server is known yet.")
        terminal.until("[servers.main]")
        terminal.press("q")
        assert terminal.wait() == 0
