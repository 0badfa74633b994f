"""Manifests of real backups, and of ones that were cut or changed."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path

import pytest

from engine.postgres.manifest import ManifestError, read_manifest
from tests.support.cluster import Install, running


def test_the_manifest_of_a_real_backup(each_postgres: Install) -> None:
    with running(each_postgres) as cluster:
        where = cluster.root / "backup"
        cluster.install.run("pg_basebackup", "-D", str(where), "-X", "none", "-c", "fast", "-d", cluster.conninfo)
        found = read_manifest(str(where / "backup_manifest"))
        document = json.loads((where / "backup_manifest").read_text())
        assert [file.path for file in found.files] == [entry["Path"] for entry in document["Files"]]
        assert {file.checksum_algorithm for file in found.files} == {"CRC32C"}
        assert all((where / file.path).stat().st_size == file.size for file in found.files)
        assert [wal.timeline for wal in found.wal_ranges] == [1]
        assert found.wal_ranges[0].start < found.wal_ranges[0].end
        if each_postgres.major >= 17:
            assert found.system_id == cluster.value("SELECT system_identifier FROM pg_control_system()")
        else:
            assert found.system_id is None


def written(path: Path, files: str, tail: str = "") -> str:
    text = '{ "PostgreSQL-Backup-Manifest-Version": 1,\n"Files": [' + files + '],\n"WAL-Ranges": [\n'
    text += '{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" }\n],\n'
    digest = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(text + f'"Manifest-Checksum": "{digest}"}}{tail}\n')
    return str(path)


def test_other_shapes_of_the_same_thing(tmp_path: Path) -> None:
    entries = (
        '{ "Encoded-Path": "62617365ff", "Size": 7, "Last-Modified": "2026-01-01 00:00:00 GMT" }, '
        '{ "Path": "a\\"b", "Size": 1, "Checksum-Algorithm": "SHA256", "Checksum": "00" }'
    )
    for text in (entries, "\n" + entries.replace("}, ", "},\n") + "\n"):
        found = read_manifest(written(tmp_path / "manifest", text))
        assert {(file.path, file.size, file.checksum_algorithm) for file in found.files} == {
            ("base\udcff", 7, ""),
            ('a"b', 1, "SHA256"),
        }


def test_what_was_cut_or_changed_is_not_trusted(tmp_path: Path) -> None:
    path = written(tmp_path / "manifest", '\n{ "Path": "a", "Size": 1 }\n')
    good = Path(path).read_text()
    for text in (good[:-80], good.replace('"Size": 1', '"Size": 2'), "", "{}", good.replace("0/2000028", "0/2000029")):
        Path(path).write_text(text)
        with pytest.raises(ManifestError):
            read_manifest(path)
    with pytest.raises(ManifestError, match="No such file"):
        read_manifest(str(tmp_path / "none"))


def test_a_hundred_thousand_files_take_little_memory(tmp_path: Path) -> None:
    entries = ",\n".join(
        f'{{ "Path": "base/16384/{n}", "Size": {n}, "Last-Modified": "2026-01-01 00:00:00 GMT",'
        f' "Checksum-Algorithm": "CRC32C", "Checksum": "{n:08x}" }}'
        for n in range(100_000)
    )
    path = written(tmp_path / "manifest", f"\n{entries}\n")
    del entries
    tracemalloc.start()
    try:
        found = read_manifest(path)
        assert len(found.files) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
