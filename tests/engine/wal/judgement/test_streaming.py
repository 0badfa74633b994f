"""`wal gaps` of a server whose WAL is streamed: what is being received is no gap, and a lost slot is said."""

from __future__ import annotations

from pathlib import Path

from tests.support.cluster import Install, running
from tests.support.programs import configure
from tests.support.waiting import until


def test_streamed_wal(postgres: Install, tmp_path: Path) -> None:
    with running(postgres, extra=["--wal-segsize=1"], min_wal_size="2MB", max_wal_size="4MB") as cluster:
        cellarman = configure(tmp_path / "site", cluster)
        home = tmp_path / "site/barman/main"
        cluster.sql("CREATE TABLE told (id int)")
        cluster.sql("SELECT pg_create_physical_replication_slot('cellarman', true)")
        home.parent.mkdir()
        with cellarman.spawned("wal", "receive", "main"):
            until(lambda: list((home / "streaming").glob("*.partial")), what="receiving")
            cellarman.backup()
            cluster.sql("INSERT INTO told SELECT generate_series(1, 50000)")
            cellarman.run("wal", "ingest", "main")
            document = cellarman.json("wal", "gaps", "main")
            assert [f for f in document["findings"] if f["severity"] != "note"] == []
            assert document["unknown"] == []
        cluster.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
        cluster.sql("SELECT pg_reload_conf()")
        for _ in range(8):
            cluster.sql("INSERT INTO told SELECT generate_series(1, 20000)")
            cluster.sql("SELECT pg_switch_wal()")
        cluster.sql("CHECKPOINT")
        until(lambda: cluster.value("SELECT wal_status FROM pg_replication_slots") == "lost", what="a lost slot")
        document = cellarman.json("wal", "gaps", "main", code=1)
        critical = {(f["kind"], f["state"]) for f in document["findings"] if f["severity"] == "critical"}
        assert critical >= {("slot", "lost"), ("hole", "lost")}, document
