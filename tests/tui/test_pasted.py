"""Commands that the console shows name the configuration that it was opened on, where that is not found by itself."""

from __future__ import annotations

import shlex
from dataclasses import replace

from engine.commands import cellarman
from engine.errors import Advice, CellarmanError
from tests.support.fleet import Fleet
from tests.tui.conftest import console, until, words
from tui import crash
from tui.format import Line
from tui.screens.leave import Leave
from tui.snapshot import utc_now

FILE = "/a b/c.toml"
NAMED = f"cellarman --config {shlex.quote(FILE)}"


def said(lines: list[Line]) -> str:
    return "\n".join("".join(text for text, _ in line) for line in lines)


async def test_an_error_that_is_shown_and_copied(own: Fleet) -> None:
    error = CellarmanError("it failed", "for a reason", Advice("take one: ", cellarman("backup", "crm")))
    for files, wanted in (((FILE,), f"{NAMED} backup crm"), ((), "cellarman backup crm")):
        async with console(replace(own.config, files=files), size=(120, 40)) as (app, pilot):
            app.problem(error)
            await until(pilot, lambda wanted=wanted: f"now take one: {wanted}" in words(app))
            await pilot.press("y")
            await until(pilot, lambda wanted=wanted: app.clipboard.endswith(f"now: take one: {wanted}"))


async def test_what_mends_a_server_and_what_finds_a_job_again(own: Fleet) -> None:
    async with console(replace(own.config, files=(FILE,)), size=(120, 40), now=utc_now) as (app, pilot):
        await pilot.press("down")
        await until(pilot, lambda: f"the repair is {NAMED} check crm" in words(app))
        app.leave()
        await until(pilot, lambda: isinstance(app.screen, Leave))
        assert f"See them again here, or with {NAMED} jobs." in said(app.screen.says())


def test_what_is_left_of_a_crash() -> None:
    assert f"use the commands ({NAMED} servers)" in crash.summary(ValueError("x"), "no report", FILE)[-1]
