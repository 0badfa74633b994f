"""What is loaded before the first paint, and what the console must never touch."""

from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "engine.status",
    "engine.job.follow",
    "engine.repository.repository",
    "engine.wal.codec",
    "psycopg2",
    "paramiko",
    "sqlite3",
    "subprocess",
    "argparse",
    "textual.widgets._data_table",
    "textual.widgets._input",
    "textual.widgets._markdown",
    "rich.markdown",
    "pygments",
)


def loaded(statement: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stdout.split())


def test_the_first_screen_waits_for_nothing_heavy() -> None:
    before = loaded("import textual.app, textual.screen, textual.scroll_view, textual.containers")
    assert not (loaded("import tui.app, tui.screens.servers") - before) & set(HEAVY)


def test_no_screen_loads_a_database_or_starts_a_program() -> None:
    screens = "servers server jobs job help leave ask problem backup_form welcome"
    statement = "; ".join(f"import tui.screens.{name}" for name in screens.split())
    before = loaded("import textual.app, textual.widgets, asyncio")
    assert not (loaded(statement) - before) & {"psycopg2", "paramiko", "sqlite3"}
