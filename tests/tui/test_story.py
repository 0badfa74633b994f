"""The whole story in a real terminal against a real PostgreSQL: a backup, a lost terminal, a dropped table, a gap."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

import pytest

from engine.config import load
from engine.job import follow
from tests.support import cluster, programs
from tests.support.tmux import Pane, pane
from tests.support.waiting import until
from tests.tui.test_backup_form import stop_receivers


def onto(shown: Pane, wanted: str) -> None:
    """Move the cursor down to the row that says `wanted`; a list that is made anew meanwhile may take it back."""
    until(lambda: wanted in shown.text, what=wanted)

    def there() -> bool:
        row = _marked(shown)
        if wanted not in row:
            shown.press("Down")
            with contextlib.suppress(AssertionError):
                until(lambda: _marked(shown) not in ("", row), seconds=5)
        return wanted in _marked(shown)

    until(there, what=f"the cursor on {wanted}", seconds=60, seen=lambda: shown.text)


def _marked(shown: Pane) -> str:
    """Return the row under the cursor."""
    return next((line for line in shown.text.splitlines()[3:] if re.match("▌ +[^ ]", line)), "")


@pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux here")
def test_from_the_first_backup_to_the_rows_of_a_dropped_table(tmp_path: Path, postgres: cluster.Install) -> None:
    with cluster.running(postgres, tmp_path / "pg") as server:
        server.sql("CREATE TABLE wine (name text)")
        ours = programs.configure(tmp_path / "ours", server, bandwidth_limit=3000)
        with ours.spawned("agent"):
            try:
                _backed_up_though_the_terminal_went_away(tmp_path, ours)
                server.sql("INSERT INTO wine SELECT 'Barolo' FROM generate_series(1, 100)")
                server.sql("DROP TABLE wine")
                with pane(tmp_path, ours.argv()) as shown:
                    port = _restored_to_before_the_drop(shown)
                assert cluster.Cluster(postgres, tmp_path, port, []).value("SELECT count(*) FROM wine") == 100
                _lost(ours, server)
                with pane(tmp_path, ours.argv()) as shown:
                    shown.until("1 gap")
                    shown.press("w")
                    shown.until("gap 1 of 1")
            finally:
                _stopped(ours, postgres)
        stop_receivers(load(str(ours.config)).servers["main"].layout)


def _backed_up_though_the_terminal_went_away(root: Path, ours: programs.Cellarman) -> None:
    with pane(root, ours.argv()) as shown:
        shown.until("no backup yet")
        shown.press("b")
        shown.until("Back up main now?")
        shown.press("Enter")
        shown.until("↻ copy")
        shown.kill()
    with pane(root, ours.argv()) as shown:
        shown.until("runs already. j shows")
        shown.press("j")
        shown.until("backup")
        shown.press("Enter")
        shown.until("Backup of main is done")


def _restored_to_before_the_drop(shown: Pane) -> int:
    """Go by what the screens say; return the port that the copy answers on."""
    shown.until("It can be restored")
    shown.press("r")
    shown.until("w asks the server for")
    shown.press("w")
    onto(shown, "before a table was dropped")
    shown.until("you lose  from")
    shown.press("Enter")
    shown.until("It can be made there")
    shown.press("Enter")
    shown.until("This will be done on this host")
    shown.press("Enter")
    shown.until("Type the server's name, main")
    shown.type("main")
    shown.until("[ restore ]")
    shown.press("Enter")
    text = shown.until("Paused, open for reading on port", seconds=60)
    found = re.search(r"on port (\d+)", text)
    assert found is not None
    return int(found[1])


def _lost(ours: programs.Cellarman, server: cluster.Cluster) -> None:
    """Take an archived segment away that was written after the backup."""
    home = ours.config.parent / "barman" / "main"
    wals = home / "wals"
    before = _segments(wals)
    for _ in range(2):
        server.sql("CREATE TABLE IF NOT EXISTS beer (i int); INSERT INTO beer VALUES (1)")
        server.sql("SELECT pg_switch_wal()")
    until(lambda: len(_segments(wals)) >= len(before) + 2, what="the archive of two segments")
    lost = _segments(wals)[-2]
    until(lambda: not (home / "streaming" / lost.name).exists(), seconds=90, what="its end in the queue")
    lost.unlink()


def _stopped(ours: programs.Cellarman, install: cluster.Install) -> None:
    """Stop what restores started."""
    for state in follow.jobs(str(ours.config.parent / "state")):
        if state.kind != "restore" or not state.result:
            continue
        install.run("pg_ctl", "-D", str(state.result["destination"]), "-m", "immediate", "stop")


def _segments(wals: Path) -> list[Path]:
    return sorted(path for path in wals.glob("*/*") if len(path.name) == 24)
