"""Damage of every kind to a real backup, and what verify finds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.backup import streaming, verify
from engine.errors import Busy, Refused
from engine.repository import annotations, locks, repository
from engine.repository.backupinfo import BackupInfo
from engine.wal import codec
from tests.support.cluster import Cluster
from tests.support.site import Site, site

Taken = tuple[Site, BackupInfo]


@pytest.fixture(scope="module")
def plain(cluster: Cluster) -> Iterator[Taken]:
    with site(cluster, compression="none") as where:
        yield where, streaming.take(where.server)


@pytest.fixture(scope="module")
def tar(cluster: Cluster) -> Iterator[Taken]:
    with site(cluster, slot_name="another", backup_compression="gzip") as where:
        yield where, streaming.take(where.server)


@pytest.fixture
def data(plain: Taken, tmp_path: Path) -> Iterator[Path]:
    """The plain backup's data, put back as it was afterwards."""
    where, info = plain
    place = Path(where.server.layout.data(info.id))
    shutil.copytree(place, tmp_path / "data", symlinks=True)
    yield place
    shutil.rmtree(place)
    shutil.copytree(tmp_path / "data", place, symlinks=True)


def flip(path: Path, at: int = -1) -> None:
    """Change one byte."""
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


DAMAGES: list[tuple[str, str, Callable[[Path], None]]] = [
    ("checksum", "PG_VERSION", flip),
    ("size", "global/pg_control", truncate),
    ("present in the manifest but not on disk", "backup_label", Path.unlink),
    ("present on disk but not in the manifest", "intruder", lambda path: path.write_text("x") and None),
    ("unreadable", "PG_VERSION", lambda path: path.chmod(0)),
    ("manifest", "backup_manifest", lambda path: flip(path, 500)),
    ("is missing", "backup_manifest", Path.unlink),
]


@pytest.mark.parametrize("by_ourselves", [False, True], ids=["pg_verifybackup", "cellarman"])
@pytest.mark.parametrize(("problem", "name", "damage"), DAMAGES, ids=[f"{d[1]}-{d[0][:8]}" for d in DAMAGES])
def test_damaged_files(
    plain: Taken, data: Path, by_ourselves: bool, problem: str, name: str, damage: Callable[[Path], None]
) -> None:
    where, info = plain
    told = replace(info, mode="rsync-concurrent") if by_ourselves else info
    assert verify.verify(where.server, told).good
    damage(data / name)
    verdict = verify.verify(where.server, told)
    assert verdict.method == ("cellarman" if by_ourselves else "pg_verifybackup")
    assert not verdict.good
    assert any(name in f.path or name in f.problem for f in verdict.findings), verdict.findings
    (data / name).chmod(0o600) if (data / name).exists() else None


@pytest.mark.parametrize("damage", [lambda path: flip(path, 50_000), truncate, lambda path: os.truncate(path, 20_000)])
def test_damaged_tar(tar: Taken, damage: Callable[[Path], None]) -> None:
    where, info = tar
    assert verify.verify(where.server, info).good
    path = Path(where.server.layout.data(info.id)) / "base.tar.gz"
    whole = path.read_bytes()
    try:
        damage(path)
        verdict = verify.verify(where.server, info)
        assert verdict.findings[-1].path == "base.tar.gz" and len(verdict.findings) < 10
        path.unlink()
        missing = verify.verify(where.server, info)
        assert missing.findings[0].problem == "is missing" and len(missing.findings) > 100
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        lambda path: os.truncate(path, 8192),
        lambda path: path.write_bytes(bytes(16 << 20)),
        lambda path: flip(path, 12),
        lambda path: flip(path, 66),
        lambda path: path.write_bytes(path.read_bytes()[:64] + bytes((16 << 20) - 64)),
    ],
    ids=["missing", "short", "zeros", "another address", "one byte of a record", "zeros after its header"],
)
def test_damaged_wal(plain: Taken, damage: Callable[[Path], None]) -> None:
    where, info = plain
    name = repository.required_wal(info)[0]
    path = Path(where.server.layout.wal(name))
    whole = path.read_bytes()
    try:
        damage(path)
        verdict = verify.verify(where.server, info)
        assert [finding.path for finding in verdict.findings] == [name], verdict.findings
    finally:
        path.write_bytes(whole)
    assert verify.verify(where.server, info).good


def test_a_flipped_byte_in_compressed_wal(plain: Taken) -> None:
    where, info = plain
    name = repository.required_wal(info)[0]
    path = Path(where.server.layout.wal(name))
    whole = path.read_bytes()
    try:
        path.write_bytes(codec.compress(whole, "zstd"))
        assert verify.verify(where.server, info).good
        flip(path, os.path.getsize(path) // 2)
        assert [finding.path for finding in verify.verify(where.server, info).findings] == [name]
    finally:
        path.write_bytes(whole)


def test_a_backup_that_does_not_say_what_wal_it_needs(plain: Taken) -> None:
    where, info = plain
    verdict = verify.verify(where.server, replace(info, begin_wal=None))
    assert [(finding.path, "begin_wal" in finding.problem) for finding in verdict.findings] == [("backup.info", True)]
    assert not verdict.good


def test_from_the_command_line(plain: Taken, data: Path) -> None:
    where, info = plain
    done = where.run("verify", "main", "latest")
    assert done.returncode == 0 and "is good" in done.stdout, done.stderr
    flip(data / "PG_VERSION")
    bad = where.run("verify", "main", info.id)
    assert bad.returncode == 1 and "NOT GOOD" in bad.stdout and "PG_VERSION" in bad.stderr
    assert where.run("verify", "main", "20000101T000000").returncode == 2
    assert where.jobs()[0]["kind"] == "verify"


def test_what_is_no_backup_is_refused(plain: Taken) -> None:
    where, info = plain
    for other in (replace(info, status="FAILED"), replace(info, deleting=True)):
        with pytest.raises(Refused):
            verify.verify(where.server, other)  # type: ignore[arg-type]
    with locks.hold(where.server.layout.lock(info.id)), pytest.raises(Busy):
        verify.verify(replace(where.server, lock_timeout=0), info)
    assert not annotations.is_deleting(where.server.layout, info.id)
