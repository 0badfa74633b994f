"""Block-level incremental backups that real Barman took: Cellarman combines what each rests on, as PostgreSQL would."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.postgres.backuplabel import without_increments
from tests.conftest import INSTALLS
from tests.interop import barman, rows
from tests.support import cluster, programs
from tests.support.cluster import Cluster
from tests.support.programs import Cellarman
from tests.support.sshd import sshd
from tests.support.waiting import until

WITH = [major for major in sorted(INSTALLS) if major >= 17][0 if os.environ.get("EVERY_POSTGRES") else -1 :]
"""Versions that have such backups; the newest, unless all are wanted: the chain is the same for all tests."""
NOT_COPIED = {"backup_manifest", "postgresql.auto.conf", "recovery.signal", "postgresql.conf", "tablespace_map"}
"""Made anew by either."""


@dataclass
class Chain:
    """A full backup and two that rest on it, with a change of every kind before each."""

    server: Cluster
    ours: Cellarman
    base: Path
    """Where the backups are."""
    ids: list[str]
    """Oldest first."""
    space: int
    """The tablespace's oid."""


@pytest.fixture(scope="module", params=WITH, ids=lambda major: f"pg{major}")
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    barman.program()
    root = tmp_path_factory.mktemp("chain")
    with cluster.running(INSTALLS[request.param], summarize_wal="on") as server:
        rows.table(server)
        rows.add(server, 1, 20000)
        server.sql("CREATE TABLE cut AS SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n")
        server.sql("CREATE TABLE rewritten AS SELECT n, repeat('x', 500) FROM generate_series(1, 2000) n")
        server.sql("CREATE TABLE gone AS SELECT n FROM generate_series(1, 2000) n")
        theirs = barman.configure(root, server)
        ours = programs.configure(root, server)
        with theirs.receiving(server):
            ids = [theirs.backup()]
            server.sql("UPDATE kept SET filler = 'first' WHERE n % 1000 = 0")
            server.sql("DELETE FROM cut WHERE n > 500")
            server.sql("VACUUM cut")
            server.sql("DROP TABLE gone")
            server.sql("CREATE TABLE born AS SELECT n, repeat('y', 500) FROM generate_series(1, 2000) n")
            ids.append(theirs.backup("--incremental", "latest"))
            server.sql("INSERT INTO cut SELECT n, repeat('z', 500) FROM generate_series(1, 3000) n")
            server.sql("VACUUM FULL rewritten")
            server.sql("UPDATE born SET n = -n WHERE n < 10")
            server.sql("UPDATE kept SET filler = 'second' WHERE n % 3000 = 0")
            ids.append(theirs.backup("--incremental", "latest"))
            rows.add(server, 20001, 20100)
            theirs.archive(server)
        space = server.value("SELECT oid FROM pg_tablespace WHERE spcname = 'space'")
        yield Chain(server, ours, root / "barman" / "main" / "base", ids, space)


def words(chain: Chain, data: Path, *more: str, backup: int = -1) -> list[str]:
    """Return the restore of one of the backups to a directory, its tablespace beside it."""
    return [
        *("restore", "main", chain.ids[backup], str(data), "--tablespace", f"space={data.parent / 'space'}"),
        *("--yes", str(data), *more),
    ]


def files(data: Path, *, hole: str = "") -> dict[str, bytes]:
    """Return the files of a data directory and its tablespace, but for what is made anew by whoever restores."""
    found = {}
    for place, directories, names in os.walk(data, followlinks=True):
        inside = os.path.relpath(place, data)
        if inside.split("/")[0] in ("pg_wal", hole):
            directories.clear()
            continue
        for name in names:
            if name not in NOT_COPIED:
                found[os.path.normpath(os.path.join(inside, name))] = Path(place, name).read_bytes()
    return found


@pytest.mark.parametrize("backup", [1, 2])
def test_it_becomes_what_postgresqls_own_program_makes(chain: Chain, tmp_path: Path, backup: int) -> None:
    assert list(chain.base.glob(f"{chain.ids[backup]}/data/base/*/INCREMENTAL.*"))
    assert list(chain.base.glob(f"{chain.ids[backup]}/{chain.space}/*/*/INCREMENTAL.*"))
    theirs = tmp_path / "theirs" / "data"
    theirs.parent.mkdir()
    stored = chain.base / chain.ids[backup] / str(chain.space)
    chain.server.install.run(
        "pg_combinebackup", "-o", str(theirs), "-T", f"{stored}={theirs.parent / 'space'}",
        *(str(chain.base / one / "data") for one in chain.ids[: backup + 1]),
    )  # fmt: skip
    data = tmp_path / "ours" / "data"
    chain.ours.run(*words(chain, data, backup=backup))
    expected, found = files(theirs), files(data)
    assert found.keys() == expected.keys()
    assert [path for path in expected if found[path] != expected[path]] == []
    assert "INCREMENTAL" not in found["backup_label"].decode()


