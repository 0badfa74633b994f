"""A fleet on disk, and the console on it in a terminal of a given size."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from engine.config import Config
from tests.support import fleet as fleet_
from tests.support.fleet import Fleet
from tui.app import Console
from tui.widgets.lines import Lines


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The fleet of the pictures; tests only look at it."""
    with fleet_.standing(tmp_path_factory.mktemp("fleet")) as standing:
        yield standing


@pytest.fixture(autouse=True)
def what_is_said_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a room says above its keys, however slow the machine is."""
    monkeypatch.setattr("tui.screens.prompting.FLASH_SECONDS", 3600.0)


@contextlib.asynccontextmanager
async def console(
    config: Config,
    *,
    size: tuple[int, int] = (80, 24),
    now: Callable[[], datetime] = lambda: fleet_.NOW,
    **options: Any,
) -> AsyncIterator[tuple[Console, Pilot[None]]]:
    """Open the console and wait until it has read the disk."""
    options.setdefault("theme", "cellar")
    options.setdefault("ascii_only", False)
    app = Console(config, now=now, **options)
    async with app.run_test(size=size, notifications=True) as pilot:
        try:
            await until(pilot, lambda: app.snapshot.looked)
            yield app, pilot
        finally:
            app.lookout.stop()


async def until(pilot: Pilot[None], met: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until `met`, at most so long, and until what follows from it is painted."""
    for _ in range(int(seconds / 0.02)):
        if met():
            break
        await pilot.pause(0.02)
    assert met(), screen_text(pilot.app)
    await pilot.pause()
    await pilot.pause()


def words(app: Any) -> str:
    """Return what is on the screen as one line, without the cursor's mark."""
    return " ".join(screen_text(app).replace("▌", " ").split())


def screen_text(app: Any) -> str:
    """Return what is on the screen as text, without the blanks at the ends of lines."""
    strips = app.screen._compositor.render_strips()
    return "\n".join(strip.text.rstrip() for strip in strips).rstrip() + "\n"


def flash(app: Any) -> str:
    """Return what is said above the keys, whole."""
    return " ".join("".join(text for text, _ in line) for line in app.screen.query_one("#flash", Lines).lines)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Fleet]:
    """A fleet of this test's own: it may be changed."""
    with fleet_.standing(tmp_path) as standing:
        yield standing
