"""A firewall that drops, or a cable that is pulled: noticed in seconds, gone on with, or failed with names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.recovery.scene import Scene, scene
from tests.faults.cut_network import FIREWALL
from tests.support.cluster import Install

_NAMESPACE = ["unshare", "--user", "--map-current-user", "--keep-caps", "--net", "--mount"]
_SECONDS = 20.0
"""By which a dead link has to be noticed: three probes of 2 s, and what slow machines add."""


@pytest.fixture(scope="module")
def stage(postgres: Install) -> Iterator[Scene]:
    probe = "ip link set lo up && ip link add cm0 type veth peer name cm1"
    if not shutil.which("ip") or not shutil.which("nsenter"):
        pytest.skip("no ip or nsenter here")
    tried = subprocess.run([*_NAMESPACE, "sh", "-c", probe], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"this account cannot make networks of its own: {tried.stderr.strip()}")
    with scene(postgres) as made:
        made.insert()
        made.backup()
        made.insert()
        made.archive_all()
        yield made


def seen(stage: Scene, what: str) -> list[dict[str, Any]]:
    """Run one of cut_network's parts and return what it printed."""
    root = Path(tempfile.mkdtemp(prefix="cm-cut-"))
    words = [sys.executable, "-m", "tests.faults.cut_network", str(stage.root / "cellarman.toml"), str(root), what]
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    try:
        done = subprocess.run([*_NAMESPACE, *words], env=env, capture_output=True, text=True, timeout=220, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]
    finally:
        shutil.rmtree(root, ignore_errors=True)


def test_a_command_on_a_dead_link(stage: Scene) -> None:
    [found] = seen(stage, "command")
    assert found["kind"] == "dropped" and found["took"] < _SECONDS
    assert found["again"] == "again\n"


def test_a_restore_goes_on_when_the_link_is_back(stage: Scene) -> None:
    found, rows = seen(stage, "again")
    assert found["pulled"] and found["noticed_after"] < _SECONDS
    assert found["result"]["verdict"] == "open" and rows == {"rows": 200}
    assert any(note.startswith("resumed after ") for note in found["notes"])


def test_a_restore_fails_when_the_link_stays_dead(stage: Scene) -> None:
    [found] = seen(stage, "away")
    assert found["pulled"] and found["noticed_after"] < _SECONDS and found["took"] < 120
    assert found["kind"] in ("dropped", "timeout", "no_route")
    assert "10.77.0.2" in found["what"] and "base/" in found["what"]  # host and file
    assert any("cannot start" in note for note in found["notes"])


def test_a_backup_goes_on_when_the_link_is_back_and_fails_when_it_stays_dead(stage: Scene) -> None:
    [found] = seen(stage, "backup")
    assert found["noticed_after"] < _SECONDS and found["went_on"], found
    assert found["kind"] in ("dropped", "timeout", "no_route") and found["failed_after"] < 60
    assert (
        "after 1 more try" in found["what"]
        and "10.77.0.2" in found["what"]
        and f"at {stage.cluster.data}/" in found["what"]
    )
    assert found["in_backup_mode"] == 0 and found["status"] == ["FAILED"]


def test_a_cut_database_session_ends_the_backup_with_reasons_and_the_server_leaves_backup_mode(stage: Scene) -> None:
    if FIREWALL is None:
        pytest.skip("no iptables here")
    [found] = seen(stage, "session")
    assert found["failed_after"] < _SECONDS and found["left_after"] < 70, found
    assert "the link to the database on 10.77.0.2:" in found["what"] and "lost during the copy" in found["what"]
    assert "left backup mode by itself" in found["why"] and "cellarman backup main" in found["fix"]
    assert found["status"] == ["FAILED"]
