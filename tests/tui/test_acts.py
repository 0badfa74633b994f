"""Actions from the console: each form shows its command line, asks as much as it must, and is written down."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from engine import trail
from engine.actions import label_of
from engine.config import load
from engine.recovery import choices
from engine.repository import repository
from tests.engine.recovery.scene import scene
from tests.support.cluster import Install
from tests.support.fleet import Fleet, write_config
from tests.tui.conftest import console, flash, screen_text, until, words
from tui import commandline
from tui.app import Console
from tui.screens.check import CheckRoom
from tui.snapshot import utc_now


def room(app: Console) -> str:
    return str(getattr(app.screen, "ROOM", ""))


async def at_backups(app: Console, pilot: Pilot[None], server: str) -> None:
    app.open_backups(server)
    await until(pilot, lambda: room(app) == "server" and bool(app.screen.query("#backups")))
    await until(pilot, lambda: getattr(app.screen, "backup", None) is not None)


async def test_p_keeps_a_backup_and_lets_it_go(own: Fleet) -> None:
    async with console(own.config) as (app, pilot):
        await at_backups(app, pilot, "crm")
        await pilot.press("down")
        layout, info = own.servers["crm"].layout, app.screen.backup
        assert info is not None
        await pilot.press("p")
        await until(pilot, lambda: f"How long does backup {info.id} stay?" in words(app))
        assert "That is how it is now." in words(app)
        await pilot.press("enter", "space")
        await until(pilot, lambda: f"cellarman keep crm {info.id} --full" in words(app))
        assert "every moment after it can be restored to" in words(app)
        await pilot.press("enter")
        await until(pilot, lambda: repository.find(layout, info.id).keep == "full")
        await until(pilot, lambda: "p changes it again" in words(app))
        await until(pilot, lambda: getattr(app.screen.backup, "keep", None) == "full")
        await pilot.press("p", "space", "space", "enter")
        await until(pilot, lambda: repository.find(layout, info.id).keep is None)
        written = trail.read(own.config.state_directory)
        assert [(entry.action, entry.via, entry.outcome) for entry in written] == [("keep", "console", "done")] * 2
        assert len(app.ran) == 2


async def test_a_labels_a_backup_with_any_text(own: Fleet) -> None:
    async with console(own.config) as (app, pilot):
        await at_backups(app, pilot, "geo")
        info = app.screen.backup
        assert info is not None
        await pilot.press("a")
        await until(pilot, lambda: "for people" in words(app))
        await pilot.press(*"[b]old", "enter")
        await until(pilot, lambda: label_of(own.servers["geo"], info.id) == "[b]old")
        await until(pilot, lambda: "is labelled [b]old" in words(app))
        await pilot.press("a")
        await until(pilot, lambda: "label geo" in words(app) and app.screen.query_one("#text", Input).value == "[b]old")
        await pilot.press("escape")
        await until(pilot, lambda: room(app) == "server")


async def test_deleting_needs_the_id_typed_and_says_what_goes(own: Fleet, tmp_path: Path) -> None:
    config = load(write_config(own))
    async with console(config) as (app, pilot):
        await at_backups(app, pilot, "geo")
        await pilot.press("down")
        info = app.screen.backup
        assert info is not None
        layout = own.servers["geo"].layout
        await pilot.press("D")
        await until(pilot, lambda: f"Delete backup {info.id} of geo?" in words(app))
        assert "This cannot be undone" in words(app) and "cellarman" in words(app)
        await pilot.press("enter")
        await until(pilot, lambda: room(app) == "server")
        assert any(known.id == info.id for known in repository.backups(layout))
        await pilot.press("D")
        await until(pilot, lambda: f"Type the backup's id, {info.id}" in words(app))
        await pilot.press(*info.id, "enter")
        await until(pilot, lambda: "Delete of geo is done" in words(app), seconds=60)
        assert all(known.id != info.id for known in repository.backups(layout))
    lines = trail.read(config.state_directory)
    assert sorted((line.action, line.via) for line in lines) == [("delete", "console"), ("delete", "job")]


async def test_what_may_not_be_deleted_says_why_before_it_asks(own: Fleet) -> None:
    async with console(own.config) as (app, pilot):
        await at_backups(app, pilot, "erp-main")
        assert app.screen.backup is not None and app.screen.backup.keep
        await pilot.press("D")
        await until(pilot, lambda: "is not deleted" in words(app))
        assert "kept" in words(app)
        assert app.screen.query("#name").first(Input) if app.screen.query("#name") else True
        await pilot.press("escape")
        assert room(app) == "server"


async def test_read_only_and_other_tabs_refuse_with_the_reason(own: Fleet) -> None:
    async with console(own.config, read_only=True) as (app, pilot):
        await at_backups(app, pilot, "geo")
        for key in ("p", "a", "D"):
            await pilot.press(key)
            await until(pilot, lambda: "read-only" in flash(app))
            assert room(app) == "server"
    async with console(own.config) as (app, pilot):
        app.open_overview("geo")
        await until(pilot, lambda: room(app) == "server")
        await pilot.press("p")
        await until(pilot, lambda: "That is for a backup under the cursor" in screen_text(app))
        await pilot.press("W")
        await until(pilot, lambda: "does not say how to reach geo" in screen_text(app))


async def test_check_shows_what_fails_first_and_what_mends_it(own: Fleet) -> None:
    config = load(write_config(own))
    async with console(config) as (app, pilot):
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, CheckRoom))
        await until(pilot, lambda: "fail." in words(app) or "fails." in words(app), seconds=60)
        text = screen_text(app)
        assert "✗ fail" in text and "now  " in text
        await pilot.press("y")
        await until(pilot, lambda: bool(app.clipboard))
        await pilot.press("c")
        await until(pilot, lambda: "asking again" in words(app) or "asked" in words(app))
        await pilot.press("G")
        await pilot.pause()
        await pilot.press("q")
        await until(pilot, lambda: room(app) == "servers")


async def test_marks_are_made_on_a_real_server(postgres: Install) -> None:
    with scene(postgres) as stage:
        stage.insert()
        stage.backup()
        async with console(stage.config, now=utc_now) as (app, pilot):
            app.open_overview("main")
            await until(pilot, lambda: room(app) == "server")
            await pilot.press("P")
            await until(pilot, lambda: "Give it a name." in words(app))
            await pilot.press("enter", *"before upgrade")
            await until(pilot, lambda: "wal restore-point main 'before upgrade' --switch" in words(app))
            await pilot.press("enter")
            await until(pilot, lambda: "before upgrade is at 0/" in words(app))
            await pilot.press("W")
            await until(pilot, lambda: "wal switch main" in words(app))
            await pilot.press("enter")
            await until(pilot, lambda: "The segment ended at" in words(app))
            app.open_check("main")
            await until(pilot, lambda: "are good" in words(app), seconds=60)
        stage.insert()
        stage.archive_all()
        choices.catch_up(stage.server)
        assert "before upgrade" in [ready.name for ready in choices.ready(stage.server)]
        written = trail.read(stage.config.state_directory)
        assert [(entry.action, entry.outcome) for entry in written] == [("switch", "done"), ("restore-point", "done")]


async def test_the_loop_of_a_real_server_is_proven_from_the_first_screen(postgres: Install) -> None:
    with scene(postgres) as stage:
        stage.insert()
        async with console(stage.config, now=utc_now) as (app, pilot):
            await pilot.press(*":prove main", "enter")
            await until(pilot, lambda: "Prove that main can be restored?" in words(app))
            await pilot.press("space")
            await until(pilot, lambda: "aftermath main --backup" in words(app))
            await pilot.press("enter")
            await until(pilot, lambda: room(app) == "job")
            await until(pilot, lambda: "Proof of main is done" in words(app), seconds=90)
            assert "The loop of main is proven: what was written at" in words(app)
            assert "read the marker back, done in" in words(app)
        written = [(entry.action, entry.via, entry.outcome) for entry in trail.read(stage.config.state_directory)]
        assert ("aftermath", "console", "started") in written and ("aftermath", "job", "done") in written
        assert ("backup", "job", "done") in written
        assert stage.cluster.value("SELECT count(*) FROM pg_largeobject_metadata") == 0


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (":verify geo latest", "Verif"),
        (":keep geo oldest", "How long does backup {oldest} stay?"),
        (":annotate geo {oldest}", "A line about backup {oldest}, for people."),
        (":delete geo {oldest}", "Delete backup {oldest} of geo?"),
        (":keep geo nothing", "geo has no backup nothing."),
        (":keep nobody latest", "There is no server nobody."),
        (":fetch geo", "No WAL is missing."),
        (":fetch erp-main", "Look for missing WAL of erp-main?"),
        (":backup geo", "Back up geo now?"),
        (":switch-wal geo", "End the current WAL segment of geo?"),
        (":restore-point geo", "Make a restore point on geo."),
        (":prove geo", "Prove that geo can be restored?"),
        (":check geo", "geo"),
    ],
)
async def test_every_action_is_a_word_of_the_command_line_in_any_room(own: Fleet, line: str, wanted: str) -> None:
    usable = [info.id for info in repository.backups(own.servers["geo"].layout) if info.usable]
    async with console(load(write_config(own))) as (app, pilot):
        app.open_events()
        await until(pilot, lambda: room(app) == "events")
        await pilot.press(*line.format(oldest=usable[-1]), "enter")
        await until(pilot, lambda: wanted.format(oldest=usable[-1]) in words(app))


async def test_a_backup_is_completed_behind_its_server(own: Fleet) -> None:
    async with console(own.config) as (app, _):
        assert commandline.completions("ver", app, "events") == ["verify"]
        assert commandline.completions("verify ge", app, "events") == ["verify geo"]
        found = commandline.completions("verify geo ", app, "events")
        assert found[:2] == ["verify geo latest", "verify geo oldest"] and len(found) > 2
        assert commandline.completions("prove erp", app, "events") == ["prove erp-main"]
