"""The console in a real tmux: copying, every key a person presses first, and a terminal that goes away."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.job import follow
from tests.support import fleet as fleet_
from tests.support.fleet import Fleet, write_config
from tests.support.tmux import Pane, pane
from tests.support.waiting import until
from tests.support.worker import Worker

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux here")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two servers, nothing running."""
    made = fleet_.Fleet(tmp_path_factory.mktemp("tmux"))
    made.server("main")
    made.server("other")
    write_config(made)
    yield made
    made.close()


@pytest.fixture
def seen(fleet: Fleet, tmp_path: Path) -> Iterator[Pane]:
    """The console on them."""
    argv = [sys.executable, "-m", "engine.cli.main", "--config", str(fleet.root / "cellarman.toml")]
    with pane(tmp_path, argv) as shown:
        shown.until("Two servers.")
        yield shown


def test_what_is_copied_is_in_tmuxs_buffer(seen: Pane) -> None:
    seen.press("y")
    seen.until("Copied main to tmux's buffer")
    assert seen.buffer == "main"


def test_a_line_typed_in_one_go_is_understood(seen: Pane) -> None:
    seen.type(":jobs")
    seen.press("Enter")
    seen.until("No job has run yet.")
    seen.type(":q")
    seen.press("Enter")
    until(lambda: seen.ended, what="the end of the console")


def test_a_terminal_that_goes_away_harms_no_job_and_leaves_no_lease(seen: Pane, fleet: Fleet) -> None:
    worker = Worker(fleet.config, "main")
    worker.report.phase("copy")
    seen.until("1 job")
    console = seen.pid
    seen.kill()
    until(lambda: not os.path.exists(f"/proc/{console}"), what="the end of the console")
    assert follow.state(str(worker.place)).status == "running"  # type: ignore[union-attr]
    assert list(Path(fleet.config.state_directory, "console", "open").iterdir()) == []
    worker.end()


def test_the_console_ends_with_its_terminal_also_below_a_program_that_stays(fleet: Fleet, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "engine.cli.main", "--config", str(fleet.root / "cellarman.toml")]
    with pane(tmp_path, ["sh", "-c", f"trap '' HUP; {shlex.join(argv)}; :"]) as shown:
        shown.until("Two servers.")
        leader = shown.pid
        shown.kill()
        until(lambda: not os.path.exists(f"/proc/{leader}"), seconds=15, what="the end of the console")
