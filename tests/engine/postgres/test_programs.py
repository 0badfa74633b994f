"""PostgreSQL's programs: found, dated, and asked what they can do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from engine.errors import Refused
from engine.postgres import programs
from tests.support.cluster import Install, running


def pretender(directory: Path, name: str, says: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def test_the_configured_directory_comes_first(each_postgres: Install) -> None:
    found = programs.find("pg_basebackup", str(each_postgres.bindir), each_postgres.major)
    assert found.path == str(each_postgres.bindir / "pg_basebackup")
    assert found.major == each_postgres.major
    assert programs.find("postgres", str(each_postgres.bindir), each_postgres.major).major == each_postgres.major


def test_the_servers_own_major_is_preferred_and_a_newer_client_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "_SEARCHED", (str(tmp_path / "*" / "bin"),))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    for major in (31, 33, 35):
        pretender(tmp_path / str(major) / "bin", "pg_basebackup", f"pg_basebackup (PostgreSQL) {major}.2")
        pretender(tmp_path / str(major) / "bin", "pg_ctl", f"pg_ctl (PostgreSQL) {major}.2 (Distro {major}.2-1)")
    assert programs.find("pg_basebackup", "", 33).version == (33, 2)
    assert programs.find("pg_basebackup", "", 32).version == (35, 2)
    assert programs.find("pg_basebackup").version == (35, 2)
    assert programs.find("pg_ctl", "", 31).version == (31, 2)
    newest = pretender(tmp_path / "path", "pg_basebackup", "pg_basebackup (PostgreSQL) 36devel")
    assert programs.find("pg_basebackup", "", 34).path == str(newest)
    assert programs.find("pg_basebackup", str(tmp_path / "35" / "bin"), 33).version == (35, 2)
    with pytest.raises(Refused) as caught:
        programs.find("pg_ctl", "", 32)
    assert "of version 32 itself" in caught.value.what
    assert "31.2" in caught.value.why and "postgresql-32" in caught.value.fix


def test_missing_older_and_broken_programs_are_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "_SEARCHED", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused) as missing:
        programs.find("pg_basebackup", "/nowhere", 18)
    assert missing.value.exit_code == 3
    assert "/nowhere" in missing.value.why
    assert "postgresql-client-18" in missing.value.fix and "path_prefix" in missing.value.fix
    pretender(tmp_path, "pg_basebackup", "pg_basebackup (PostgreSQL) 9.6.24")
    with pytest.raises(Refused, match="it must be of version 18 or newer") as older:
        programs.find("pg_basebackup", "", 18)
    assert "9.6" in older.value.why
    path = pretender(tmp_path, "pg_receivewal", "what?")
    with pytest.raises(Refused):
        programs.find("pg_receivewal")
    path.write_text("\x7fELF not really")
    with pytest.raises(Refused):
        programs.find("pg_receivewal", "", 18)


def test_debians_wrapper_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_SEARCHED", (str(tmp_path / "lib" / "*" / "bin"),))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    wrapper = pretender(tmp_path / "share", "pg_wrapper", "pg_basebackup (PostgreSQL) 33.1")
    (tmp_path / "bin").mkdir()
    os.symlink(wrapper, tmp_path / "bin" / "pg_basebackup")
    real = pretender(tmp_path / "lib" / "33" / "bin", "pg_basebackup", "pg_basebackup (PostgreSQL) 33.1")
    assert programs.find("pg_basebackup", "", 33).path == str(real)


def test_what_a_client_can_compress_is_found_out_without_a_server(each_postgres: Install) -> None:
    program = programs.find("pg_basebackup", str(each_postgres.bindir), each_postgres.major)
    foretold = {algorithm: programs.supports(program, algorithm) for algorithm in ("none", "gzip", "lz4", "zstd")}
    with running(each_postgres) as cluster:
        for algorithm, refusal in foretold.items():
            place = cluster.root / algorithm
            compress = "none" if algorithm == "none" else f"client-{algorithm}"
            done = subprocess.run(
                [
                    program.path,
                    "-D",
                    place,
                    "-Ft",
                    "-Xnone",
                    "-cfast",
                    f"--compress={compress}",
                    "-d",
                    cluster.conninfo,
                ],
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                timeout=120,
            )
            assert (done.returncode == 0) == (refusal is None), (algorithm, refusal, done.stderr)
            if refusal:
                assert program.path in refusal
                assert "this build does not support" in refusal


def test_before_15_only_gzip(tmp_path: Path) -> None:
    old = programs.Program("pg_basebackup", str(tmp_path / "x"), (14, 1))
    assert programs.supports(old, "gzip") is None
    assert "came with 15" in (programs.supports(old, "zstd") or "")


def test_a_15_without_the_library_says_so_in_its_own_words(tmp_path: Path) -> None:
    path = tmp_path / "pg_basebackup"
    path.write_bytes(b"\0this build does not support zstd compression\0")
    program = programs.Program("pg_basebackup", str(path), (15, 4))
    assert "does not support zstd" in (programs.supports(program, "zstd") or "")
    assert programs.supports(program, "lz4") is None
