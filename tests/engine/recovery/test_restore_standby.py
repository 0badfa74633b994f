"""A backup that was taken from a standby: where it ends no record says so, which decides what `immediate` reaches."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from engine.backup import rsync
from engine.config import load
from engine.event import Silent
from engine.postgres.segment import segment_name, segment_of
from engine.recovery.restore import execute
from engine.recovery.target import Immediate
from engine.wal.ingest import ingest
from tests.engine.recovery.scene import CLIENT, SEGMENT, Scene, value
from tests.engine.wal.judgement.test_real_recovery import concluded
from tests.support.cluster import Cluster, Install, free_port, running
from tests.support.site import eventually


@contextlib.contextmanager
def standby_of(primary: Cluster, root: Path, **settings: str) -> Iterator[Cluster]:
    (root / "standby").mkdir()
    standby = Cluster(primary.install, root / "standby", free_port())
    primary.install.run("pg_basebackup", "-d", primary.conninfo, "-D", str(standby.data), "-R", "-c", "fast")
    standby.configure(port=str(standby.port), unix_socket_directories=str(standby.root), **settings)
    standby.start()
    try:
        yield standby
    finally:
        standby.stop("immediate")


def end_segment(primary: Cluster, standby: Cluster) -> None:
    """Have the standby restart from the end of a segment: that is the least point to recover its files to."""
    primary.sql("CHECKPOINT")
    primary.sql("INSERT INTO kept VALUES (1)")
    primary.sql("SELECT pg_switch_wal()")
    here = primary.value("SELECT pg_current_wal_lsn()")
    eventually(lambda: standby.value(f"SELECT pg_last_wal_replay_lsn() >= '{here}'"), "the standby has replayed it")
    standby.sql("CHECKPOINT")


def test_the_end_of_the_backup_is_noticed_at_the_record_behind_it(postgres: Install, tmp_path: Path) -> None:
    toml = tmp_path / "cellarman.toml"
    archive = {"archive_mode": "always", "archive_command": f"{CLIENT} push %p --server main --config {toml}"}
    with (
        running(postgres, tmp_path / "pg", ["--wal-segsize=1"]) as primary,
        standby_of(primary, tmp_path, **archive) as standby,
    ):
        primary.sql("CREATE TABLE kept (i int)")
        toml.write_text(
            f"[cellarman]\nbarman_home = '{tmp_path}/barman'\nstate_directory = '{tmp_path}/state'\n[servers.main]\n"
            f"conninfo = '{standby.conninfo}'\nbackup_method = 'local-rsync'\narchiver = true\n"
            f"path_prefix = '{postgres.bindir}'\nimmediate_checkpoint = true\n"
        )
        stage = Scene(tmp_path, standby, load(str(toml)))
        os.makedirs(stage.server.layout.incoming)
        os.makedirs(stage.server.layout.wals)
        end_segment(primary, standby)
        info = rsync.take(stage.server, report=Silent())
        assert info.end_xlog is not None and info.end_xlog % SEGMENT == 0
        plan = stage.plan(Immediate())
        assert plan.refused and "at the record behind that" in plan.refused.why
        assert said_at_the_end(stage) == "recovery ended before configured recovery target was reached"
        end_segment(primary, standby)
        following = stage.server.layout.wal(segment_name(1, segment_of(info.end_xlog, SEGMENT), SEGMENT))
        eventually(lambda: taken_in(stage, following), "the next segment is archived")
        with stage.restored(Immediate()) as (result, conninfo):
            assert result["verdict"] == "paused", result
            assert value(conninfo, "SELECT count(*) FROM kept") == 1


def taken_in(stage: Scene, path: str) -> bool:
    ingest(stage.server)
    return os.path.exists(path)


def said_at_the_end(stage: Scene) -> str:
    """Return how recovery from the backup ends that is told to stop at once."""
    order = stage.order(destination=str(stage.root / "tried" / "data"))
    (stage.root / "tried").mkdir()
    execute(order.to_arguments(), stage.server, Silent())
    tried = Cluster(stage.cluster.install, stage.root / "tried", free_port())
    with (tried.data / "postgresql.auto.conf").open("a") as conf:
        conf.write("recovery_target = 'immediate'\n")
    tried.configure(port=str(tried.port), unix_socket_directories=str(tried.root))
    try:
        tried.install.run("pg_ctl", "-D", str(tried.data), "-l", str(tried.root / "log"), "-W", "start")
        return concluded(tried)
    finally:
        stage.remove(str(tried.data))
