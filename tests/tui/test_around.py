"""What is around the rooms: filter, command line, history, export, zoom, command log, clipboard, read-only."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import Config, Source
from tests.support.fleet import Fleet
from tests.tui.conftest import console, flash, screen_text, until
from tui import clipboard, export
from tui.app import Console
from tui.widgets.table import Table


def room_of(app: Console) -> str:
    return str(getattr(app.screen, "ROOM", ""))


def names(app: Console) -> list[str]:
    return [row.key for row in app.screen.query_one(Table).rows]


async def test_a_filter_narrows_as_it_is_typed_and_escape_shows_all(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("slash", *"e")
        await pilot.press(*"rp")
        await until(pilot, lambda: names(app) == ["erp-main"])
        await pilot.press("enter")
        await pilot.pause()
        assert "/ erp  1 of 5" in flash(app)
        await pilot.press("escape")
        await until(pilot, lambda: len(names(app)) == 5)
        assert room_of(app) == "servers"


async def test_a_filter_takes_a_column_the_opposite_and_what_is_no_expression(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("slash", *"!state=ok", "enter")
        await until(pilot, lambda: names(app) == ["erp-main", "crm", "shop-eu"])
        await pilot.press("escape", "slash", *"server=^s", "enter")
        await until(pilot, lambda: names(app) == ["shop-eu"])
        await pilot.press("escape", "slash", *"a(", "enter")
        await until(pilot, lambda: "it is no regular expression" in flash(app))
        assert names(app) == []
        await pilot.press("enter")
        await pilot.pause()
        assert "There is no server in the list." in flash(app)


async def test_filters_stay_in_the_history_of_the_next_console(tmp_path: Path, fleet: Fleet) -> None:
    config = replace(fleet.config, state_directory=str(tmp_path))
    async with console(config) as (app, pilot):
        await pilot.press("slash", *"geo", "enter")
        await until(pilot, lambda: names(app) == ["geo"])
    async with console(config) as (app, pilot):
        await pilot.press("slash", "up", "enter")
        await until(pilot, lambda: names(app) == ["geo"])


async def test_the_command_line_is_ready_for_the_first_letter(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("colon", *"jobs", "enter")
        await until(pilot, lambda: room_of(app) == "jobs")
        await pilot.press("colon", *"backups shop-eu /11-20", "enter")
        await until(pilot, lambda: room_of(app) == "server" and "/ 11-20" in flash(app))
        assert "shop-eu" in screen_text(app).splitlines()[0]


async def test_the_command_line_completes_words_and_servers(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("colon", *"time", "tab")
        await until(pilot, lambda: ":timeline" in screen_text(app))
        await pilot.press("space", *"l", "tab")
        await until(pilot, lambda: ":timeline ledger" in screen_text(app))
        await pilot.press("escape", "colon", *"server ", "tab", "tab")
        await until(pilot, lambda: ":server erp-main" in screen_text(app))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("frobnicate", "There is no word frobnicate"),
        ("wal nowhere", "There is no server nowhere"),
        ("job", ":job needs a job."),
        ("theme pink", "There is no theme pink"),
        ("refresh soon", "soon is no number of seconds"),
        ("backup nowhere", "There is no server nowhere"),
    ],
)
async def test_a_line_that_means_nothing_says_why(fleet: Fleet, line: str, said: str) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("colon", *line, "enter")
        await until(pilot, lambda: said in flash(app))
        assert room_of(app) == "servers"


async def test_a_word_of_a_key_works_on_the_server_that_is_named(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("colon", *"backup geo", "enter")
        await until(pilot, lambda: "Back up geo now?" in screen_text(app))


async def test_the_theme_is_changed_by_a_word(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("colon", *"theme light", "enter")
        await until(pilot, lambda: app.theme == "paper")


async def test_brackets_go_back_and_forward(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("right_square_bracket")
        await pilot.pause()
        assert "There is nothing after this." in flash(app)
        await pilot.press("j", "enter")
        await until(pilot, lambda: room_of(app) == "job")
        for expected in ("jobs", "servers"):
            await pilot.press("left_square_bracket")
            await until(pilot, lambda expected=expected: room_of(app) == expected)  # type: ignore[misc]
        for expected in ("jobs", "job"):
            await pilot.press("right_square_bracket")
            await until(pilot, lambda expected=expected: room_of(app) == expected)  # type: ignore[misc]
        assert len(app.screen_stack) == 3


async def test_an_export_is_the_rows_that_the_filter_keeps(fleet: Fleet, tmp_path: Path) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("slash", *"!ok", "enter", "e")
        await until(pilot, lambda: "Export what is on the screen   3 rows" in screen_text(app))
        await pilot.press("tab", "tab")
        path = tmp_path / "out.json"
        app.screen.query_one("#name").value = str(path)  # type: ignore[attr-defined]
        await pilot.press("enter")
        await until(pilot, lambda: f"Written to {path}" in flash(app))
        document = json.loads(path.read_text())
        assert [row["server"] for row in document["rows"]] == ["erp-main", "crm", "shop-eu"]
        assert document["rows"][0]["wal"] == "1 gap"
        assert path.stat().st_mode & 0o777 == 0o600
        await pilot.press("e")
        await until(pilot, lambda: "Export" in screen_text(app))
        app.screen.query_one("#name").value = str(path)  # type: ignore[attr-defined]
        await pilot.press("enter")
        await until(pilot, lambda: "It cannot be written: File exists." in screen_text(app))


async def test_a_log_is_exported_as_it_stands(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        await pilot.press("j", "enter")
        await until(pilot, lambda: app.snapshot.job is not None and bool(app.snapshot.job.rates))
        view = app.screen.view()  # type: ignore[attr-defined]
        assert "reading slowly: 7 MiB/s" in export.rendered(view, "txt")


async def test_zoom_gives_each_part_the_screen_and_takes_it_back(fleet: Fleet) -> None:
    async with console(fleet.config) as (app, pilot):
        before = screen_text(app)
        await pilot.press("z")
        await until(pilot, lambda: "the repair is" not in screen_text(app))
        assert "erp-main" in screen_text(app)
        await pilot.press("z")
        await until(pilot, lambda: "the repair is" in screen_text(app) and "LAST BACKUP" not in screen_text(app))
        await pilot.press("z")
        await until(pilot, lambda: screen_text(app) == before)


async def test_read_only_is_left_after_a_yes_and_entered_at_once(fleet: Fleet) -> None:
    async with console(fleet.config, read_only=True) as (app, pilot):
        await pilot.press("exclamation_mark")
        await until(pilot, lambda: "Leave read-only?" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: room_of(app) == "servers")
        assert app.read_only
        await pilot.press("exclamation_mark", "y")
        await until(pilot, lambda: "read-write" in screen_text(app).splitlines()[0])
        await pilot.press("b")
        await until(pilot, lambda: "Back up erp-main now?" in screen_text(app))
        await pilot.press("escape", "exclamation_mark")
        await until(pilot, lambda: "read-only" in screen_text(app).splitlines()[0])


async def test_read_only_that_a_file_says_cannot_be_left(fleet: Fleet) -> None:
    sources = {("", "read_only"): Source("/etc/cellarman/cellarman.toml", 3)}
    config = replace(fleet.config, read_only=True, sources=sources)
    async with console(config) as (app, pilot):
        await pilot.press("exclamation_mark")
        await until(pilot, lambda: "/etc/cellarman/cellarman.toml:3: change it there" in flash(app))


def small(app: Console, text: str) -> str:
    said: list[str] = []
    clipboard.copy(app, text, "it", said.append, {})
    return said[0]


def test_what_is_too_long_for_the_clipboard_goes_to_a_file(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def copied() -> None:
        async with console(fleet.config) as (app, _):
            fits = "x" * (clipboard.LIMIT // 4 * 3)
            assert "Copied it through the terminal" in small(app, fits)
            assert app.clipboard == fits
            assert "is too long" in small(app, fits + "xxx")

    asyncio.run(copied())
    [path] = tmp_path.glob("cellarman-copied-*.txt")
    assert len(path.read_text()) == clipboard.LIMIT // 4 * 3 + 3


async def test_the_last_look_is_shown_at_once_and_says_its_age(fleet: Fleet, tmp_path: Path) -> None:
    config = replace(fleet.config, state_directory=str(tmp_path))
    async with console(config) as (app, _):
        app.keep_look()
    later = Console(config, now=lambda: fleet.now.replace(hour=17), theme="cellar", ascii_only=False)
    later.lookout.start = lambda: None  # type: ignore[method-assign]
    async with later.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "1 gap" in screen_text(later))
        text = screen_text(later)
        assert "data 3h 00m old" in text.splitlines()[0]
        assert "cannot be restored past" in text


async def test_events_tell_who_did_what(fleet: Fleet, tmp_path: Path) -> None:
    from engine import trail

    config: Config = replace(fleet.config, state_directory=str(tmp_path))
    trail.write(
        str(tmp_path), trail.entry("keep", "crm", "done", subject="20261121T065311", command="cellarman keep x")
    )
    async with console(config) as (app, pilot):
        await pilot.press("l")
        await until(pilot, lambda: "1 event." in screen_text(app))
        assert "keep 20261121T065311" in screen_text(app)
        await pilot.press("y")
        await until(pilot, lambda: app.clipboard == "cellarman keep x")
        trail.write(str(tmp_path), trail.entry("delete", "crm", "refused", detail="it is kept"))
        await until(pilot, lambda: "2 events." in screen_text(app))
        await pilot.press("g", "enter")
        await until(pilot, lambda: "It was done at once" in flash(app))
