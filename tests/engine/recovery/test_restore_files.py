"""What is copied and where: plain and tar in every codec, tablespaces moved, nothing of the original left in force."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from engine.errors import CellarmanError, Refused, UsageError
from engine.event import Silent
from engine.postgres.lsn import Lsn
from engine.recovery import start
from engine.recovery.planner import make_plan
from engine.recovery.restore import execute
from engine.recovery.target import Immediate, LsnTarget, TimeTarget
from tests.engine.recovery.scene import Scene, TakesPort, scene, value
from tests.support.cluster import Install, free_port, running
from tests.support.waiting import until

PLAIN_OR_TAR = [
    pytest.param({}, id="plain"),
    pytest.param({"backup_compression": "gzip", "backup_compression_location": "client"}, id="gzip"),
    pytest.param({"backup_compression": "zstd"}, id="zstd"),
    pytest.param({"backup_compression": "lz4"}, id="lz4"),
]


def tablespaces(stage: Scene) -> dict[str, str]:
    """Make two tablespaces with a table in each."""
    places = {}
    for name in ("fast", "it's odd"):
        place = stage.root / f"space {len(places)}"
        place.mkdir()
        quoted = str(place).replace("'", "''")
        stage.cluster.sql(f"CREATE TABLESPACE \"{name}\" LOCATION '{quoted}'")
        stage.cluster.sql(f'CREATE TABLE t{len(places)} TABLESPACE "{name}" AS SELECT generate_series(1, 1000) i')
        places[name] = str(place)
    return places


def moved(stage: Scene, places: dict[str, str]) -> dict[str, str]:
    return {name: str(stage.root / f"moved {number}") for number, name in enumerate(places)}


@pytest.mark.parametrize("settings", PLAIN_OR_TAR)
def test_tablespaces_move(debian_postgres: Install, settings: dict[str, str]) -> None:
    with scene(debian_postgres, **settings) as stage:
        places = tablespaces(stage)
        stage.insert()
        info = stage.backup()
        assert info.is_tar == bool(settings)
        new = moved(stage, places)
        with stage.restored(Immediate(), tablespaces=new, action="promote") as (result, conninfo):
            assert result["verdict"] == "open"
            assert value(conninfo, "SELECT count(*) FROM kept") == 100
            assert value(conninfo, "SELECT sum((SELECT count(*) FROM t0) + (SELECT count(*) FROM t1))") == 2000
            locations = "SELECT string_agg(pg_tablespace_location(oid), '|' ORDER BY spcname) FROM pg_tablespace"
            assert [p for p in value(conninfo, locations).split("|") if p] == [new["fast"], new["it's odd"]]
            value(conninfo, "INSERT INTO t0 VALUES (0) RETURNING i")
        assert stage.cluster.value("SELECT count(*) FROM t0") == 1000
        for place in new.values():
            shutil.rmtree(place)
        occupied = stage.plan(Immediate())
        assert occupied.refused and "tablespace" in occupied.refused.what and "not empty" in occupied.refused.what
        with pytest.raises(UsageError, match="no tablespace"):
            stage.plan(Immediate(), tablespaces={"slow": "/tmp/x"})


def test_a_tablespace_made_after_the_backup_is_made_where_it_was(each_postgres: Install) -> None:
    """Replay would go on with the living server's files there; where there is nothing, the directory is made."""
    with scene(each_postgres) as stage:
        stage.insert()
        stage.backup()
        earlier = stage.insert()
        last = stage.insert()
        place = stage.root / "made later"
        place.mkdir()
        stage.cluster.sql(f"CREATE TABLESPACE fast LOCATION '{place}'")
        stage.cluster.sql("CREATE TABLE t TABLESPACE fast AS SELECT generate_series(1, 1000) i")
        stage.cluster.sql("CHECKPOINT")
        stage.insert()
        stage.archive_all()
        lived = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
        with pytest.raises(Refused, match="replay would write into"):
            execute(stage.order(start=True).to_arguments(), stage.server, Silent())
        os.unlink(stage.server.layout.index)
        plan = make_plan(stage.server, stage.order(), now=datetime.now(timezone.utc), read_only=True)
        assert plan.refused is not None and str(place) in plan.refused.what
        assert stage.plan(TimeTarget(earlier.at)).refused is None
        # The first commit after this moment, at which replay stops, is that of CREATE TABLESPACE: its record is before.
        assert stage.plan(TimeTarget(last.at)).refused is not None
        lsn = re.search("--to-lsn ([0-9A-F/]+) --exclusive", plan.refused.now(""))
        assert lsn is not None
        with stage.restored(LsnTarget(Lsn.parse(lsn[1]), False), action="promote") as (_, conninfo):
            assert value(conninfo, "SELECT count(*) FROM kept") == 300
            assert value(conninfo, "SELECT count(*) FROM pg_tablespace WHERE spcname = 'fast'") == 0
        assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == lived
        assert stage.plan(LsnTarget(Lsn.parse(lsn[1]))).refused is not None
        stage.cluster.stop()
        place.rename(stage.root / "moved away")
        with stage.restored(action="promote") as (_, conninfo):
            assert value(conninfo, "SELECT count(*) FROM t") == 1000
            assert any(place.rglob("PG_*"))


