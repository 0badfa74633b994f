"""A job that is being written by the real journal, seen through the console while it goes on."""

from __future__ import annotations

import os
from pathlib import Path

from engine.config import Config, Server
from engine.errors import CellarmanError
from engine.job import spec as spec_
from tests.support.worker import Worker
from tests.tui.conftest import console, screen_text, until
from tui.snapshot import utc_now

MB = 1 << 20


def config_of(tmp_path: Path) -> Config:
    barman = str(tmp_path / "barman")
    return Config(barman, str(tmp_path / "state"), {"main": Server("main", barman)})


async def test_progress_is_seen_as_it_is_made_and_the_end_too(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    worker = Worker(config, "main")
    async with console(config, now=utc_now) as (app, pilot):
        await until(pilot, lambda: "↻ 1 job" in screen_text(app))
        await pilot.press("j", "enter")
        worker.report.phase("checkpoint")
        worker.report.phase("copy")
        worker.report.progress(300 * MB, 900 * MB)
        worker.report.note("read [red]slowly[/red] from \x1b[31mbase", "warn")
        await until(pilot, lambda: "33 %" in screen_text(app))
        text = screen_text(app)
        assert "✓ checkpoint   ↻ copy   · sync" in text
        assert "300 of 900 MiB" in text
        assert "read [red]slowly[/red] from ?[31mbase" in text

        def goes_on() -> bool:
            worker.report.progress(650 * MB, 900 * MB)
            return "72 %" in screen_text(app)

        await until(pilot, goes_on)
        worker.report.phase("sync")
        worker.report.phase("wal")
        worker.end()
        await until(pilot, lambda: "Backup of main is done" in screen_text(app))
        assert "↻" not in screen_text(app)


async def test_a_worker_that_is_killed_is_seen_as_dead_at_once(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    worker = Worker(config, "main")
    worker.report.phase("copy")
    async with console(config, now=utc_now) as (app, pilot):
        await pilot.press("j", "enter")
        await until(pilot, lambda: "Backing up main." in screen_text(app))
        worker.die()
        await until(pilot, lambda: "Backup of main died" in screen_text(app), seconds=3)
        assert "died without a word" in screen_text(app)
        assert "now  cellarman cron marks what it left; then start it again" in screen_text(app)
        await pilot.press("C")
        await pilot.pause()
        assert "It died already." in screen_text(app)


async def test_the_last_words_of_a_job_stay_in_sight_when_its_outcome_takes_their_room(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    worker = Worker(config, "main")
    worker.report.phase("copy")
    async with console(config, now=utc_now) as (app, pilot):
        await pilot.press("j", "enter")
        for number in range(20):
            worker.report.note(f"word {number}")
        await until(pilot, lambda: "word 19" in screen_text(app))
        worker.end(CellarmanError("it failed", "one\ntwo", "this\nthat"))
        await until(pilot, lambda: "Backup of main failed" in screen_text(app))
        text = screen_text(app)
        assert "word 19" in text and "word 0 " not in text
        assert "  now  this" in text and "\n       that" in text


async def test_a_failed_job_says_why_and_what_now(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    worker = Worker(config, "main")
    worker.end(CellarmanError("the backup of main failed", "password=hunter2 was refused", "cellarman check main"))
    async with console(config, now=utc_now) as (app, pilot):
        await pilot.press("j", "enter")
        await until(pilot, lambda: "Backup of main failed" in screen_text(app))
        text = screen_text(app)
        assert "cellarman check main" in text
        assert "hunter2" not in text


async def test_a_long_log_follows_its_end_until_one_scrolls_up(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    worker = Worker(config, "main")
    async with console(config, now=utc_now) as (app, pilot):
        await pilot.press("j", "enter")
        for line in range(200):
            worker.report.note(f"line {line} of the log, " + "long enough to be wrapped " * 3)
        await until(pilot, lambda: "line 199" in screen_text(app))
        await pilot.press("g")
        await until(pilot, lambda: "line 0 of" in screen_text(app))
        worker.report.note("one more")
        await until(pilot, lambda: app.snapshot.job is not None and len(app.snapshot.job.notes) == 201)
        assert "line 0 of" in screen_text(app)
        await pilot.press("G")
        await until(pilot, lambda: "one more" in screen_text(app))
        worker.end()


async def test_without_a_server_the_console_says_what_to_write(tmp_path: Path) -> None:
    config = Config(str(tmp_path / "barman"), str(tmp_path / "state"), {}, files=(str(tmp_path / "cellarman.toml"),))
    async with console(config, now=utc_now) as (app, pilot):
        await until(pilot, lambda: "No server is known yet." in screen_text(app))
        text = screen_text(app)
        assert "[servers.main]" in text
        assert "d  the demo" in text


async def test_a_terminal_that_is_too_small_says_so_and_recovers(tmp_path: Path) -> None:
    async with console(config_of(tmp_path), now=utc_now, size=(50, 12)) as (app, pilot):
        await until(pilot, lambda: "This terminal has 50 columns and 12 rows." in screen_text(app))
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "One server." in screen_text(app))


def put_in_the_way(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("a file where a directory should be")


async def test_jobs_that_cannot_be_read_make_the_data_old_until_they_can(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    async with console(config, now=utc_now) as (app, pilot):
        jobs = Path(spec_.directory(config.state_directory))
        put_in_the_way(jobs)
        await until(pilot, lambda: "data is old" in screen_text(app))
        assert "Not a directory" in screen_text(app)
        os.remove(jobs)
        await until(pilot, lambda: "data is old" not in screen_text(app))


async def test_selected_text_is_copied(tmp_path: Path) -> None:
    async with console(config_of(tmp_path), now=utc_now) as (app, pilot):
        await pilot.mouse_down("#sentence", offset=(2, 0))
        await pilot.hover("#sentence", offset=(13, 0))
        await pilot.mouse_up("#sentence", offset=(13, 0))
        await pilot.press("ctrl+c")
        await pilot.pause()
        assert app.clipboard.startswith("One server")
        assert "Copied the selected text" in screen_text(app)
