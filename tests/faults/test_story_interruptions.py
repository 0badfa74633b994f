"""The terminal goes, the worker dies, the disk fills: what the operator finds then, and that the next run is good."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import cluster, programs
from tests.support.programs import Cellarman
from tests.support.site import processes
from tests.support.waiting import until


@pytest.fixture(scope="module")
def server(postgres: cluster.Install) -> Iterator[cluster.Cluster]:
    with cluster.running(postgres, archive_mode="on", archive_command="/bin/true") as running:
        running.sql("CREATE TABLE filler AS SELECT n, md5(n::text) FROM generate_series(1, 200000) n")
        yield running


def configured(root: Path, server: cluster.Cluster, **settings: Any) -> Cellarman:
    slot = f"slot_{root.name.replace('-', '_').lower()}"[:60]
    return programs.configure(root, server, **{"slot_name": slot, **settings})


def running_job(ours: Cellarman) -> dict[str, Any] | None:
    jobs = ours.json("jobs")["jobs"]
    return jobs[0] if jobs and jobs[0]["status"] == "running" and jobs[0]["phase"] == "copy" else None


def test_a_terminal_that_goes_ends_the_looking_and_a_killed_worker_is_seen_at_once(
    server: cluster.Cluster, tmp_path: Path
) -> None:
    slow = configured(tmp_path, server, bandwidth_limit=2000)
    with slow.spawned("wal", "receive", "main"):
        terminal, theirs = pty.openpty()
        follower = subprocess.Popen(
            slow.argv("backup", "main"), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        job = until(lambda: running_job(slow), what="the copy")
        os.close(terminal)
        follower.send_signal(signal.SIGHUP)
        follower.wait(20)
        assert slow.json("jobs")["jobs"][0]["status"] == "running"

        os.kill(job["pid"], signal.SIGKILL)
        died = until(lambda: slow.json("jobs")["jobs"][0]["status"] == "died", seconds=2, what="the sight of its death")
        assert died
        assert slow.json("servers", code=1)["servers"][0]["jobs"] == 0
        until(lambda: not processes("pg_basebackup", str(tmp_path)), seconds=10, what="pg_basebackup's end")
        assert slow.json("backups", "main")["backups"][0]["status"] not in ("done", "waiting_for_wals")
        slow.run("cron")
        failed = slow.json("backups", "main")["backups"][0]
        assert failed["status"] == "failed"
        assert "no backup" in slow.run("restore", "main", "auto", str(tmp_path / "never"), "--plan", code=3).text

        slow.config.write_text(slow.config.read_text().replace("bandwidth_limit = 2000\n", ""))
        good = slow.backup()
        slow.run("verify", "main", good)
        assert [entry["status"] for entry in slow.json("backups", "main")["backups"]] == ["done", "failed"]


def test_a_cancelled_job_leaves_a_failed_backup_with_the_reason_and_nothing_running(
    server: cluster.Cluster, tmp_path: Path
) -> None:
    slow = configured(tmp_path, server, bandwidth_limit=2000)
    with slow.spawned("wal", "receive", "main"):
        job = slow.run("backup", "main", "--detach").out.strip()
        until(lambda: running_job(slow), what="the copy")
        slow.run("job", "cancel", job)
        state = slow.json("jobs")["jobs"][0]
        assert (state["id"], state["status"]) == (job, "cancelled")
        assert slow.json("backups", "main")["backups"][0]["status"] == "failed"
        assert not processes("pg_basebackup", str(tmp_path))
        senders = "SELECT count(*) FROM pg_stat_replication WHERE state = 'backup'"
        until(lambda: server.value(senders) == 0, what="the end of the server's side")


def test_a_full_disk_fails_the_backup_and_the_push_and_loses_nothing(server: cluster.Cluster, tmp_path: Path) -> None:
    ours = configured(
        tmp_path, server, archiver=True, streaming_archiver=False, slot_name=None, wal_timeout=5, bandwidth_limit=4000
    )
    home = tmp_path / "barman"
    home.mkdir()
    segment = make_segment(server, tmp_path)
    push = " ".join(ours.wal("push", str(segment), "--server", "main"))
    script = tmp_path / "full.sh"
    script.write_text(
        f"mount -t tmpfs -o size=300m tmpfs {home} || exit 77\n"
        f"{' '.join(ours.argv('backup', 'main', '--wait'))} & backup=$!\n"
        f"until ls {home}/main/base/*/data/base 2>/dev/null; do sleep 0.05; done >/dev/null\n"
        f"dd if=/dev/zero of={home}/filler bs=1M 2>/dev/null\n"
        f"wait $backup; echo backup $?\n"
        f"{' '.join(ours.argv('backups', 'main', '--json'))} | grep status\n"
        f"dd if=/dev/zero of={home}/more bs=1M 2>/dev/null\n"
        f"{push}; echo push $?\n"
        f"find {home}/main/wals -name '0*' | wc -l\n"
        f"rm {home}/filler {home}/more\n"
        f"{push}; echo push again $?\n"
    )
    done = programs.run(["unshare", "-Urm", "sh", str(script)], code=None)
    if done.code == 77 or "unshare" in done.err:
        pytest.skip(f"no private mounts here: {done.err.strip()}")
    assert "backup 4" in done.out, done.text
    assert '"status": "failed"' in done.out, done.text
    assert "push 1\n0\n" in done.out, done.text
    assert "push again 0" in done.out, done.text
    assert done.err.count("No space left on device") >= 2, done.text
    assert f"df -h {home}" in done.err, done.text


def make_segment(server: cluster.Cluster, root: Path) -> Path:
    """Return a copy of a finished segment of the server."""
    name = server.value("SELECT pg_walfile_name(pg_switch_wal())")
    copy = root / name
    copy.write_bytes((server.data / "pg_wal" / name).read_bytes())
    return copy
