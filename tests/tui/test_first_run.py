"""The first start: what is found, a server added by the form, and several operators who see each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from engine import trail
from engine.config import Config
from engine.config.load import load
from tests.support.fleet import Fleet
from tests.tui.conftest import console, screen_text, until
from tui.operators import Lease
from tui.snapshot import utc_now


def empty(tmp_path: Path) -> Config:
    return Config("", str(tmp_path / "state"), {}, files=(str(tmp_path / "cellarman.toml"),))


async def test_a_server_is_added_by_a_form_and_is_there_at_once(tmp_path: Path) -> None:
    async with console(empty(tmp_path), now=utc_now) as (app, pilot):
        await until(pilot, lambda: "on this host" in screen_text(app))
        await pilot.press("a")
        await until(pilot, lambda: "Add a server" in screen_text(app))
        for key, value in (("name", "erp"), ("conninfo", ""), ("home", str(tmp_path / "barman"))):
            app.screen.query_one(f"#{key}").value = value  # type: ignore[attr-defined]
        await pilot.press("enter")
        await until(pilot, lambda: "The conninfo is missing." in screen_text(app))
        await pilot.press(*"host=127.0.0.1 port=1")
        await until(pilot, lambda: 'conninfo = "host=127.0.0.1 port=1"' in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "erp is added" in screen_text(app))
        await until(pilot, lambda: app.snapshot.looked and "One server." in screen_text(app))
    written = load(str(tmp_path / "cellarman.toml"))
    assert written.servers["erp"].streaming_archiver
    assert written.barman_home == str(tmp_path / "barman")
    assert [entry.action for entry in trail.read(str(tmp_path / "state"))] == ["add-server"]


async def test_what_is_wrong_is_said_in_the_form_and_nothing_is_written(tmp_path: Path) -> None:
    async with console(empty(tmp_path), now=utc_now) as (app, pilot):
        await pilot.press("a")
        await until(pilot, lambda: "Add a server" in screen_text(app))
        app.screen.query_one("#name").value = "all"  # type: ignore[attr-defined]
        app.screen.query_one("#conninfo").value = "host=x"  # type: ignore[attr-defined]
        await pilot.press("enter")
        await until(pilot, lambda: "now  choose another name" in screen_text(app))
    assert not (tmp_path / "cellarman.toml").exists()


async def test_a_read_only_console_adds_nothing(tmp_path: Path) -> None:
    async with console(empty(tmp_path), now=utc_now, read_only=True) as (app, pilot):
        await pilot.press("a")
        await until(pilot, lambda: "This console is read-only." in screen_text(app))


async def test_d_leaves_for_the_demo(tmp_path: Path) -> None:
    async with console(empty(tmp_path), now=utc_now) as (app, pilot):
        await pilot.press("d")
        await until(pilot, lambda: not app.is_running)
        assert app.wants_demo


async def test_two_consoles_see_each_other_until_one_has_gone(fleet: Fleet, tmp_path: Path) -> None:
    config = replace(fleet.config, state_directory=str(tmp_path))
    other = Lease(str(tmp_path), read_only=True)
    other._path = other._path.replace(".json", "-other.json")
    other.beat()
    async with console(config) as (app, pilot):
        user = other._me.user
        await until(pilot, lambda: f"{user} (read-only)" in screen_text(app).splitlines()[0])
        assert len(list((tmp_path / "console" / "open").iterdir())) == 2
        other.end()
        assert app.lookout.lease is not None
        app.lookout.lease.mode(False)
        app.lookout.wake()
        await until(pilot, lambda: f"{user} (read-only)" not in screen_text(app).splitlines()[0])
    assert list((tmp_path / "console" / "open").iterdir()) == []
