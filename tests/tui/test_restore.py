"""The restore wizard: what it says as one chooses and types, and a dropped table that is back at the end of it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from engine import trail
from engine.recovery import choices, planfile
from engine.recovery.place import Leftover
from engine.recovery.target import Immediate, TimeTarget, XidTarget
from engine.repository import repository
from tests.engine.recovery.scene import Scene, scene, value
from tests.support.cluster import Install
from tests.support.fleet import NOW, Fleet
from tests.support.sshd import sshd
from tests.tui.conftest import console, flash, screen_text, until, words
from tests.tui.test_goldens import compare
from tui import moments
from tui.app import Console
from tui.glyphs import UNICODE
from tui.screens.commits import Commits
from tui.screens.restore import RestoreRoom
from tui.snapshot import utc_now


@pytest.fixture(scope="module")
def stage(postgres: Install) -> Iterator[Scene]:
    """A server with a backup, rows, a restore point, and a dropped table."""
    with scene(postgres) as stage:
        stage.insert()
        stage.backup(name="monday")
        stage.insert()
        stage.cluster.sql("SELECT pg_create_restore_point('before-upgrade')")
        stage.insert()
        stage.cluster.sql("DROP TABLE kept")
        stage.cluster.sql("CREATE TABLE late (i int)")
        stage.archive_all()
        yield stage


def occupied(directory: str) -> str:
    """Put a file where a restore is to go."""
    os.mkdir(directory)
    Path(directory, "file").write_text("somebody was faster")
    return directory


def wizard(app: Console) -> RestoreRoom:
    assert isinstance(app.screen, RestoreRoom), screen_text(app)
    return app.screen


def answered(app: Console) -> bool:
    room = app.screen
    return isinstance(room, RestoreRoom) and (room._plan is not None or room._error is not None)


async def opened(app: Console, pilot: Pilot[None]) -> RestoreRoom:
    """Press r at home and wait until the moments are offered and the first verdict is there."""
    await pilot.press("r")
    await until(pilot, lambda: isinstance(app.screen, RestoreRoom))
    await until(pilot, lambda: answered(app) and len(wizard(app)._ready) > 1)
    return wizard(app)


async def at_the_drop(app: Console, pilot: Pilot[None]) -> None:
    await until(pilot, lambda: "before a table was dropped" in screen_text(app))
    for _ in range(10):
        if wizard(app)._moments.key.startswith("drop"):
            break
        await pilot.press("down")
    await until(pilot, lambda: answered(app) and "This moment can be reached" in screen_text(app))


async def test_a_dropped_table_is_back_by_what_the_screens_say(stage: Scene, tmp_path: Path) -> None:
    destination = ""
    try:
        async with console(stage.config, now=utc_now) as (app, pilot):
            await opened(app, pilot)
            await at_the_drop(app, pilot)
            text = screen_text(app)
            assert "you keep" in text and f"transaction {stage.marks[2].xid}" in text
            assert "dropped or emptied a table" in " ".join(text.split())
            await pilot.press("enter")
            await until(pilot, lambda: "It can be made there" in screen_text(app))
            field = app.screen.query_one("#directory", Input)
            field.value = destination = str(stage.root / "wizard")
            await until(pilot, lambda: answered(app) and "It can be made there" in screen_text(app))
            await pilot.press("enter")
            await until(pilot, lambda: "This will be done on this host as" in screen_text(app))
            await pilot.press("enter")
            await until(pilot, lambda: "Type the server's name, main, to go on" in screen_text(app))
            assert "[ cancel ]" in screen_text(app)
            await pilot.press(*"mai", "enter")
            await until(pilot, lambda: "That is not the server's name" in screen_text(app))
            await pilot.press("n")
            await until(pilot, lambda: "[ restore ]" in screen_text(app))
            await pilot.press("enter")
            await until(pilot, lambda: getattr(app.screen, "ROOM", "") == "job", seconds=60)
            await until(pilot, lambda: "Paused, open for reading on port" in screen_text(app), seconds=120)
            assert "pg_wal_replay_resume" in screen_text(app)
            (job,) = [job for job in app.snapshot.jobs if job.kind == "restore"]
            conninfo = f"host=127.0.0.1 port={job.result['port']} user=postgres dbname=postgres"
            assert value(conninfo, "SELECT count(*) FROM kept") == stage.marks[2].rows
        entries = [entry for entry in trail.read(stage.config.state_directory) if entry.action == "restore"]
        assert [(entry.via, entry.outcome) for entry in entries] == [("job", "done"), ("console", "started")]
        assert entries[0].subject == destination and "--to-xid" in entries[0].command
    finally:
        if destination:
            stage.remove(destination)


async def test_every_key_of_the_second_step(stage: Scene) -> None:
    async with console(stage.config, now=utc_now, size=(120, 40)) as (app, pilot):
        room = await opened(app, pilot)
        await pilot.press("t")
        assert isinstance(app.focused, Input)
        await pilot.press(*"before-up")
        await until(pilot, lambda: answered(app) and "cannot be reached" in screen_text(app))
        await pilot.press(*"grade")
        await until(pilot, lambda: answered(app) and "This moment can be reached" in screen_text(app))
        assert "restore point before-upgrade" in screen_text(app)
        await pilot.press("escape")
        assert app.focused is None and isinstance(app.screen, RestoreRoom)
        await pilot.press("x")
        await until(pilot, lambda: "It stops after what happened at that moment." in screen_text(app))
        await pilot.press("tab", *["backspace"] * 20, *"xid ", *str(stage.marks[1].xid))
        await until(pilot, lambda: answered(app) and room._plan is not None and room._plan.reachable)
        assert room._plan is not None and room._plan.order.target == XidTarget(stage.marks[1].xid, True)
        await pilot.press("f4")
        await until(
            pilot,
            lambda: room._plan is not None and room._plan.order.target == XidTarget(stage.marks[1].xid, False),
        )
        await pilot.press(*["backspace"] * 20, *"nonsense/")
        await until(pilot, lambda: "cannot be reached" in screen_text(app) and answered(app))
        await pilot.press("enter")
        await until(pilot, lambda: "This moment cannot be reached." in flash(app))
        await pilot.press("down")
        assert app.focused is None
        await pilot.press("z")
        await pilot.pause()
        assert "This host's clock is in UTC" in screen_text(app) or "Times are shown" in screen_text(app)
        await pilot.press("T")
        await until(pilot, lambda: "There is one timeline only." in screen_text(app))
        await pilot.press("a")
        await until(pilot, lambda: "chosen by Cellarman already" in screen_text(app))


async def test_a_time_without_a_zone_is_read_in_the_zone_that_is_shown(
    stage: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    async with console(stage.config, now=utc_now) as (app, pilot):
        room = await opened(app, pilot)
        assert "TIME (Asia/Tokyo)" in screen_text(app)
        await pilot.press("t", *"2026-01-02 12:04:05")
        await until(pilot, lambda: room._asked is not None and room._asked.target == TimeTarget(moment, False))
        assert "= 2026-01-02 12:04:05 Asia/Tokyo" in " ".join(screen_text(app).split())
        await pilot.press("f2")
        await until(
            pilot,
            lambda: room._asked is not None and room._asked.target == TimeTarget(moment + timedelta(hours=9), False),
        )
        assert "TIME (UTC)" in screen_text(app)


async def test_the_nearest_moment_is_one_key_away(stage: Scene) -> None:
    async with console(stage.config, now=utc_now) as (app, pilot):
        room = await opened(app, pilot)
        await pilot.press("2", *"001-01-01 00:00")
        await until(pilot, lambda: answered(app) and "after it:" in screen_text(app))
        await pilot.press("escape", "n")
        await until(pilot, lambda: room._plan is not None and room._plan.reachable)
        info = repository.find(stage.server.layout, "latest")
        assert room._plan is not None and room._plan.order.backup == info.id
        assert "the nearest moment that can be reached" in screen_text(app)
        await pilot.press("a")
        await until(pilot, lambda: room._asked is not None and room._asked.backup == "auto")


async def test_transactions_around_the_moment_can_be_picked(stage: Scene) -> None:
    async with console(stage.config, now=utc_now) as (app, pilot):
        room = await opened(app, pilot)
        await at_the_drop(app, pilot)
        await pilot.press("L")
        await until(pilot, lambda: isinstance(app.screen, Commits) and "drops or empties a table" in screen_text(app))
        assert "goes" in screen_text(app) and "stays" in screen_text(app)
        await pilot.press("up", "up", "a")
        await until(pilot, lambda: app.screen is room and answered(app))
        assert room._asked is not None
        first = room._asked.target
        assert isinstance(first, XidTarget) and first.inclusive
        assert f"just after transaction {first.xid}" in screen_text(app)
        await pilot.press("L")
        await until(pilot, lambda: isinstance(app.screen, Commits) and bool(app.screen.moving().rows))
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is room and answered(app))
        second = room._asked.target
        assert isinstance(second, XidTarget) and not second.inclusive and second.xid > first.xid
        await pilot.press("L")
        await until(pilot, lambda: isinstance(app.screen, Commits))
        await pilot.press("q")
        await until(pilot, lambda: app.screen is room)


async def test_from_a_backup_and_from_any(stage: Scene) -> None:
    info = repository.find(stage.server.layout, "latest")
    async with console(stage.config, now=utc_now) as (app, pilot):
        room = await opened(app, pilot)
        await pilot.press("shift+tab")
        await until(pilot, lambda: "From which backup?" in screen_text(app))
        assert "monday" in screen_text(app) and "choose for me" in screen_text(app)
        await pilot.press("shift+tab")
        await until(pilot, lambda: "This is the first step." in screen_text(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: room._plan is not None and room._plan.order.backup == info.id)
        assert f"from backup {info.id}" in screen_text(app)


async def test_what_forbids_a_place_is_said_as_it_is_typed(stage: Scene) -> None:
    async with console(stage.config, now=utc_now) as (app, pilot):
        room = await opened(app, pilot)
        await pilot.press("enter")
        await until(pilot, lambda: "It can be made there" in screen_text(app))
        field = app.screen.query_one("#directory", Input)
        field.value = str(stage.cluster.data)
        await until(pilot, lambda: "is a running server's data directory" in " ".join(screen_text(app).split()))
        await pilot.press("enter")
        assert room._step == 2
        field.value = str(stage.root / "barman" / "inside")
        await until(pilot, lambda: "lies in the repository" in " ".join(screen_text(app).split()))
        field.value = str(stage.root / "fine")
        await until(pilot, lambda: answered(app) and "It can be made there" in screen_text(app))
        await pilot.press("down", "space")
        await until(pilot, lambda: room._plan is not None and room._plan.order.action == "promote")
        await pilot.press("down", "space")
        await until(pilot, lambda: room._plan is not None and not room._plan.order.start)
        await pilot.press("down", *"99999")
        await until(pilot, lambda: "Not a port" in screen_text(app))
        await pilot.press("backspace", "up", "space")
        await until(pilot, lambda: room._plan is not None and room._plan.order.port == 9999)
        assert "[ yes ]" in screen_text(app)


async def test_the_key_that_goes_back_goes_back_through_all_steps(stage: Scene) -> None:
    async with console(stage.config, now=utc_now) as (app, pilot):
        room = await opened(app, pilot)
        await pilot.press("enter")
        await until(pilot, lambda: answered(app) and "It can be made there" in screen_text(app))
        app.screen.query_one("#directory", Input).value = place = str(stage.root / "asked for")
        await until(pilot, lambda: answered(app) and room._plan is not None and room._plan.order.destination == place)
        await pilot.press("enter")
        await until(pilot, lambda: "This will be done" in screen_text(app))
        await pilot.press("q")
        assert room._step == 2
        await pilot.press("q")
        assert room._step == 1
        await pilot.press("enter")
        assert room._step == 2 and app.screen.query_one("#directory", Input).value == place


async def test_a_plan_is_saved_and_read_again(stage: Scene, tmp_path: Path) -> None:
    async with console(stage.config, now=utc_now) as (app, pilot):
        room = await opened(app, pilot)
        await pilot.press("enter")
        await until(pilot, lambda: answered(app) and "It can be made there" in screen_text(app))
        await pilot.press("f6")
        await until(pilot, lambda: "Save the plan of this restore" in screen_text(app))
        assert "--plan-file" in screen_text(app) and "'~" not in screen_text(app)
        app.screen.query_one("#file", Input).value = str(tmp_path / "plan.toml")
        await pilot.press("enter")
        await until(pilot, lambda: "Saved. Run it with" in screen_text(app))
        assert room._plan is not None
        assert (
            planfile.load(str(tmp_path / "plan.toml"), config_file=room._plan.order.config_file).order
            == room._plan.order
        )


async def test_a_plan_that_became_stale_is_shown_again_and_not_started(stage: Scene) -> None:
    async with console(stage.config, now=utc_now) as (app, pilot):
        room = await opened(app, pilot)
        await at_the_drop(app, pilot)
        await pilot.press("enter")
        await until(pilot, lambda: answered(app) and "It can be made there" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "This will be done" in screen_text(app))
        assert room._plan is not None
        taken = occupied(room._plan.order.destination)
        try:
            await pilot.press("enter")
            await until(pilot, lambda: "Type the server's name" in screen_text(app))
            await pilot.press(*"main", "enter")
            await until(pilot, lambda: "The plan has changed since it was shown" in screen_text(app), seconds=30)
            assert "is not empty" in " ".join(screen_text(app).split())
            await pilot.press("enter")
            await until(pilot, lambda: app.screen is room)
            assert not [job for job in app.snapshot.running if job.kind == "restore"]
            await pilot.press("enter")
            await until(pilot, lambda: "the destination" in flash(app))
        finally:
            shutil.rmtree(taken)


async def test_another_host_is_asked_once_its_name_is_whole(stage: Scene, tmp_path: Path) -> None:
    with sshd(tmp_path / "far") as far:
        server = replace(stage.server, ssh=far.endpoint)
        config = replace(stage.config, servers={"main": server})
        async with console(config, now=utc_now) as (app, pilot):
            room = await opened(app, pilot)
            await pilot.press("enter")
            await until(pilot, lambda: answered(app) and "It can be made there" in screen_text(app))
            assert "if there" not in screen_text(app)
            await pilot.press("up")
            field = app.screen.query_one("#on", Input)
            assert app.focused is field
            field.value = str(far.endpoint)
            await pilot.press("enter")
            await until(pilot, lambda: room._plan is not None and room._plan.order.on == str(far.endpoint), seconds=60)
            assert "if there" in screen_text(app)
            place = str(far.home / "restored")
            room.query_one("#directory", Input).value = place
            await until(pilot, lambda: room._plan is not None and room._plan.order.destination == place, seconds=60)
            assert "It can be made there" in screen_text(app)
            await pilot.press("enter")
            await until(pilot, lambda: f"This will be done on {far.endpoint}" in screen_text(app), seconds=60)
            room._go_to(2)
            room.query_one("#on", Input).value = "127.0.0.1:1"
            await pilot.press("up", "down")
            await until(pilot, lambda: room._error is not None and "127.0.0.1:1" in words(app), seconds=60)


def test_what_becomes_of_what_an_interrupted_restore_left(stage: Scene) -> None:
    here = stage.plan(Immediate())
    assert here.refused is None and here.info is not None
    left = replace(here, leftover=Leftover(()))
    far = replace(left, order=replace(here.order, on="pg"))
    tar = replace(far, info=replace(here.info, compression="zstd"))
    said = {"there is removed first": (left, tar), "it goes on with what": (far,), "nothing is overwritten": (here,)}
    for wanted, plans in said.items():
        for plan in plans:
            assert any(wanted in text for line in moments.place(plan, UNICODE, "") for text, _ in line), wanted


async def test_read_only_plans_and_does_not_start(stage: Scene) -> None:
    choices.catch_up(stage.server)
    async with console(stage.config, now=utc_now, read_only=True) as (app, pilot):
        await opened(app, pilot)
        await at_the_drop(app, pilot)
        for _ in range(2):
            await pilot.press("enter")
            await pilot.pause()
            await until(pilot, lambda: answered(app))
        await until(pilot, lambda: "This will be done" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "read-only" in flash(app))
        assert isinstance(app.screen, RestoreRoom)


async def test_opened_at_a_moment_of_the_axis(stage: Scene) -> None:
    moment = stage.marks[1].at
    async with console(stage.config, now=utc_now) as (app, pilot):
        app.open_restore("main", moment)
        await until(pilot, lambda: isinstance(app.screen, RestoreRoom) and answered(app))
        room = wizard(app)
        await until(pilot, lambda: room._plan is not None and room._plan.order.target == TimeTarget(moment, False))
        assert room._plan is not None and room._plan.kept is not None and room._plan.kept.xid == stage.marks[1].xid
        await pilot.press("q")
        await until(pilot, lambda: getattr(app.screen, "ROOM", "") == "servers")


async def test_what_cannot_be_reached_says_why(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, RestoreRoom) and answered(app))
        text = screen_text(app)
        assert "This moment cannot be reached." in text and "are missing" in text
        assert "⏎ next" not in text.splitlines()[-1]
        await pilot.press("enter")
        await until(pilot, lambda: "This moment cannot be reached." in flash(app))


@pytest.mark.parametrize("size", [(80, 24), (160, 45)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", ["restore", "restore-gap", "restore-from", "restore-transactions"])
async def test_the_screen_says_what_it_should(
    fleet: Fleet, name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    async with console(fleet.config, size=size) as (app, pilot):
        await opened(app, pilot)
        if name != "restore-gap":
            await at_the_drop(app, pilot)
        if name == "restore-from":
            await pilot.press("shift+tab")
            await until(pilot, lambda: "From which backup?" in screen_text(app))
        if name == "restore-transactions":
            await pilot.press("L")
            await until(pilot, lambda: "drops or empties" in screen_text(app))
        compare(f"{name}-{size[0]}x{size[1]}", screen_text(app))


async def test_tablespaces_have_a_place_each(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    server = fleet.server("main")
    from engine.repository.backupinfo import Tablespace

    info = fleet.backup(server, NOW, 3, tablespaces=(Tablespace("fa[s]t", 16400, "/srv/fast"),))
    fleet.segments(server, 3, [NOW])
    async with console(fleet.config) as (app, pilot):
        app.open_restore("main")
        await until(pilot, lambda: isinstance(app.screen, RestoreRoom) and answered(app))
        room = wizard(app)
        plan = replace(room._plan, info=info) if room._plan else None
        assert plan is not None
        room._offer_spaces(plan)
        await until(pilot, lambda: bool(room.query("#space-16400")))
        room._go_to(2)
        await until(pilot, lambda: "fa[s]t" in screen_text(app) and room._asked is not None)
        field: Any = room.query_one("#space-16400", Input)
        room.query_one("#directory", Input).value = os.path.join(str(tmp_path), "there")
        await until(pilot, lambda: field.value == f"{tmp_path}/there.tablespaces/16400")
        assert room._asked is not None and room._asked.tablespaces == {"fa[s]t": field.value}


async def test_a_newer_plan_takes_the_place_of_tablespaces_that_are_just_going(tmp_path: Path) -> None:
    """The work on one plan's fields is given up for another's at any point of it."""
    from engine.repository.backupinfo import Tablespace

    fleet = Fleet(tmp_path)
    fleet.backup(fleet.server("main"), NOW, 3)
    async with console(fleet.config) as (app, pilot):
        app.open_restore("main")
        await until(pilot, lambda: isinstance(app.screen, RestoreRoom) and answered(app))
        room = wizard(app)
        spaces = tuple(Tablespace(f"space{n}", 16400 + n, f"/srv/{n}") for n in range(5))
        for steps in range(12):
            room._mount_spaces(spaces)
            await until(pilot, lambda: room._spaces == spaces)
            worker = room._mount_spaces(())
            for _ in range(steps):
                await asyncio.sleep(0)
            worker.cancel()
            room._mount_spaces(spaces[:1])
            await until(pilot, lambda: room._spaces == spaces[:1] and len(room.query("#spaces Input")) == 1)


async def test_only_the_field_with_the_focus_says_how_to_change_it(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("down", "r")
        await until(pilot, lambda: "This moment can be reached" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "Where should the restored copy go?" in screen_text(app))
        await pilot.press("tab")
        await until(pilot, lambda: screen_text(app).count("space changes it") == 1)
        await pilot.press("tab")
        await until(pilot, lambda: "start it      [ yes ]  no     space changes it" in screen_text(app))
        assert screen_text(app).count("space changes it") == 1
