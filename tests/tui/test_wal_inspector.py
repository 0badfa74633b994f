"""The WAL inspector: map, list and gaps of an archive with holes; each gap is explained, fetched or accepted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from engine import trail
from engine.config import load
from engine.postgres.segment import segment_name
from tests.support import pages
from tests.support.fleet import NOW, SEGMENT, Fleet, ends, every, segment_bytes, write_config
from tests.tui.conftest import console, flash, screen_text, until
from tui.screens.server import ServerRoom
from tui.screens.wal import Wal

HOUR = timedelta(hours=1)
FIRST = 0x100
TIMES = every(NOW - 200 * HOUR, NOW - HOUR, HOUR)
HOLES = (20, 21, 90, 150)
"""Places of the segments that lack, counted from the first."""


def accepted_gaps(fleet: Fleet) -> list[tuple[str, str, str]]:
    kept = json.loads(Path(fleet.servers["main"].layout.own, "accepted-gaps.json").read_text())
    return [(gap["first"], gap["last"], gap["reason"]) for gap in kept]


def put_aside(fleet: Fleet, place: int) -> None:
    """Put a good copy of a segment that lacks where refused files are kept."""
    number = FIRST + place
    before = pages.last_record(number - 1, ends(number - 1, TIMES[place - 1]), SEGMENT)
    copy = segment_bytes(1, number, ends(number, TIMES[place]), before)
    Path(fleet.servers["main"].layout.errors, f"{name(place)}.20261120T000000Z.unknown").write_bytes(copy)


def archived(fleet: Fleet, place: int) -> bool:
    return Path(fleet.servers["main"].layout.wal(name(place))).exists()


def name(number: int) -> str:
    return segment_name(1, FIRST + number, SEGMENT)


@pytest.fixture
def holed(tmp_path: Path) -> Iterator[Fleet]:
    """200 segments with three holes, two backups before the last of them."""
    made = Fleet(tmp_path)
    server = made.server("main")
    made.segments(server, FIRST, TIMES, [FIRST + hole for hole in HOLES])
    made.backup(server, TIMES[10], FIRST + 10)
    made.backup(server, TIMES[100], FIRST + 100)
    yield made
    made.close()


async def opened(app: Any, pilot: Pilot[None], *keys: str) -> Wal:
    await pilot.press("enter", "3", *keys)
    await until(pilot, lambda: app.screen.inspection is not None and app.screen.inspection.chart is not None)
    assert isinstance(app.screen, ServerRoom) and isinstance(app.screen.pane, Wal)
    return app.screen.pane


async def test_n_goes_from_gap_to_gap_and_says_when_there_is_no_more(holed: Fleet) -> None:
    async with console(holed.config) as (app, pilot):
        pane = await opened(app, pilot)
        await until(pilot, lambda: "gap 1 of 3" in screen_text(app))
        assert f"{name(20)} .. 115" in screen_text(app)
        await pilot.press("n")
        await until(pilot, lambda: "gap 2 of 3" in screen_text(app))
        await pilot.press("n")
        await until(pilot, lambda: "gap 3 of 3" in screen_text(app))
        text = screen_text(app)
        assert "1 backup cannot go past" in text or "2 backups cannot go past" in text
        assert "b takes a new backup" in text
        await pilot.press("n")
        await pilot.pause()
        assert "There is no gap after this." in screen_text(app)
        await pilot.press("N")
        await until(pilot, lambda: "gap 2 of 3" in screen_text(app))
        assert pane.over.cursor == FIRST + 90


async def test_the_map_moves_by_cells_and_rows_and_zooms_around_the_cursor(holed: Fleet) -> None:
    async with console(holed.config) as (app, pilot):
        pane = await opened(app, pilot)
        await until(pilot, lambda: "gap 1 of 3" in screen_text(app))
        await pilot.press("left")
        await until(pilot, lambda: "archived   " + name(19) in screen_text(app))
        await until(pilot, lambda: "2 from 20" in screen_text(app))
        await pilot.press("down")
        assert pane.mapped.cursor == FIRST + 19 + 64
        before = pane.mapped.per_row
        await pilot.press("minus")
        await until(pilot, lambda: "a cell is 2" in screen_text(app))
        assert pane.mapped.per_row == 2 * before and pane.mapped.cursor == FIRST + 19 + 64
        await pilot.press("plus", "plus")
        await pilot.pause()
        assert "A cell is one segment already." in screen_text(app)
        await pilot.press("G")
        assert pane.mapped.cursor == FIRST + len(TIMES) - 1
        await pilot.press("g")
        assert pane.mapped.cursor == FIRST


async def test_a_wide_cell_shows_the_worst_and_names_the_gap_in_it(holed: Fleet) -> None:
    async with console(holed.config) as (app, pilot):
        pane = await opened(app, pilot)
        await until(pilot, lambda: "gap 1 of 3" in screen_text(app))
        await pilot.press("n", "minus", "minus")
        await until(pilot, lambda: "a cell is 4" in screen_text(app))
        row = next(line for line in screen_text(app).splitlines() if line.startswith("  00000000"))
        assert row.count("╳") == 3
        await pilot.press("g", "right")
        await pilot.press("n")
        await until(pilot, lambda: "gap 1 of 3" in screen_text(app))
        assert pane.mapped.cursor == FIRST + 20


async def test_the_list_has_a_row_a_segment_with_its_commits(holed: Fleet) -> None:
    async with console(holed.config, size=(120, 30)) as (app, pilot):
        pane = await opened(app, pilot, "m")
        await until(pilot, lambda: "2026-11-" in screen_text(app))
        rows = [line for line in screen_text(app).splitlines() if name(0)[:16] in line]
        assert any("lost" in row and name(20) in row for row in rows)
        assert any("archived" in row and name(22) in row and "  2  2026-11-" in row for row in rows)
        await pilot.press("down")
        await until(pilot, lambda: pane.listed.cursor == FIRST + 21)
        await pilot.press("enter")
        await until(pilot, lambda: pane.form == "map")
        assert pane.mapped.cursor == FIRST + 21


async def test_the_gaps_alone_and_from_one_to_its_place(holed: Fleet) -> None:
    async with console(holed.config) as (app, pilot):
        pane = await opened(app, pilot, "m", "m")
        await until(pilot, lambda: name(150) in screen_text(app))
        assert all(name(number) in screen_text(app) for number in (20, 90, 150))
        while name(90) not in pane.gaps.key:
            at = pane.gaps.cursor
            await pilot.press("down")
            assert pane.gaps.cursor == at + 1
        await pilot.press("enter")
        await until(pilot, lambda: "gap 2 of 3" in screen_text(app))


async def test_a_gap_is_accepted_only_with_a_reason(holed: Fleet) -> None:
    async with console(holed.config) as (app, pilot):
        await opened(app, pilot)
        await until(pilot, lambda: "gap 1 of 3" in screen_text(app))
        await pilot.press("A")
        await until(pilot, lambda: "Accept that 2 segments are missing?" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "A gap is accepted with its reason." in screen_text(app))
        await pilot.press(*"disk", "space", *"died", "enter")
        await until(pilot, lambda: "accepted 2026" in screen_text(app) or "disk died" in screen_text(app))
        await until(pilot, lambda: "gap 1 of 3   accepted" in screen_text(app))
        assert accepted_gaps(holed) == [(name(20), name(21), "disk died")]
        await pilot.press("A")
        await pilot.pause()
        assert "It is accepted already." in screen_text(app)


async def test_what_lacks_is_fetched_from_where_it_was_put_aside(holed: Fleet) -> None:
    put_aside(holed, 90)
    config = load(write_config(holed))
    async with console(config) as (app, pilot):
        await opened(app, pilot)
        await until(pilot, lambda: "gap 1 of 3" in screen_text(app))
        await pilot.press("f")
        await until(pilot, lambda: "wal fetch-missing main" in " ".join(screen_text(app).split()))
        await pilot.press("enter")
        await until(pilot, lambda: "and found something wrong." in " ".join(screen_text(app).split()), seconds=60)
        assert "1 segment of main is archived; 3 are still missing." in " ".join(screen_text(app).split())
        assert archived(holed, 90)
        await pilot.press("q")
        await until(pilot, lambda: "gap 1 of 2" in screen_text(app), seconds=60)
    lines = [(line.action, line.via, line.outcome) for line in trail.read(config.state_directory)]
    assert sorted(lines) == [("fetch", "console", "started"), ("fetch", "job", "done")]


async def test_a_server_that_does_not_answer_delays_nothing_and_is_said(holed: Fleet) -> None:
    async with console(load(write_config(holed)), size=(160, 45)) as (app, pilot):
        await pilot.press("enter")
        await until(pilot, lambda: app.screen.inspection is not None and app.screen.inspection.chart is not None)
        await until(pilot, lambda: app.screen.inspection.asked)
        await until(pilot, lambda: "PostgreSQL does not answer" in screen_text(app))
        await pilot.press("3")
        await until(pilot, lambda: "gap 1 of 3" in screen_text(app))
        assert "asking the server" not in screen_text(app)


async def test_read_only_neither_fetches_nor_accepts(holed: Fleet) -> None:
    async with console(holed.config, read_only=True) as (app, pilot):
        await opened(app, pilot)
        await until(pilot, lambda: "gap 1 of 3" in screen_text(app))
        for key in ("f", "A"):
            await pilot.press(key)
            await pilot.pause()
            assert isinstance(app.screen, ServerRoom)
            assert "read-only" in flash(app)


async def test_without_a_gap_the_keys_for_gaps_say_so(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("down", "down", "down", "enter", "3")
        await until(pilot, lambda: app.screen.inspection is not None)
        for key, said in (
            ("n", "There is no gap."),
            ("f", "No WAL is missing."),
            ("A", "Put the cursor on a gap first"),
        ):
            await pilot.press(key)
            await pilot.pause()
            assert said in screen_text(app)
        await pilot.press("t")
        await pilot.pause()
        assert "There is only one timeline." in screen_text(app)


async def test_ascii_alone_is_enough(holed: Fleet) -> None:
    async with console(holed.config, ascii_only=True) as (app, pilot):
        await opened(app, pilot)
        await until(pilot, lambda: "gap 1 of 3" in screen_text(app))
        assert screen_text(app).isascii()
        await pilot.press("1")
        await pilot.pause()
        assert screen_text(app).isascii()
