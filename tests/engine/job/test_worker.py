"""Jobs as processes: they need no console, die visibly, and leave nothing behind when they are stopped."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Refused
from engine.job import follow, launch
from engine.job import spec as spec_
from tests.support.cluster import Cluster, Install, running
from tests.support.site import Site, gone, processes, site
from tests.support.waiting import until


def copying(where: Site) -> dict[str, Any]:
    """Return the newest job once it copies and its pg_basebackup can be seen."""
    job: dict[str, Any] = until(
        lambda: next((j for j in where.jobs() if j["status"] == "running" and j["phase"] == "copy"), None), "it copies"
    )
    until(lambda: processes("pg_basebackup", str(where.root), job["backup"]), "pg_basebackup runs")
    return job


def begin(where: Site) -> dict[str, Any]:
    done = where.run("backup", "main", "--detach")
    assert done.returncode == 0, done.stderr
    job = copying(where)
    assert done.stdout.strip() == job["id"]
    return job


def backups_on_the_server(cluster: Cluster) -> int:
    count: int = cluster.value("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'cellarman_backup%'")
    return count


def test_a_worker_killed_with_9_is_seen_dead_at_once_and_leaves_no_process(slow: Site, cluster: Cluster) -> None:
    job = begin(slow)
    followers = [slow.start("job", "follow", job["id"]) for _ in range(2)]
    [basebackup] = processes("pg_basebackup", str(slow.root), job["backup"])
    os.kill(job["pid"], signal.SIGKILL)
    until(lambda: gone(job["pid"]), "it is dead", 5)
    [dead] = slow.jobs()
    assert dead["status"] == "died" and str(job["pid"]) in dead["reason"] and dead["ended"]
    until(lambda: gone(basebackup), "pg_basebackup died with it", 5)
    for follower in followers:
        _, err = follower.communicate(timeout=20)
        assert follower.returncode == 4 and "died" in err
    [left] = slow.backups()
    assert left.status == "STARTED"
    assert " died " in slow.run("backups", "main").stdout

    cron = slow.run("cron")
    assert cron.returncode == 0, cron.stderr
    [failed] = slow.backups()
    assert failed.status == "FAILED" and failed.error is not None and job["id"] in failed.error
    assert not any(path.is_file() for path in (slow.repo / "base").rglob("*"))
    assert backups_on_the_server(cluster) == 0
    assert slow.run("cron").returncode == 0
    assert [info.error for info in slow.backups()] == [failed.error]


def test_cancel_leaves_a_failed_backup_and_nothing_else(slow: Site, cluster: Cluster) -> None:
    job = begin(slow)
    slots = cluster.sql("SELECT slot_name FROM pg_replication_slots")
    done = slow.run("job", "cancel", job["id"][-4:])
    assert done.returncode == 0, done.stderr
    [ended] = slow.jobs()
    assert ended["status"] == "cancelled" and "cancelled by the operator" in ended["reason"]
    [info] = slow.backups()
    assert info.status == "FAILED" and info.error is not None and "cancelled by the operator" in info.error
    assert not any(path.is_file() for path in (slow.repo / "base").rglob("*"))
    assert not processes("pg_basebackup", str(slow.root), job["backup"])
    assert backups_on_the_server(cluster) == 0
    assert cluster.sql("SELECT slot_name FROM pg_replication_slots") == slots == [("cellarman",)]
    again = slow.run("job", "cancel", job["id"])
    assert again.returncode == 3 and "does not run" in again.stderr


def test_cancel_while_the_server_spreads_its_checkpoint(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE IF NOT EXISTS dirty AS SELECT g, md5(g::text) FROM generate_series(1, 60000) g")
    cluster.sql("UPDATE dirty SET g = g + 1")
    with site(cluster, immediate_checkpoint=False) as where:
        job = where.run("backup", "main", "--detach").stdout.strip()
        until(lambda: backups_on_the_server(cluster), "the server has begun")
        assert where.jobs()[0]["phase"] == "checkpoint"
        assert where.run("job", "cancel", job).returncode == 0
        assert where.jobs()[0]["status"] == "cancelled" and where.backups()[0].status == "FAILED"
        assert backups_on_the_server(cluster) == 0


def test_ctrl_c_detaches_and_says_so_and_the_terminal_may_go(slow: Site) -> None:
    leader, terminal = pty.openpty()
    with slow.start(
        "backup", "main", stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    ) as follower:
        os.close(terminal)
        job = copying(slow)
        shown = ""
        while not re.search(r"copy \[#* *\] +\d+%", shown):
            shown += os.read(leader, 65536).decode()
        follower.send_signal(signal.SIGINT)
        shown += _everything(leader)
        assert follower.wait(20) == 130
    assert "detached" in shown and f"cellarman --config {slow.path} job cancel {job['id']}" in shown
    os.close(leader)
    assert slow.jobs()[0]["status"] == "running"

    # A terminal that goes away hangs up on its session; a new one finds the job and follows it.
    with slow.start("job", "follow", job["id"], start_new_session=True) as second:
        until(lambda: processes("job follow", job["id"]), "the second follower runs")
        os.killpg(second.pid, signal.SIGHUP)
    assert slow.jobs()[0]["status"] == "running"
    assert slow.run("job", "cancel", "latest").returncode == 0


def _everything(leader: int) -> str:
    """Read a terminal until its last process has closed it."""
    shown = b""
    try:
        while block := os.read(leader, 65536):
            shown += block
    except OSError:
        pass  # how Linux says that the other end is closed
    return shown.decode()


def test_the_launcher_may_be_killed(slow: Site) -> None:
    with slow.start("backup", "main", start_new_session=True) as launcher:
        job = copying(slow)
        os.killpg(launcher.pid, signal.SIGKILL)
    parent = Path(f"/proc/{job['pid']}/stat").read_text().rpartition(")")[2].split()[1]
    assert int(parent) != launcher.pid
    assert os.getsid(job["pid"]) != os.getsid(0)
    assert os.readlink(f"/proc/{job['pid']}/cwd") == "/"
    assert slow.jobs()[0]["status"] == "running"
    assert slow.run("job", "cancel", job["id"]).returncode == 0


def test_all_followers_are_told_the_same(cluster: Cluster) -> None:
    with site(cluster) as where:
        first = where.run("backup", "main", "--json")
        assert first.returncode == 0, first.stderr
        events = [json.loads(line) for line in first.stdout.splitlines()]
        [job] = where.jobs()
        second = where.run("job", "follow", job["id"], "--json")
        assert second.stdout == first.stdout
        assert [e["phase"] for e in events if e["event"] == "phase"] == list(spec_.PHASES["backup"])
        assert events[0]["event"] == "started" and events[-1]["event"] == "ended" and events[-1]["status"] == "done"
        promised = {"phase", "done_bytes", "total_bytes", "files_done", "files_total", "rate_bytes", "eta_seconds"}
        assert all(promised <= set(e) for e in events if e["event"] == "progress")
        assert job["status"] == "done" and job["backup"] == where.backups()[0].id
        quiet = where.run("job", "follow", job["id"])
        assert quiet.returncode == 0 and job["backup"] in quiet.stdout and "done" in quiet.stdout


def test_a_worker_stays_small(slow: Site) -> None:
    slow.configure(bandwidth_limit=8192)
    begin(slow)
    [job] = slow.jobs()
    peak = 0
    while not gone(job["pid"]):
        text = Path(f"/proc/{job['pid']}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", text)
        peak = max(peak, int(found[1]) if found else 0)
        time.sleep(0.02)
    assert slow.jobs()[0]["status"] == "done"
    assert 0 < peak < 60 * 1024


def test_no_secret_is_in_arguments_or_journal(postgres: Install) -> None:
    secret = "swordfish-4711"
    with running(postgres) as cluster:
        cluster.sql(f"CREATE ROLE careful SUPERUSER REPLICATION LOGIN PASSWORD '{secret}'")
        hba = "local all all trust\nhost all careful 127.0.0.1/32 scram-sha-256\n"
        hba += "host replication careful 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
        (cluster.data / "pg_hba.conf").write_text(hba)
        cluster.sql("SELECT pg_reload_conf()")
        conninfo = cluster.conninfo.replace("user=postgres", "user=careful") + f" password={secret}"
        with site(cluster, conninfo=conninfo, bandwidth_limit=2048) as where:
            where.path.chmod(0o600)
            job = begin(where)
            seen = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes("pg_basebackup", str(where.root))]
            assert seen and all(secret.encode() not in line for line in seen)
            assert where.run("job", "cancel", job["id"]).returncode == 0
            where.configure(conninfo=conninfo.replace(secret, secret + "-wrong"))
            wrong = where.run("backup", "main")
            assert wrong.returncode == 4 and "password authentication failed" in wrong.stderr
            assert secret not in wrong.stderr + where.text_of_all_jobs()
            assert len(where.backups()) == 1


def test_read_only_starts_and_stops_nothing(slow: Site) -> None:
    assert slow.run("--read-only", "backup", "main").returncode == 3
    assert slow.jobs() == []
    job = begin(slow)
    assert slow.run("--read-only", "job", "cancel", job["id"]).returncode == 3
    assert slow.jobs()[0]["status"] == "running"
    assert slow.run("job", "cancel", job["id"]).returncode == 0


def test_a_state_directory_that_cannot_be_written_is_said(cluster: Cluster) -> None:
    with site(cluster) as where:
        (where.root / "state").write_text("a file")
        done = where.run("backup", "main")
        assert done.returncode == 4 and "state_directory" in done.stderr and where.backups() == []


def test_a_long_lived_launcher_keeps_no_zombie(cluster: Cluster, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom engine import config\nfrom engine.job import launch, spec\n"
        "from pathlib import Path\n"
        "c = config.load(sys.argv[1])\n"
        "job = launch.launch(c, spec.make(c, 'verify', 'main', backup='20000101T000000'))\n"
        "from engine.job import follow\n"
        "for event in follow.follow(follow.find(c.state_directory, job).directory): pass\n"
        "import os\n"
        "children = Path(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read_text().split()\n"
        "print(len(children), follow.find(c.state_directory, job).status)\n"
    )
    with site(cluster) as where:
        done = subprocess.run(
            [sys.executable, "-c", script, str(where.path)], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.split() == ["0", "failed"]


def test_a_job_that_has_ended_is_not_cancelled(cluster: Cluster) -> None:
    with site(cluster) as where:
        config = where.config
        spec = spec_.make(config, "backup", "main")
        launch.launch(config, spec)
        with pytest.raises(Refused):
            for _ in follow.follow(follow.find(config.state_directory, spec.id).directory):
                pass
            launch.cancel(config, spec.id)
