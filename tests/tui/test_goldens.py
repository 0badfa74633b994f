"""What stands on each screen, as text, at both sizes that are looked at; CELLARMAN_GOLDENS=write writes them anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.fleet import Fleet
from tests.tui.conftest import console, screen_text, until

GOLDENS = Path(__file__).parent / "goldens"
SCREENS = {
    "servers": [],
    "servers-at-risk": ["down"],
    "jobs": ["j"],
    "job": ["j", "enter"],
    "help": ["down", "down", "question_mark"],
    "leave": ["q"],
    "events": ["l"],
    "filter": ["slash", "o", "k"],
    "command": ["colon", "b", "a"],
    "ran": ["at"],
}


@pytest.mark.parametrize("size", [(80, 24), (160, 45)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", SCREENS)
async def test_the_screen_says_what_it_should(fleet: Fleet, name: str, size: tuple[int, int]) -> None:
    async with console(fleet.config, size=size) as (app, pilot):
        for key in SCREENS[name]:
            await pilot.press(key)
            await pilot.pause()
        if name == "events":
            await until(pilot, lambda: "event" in screen_text(app).splitlines()[3])
        if name == "job":
            await until(pilot, lambda: app.snapshot.job is not None and bool(app.snapshot.job.rates))
        compare(f"{name}-{size[0]}x{size[1]}", screen_text(app))


async def test_no_dialog_needs_more_than_ascii(fleet: Fleet) -> None:
    async with console(fleet.config, ascii_only=True) as (app, pilot):
        for key in ("b", "at", "ctrl+p", "q", "e", "question_mark", "r", "c", "l", "j", "colon"):
            await pilot.press("down", "down", "down", key)
            await pilot.pause()
            assert screen_text(app).isascii(), screen_text(app)
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is app.home)


async def test_ascii_alone_is_enough(fleet: Fleet) -> None:
    async with console(fleet.config, ascii_only=True) as (app, _):
        text = screen_text(app)
        assert text.isascii()
        compare("servers-ascii-80x24", text)


def compare(name: str, text: str) -> None:
    path = GOLDENS / f"{name}.txt"
    if os.environ.get("CELLARMAN_GOLDENS") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
