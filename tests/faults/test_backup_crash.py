"""A worker killed at every step of a backup: the next pass puts right what it left, and the next backup is good."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.backup import verify
from tests.support.cluster import Cluster, Install, running
from tests.support.site import Site, processes, site


@pytest.fixture(scope="module")
def cluster(postgres: Install) -> Iterator[Cluster]:
    with running(postgres) as server:
        yield server


@pytest.fixture(scope="module")
def where(cluster: Cluster) -> Iterator[Site]:
    """One site for the whole sweep: each death happens in a repository that saw the ones before."""
    with site(cluster) as made:
        assert made.run("backup", "main").returncode == 0
        yield made


THEN = {"EMPTY": "FAILED", "STARTED": "FAILED", "WAITING_FOR_WALS": "DONE", "DONE": "DONE"}


@pytest.mark.parametrize(
    ("step", "left"),
    [
        ("backup-info.temporary-written", set()),
        ("backup.empty", {"EMPTY"}),
        ("backup.started", {"STARTED"}),
        ("backup.copied", {"STARTED"}),
        ("wal.renamed", {"STARTED", "WAITING_FOR_WALS"}),  # WAL is taken in beside the copy's sync, and after it
        ("backup.synced", {"STARTED"}),
        ("backup.waiting", {"WAITING_FOR_WALS"}),
        ("backup.done", {"DONE"}),
    ],
)
def test_killed_at(where: Site, cluster: Cluster, step: str, left: set[str]) -> None:
    before = {info.id for info in where.backups()}
    killed = where.run("backup", "main", env={"CELLARMAN_CRASH_AT": step})
    assert killed.returncode == 4 and "died" in killed.stderr
    assert where.jobs()[0]["status"] == "died"
    assert not processes("pg_basebackup", str(where.root))
    new = [info for info in where.backups() if info.id not in before]
    assert len(new) == bool(left) and {info.status for info in new} <= left
    then = [THEN[info.status] for info in new]
    usable = [info for info in where.backups() if info.usable]
    assert all(verify.verify(where.server, info).good for info in usable)

    for _ in range(20):
        assert where.run("cron").returncode == 0
        new = [info for info in where.backups() if info.id not in before]
        if [info.status for info in new] == then:
            break
    assert [info.status for info in new] == then
    assert all(info.error and "died" in info.error for info in new if info.status == "FAILED")
    assert all(verify.verify(where.server, info).good for info in new if info.usable)
    assert cluster.value("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'cellarman_backup%'") == 0

    again = where.run("backup", "main")
    assert again.returncode == 0, again.stderr
    assert where.backups()[0].usable
