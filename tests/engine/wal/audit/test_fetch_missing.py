"""`cellarman wal fetch-missing` beside a running server: holes are mended that a good copy can mend, and no others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from engine.config import Server
from engine.job import follow
from engine.repository import repository
from engine.wal import archive, condemned, fetch, healing
from engine.wal.audit import audit
from engine.wal.findings import report
from engine.wal.healing import Healed
from tests.conftest import INSTALLS
from tests.engine.wal.audit.test_audit import flipped, written_quietly
from tests.support import wal
from tests.support.cluster import Cluster, free_port, running
from tests.support.waiting import until

SIZE = 1 << 20


@dataclass
class Place:
    """A server that keeps its WAL, and a repository that has all of it but what is still being written."""

    cluster: Cluster
    root: Path
    server: Server
    names: list[str]

    def path(self, name: str) -> Path:
        return Path(self.server.layout.wal(name))

    def lose(self, *names: str) -> None:
        for name in names:
            self.path(name).unlink()

    def kept(self, name: str) -> Path:
        return self.cluster.data / "pg_wal" / name

    def as_role(self, role: str) -> Server:
        conninfo = self.cluster.conninfo.replace("user=postgres", f"user={role}")
        return Server("main", str(self.root), conninfo=conninfo, compression="none")

    def heal(self, server: Server | None = None, **options: bool) -> dict[str, Healed]:
        found, _ = healing.heal(server or self.server, **options)
        return {each.first: each for each in found}

    def good(self) -> bool:
        return audit(self.server.layout).bad == () and sorted(present(self)) == self.names


def present(place: Place) -> list[str]:
    found = [names for _, _, names in os.walk(place.server.layout.wals)]
    return [name for names in found for name in names if len(name) == 24]


@pytest.fixture(scope="module", params=sorted({max(INSTALLS), 15} & set(INSTALLS)), ids=lambda major: f"pg{major}")
def alive(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with wal.server(INSTALLS[request.param], 1) as cluster:
        cluster.sql("CREATE TABLE filled AS SELECT generate_series(1, 100000)")
        cluster.sql("SELECT pg_logical_emit_message(false, 'x', repeat('q', 2500000))")
        cluster.sql("SELECT pg_switch_wal()")
        cluster.sql("CREATE TABLE more AS SELECT generate_series(1, 20000)")
        cluster.sql("CREATE ROLE blind LOGIN; CREATE ROLE watching LOGIN; GRANT pg_monitor TO watching")
        cluster.sql("CREATE ROLE reading LOGIN; GRANT EXECUTE ON FUNCTION pg_ls_waldir() TO reading")
        cluster.sql("GRANT EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean) TO reading")
        cluster.sql("CREATE ROLE streaming LOGIN REPLICATION; GRANT EXECUTE ON FUNCTION pg_ls_waldir() TO streaming")
        yield cluster


@pytest.fixture
def place(alive: Cluster, tmp_path: Path) -> Place:
    server = Server("main", str(tmp_path), conninfo=alive.conninfo, compression="none")
    repository.prepare(server.layout)
    writing = alive.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
    files = [file for file in wal.segments(alive) if file.name < writing]  # those after it are recycled ones
    for file in files:
        archive.store(server.layout, str(file), file.name, compression="none")
    return Place(alive, tmp_path, server, [file.name for file in files])


def test_nothing_lacks(place: Place) -> None:
    assert place.heal() == {}


def test_holes_are_filled_from_pg_wal_on_this_host(place: Place) -> None:
    lost = [place.names[3], place.names[4], place.names[-2]]
    place.lose(*lost)
    told = place.heal(dry_run=True)
    assert {name: each.state for name, each in told.items()} == dict.fromkeys(lost, "would_fetch")
    assert place.heal(dry_run=True).keys() == set(lost)
    done = place.heal()
    assert {name: each.state for name, each in done.items()} == dict.fromkeys(lost, "fetched")
    assert done[lost[0]].source == str(place.kept(lost[0]))
    assert place.heal() == {}
    assert place.good()
    assert not [name for name in os.listdir(place.server.layout.own) if name.startswith(".")]


def test_holes_are_filled_through_sql(place: Place) -> None:
    lost = place.names[5:8]
    place.lose(*lost)
    done = place.heal(place.as_role("reading"))
    assert {name: each.state for name, each in done.items()} == dict.fromkeys(lost, "fetched")
    assert done[lost[0]].source.startswith("pg_wal of ")
    assert place.good()


def test_holes_are_filled_by_streaming_where_files_may_not_be_read(place: Place) -> None:
    lost = place.names[5:8]
    place.lose(*lost)
    conninfo = place.cluster.conninfo.replace("user=postgres", "user=streaming")
    server = Server("main", str(place.root), conninfo=conninfo, streaming_conninfo=conninfo, compression="none")
    done = place.heal(server)
    assert {name: each.state for name, each in done.items()} == dict.fromkeys(lost, "fetched"), done
    assert done[lost[0]].source.endswith(", streamed")
    assert place.good()


@pytest.fixture
def standby(alive: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(alive.install, tmp_path / "standby", free_port())
    made.root.mkdir()
    alive.install.run("pg_basebackup", "-D", str(made.data), "-R", "-c", "fast", "-d", alive.conninfo)
    made.configure(port=str(made.port), unix_socket_directories=str(made.root))
    made.start()
    try:
        yield made
    finally:
        made.stop("immediate")


@pytest.mark.parametrize("role", ["postgres", "streaming"])
def test_what_the_server_has_no_more_is_had_from_a_standby(place: Place, standby: Cluster, role: str) -> None:
    place.cluster.sql("CREATE TABLE IF NOT EXISTS late (i int)")
    names = []
    for _ in range(3):
        place.cluster.sql("INSERT INTO late SELECT generate_series(1, 3000)")
        names.append(place.cluster.value("SELECT pg_walfile_name(pg_switch_wal())"))
    last = place.cluster.value("SELECT pg_current_wal_lsn()")
    replayed = f"SELECT pg_last_wal_replay_lsn() >= '{last}'"
    until(lambda: standby.value(replayed), "the standby has it all")
    for file in wal.segments(place.cluster)[:-1]:
        if file.name not in place.names:
            archive.store(place.server.layout, str(file), file.name, compression="none")
    lost = names[1]
    place.lose(lost)
    os.rename(place.kept(lost), place.root / lost)
    conninfo = standby.conninfo.replace("user=postgres", f"user={role}")
    server = replace(place.server, standby_conninfo=(conninfo,))
    try:
        [hole] = [each for each in report(server).findings if (each.kind, each.first) == ("hole", lost)]
        assert (hole.state, hole.fix.text()) == ("lost_but_recoverable", "cellarman wal fetch-missing main")
        done = place.heal(server)
    finally:
        os.rename(place.root / lost, place.kept(lost))
    assert done[lost].state == "fetched", done
    assert done[lost].source.endswith(", streamed") == (role == "streaming")
    assert place.path(lost).read_bytes() == place.kept(lost).read_bytes()


def test_a_standby_that_is_down_or_a_strangers_is_said(place: Place) -> None:
    place.lose(place.names[4])
    with running(place.cluster.install, extra=["--wal-segsize=1"]) as other:
        conninfos = ("host=127.0.0.1 port=1 user=postgres", other.conninfo)
        unknown = report(replace(place.server, standby_conninfo=conninfos)).unknown
    assert any("could not be asked" in sentence for sentence in unknown)
    assert any("is of another system" in sentence for sentence in unknown)


def test_a_role_that_may_not_read_is_told_what_to_grant(place: Place) -> None:
    name = place.names[5]
    place.lose(name)
    for role in ("watching", "blind"):
        server = place.as_role(role)
        if role == "watching":
            os.chmod(place.kept(name), 0)
        try:
            (told,) = place.heal(server).values()
        finally:
            os.chmod(place.kept(name), 0o600)
        assert told.state == "failed" and "permission denied" in told.why
        assert f'GRANT EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean) TO "{role}"' in told.fix
        assert f"cellarman-wal push pg_wal/{name} --server main" in told.fix


def test_what_is_bad_is_replaced_and_kept_aside(place: Place) -> None:
    rotten, cut, alien = place.names[3], place.names[5], place.names[7]
    written_quietly(place.path(rotten), flipped(place.path(rotten).read_bytes(), 600_001))
    place.path(cut).write_bytes(place.path(cut).read_bytes()[:1000])
    written_quietly(place.path(alien), flipped(place.path(alien).read_bytes(), 26))
    assert {each.name for each in audit(place.server.layout).bad} == {rotten, cut, alien}
    done = place.heal()
    assert {name: each.state for name, each in done.items()} == dict.fromkeys((rotten, cut, alien), "fetched")
    assert "checksum" in done[rotten].why or "corrupt" in done[rotten].why
    assert place.good()
    assert condemned.names(place.server.layout) == []
    kept = [name for name in os.listdir(place.server.layout.errors) if not name.endswith(".txt")]
    assert sorted(name[:24] for name in kept) == [rotten, cut, alien]
    assert fetch.get(place.server.layout, rotten, str(place.root / "restored")) == fetch.DELIVERED


def test_a_good_file_is_never_replaced(place: Place) -> None:
    name = place.names[3]
    before = place.path(name).stat()
    times = (before.st_size, before.st_mtime_ns, before.st_ino)
    condemned.condemn(place.server.layout, name, condemned.identity(before), "it was thought to be bad")
    shutil.copy(place.kept(name), place.root / "aside")
    done = place.heal()
    after = place.path(name).stat()
    # The same content is archived already: nothing is written, and nothing is said against it any more.
    assert done[name].state == "fetched"
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == times
    assert condemned.names(place.server.layout) == []


def test_a_bad_copy_is_refused_and_the_next_one_taken(place: Place) -> None:
    name = place.names[4]
    good = place.path(name).read_bytes()
    place.lose(name)
    errors = Path(place.server.layout.errors)
    (errors / f"{name}.20261123T010203Z.duplicate").write_bytes(flipped(good, 700_001))
    (errors / f"{name}.20261123T010204Z.damaged").write_bytes(good[:5000])
    (errors / f"{name}.20261123T010205Z.unknown").write_bytes(good)
    (errors / f"{name}.20261123T010205Z.unknown.reason.txt").write_text("no")
    done = place.heal()
    assert (done[name].state, done[name].source) == ("fetched", str(errors / f"{name}.20261123T010205Z.unknown"))
    assert place.good()


def test_a_copy_that_its_neighbours_speak_against_is_refused(place: Place) -> None:
    """Its own checksums are right, and it is the wrong one all the same: as of a clone that wrote on by itself."""
    name = next(name for name in place.names[3:] if int.from_bytes(place.path(name).read_bytes()[16:20], "little"))
    stranger = bytearray(place.path(name).read_bytes())
    stranger[16:20] = bytes(4)
    place.lose(name)
    offline = Server("main", str(place.root), compression="none")
    (Path(place.server.layout.errors) / f"{name}.20261123T010203Z.duplicate").write_bytes(stranger)
    (told,) = place.heal(offline).values()
    assert told.state == "failed" and ("does not continue" in told.why or "corrupt" in told.why)
    assert not place.path(name).exists()


def test_a_whole_partial_is_offered_and_left_alone(place: Place) -> None:
    name = place.names[4]
    partial = Path(place.server.layout.streaming, f"{name}.partial")
    partial.write_bytes(place.path(name).read_bytes())
    place.lose(name)
    offline = Server("main", str(place.root), compression="none")
    (told,) = place.heal(offline).values()
    assert told.state == "partial_only"
    assert told.fix == f"cp {partial} /tmp/{name} && cellarman-wal push /tmp/{name} --server main"
    assert partial.exists() and not place.path(name).exists()
    partial.write_bytes(partial.read_bytes()[: SIZE // 2] + bytes(SIZE // 2))
    (told,) = place.heal(offline).values()
    assert told.state == "partial_only" and "only a part of it is there, its valid data ends at" in told.why
    assert "cellarman-wal push pg_wal/" in told.fix


def test_what_nobody_has_is_said(place: Place) -> None:
    lost = place.names[3:6]
    place.lose(*lost)
    for name in lost:
        os.rename(place.kept(name), place.root / name)
    try:
        (told,) = place.heal().values()
        done = run(place, "fetch-missing", "main", "--json")
    finally:
        for name in lost:
            os.rename(place.root / name, place.kept(name))
    assert (told.state, told.first, told.last, told.count) == ("lost", lost[0], lost[-1], 3)
    assert "neither the server's pg_wal" in told.why
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert (document["fetched"], document["left"]) == (0, 3)
    [job] = follow.jobs(str(place.root / "state"))
    assert (job.kind, job.status, job.result["good"]) == ("fetch", "done", False)
    assert job.result["summary"] == "no good copy of the missing WAL of main was found; 3 are still missing"
    assert [note.level for note in job.log if "still lacks" in note.text] == ["warn"] * 3
    assert job.progress is not None and (job.progress.files_done, job.progress.files_total) == (3, 3)


def run(place: Place, *words: str) -> subprocess.CompletedProcess[str]:
    config = place.root / "cellarman.toml"
    config.write_text(
        f'[cellarman]\nbarman_home = "{place.root}"\nstate_directory = "{place.root}/state"\n'
        f'[servers.main]\nconninfo = "{place.cluster.conninfo}"\n'
    )
    command = [sys.executable, "-m", "engine.cli.main", "--config", str(config), "wal", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_verb(place: Place) -> None:
    name = place.names[4]
    place.lose(name)
    done = run(place, "fetch-missing", "main", "--dry-run", "--read-only")
    assert done.returncode == 0 and f"can be had: {name} from " in done.stdout
    assert run(place, "fetch-missing", "main", "--read-only").returncode == 3
    done = run(place, "fetch-missing", "main", "--json")
    assert done.returncode == 0
    document: dict[str, Any] = json.loads(done.stdout)
    (segment,) = document["segments"]
    assert (segment["state"], segment["first"], document["fetched"], document["left"]) == ("fetched", name, 1, 0)
    assert run(place, "fetch-missing", "main").stdout == "nothing is missing\n"
    assert place.path(name).exists()


def test_a_server_that_is_down_is_no_reason_to_give_up(place: Place) -> None:
    first, second = place.names[3], place.names[6]
    shutil.move(place.path(first), Path(place.server.layout.errors, f"{first}.20261123T010203Z.duplicate"))
    place.lose(second)
    down = Server("main", str(place.root), conninfo="host=127.0.0.1 port=1 user=postgres", compression="zstd")
    done = place.heal(down)
    assert done[first].state == "fetched"
    assert done[second].state == "lost" and "could not be asked" in done[second].why
    assert place.path(first).read_bytes()[:4] == b"\x28\xb5\x2f\xfd"


def test_a_standby_of_nothing(alive: Cluster, tmp_path: Path) -> None:
    server = Server("empty", str(tmp_path), conninfo=alive.conninfo)
    repository.prepare(server.layout)
    assert healing.heal(server)[0] == []


def test_another_cluster_at_the_address_is_not_believed(place: Place) -> None:
    name = place.names[4]
    place.lose(name)
    with running(place.cluster.install, extra=["--wal-segsize=1"]) as other:
        stranger = Server("main", str(place.root), conninfo=other.conninfo, compression="none")
        (told,) = place.heal(stranger).values()
    assert told.state == "lost"
    assert not place.path(name).exists()
