"""One server's room: each tab says what it should, and the axis is driven with the arrow keys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from engine.config import Server, load
from engine.postgres.lsn import Lsn
from engine.wal import index
from tests.support import fleet as fleet_
from tests.support import pages
from tests.support.fleet import NOW, SEGMENT, Fleet, every, segment_bytes, write_config
from tests.tui.conftest import console, screen_text, until
from tests.tui.test_goldens import compare
from tui.screens.server import ServerRoom
from tui.screens.server_overview import Overview

HOUR = timedelta(hours=1)
SIZES = [(80, 24), (160, 45)]
TABS = {
    "overview": ["enter"],
    "overview-moved": ["enter", "left", "left"],
    "backups": ["enter", "2", "down"],
    "wal-map": ["enter", "3"],
    "wal-list": ["enter", "3", "m"],
    "wal-gaps": ["enter", "3", "m", "m"],
    "timeline": ["enter", "4"],
    "jobs": ["down", "down", "enter", "5"],
}


def body(text: str) -> str:
    """Return what is between header and footer."""
    return "\n".join(line.rstrip() for line in text.splitlines()[2:-2]) + "\n"


def room_of(app: Any) -> ServerRoom:
    assert isinstance(app.screen, ServerRoom), app.screen
    return app.screen


async def settled(app: Any, pilot: Pilot[None]) -> None:
    """Wait until what was asked of the inspector is on the screen."""
    await until(pilot, lambda: room_of(app).inspection is not None)
    overview = app.screen.query_one(Overview)
    if room_of(app).tab == "overview" and overview.moment(room_of(app).server) is not None:
        await until(pilot, lambda: looked_up(overview))
    if room_of(app).tab == "wal" and room_of(app).pane.form == "list":
        await until(pilot, lambda: "11-22" in screen_text(app))


def looked_up(overview: Overview) -> bool:
    at = overview.moment(overview.room.server)
    return overview._around is not None and overview._around.at == at


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", TABS)
async def test_a_tab_says_what_it_should(fleet: Fleet, name: str, size: tuple[int, int]) -> None:
    async with console(fleet.config, size=size) as (app, pilot):
        for key in TABS[name]:
            await pilot.press(key)
            await pilot.pause()
            if isinstance(app.screen, ServerRoom):
                await settled(app, pilot)
        compare(f"room-{name}-{size[0]}x{size[1]}", body(screen_text(app)))


@pytest.fixture
def forked(tmp_path: Path) -> Iterator[Fleet]:
    """A server that was promoted after a restore: timeline 2 left 1 six hours ago, and 1 went on for two hours."""
    made = Fleet(tmp_path)
    server = made.server("main")
    made.segments(server, 100, every(NOW - 30 * HOUR, NOW - 4 * HOUR, HOUR))
    fork = 120
    made.backup(server, NOW - 28 * HOUR, 102)
    promoted = NOW - 6 * HOUR
    said = [pages.Promoted(promoted, 2, 1), *fleet_.ends(fork, promoted + timedelta(minutes=1))]
    parents = pages.last_record(fork - 1, fleet_.ends(fork - 1, NOW - 11 * HOUR), SEGMENT)
    before = put(server, 2, fork, said, promoted, parents, of=1)
    for number in range(fork + 1, fork + 6):
        at = promoted + (number - fork) * HOUR
        before = put(server, 2, number, fleet_.ends(number, at), at, before)
    switch = Lsn(fork * SEGMENT + 40)
    Path(server.layout.wals, "00000002.history").write_text(f"1\t{switch}\tbefore 2026-11-22 08:00:00+00\n")
    index.catch_up(server.layout)
    yield made
    made.close()


def put(
    server: Server, timeline: int, number: int, said: list[Any], at: datetime, before: int, of: int | None = None
) -> int:
    """Archive a segment whose first record follows the one at `before`, and whose first page the timeline `of` wrote,
    by default its own; return where its last one begins."""
    from engine.postgres.segment import segment_name

    path = Path(server.layout.wal(segment_name(timeline, number, SEGMENT)))
    path.parent.mkdir(exist_ok=True)
    data = segment_bytes(timeline, number, said, before)
    path.write_bytes(data[:4] + (of or timeline).to_bytes(4, "little") + data[8:])
    os.utime(path, (at.timestamp(), at.timestamp()))
    return pages.last_record(number, said, SEGMENT)


@pytest.mark.parametrize("name", ["overview", "timeline"])
async def test_timelines_are_branches_of_the_axis_and_rows_of_a_tree(forked: Fleet, name: str) -> None:
    async with console(forked.config, size=(100, 30)) as (app, pilot):
        await pilot.press("enter", "4" if name == "timeline" else "1")
        await settled(app, pilot)
        if name == "timeline":
            await pilot.press("down")
            await pilot.pause()
        compare(f"room-forked-{name}-100x30", body(screen_text(app)))


async def test_a_timelines_wal_is_one_key_away(forked: Fleet) -> None:
    async with console(forked.config) as (app, pilot):
        await pilot.press("enter", "4")
        await settled(app, pilot)
        await pilot.press("enter")
        await until(pilot, lambda: "timeline 1   map" in screen_text(app))
        await pilot.press("t")
        await until(pilot, lambda: "timeline 2   map" in screen_text(app))


async def test_the_cursor_goes_from_transaction_to_transaction_over_what_is_idle(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("enter")
        await settled(app, pilot)
        overview = app.screen.query_one(Overview)
        hole = NOW.replace(hour=11, minute=48, second=2)
        assert overview.moment(room_of(app).server) == hole
        for _ in range(7):
            await pilot.press("plus")
        await settled(app, pilot)
        await until(pilot, lambda: len(overview._beats) > 0)
        await pilot.press("left")
        await until(pilot, lambda: overview.at == hole - timedelta(seconds=7, microseconds=12))
        await settled(app, pilot)
        text = screen_text(app)
        assert "2026-11-22 11:47:54.999988 UTC" in text
        assert "then         11:48:02.000000 UTC   xid 873" in text
        await pilot.press("right")
        await until(pilot, lambda: overview.at == hole)


async def test_zoom_goes_from_all_to_seconds_and_back(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("enter")
        await settled(app, pilot)
        overview = app.screen.query_one(Overview)
        await pilot.press("minus")
        await pilot.pause()
        assert "All of it is seen." in screen_text(app)
        for _ in range(12):
            await pilot.press("plus")
        await pilot.pause()
        assert overview.view is not None and overview.view.length == timedelta(seconds=4)
        assert "11:48:02" in screen_text(app).splitlines()[6]
        for _ in range(12):
            await pilot.press("minus")
        assert overview.view is None


async def test_n_goes_to_backups_and_gaps_and_what_lies_in_a_gap_is_not_restored(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("enter")
        await settled(app, pilot)
        await pilot.press("right")
        await settled(app, pilot)
        said = " ".join(screen_text(app).split())
        assert "restore cannot be restored; nearest before it 2026-11-22 11:48:02 UTC" in said
        await pilot.press("enter")
        await pilot.pause()
        assert "This moment cannot be restored." in screen_text(app)
        await pilot.press("N", "N")
        await settled(app, pilot)
        assert "moment       2026-11-20 11:48:02 UTC" in screen_text(app)


async def test_enter_opens_the_restore_at_the_moment_under_the_cursor(fleet: Fleet) -> None:
    asked: list[tuple[str, datetime | None, str]] = []
    async with console(fleet.config) as (app, pilot):
        app.open_restore = lambda server, target=None, backup="auto": asked.append((server, target, backup))
        await pilot.press("enter")
        await settled(app, pilot)
        await pilot.press("enter", "r", "2", "down", "r")
        await pilot.pause()
        moment = datetime(2026, 11, 22, 11, 48, 2, tzinfo=timezone.utc)
        assert asked == [
            ("erp-main", moment, "auto"),
            ("erp-main", None, "auto"),
            ("erp-main", None, "20261119T013602"),
        ]


async def test_a_click_puts_the_cursor_on_the_axis_and_opens_tabs(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("enter")
        await settled(app, pilot)
        overview = app.screen.query_one(Overview)
        await pilot.click("#axis", offset=(40, 1))
        await until(pilot, lambda: overview.at is not None)
        assert screen_text(app).splitlines()[8].index("▲") == 42
        await pilot.click("#tabs", offset=(screen_text(app).splitlines()[2].index("timeline"), 0))
        await until(pilot, lambda: room_of(app).tab == "timeline")


async def test_the_configuration_says_where_each_value_was_said(tmp_path: Path) -> None:
    made = Fleet(tmp_path)
    made.server("main")
    config = load(write_config(made))
    async with console(config, size=(120, 30)) as (app, pilot):
        await pilot.press("enter", "6")
        await until(pilot, lambda: "archiver" in screen_text(app))
        line = next(line for line in screen_text(app).splitlines() if " archiver " in line)
        assert "true" in line and "cellarman.toml:7" in line
        assert "built-in default" in screen_text(app)


async def test_a_server_without_backup_and_wal_says_what_to_press(tmp_path: Path) -> None:
    made = Fleet(tmp_path)
    made.server("main")
    async with console(made.config) as (app, pilot):
        await pilot.press("enter")
        await until(pilot, lambda: "No backup of main yet." in screen_text(app))
        await pilot.press("enter")
        await pilot.pause()
        assert "There is nothing that it could be restored from yet." in screen_text(app)
        await pilot.press("3")
        await until(pilot, lambda: "No WAL has been archived yet." in screen_text(app))
        await pilot.press("4")
        await until(pilot, lambda: "there is no timeline" in screen_text(app))


async def test_a_key_of_another_tab_says_which(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("enter", "A")
        await pilot.pause()
        assert "That is for the tab wal (3)." in screen_text(app)


async def test_what_an_overview_has_no_room_for_is_scrolled_to(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("enter")
        await until(pilot, lambda: app.screen.inspection is not None and "last kept" in screen_text(app))
        assert "holds" not in screen_text(app)
        await pilot.press("G")
        await until(pilot, lambda: "holds" in screen_text(app))
        await pilot.press("g")
        await until(pilot, lambda: "last kept" in screen_text(app))
