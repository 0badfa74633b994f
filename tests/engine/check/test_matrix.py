"""The rest of the matrix: pg_hba.conf, the pace of WAL, what archiving really stored, file systems, clocks."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from engine.check import facts as facts_
from engine.check import filesystem, pace, runner, storage
from engine.check.live import Live
from engine.check.postgres import apart
from engine.check.result import CheckResult
from engine.config import Config, load
from engine.repository import repository
from tests.engine.check.test_real_servers import archive_command, check, configuration, wait_until
from tests.engine.wal import pages
from tests.support import cluster
from tests.support.waiting import until

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def server(each_postgres: cluster.Install) -> Iterator[cluster.Cluster]:
    small = ["--wal-segsize=1"]
    with cluster.running(each_postgres, extra=small, archive_mode="on", archive_command="test -f %p") as found:
        yield found


@pytest.fixture
def setting(server: cluster.Cluster) -> Iterator[object]:
    """Give a function that sets a setting for the length of a test."""

    def set_to(name: str, value: str) -> None:
        server.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        server.sql("SELECT pg_reload_conf()")
        wait_until(server, f"current_setting('{name}') = '{value}'")

    yield set_to
    server.sql("ALTER SYSTEM RESET ALL")
    server.sql("SELECT pg_reload_conf()")


def of(config: Config) -> facts_.Facts:
    return facts_.gather(config, config.server("main"), datetime.now(timezone.utc))


def test_a_line_of_pg_hba_that_cannot_be_read(server: cluster.Cluster, tmp_path: Path) -> None:
    config = configuration(tmp_path, server.install, server.conninfo, archiver="true")
    assert check(config)["pg_hba.conf"].status == "ok"
    hba = server.data / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text(before + "host all all nonsense\n")
    try:
        found = check(config)["pg_hba.conf"]
        assert found.status == "fail" and "line " in found.detail and str(hba) in found.fix
    finally:
        hba.write_text(before)
    server.sql("CREATE ROLE meek LOGIN")
    config = configuration(tmp_path, server.install, server.conninfo.replace("postgres dbname", "meek dbname"))
    hidden = check(config)["pg_hba.conf"]
    assert hidden.status == "skip"
    server.sql(hidden.detail.partition("after: ")[2])
    assert check(config)["pg_hba.conf"].status == "ok"
    server.sql("DROP OWNED BY meek; DROP ROLE meek")


def test_what_archiving_alone_leaves_on_the_server(server: cluster.Cluster, tmp_path: Path, setting: object) -> None:
    assert callable(setting)
    config = configuration(tmp_path, server.install, server.conninfo, archiver="true")
    facts = of(config)
    assert isinstance(facts.live, Live)
    slow = replace(facts, live=replace(facts.live, wal_rate=10.0))
    found = pace.archive_timeout(slow)
    assert found.status == "warn" and "off: what is committed stays on the server alone for up to" in found.detail
    fast = replace(facts, live=replace(facts.live, wal_rate=1e6))
    assert pace.archive_timeout(fast).status == "ok", "a segment fills every second"
    server.sql(found.fix.partition(";")[0])
    server.sql("SELECT pg_reload_conf()")
    wait_until(server, "current_setting('archive_timeout') = '5min'")
    assert check(config)["archive_timeout"].status == "ok"
    setting("archive_timeout", "2s")
    assert check(config)["archive_timeout"].detail.startswith("2 s: up to 42.2 GiB of segments a day")
    both = configuration(
        tmp_path, server.install, server.conninfo, archiver="true", streaming_archiver="true", slot_name='"s"'
    )
    assert "streamed as it is written" in check(both)["archive_timeout"].detail


def test_checkpoints(server: cluster.Cluster, tmp_path: Path, setting: object) -> None:
    assert callable(setting)
    config = configuration(tmp_path, server.install, server.conninfo, archiver="true")
    assert "a backup waits for one, up to 4 min" in check(config)["checkpoints"].detail
    setting("checkpoint_completion_target", "0.1")
    found = check(config)["checkpoints"]
    assert found.status == "warn" and "a burst of writes" in found.detail


def test_checkpoints_that_wal_forces_are_told_from_those_that_were_asked_for(
    each_postgres: cluster.Install, tmp_path: Path
) -> None:
    def asked() -> int:
        live = of(config).live
        assert isinstance(live, Live)
        return live.checkpoints[1]

    with cluster.running(each_postgres, extra=["--wal-segsize=1"], max_wal_size="8MB") as server:
        config = configuration(tmp_path, server.install, server.conninfo, archiver="true")
        for _ in range(12):
            server.sql("CHECKPOINT")
        until(lambda: asked() >= 12, "PostgreSQL has counted them")
        assert check(config)["checkpoints"].status == "ok", "a backup and an operator ask for them"
        while asked() < 30:
            server.sql("CREATE TABLE t AS SELECT generate_series(1, 100000) AS n; DROP TABLE t")
        found = check(config)["checkpoints"]
        assert found.status == "warn" and "0 came by time" in found.detail and "max_wal_size = 8MB" in found.detail
        server.sql(found.fix.partition(";")[0])


def test_a_command_that_says_yes_and_stores_nothing_here(server: cluster.Cluster, tmp_path: Path) -> None:
    config = configuration(tmp_path, server.install, server.conninfo, archiver="true")
    layout = config.server("main").layout
    repository.prepare(layout)

    def archive_one() -> None:
        server.sql("SELECT pg_create_restore_point('x')")
        name = server.value("SELECT pg_walfile_name(pg_switch_wal())")
        wait_until(server, f"coalesce(last_archived_wal >= '{name}', false) FROM pg_stat_archiver")

    with archive_command(server, "test -f %p"):
        archive_one()
        assert check(config)["continuous archiving"].status == "warn", "the archive is new"
        assert check(config)["archive_command"].status == "warn"
        (Path(layout.wals) / pages.name(1)[:16]).mkdir()
        pages.put(Path(layout.wals) / pages.name(1)[:16], 1)
        lost = check(config)["continuous archiving"]
        assert lost.status == "fail" and "neither incoming/ nor wals/ has it" in lost.detail
    with archive_command(server, f"cp %p {layout.incoming}/%f"):
        archive_one()
        found = check(config)
        assert found["archive_command"].status == found["continuous archiving"].status == "ok"


def test_a_slot_that_is_nearly_lost(server: cluster.Cluster, tmp_path: Path, setting: object) -> None:
    assert callable(setting)
    setting("max_slot_wal_keep_size", "6MB")
    server.sql("SELECT pg_create_physical_replication_slot('near', true)")
    config = configuration(
        tmp_path, server.install, server.conninfo, streaming_archiver="true", slot_name='"near"', create_slot='"manual"'
    )
    try:
        assert "MiB until it is lost" in check(config)["replication slot"].detail
        for _ in range(8):
            server.sql("SELECT pg_create_restore_point('x')")
            server.sql("SELECT pg_switch_wal()")
            found = check(config)["replication slot"]
            if found.status == "fail":
                break
        assert found.status == "fail" and ("until it is lost" in found.detail or "about to be lost" in found.detail)
    finally:
        server.sql("SELECT pg_drop_replication_slot('near')")


def offline(root: Path, home: Path, *, read_only: bool = False) -> dict[str, CheckResult]:
    """Return the results for an inactive server whose repository is in `home`."""
    file = root / "cellarman.toml"
    file.write_text(
        f'[cellarman]\nbarman_home = "{home}"\nstate_directory = "{root}/state"\n[servers.main]\nactive = false\n'
    )
    config = load(str(file), env={}, read_only=read_only)
    repository.prepare(config.server("main").layout)
    return {result.name: result for result in runner.run(config, config.server("main"), NOW)}


def test_file_systems(tmp_path: Path) -> None:
    found = offline(tmp_path, tmp_path / "barman")
    assert found["hard links"] == CheckResult("hard links", "ok", "one was made")
    assert found["free inodes"].status in ("ok", "skip")
    assert list((tmp_path / "barman" / "main" / "base").iterdir()) == [], "nothing is left of trying"
    assert offline(tmp_path, tmp_path / "barman", read_only=True)["hard links"].status == "skip"
    assert storage.mount_of("/proc/self") == ("/proc", "proc")


def test_a_repository_in_memory(tmp_path: Path) -> None:
    if not Path("/dev/shm").is_mount() or storage.mount_of("/dev/shm")[1] != "tmpfs":
        pytest.skip("no tmpfs here")
    home = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        found = offline(tmp_path, home)["file system"]
        assert found.status == "warn" and "tmpfs is gone with this machine" in found.detail
    finally:
        shutil.rmtree(home)


def test_without_links_or_inodes(tmp_path: Path) -> None:
    offline(tmp_path, tmp_path / "barman")
    config = load(str(tmp_path / "cellarman.toml"), env={})
    facts = of(config)
    assert isinstance(facts.storage, storage.Storage)
    bare = replace(facts, storage=replace(facts.storage, links="Operation not permitted", inodes={"/x": 9}))
    assert filesystem.links(bare).status == "warn"
    assert filesystem.inodes(bare).status == "fail"
    linked = replace(bare, server=replace(bare.server, reuse_backup="link"))
    assert filesystem.links(linked).status == "fail" and 'reuse_backup = "copy"' in filesystem.links(linked).fix
    vfat = replace(facts, storage=replace(facts.storage, systems={"/x": "vfat"}))
    assert filesystem.kind(vfat).status == "fail"


def test_clocks_within_a_second() -> None:
    assert apart("clocks", 1.5, 0.1).status == "warn"
    assert apart("clocks", -1.5, 0.1).detail == "its clock is 1.5 s behind ours"
    assert apart("clocks", 1.05, 0.1).status == "ok", "what asking took may be the difference"