def test_its_rows_are_there_to_the_end_of_the_archive(chain: Chain, tmp_path: Path) -> None:
    data = tmp_path / "back" / "data"
    plan = chain.ours.json(*words(chain, data, "--plan"))
    assert plan["reachable"] and plan["rests_on"] == chain.ids[1::-1]
    assert any(f"combine backup {chain.ids[2]} with {chain.ids[1]}, {chain.ids[0]}" in step for step in plan["steps"])
    chain.ours.run(*words(chain, data))
    check_rows(chain, data)


def check_rows(chain: Chain, data: Path) -> None:
    restored = rows.opened(chain.server.install, data)
    try:
        until(lambda: not restored.value("SELECT pg_is_in_recovery()"), what="the end of recovery")
        assert rows.last(restored) == (20100, 20100)
        counts = "SELECT (SELECT count(*) FROM cut), (SELECT count(*) FROM rewritten), (SELECT sum(n) FROM born)"
        assert restored.sql(counts) == chain.server.sql(counts)
        assert restored.value("SELECT count(*) FROM kept WHERE filler = 'second'") == 6
        assert restored.value("SELECT to_regclass('gone')") is None
    finally:
        rows.close(chain.server.install, data)


def test_it_is_combined_on_its_way_to_another_host(chain: Chain, tmp_path: Path) -> None:
    data = tmp_path / "back" / "data"
    with sshd(tmp_path / "far") as far:
        with chain.ours.config.open("a") as config:
            config.write(far.table())
        there = f"{far.endpoint.user}@{far.endpoint.host}:{far.endpoint.port}"
        chain.ours.run(*words(chain, data, "--on", there))
        delta = chain.ours.run(*words(chain, data, "--on", there, "--delta", "--plan"), code=3)
        assert "a delta needs a full backup" in delta.text
    check_rows(chain, data)


def test_the_newest_is_what_auto_takes(chain: Chain, tmp_path: Path) -> None:
    data = tmp_path / "data"
    plan = chain.ours.json("restore", "main", "auto", str(data), "--tablespace", f"space={tmp_path}/s", "--plan")
    assert plan["backup"] == chain.ids[2]


def test_what_it_rests_on_is_read_by_verify(chain: Chain) -> None:
    assert "is good" in chain.ours.run("verify", "main", chain.ids[2]).text
    victim = next(iter(chain.base.glob(f"{chain.ids[0]}/data/base/*/1259")))
    content = victim.read_bytes()
    try:
        victim.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
        found = chain.ours.run("verify", "main", chain.ids[2], code=1).text
        assert chain.ids[0] in found and victim.name in found
    finally:
        victim.write_bytes(content)


@pytest.mark.parametrize("damage", ["the full one is gone", "a file beneath is gone", "an increment is cut", "failed"])
def test_a_broken_chain_is_refused_and_named_before_anything_is_copied(
    chain: Chain, tmp_path: Path, damage: str
) -> None:
    full, middle = chain.base / chain.ids[0], chain.base / chain.ids[1]
    increment = next(iter(sorted(chain.base.glob(f"{chain.ids[2]}/data/base/*/INCREMENTAL.*"))))
    name = increment.name.removeprefix("INCREMENTAL.")
    whole = next(iter(full.glob(f"data/base/{increment.parent.name}/{name}")))
    info = chain.base.parent / "meta" / f"{middle.name}-backup.info"
    victim = {"the full one is gone": full / "data", "a file beneath is gone": whole, "failed": info}.get(
        damage, increment
    )
    aside = tmp_path / "aside"
    before = info.read_text(), increment.read_bytes()
    try:
        if damage == "failed":
            info.write_text(before[0].replace("status=DONE", "status=FAILED"))
        elif damage == "an increment is cut":
            increment.write_bytes(before[1][:-1])
        else:
            os.rename(victim, aside)
        refused = chain.ours.run(*words(chain, tmp_path / "data"), code=3).text
        assert {"failed": middle.name, "an increment is cut": increment.name}.get(damage, full.name) in refused
        assert not (tmp_path / "data").exists()
        if damage not in ("a file beneath is gone", "an increment is cut"):
            status = chain.ours.run("status", "main", code=None).text
            assert f"{chain.ids[2]}" in status and "cannot be restored" in status
            begins = [window["backup"] for window in chain.ours.json("windows", "main")["windows"]]
            assert chain.ids[2] not in begins
    finally:
        info.write_text(before[0])
        if aside.exists():
            os.rename(aside, victim)
        increment.write_bytes(before[1])


def test_a_label_is_that_of_a_full_backup_when_combined(chain: Chain) -> None:
    label = (chain.base / chain.ids[2] / "data" / "backup_label").read_text()
    assert "INCREMENTAL FROM LSN" in label
    assert without_increments(label) == "".join(
        line for line in label.splitlines(keepends=True) if "INCREMENTAL" not in line
    )
