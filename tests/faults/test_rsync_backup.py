"""A backup by rsync whose worker is killed, whose link is cut, or whose link goes silent."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.backup import verify
from engine.repository import repository
from tests.support.cluster import Cluster, Install, running
from tests.support.site import Site, processes, site
from tests.support.sshd import Far, sshd
from tests.support.waiting import until

SLOW = {"backup_method": "rsync", "bandwidth_limit": 6000, "basebackup_retry_sleep": 1}
"""Some seconds for an empty cluster."""


@pytest.fixture(scope="module")
def cluster(postgres: Install) -> Iterator[Cluster]:
    with running(postgres) as server:
        yield server


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    with sshd(tmp_path_factory.mktemp("far")) as there:
        yield there


@pytest.fixture
def far(host: Far) -> Far:
    """The other host, up again after a test that took it down."""
    if host.process is None:
        host.start()
    return host


def copying(where: Site) -> bool:
    """Tell whether the backup has copied some of its files."""
    return len(list((where.repo / "base").glob("*/data/base/*/*"))) > 20


def begun(where: Site) -> bool:
    """Tell whether any file of the backup is coming."""
    return any(path.is_file() for path in (where.repo / "base").glob("*/data/base/*/*"))


def in_backup_mode(cluster: Cluster) -> int:
    return int(cluster.value("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'cellarman_backup_%'"))


def test_a_cut_link_is_taken_up_again(cluster: Cluster, far: Far) -> None:
    with site(cluster, more=far.table(), **SLOW) as where:
        process = where.start("backup", "main")
        until(lambda: copying(where), "the copy is under way")
        assert in_backup_mode(cluster) == 1
        assert far.cut() >= 1
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert "taken up again in 1 s (1 of 5)" in err and str(far.endpoint) in err
        assert "resumed after " in err and f", at {cluster.data}/" in err
        [info] = where.backups()
        assert info.usable and verify.verify(where.server, info).good
        assert in_backup_mode(cluster) == 0


def test_the_time_without_a_link_is_not_taken_for_a_slow_link(cluster: Cluster, far: Far) -> None:
    """Or one cut would have every later backup compare its files, over a link that is quick."""
    cluster.sql("CREATE TABLE big AS SELECT n, repeat('x', 1000) AS t FROM generate_series(1, 200000) n")
    try:
        for cut in (False, True):
            with site(cluster, more=far.table(), **{**SLOW, "bandwidth_limit": 0}) as where:
                process = where.start("backup", "main")
                if cut:
                    until(lambda there=where: begun(there), "the copy has begun")  # type: ignore[misc]
                    assert far.cut() >= 1
                _, err = process.communicate(timeout=120)
                assert process.returncode == 0, err
                assert ("resumed after " in err) is cut
                [info] = where.backups()
                assert ("whole_rate" in repository.facts(where.server.layout, info.id)) is not cut
    finally:
        cluster.sql("DROP TABLE big")


def test_a_link_that_goes_silent_is_noticed_in_seconds_and_taken_up_again(cluster: Cluster, far: Far) -> None:
    """As a firewall that begins to drop: nothing is closed, nothing answers."""
    with site(cluster, more=far.table(), **SLOW) as where:
        process = where.start("backup", "main")
        until(lambda: copying(where), "the copy is under way")
        frozen = [pid for pid in every_below(far) if b"sshd" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: "taken up again" in where.text_of_all_jobs(), "it is noticed", 20)
            _, err = process.communicate(timeout=120)
        finally:
            for pid in frozen:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert process.returncode == 0, err
        [info] = where.backups()
        assert info.usable and verify.verify(where.server, info).good


def every_below(far: Far) -> list[int]:
    """Return the pids of the sshd processes of every connection."""
    found, waiting = [], far.sessions()
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        with contextlib.suppress(OSError):
            waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return found


def test_a_host_that_stays_away_fails_the_backup_naming_host_and_file(cluster: Cluster, far: Far) -> None:
    with site(cluster, basebackup_retry_times=2, more=far.table(), **SLOW) as where:
        process = where.start("backup", "main")
        until(lambda: copying(where), "the copy is under way")
        far.stop()
        _, err = process.communicate(timeout=120)
        assert process.returncode == 4, err
        [info] = where.backups()
        assert info.status == "FAILED" and info.error is not None
        assert "2 more tries" in info.error and str(far.endpoint) in info.error and f"at {cluster.data}/" in info.error
        assert in_backup_mode(cluster) == 0
        assert sum(len(files) for _, _, files in os.walk(where.repo / "base")) == 0
        until(lambda: not processes("--protect-args", str(where.root)), "the rsyncs end")


def test_a_cancelled_backup_leaves_nothing(cluster: Cluster, far: Far) -> None:
    with site(cluster, more=far.table(), **SLOW) as where:
        process = where.start("backup", "main")
        until(lambda: copying(where), "the copy is under way")
        assert where.run("job", "cancel", "latest").returncode == 0
        process.communicate(timeout=60)
        [info] = where.backups()
        assert info.status == "FAILED" and info.error is not None and "cancelled" in info.error
        assert in_backup_mode(cluster) == 0
        until(lambda: not processes("--protect-args", str(where.root)), "the rsyncs end")


def test_a_worker_that_is_killed_leaves_nothing_on_the_server(cluster: Cluster, far: Far) -> None:
    with site(cluster, more=far.table(), **SLOW) as where:
        process = where.start("backup", "main")
        until(lambda: copying(where), "the copy is under way")
        os.kill(where.jobs()[0]["pid"], signal.SIGKILL)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 4 and "died" in err
        until(lambda: in_backup_mode(cluster) == 0, "the server leaves backup mode")
        until(lambda: not processes("--protect-args", str(where.root)), "the rsyncs end")
        assert where.run("cron").returncode == 0
        [info] = where.backups()
        assert info.status == "FAILED" and info.error is not None and "died" in info.error


def test_killed_at_any_step(cluster: Cluster) -> None:
    with site(cluster, backup_method="local-rsync", reuse_backup="link") as where:
        assert where.run("backup", "main").returncode == 0
        for step in ("backup.empty", "backup.started", "backup.copied", "backup.labelled"):
            killed = where.run("backup", "main", env={"CELLARMAN_CRASH_AT": step})
            assert killed.returncode == 4 and "died" in killed.stderr
            until(lambda: in_backup_mode(cluster) == 0, "the server leaves backup mode")
            assert where.run("cron").returncode == 0
        assert [info.status for info in where.backups()] == [*["FAILED"] * 4, "DONE"]
        again = where.run("backup", "main")
        assert again.returncode == 0, again.stderr
        assert all(verify.verify(where.server, info).good for info in where.backups() if info.usable)


def test_a_server_that_goes_away_leaves_a_failed_backup(cluster: Cluster, far: Far) -> None:
    with site(cluster, more=far.table(), **SLOW) as where:
        process = where.start("backup", "main")
        until(lambda: copying(where), "the copy is under way")
        cluster.stop("immediate")
        _, err = process.communicate(timeout=60)
        cluster.start()
        assert process.returncode == 4, err
        [info] = where.backups()
        assert info.status == "FAILED" and info.error is not None
        assert f"the link to the database on 127.0.0.1:{cluster.port} was lost during the copy" in info.error
        assert "left backup mode by itself" in info.error