@pytest.fixture(scope="module")
def stage(postgres: Install) -> Iterator[Scene]:
    """A server whose configuration leads back to itself, and a backup of it."""
    with scene(postgres) as made:
        made.cluster.sql("ALTER SYSTEM SET archive_cleanup_command = 'rm -rf /'")
        made.cluster.configure(
            data_directory=str(made.cluster.data),
            hba_file=str(made.cluster.data / "pg_hba.conf"),
            max_connections="150",
        )
        made.cluster.stop()
        made.cluster.start()
        made.backup()
        yield made


def test_nothing_of_the_original_stays_in_force(stage: Scene) -> None:
    destination = str(stage.root / "restored")
    try:
        execute(stage.order(Immediate(), start=False).to_arguments(), stage.server, Silent())
        found = start.configuration(destination)
        assert found["archive_mode"] == "off" and found["archive_command"] == ""
        assert found["archive_cleanup_command"] == ""
        assert "data_directory" not in found and "hba_file" not in found
        assert found["recovery_target"] == "immediate" and found["recovery_target_time"] == ""
        assert found["restore_command"].startswith("/") and "--config" in found["restore_command"]
        assert os.stat(destination).st_mode & 0o777 == 0o700
        assert os.path.exists(os.path.join(destination, "recovery.signal"))
        assert not [name for name in os.listdir(destination) if name.startswith("cellarman")]
    finally:
        shutil.rmtree(destination)


def test_a_subscription_stays_the_originals(postgres: Install, tmp_path: Path) -> None:
    with running(postgres, tmp_path / "publisher") as publisher, scene(postgres) as stage:
        publisher.sql("ALTER SYSTEM SET wal_level = logical")
        publisher.stop()
        publisher.start()
        for cluster in (publisher, stage.cluster):
            cluster.sql("CREATE TABLE news (i int)")
        publisher.sql("CREATE PUBLICATION p FOR TABLE news")
        stage.cluster.sql(f"CREATE SUBSCRIPTION s CONNECTION '{publisher.conninfo}' PUBLICATION p")
        stage.backup()
        with stage.restored(action="promote") as (result, conninfo):
            assert result["verdict"] == "open" and value(conninfo, "SELECT count(*) FROM pg_subscription") == 1
            stage.cluster.stop()
            publisher.sql("INSERT INTO news VALUES (1)")
            assert value(conninfo, "SHOW max_logical_replication_workers") == "0"
            workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'logical replication%'"
            assert value(conninfo, workers) == 0
            stage.cluster.start()
            until(lambda: stage.cluster.value("SELECT count(*) FROM news") == 1, "the real subscriber has it")
            assert value(conninfo, "SELECT count(*) FROM news") == 0


def test_the_file_that_promotes_a_standby_is_not_the_copys(debian_postgres: Install) -> None:
    if debian_postgres.major > 15:
        pytest.skip("16 knows no such file any more")
    with scene(debian_postgres) as stage:
        trigger = stage.root / "promote"
        trigger.touch()
        stage.cluster.sql(f"ALTER SYSTEM SET promote_trigger_file = '{trigger}'")
        stage.backup()
        with stage.restored(Immediate()) as (result, conninfo):
            assert result["verdict"] == "paused" and trigger.exists()
            assert value(conninfo, "SHOW promote_trigger_file") == ""


def test_strange_names_of_directories_and_a_taken_port(stage: Scene) -> None:
    destination = str(stage.root / 'it\'s $HOME "100%"')
    with stage.restored(Immediate(), destination=destination) as (result, conninfo):
        assert result["verdict"] == "paused"
        assert result["port"] != stage.cluster.port
        assert int(value(conninfo, "SHOW port")) == result["port"]


def test_a_port_that_is_taken_between_its_choice_and_the_start(stage: Scene) -> None:
    destination = str(stage.root / "restored")
    with contextlib.closing(TakesPort()) as rival:
        try:
            result = execute(stage.order(Immediate(), start=True).to_arguments(), stage.server, rival)
            assert result["verdict"] == "paused"
            assert result["port"] != rival.taken[0].getsockname()[1]
            assert any("taken in the same moment" in note for note in rival.notes)
        finally:
            stage.remove(destination)


def test_a_named_port_is_not_exchanged(stage: Scene) -> None:
    port = free_port()
    destination = str(stage.root / "restored")
    wanted = stage.order(Immediate(), start=True, port=port)
    with contextlib.closing(TakesPort()) as rival:
        try:
            with pytest.raises(CellarmanError, match="Address already in use"):
                execute(wanted.to_arguments(), stage.server, rival)
        finally:
            stage.remove(destination)


def test_configuration_kept_outside_is_made_anew(stage: Scene) -> None:
    """As Debian does it: the backup holds neither postgresql.conf nor pg_hba.conf."""
    info = stage.plan().info
    assert info is not None
    data = Path(stage.server.layout.data(info.id))
    for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
        (data / name).unlink()
    with stage.restored(Immediate()) as (result, _):
        assert result["verdict"] == "paused"
        text = Path(result["destination"], "postgresql.conf").read_text()
        assert "max_connections = '150'" in text
        assert "peer" in Path(result["destination"], "pg_hba.conf").read_text()
