"""A backup started from the console, on a real server: the form, the live job, the new row."""

from __future__ import annotations

from pathlib import Path

from engine.config import load
from engine.repository import repository
from tests.support import cluster
from tests.tui.conftest import console, screen_text, until
from tui.snapshot import utc_now


def configured(tmp_path: Path, conninfo: str, bindir: Path, more: str = "") -> str:
    path = tmp_path / "cellarman.toml"
    path.write_text(
        f"""
[cellarman]
barman_home = "{tmp_path / "barman"}"
state_directory = "{tmp_path / "state"}"

[servers.main]
conninfo = "{conninfo}"
streaming_conninfo = "{conninfo}"
streaming_archiver = true
slot_name = "cellarman"
immediate_checkpoint = true
path_prefix = "{bindir}"
wal_timeout = 60
{more}
"""
    )
    return str(path)


async def test_b_takes_a_backup_and_shows_it(tmp_path: Path, postgres: cluster.Install) -> None:
    with cluster.running(postgres, tmp_path / "pg") as server:
        config = load(configured(tmp_path, server.conninfo, postgres.bindir))
        async with console(config, now=utc_now) as (app, pilot):
            assert "no backup yet" in screen_text(app)
            await pilot.press("b")
            await until(pilot, lambda: "Back up main now?" in screen_text(app))
            await pilot.press(*"first-one")
            await pilot.press("enter")
            await until(pilot, lambda: getattr(app.screen, "ROOM", "") == "job")
            await until(pilot, lambda: "Backup of main is done" in screen_text(app), seconds=90)
            await pilot.press("q", "enter")
            await until(pilot, lambda: "first-one" in screen_text(app))
            assert "can be restored to any moment" in screen_text(app)
        assert [info.backup_name for info in repository.backups(config.servers["main"].layout)] == ["first-one"]
        stop_receivers(config.servers["main"].layout)


async def test_a_running_backup_is_cancelled_only_after_a_yes(tmp_path: Path, postgres: cluster.Install) -> None:
    with cluster.running(postgres, tmp_path / "pg") as server:
        slowly = "bandwidth_limit = 1024"
        config = load(configured(tmp_path, server.conninfo, postgres.bindir, slowly))
        async with console(config, now=utc_now) as (app, pilot):
            await pilot.press("b")
            await until(pilot, lambda: "Back up main now?" in screen_text(app))
            await pilot.press("enter")
            await until(pilot, lambda: "↻ copy" in screen_text(app), seconds=60)
            await pilot.press("C")
            await until(pilot, lambda: "Stop the backup of main?" in screen_text(app))
            await pilot.press("enter")
            await until(pilot, lambda: "Backing up main." in screen_text(app))
            await pilot.press("C", "y")
            await until(pilot, lambda: "Backup of main was cancelled" in screen_text(app), seconds=60)
        assert [info.status for info in repository.backups(config.servers["main"].layout)] == ["FAILED"]
        stop_receivers(config.servers["main"].layout)


async def test_what_is_in_the_way_is_said_with_what_to_do(tmp_path: Path) -> None:
    config = load(configured(tmp_path, "host=127.0.0.1 port=1 user=postgres", tmp_path))
    async with console(config, now=utc_now) as (app, pilot):
        await pilot.press("b")
        await until(pilot, lambda: "Back up main now?" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "Backup of main failed" in screen_text(app), seconds=60)
        assert "now  " in screen_text(app)


async def test_escape_starts_nothing(tmp_path: Path) -> None:
    config = load(configured(tmp_path, "host=127.0.0.1 port=1", tmp_path))
    async with console(config, now=utc_now) as (app, pilot):
        await pilot.press("b")
        await until(pilot, lambda: "Back up main now?" in screen_text(app))
        await pilot.press("q", "escape")
        await until(pilot, lambda: getattr(app.screen, "ROOM", "") == "servers")
        assert app.snapshot.jobs == ()


def stop_receivers(layout: object) -> None:
    """Stop the pg_receivewal that the backup started."""
    import os
    import signal

    from engine.repository import locks
    from engine.repository.layout import Layout

    assert isinstance(layout, Layout)
    holder = locks.holder(layout.lock("receive-wal"))
    if holder is not None and holder.pid:
        os.kill(holder.pid, signal.SIGTERM)
