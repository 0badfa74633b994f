"""The verbs restore and windows as a DBA and a program see them: JSON keys, exit codes, a restore to its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from tests.engine.recovery.scene import Mark, Scene, scene, value
from tests.support.cluster import Install

CELLARMAN = os.path.join(os.path.dirname(sys.executable), "cellarman")


@dataclass
class Shell:
    """A server with a backup and a dropped table, and the command line on it."""

    scene: Scene
    before: Mark

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [CELLARMAN, "--config", str(self.scene.root / "cellarman.toml"), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=self.scene.root)

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)


@pytest.fixture(scope="module")
def shell(postgres: Install) -> Iterator[Shell]:
    with scene(postgres) as stage:
        stage.insert()
        stage.backup()
        before = stage.insert()
        stage.cluster.sql("DROP TABLE kept")
        stage.cluster.sql("CREATE TABLE late (i int)")
        stage.archive_all()
        yield Shell(stage, before)


def test_plan_as_json(shell: Shell) -> None:
    target = shell.before.at.isoformat()
    plan = shell.json("restore", "main", "auto", "new", "--to-time", target, "--plan")
    assert plan["reachable"] is True and plan["reason"] is None
    assert plan["nearest"] == {"before": None, "after": None}
    assert plan["target"]["kind"] == "time" and plan["timeline"] == 1
    assert set(plan["wal"]) == {"first", "last", "count", "bytes"}
    assert plan["copy_bytes"] > 1 << 20 and plan["free_bytes"] > 0 and plan["steps"]
    assert plan["settings"]["recovery_target_time"].endswith("+00")
    assert plan["first_dropped"]["xid"] > plan["last_kept"]["xid"] == shell.before.xid
    assert not (shell.scene.root / "new").exists()


def test_exit_codes(shell: Shell) -> None:
    naive = shell.run("restore", "main", "auto", "new", "--to-time", "2026-11-22 13:40:00", "--plan")
    assert naive.returncode == 2 and "+00" in naive.stderr
    early = shell.run("restore", "main", "auto", "new", "--to-time", "2001-01-01 00:00:00Z")
    assert early.returncode == 3 and "--to-immediate" in early.stderr
    plan = shell.run("restore", "main", "auto", "new", "--to-time", "2001-01-01 00:00:00Z", "--plan", "--json")
    assert plan.returncode == 3
    document = json.loads(plan.stdout)
    assert document["reachable"] is False and document["reason"] and document["nearest"]["before"] is None
    assert datetime.fromisoformat(document["nearest"]["after"]).tzinfo is not None
    assert shell.run("restore", "main", "20000101T000000", "new").returncode == 2
    assert shell.run("restore", "main", "auto", str(shell.scene.cluster.data)).returncode == 3
    assert shell.run("restore", "main", "auto", "").returncode == 2
    assert shell.run("restore", "main", "auto", "new", "--action", "pause").returncode == 2
    assert shell.run("restore", "main", "auto", "new", "--to-lsn", "0/1", "--to-xid", "5").returncode == 2
    assert shell.run("restore", "main", "auto", "new", "--timeline", "0").returncode == 2
    assert shell.run("restore", "main", "auto", "new", "--yes", "other").returncode == 2
    assert shell.run("restore", "main", "auto", "new", "--read-only").returncode == 3


def test_restore_and_start(shell: Shell) -> None:
    destination = str(shell.scene.root / "new")
    try:
        done = shell.run("restore", "main", "auto", "new", "--to-time", shell.before.at.isoformat(), "--start")
        assert done.returncode == 0, done.stderr
        assert "paused" in done.stdout
        with open(os.path.join(destination, "postmaster.pid"), encoding="utf-8") as file:
            port = file.read().splitlines()[3]
        assert value(f"host=127.0.0.1 port={port} user=postgres dbname=postgres", "SELECT count(*) FROM kept") == 200
        again = shell.run("restore", "main", "auto", "new", "--to-immediate")
        assert again.returncode == 3 and "running server" in again.stderr
        [job] = [job for job in shell.json("jobs")["jobs"] if job["kind"] == "restore"]
        assert job["status"] == "done"
    finally:
        shell.scene.remove(destination)


def test_windows(shell: Shell) -> None:
    document = shell.json("windows", "main")
    [window] = document["windows"]
    assert set(window) == {"backup", "timeline", "from_lsn", "from_time", "to_lsn", "to_time", "bounded_by"}
    assert window["bounded_by"] == "end_of_archive"
    assert datetime.fromisoformat(window["from_time"]) < shell.before.at < datetime.fromisoformat(window["to_time"])
    assert "end of archive" in shell.run("windows", "main").stdout
