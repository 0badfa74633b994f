"""Keys, footer and help come from one registry; what cannot be done says why."""

from __future__ import annotations

import importlib

import pytest
from textual import events

from engine.permission import LEVELS
from tests.support.fleet import Fleet
from tests.tui.conftest import console, flash, screen_text, until
from tui import commands
from tui.screens.room import Room
from tui.widgets.prompt import Prompt

ROOMS = {
    "servers": "tui.screens.servers:Servers",
    "server": "tui.screens.server:ServerRoom",
    "jobs": "tui.screens.jobs:Jobs",
    "job": "tui.screens.job:JobRoom",
    "events": "tui.screens.events:Events",
    "help": "tui.screens.help:Help",
    "welcome": "tui.screens.welcome:Welcome",
    "restore": "tui.screens.restore:RestoreRoom",
    "commits": "tui.screens.commits:Commits",
    "check": "tui.screens.check:CheckRoom",
}


def room_class(room: str) -> type[Room]:
    module, _, name = ROOMS[room].partition(":")
    found = getattr(importlib.import_module(module), name)
    assert issubclass(found, Room)
    return found


@pytest.mark.parametrize("room", commands.ROOMS)
def test_every_command_of_a_room_can_be_run_there(room: str) -> None:
    for command in commands.of(room):
        assert callable(getattr(room_class(room), f"do_{command.verb}", None)), command.id
        assert command.action in LEVELS


@pytest.mark.parametrize("room", commands.ROOMS)
def test_no_key_means_two_things_in_a_room(room: str) -> None:
    keys = [key for command in commands.of(room) for key in command.keys.split(",")]
    keys += [key for _, moves, _, _ in commands.moves(room) for key in moves.split(",")]
    assert len(keys) == len(set(keys))


def test_ids_are_unique_and_help_is_a_sentence() -> None:
    ids = [command.id for command in commands.COMMANDS]
    assert len(ids) == len(set(ids))
    for command in commands.COMMANDS:
        assert command.help.endswith(".") and command.help[0].isupper()


def test_nothing_that_removes_lies_on_a_lower_case_key() -> None:
    for command in commands.COMMANDS:
        if command.action in ("cancel", "delete", "replace"):
            assert all(key.isupper() for key in command.keys.split(","))


async def test_a_key_that_does_nothing_now_says_why_and_is_not_in_the_footer(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("down", "down")
        await pilot.pause()
        assert "b backup" not in footer(screen_text(app))
        await pilot.press("b")
        await pilot.pause()
        assert "A backup of shop-eu runs already" in screen_text(app)
        await pilot.press("up")
        await pilot.pause()
        assert "b backup" in footer(screen_text(app))


async def test_read_only_says_so_and_starts_nothing(fleet: Fleet) -> None:
    async with console(fleet.config, read_only=True) as (app, pilot):
        assert "read-only" in screen_text(app).splitlines()[0]
        await pilot.press("b")
        await pilot.pause()
        assert "read-only" in flash(app)
        assert len(app.screen_stack) == 1


async def test_the_palette_offers_what_the_room_can_do(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("ctrl+p")
        await until(pilot, lambda: "Back the server up now" in screen_text(app))
        await pilot.press(*"jobs")
        await until(pilot, lambda: "See running and past jobs" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: getattr(app.screen, "ROOM", "") == "jobs")


async def test_help_runs_the_command_under_the_cursor(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("question_mark", "slash", *"word=jobs", "enter", "enter")
        await until(pilot, lambda: getattr(app.screen, "ROOM", "") == "jobs")


async def test_q_goes_back_and_leaves_at_home_only_after_saying_that_jobs_go_on(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("enter", "q")
        await until(pilot, lambda: getattr(app.screen, "ROOM", "") == "servers")
        await pilot.press("q")
        await until(pilot, lambda: "One job goes on without this console." in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: getattr(app.screen, "ROOM", "") == "servers")
        await pilot.press("q", "enter")
        await until(pilot, lambda: not app.is_running)


async def test_a_click_on_a_key_presses_it_and_a_second_click_on_a_row_opens_it(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        text = footer(screen_text(app))
        await pilot.click("#keys", offset=(text.index("jobs"), 0))
        await until(pilot, lambda: getattr(app.screen, "ROOM", "") == "jobs")
        await pilot.press("q")
        await until(pilot, lambda: getattr(app.screen, "ROOM", "") == "servers")
        await pilot.click("#servers", offset=(15, 4))
        await pilot.click("#servers", offset=(15, 4))
        await until(pilot, lambda: getattr(app.screen, "ROOM", "") == "server")
        assert "geo" in screen_text(app).splitlines()[0]


def footer(text: str) -> str:
    return text.splitlines()[-1]


async def test_j_and_k_move_where_they_mean_nothing_else_and_h_and_l_along_the_axis(fleet: Fleet) -> None:
    assert {room for room in commands.ROOMS if "up,k" not in {keys for _, keys, _, _ in commands.moves(room)}} == {
        "servers",
        "server",
    }
    async with console(fleet.config) as (app, pilot):
        await pilot.press("j")
        await until(pilot, lambda: getattr(app.screen, "ROOM", "") == "jobs")
        table = app.screen.moving()
        await pilot.press("j", "j", "k")
        assert table.rows[1].key == table.key
        app.open_wal("erp-main")
        await until(pilot, lambda: app.screen.ROOM == "server" and app.screen.inspection is not None)
        at = app.screen.pane.mapped.cursor
        await pilot.press("l", "l", "h")
        assert app.screen.pane.mapped.cursor != at


async def test_a_long_sentence_above_the_keys_is_read_whole(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        long = "One sentence that is longer than eighty columns are, since it names a path: /var/lib/cellarman/state/x."
        app.say(long)
        await pilot.pause()
        assert long in " ".join(screen_text(app).split())
        app.say("A short one.")
        await pilot.pause()
        assert flash(app).strip() == "A short one."


async def test_a_key_typed_ahead_may_come_to_a_prompt_that_goes(fleet: Fleet) -> None:
    """What is inside a prompt is removed before itself: a key that was pressed before it was there finds no field."""
    async with console(fleet.config) as (app, pilot):
        late = [events.Key("x", "x"), events.Key("enter", None)]
        await pilot.press(":")
        prompt = app.screen.query_one(Prompt)
        await prompt.query("*").remove()
        for key in late:
            app.post_message(key)
        await pilot.pause()
        assert app.screen.query_one(Prompt) is prompt
