"""`cellarman wal ingest|receive|reindex`: exit codes, plain and JSON output, read-only."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.config import Server
from engine.repository import locks
from engine.repository.layout import Layout
from engine.wal import receiver
from tests.engine.wal import pages
from tests.support.cluster import Install, running
from tests.support.waiting import until


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = pages.make_layout(tmp_path)
    configure(tmp_path, 'conninfo = "host=/nowhere"\narchiver = true\n')
    return made


def configure(root: Path, server: str) -> None:
    (root / "cellarman.toml").write_text(
        f'[cellarman]\nbarman_home = "{root}/home"\nstate_directory = "{root}/state"\nlock_timeout = 1\n'
        f"[servers.main]\n{server}"
    )


def command(root: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "engine.cli.main", "--config", str(root / "cellarman.toml"), "wal", *words]


def run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(root, *words), capture_output=True, text=True, check=False, timeout=60)


def test_a_good_pass(layout: Layout, tmp_path: Path) -> None:
    pages.put(layout.incoming, 5)
    done = run(tmp_path, "ingest", "main")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1 archived (1 MiB as ")
    assert run(tmp_path, "ingest", "main").stdout == "0 archived, 0 were there, 0 refused\n"


def test_a_pass_that_refuses_is_1_and_says_what_and_where(layout: Layout, tmp_path: Path) -> None:
    Path(layout.incoming, "notes.txt").write_text("x")
    pages.put(layout.incoming, 5)
    done = run(tmp_path, "ingest", "main", "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    (refused,) = document["refused"]
    assert refused["name"] == "notes.txt"
    assert os.path.exists(refused["kept_at"])
    assert document["stored"] == [pages.name(5)]
    assert document["read_bytes"] == pages.SIZE
    assert "notes.txt" in done.stderr


def test_a_pass_beside_another_fails_and_names_it(layout: Layout, tmp_path: Path) -> None:
    with locks.hold(layout.lock("archive-wal")):
        done = run(tmp_path, "ingest", "main")
    assert done.returncode == 4
    assert f"process {os.getpid()}" in done.stderr


def test_read_only_touches_nothing(layout: Layout, tmp_path: Path) -> None:
    pages.put(layout.incoming, 5)
    assert run(tmp_path, "ingest", "main", "--read-only").returncode == 3
    assert os.listdir(layout.incoming) == [pages.name(5)]


@pytest.mark.parametrize(
    ("words", "code"),
    [(["ingest", "mian"], 2), (["ingest"], 2), (["frobnicate", "main"], 2), (["receive", "main", "--json"], 2)],
)
def test_usage(layout: Layout, tmp_path: Path, words: list[str], code: int) -> None:
    assert run(tmp_path, *words).returncode == code


def test_receive_refuses_a_server_that_does_not_stream(layout: Layout, tmp_path: Path) -> None:
    done = run(tmp_path, "receive", "main")
    assert done.returncode == 3
    assert "streaming_archiver = true" in done.stderr


def test_reindex_rebuilds_what_was_deleted(layout: Layout, tmp_path: Path) -> None:
    pages.put(layout.incoming, 5)
    run(tmp_path, "ingest", "main")
    shutil.rmtree(layout.own)
    done = run(tmp_path, "reindex", "main")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1 segments indexed\n"
    assert os.path.exists(layout.index)


def test_receive_in_the_foreground_until_ctrl_c(postgres: Install, tmp_path: Path) -> None:
    """Settings that are corrected while it cannot start are taken over."""
    layout = pages.make_layout(tmp_path)
    with running(postgres, extra=["--wal-segsize=1"]) as cluster:
        settings = f'streaming_archiver = true\nslot_name = "cellarman"\npath_prefix = "{postgres.bindir}"\n'
        configure(tmp_path, f'conninfo = "host=/nowhere"\n{settings}')
        receiving = subprocess.Popen(command(tmp_path, "receive", "main"), stderr=subprocess.PIPE, text=True)
        try:
            until(lambda: receiver.alive(layout), "it holds the lock")
            configure(tmp_path, f'conninfo = "{cluster.conninfo}"\n{settings}')
            until(lambda: list(Path(layout.streaming).glob("*.partial")), "WAL arrives")
            holder = receiver.alive(layout)
            assert holder is not None and holder.pid == receiving.pid
            assert not receiver.ensure(
                Server("main", os.path.dirname(layout.home), conninfo=cluster.conninfo, streaming_archiver=True)
            )
            receiving.send_signal(signal.SIGINT)
            _, said = receiving.communicate(timeout=20)
        finally:
            receiving.kill()
        assert receiving.returncode == 0
        assert "told to stop" in said
        assert receiver.alive(layout) is None
