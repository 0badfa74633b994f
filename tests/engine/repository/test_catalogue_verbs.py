"""`backups`, `show`, `keep` and `delete` as a user and as a program meets them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.cli.main import main
from engine.repository import annotations as marks
from engine.repository import locks, repository
from engine.repository.backupinfo import Tablespace
from engine.repository.layout import Layout
from tests.engine.repository.catalogues import add, archive, barman, empty, segments, tree

FIRST, SECOND = "20261101T120000", "20261102T120000"


class Command:
    """Runs the command line in this process on one server named main."""

    def __init__(self, layout: Layout, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        self.layout = layout
        self._capsys = capsys
        self.config = tmp_path / "cellarman.toml"
        self.settings("")

    def settings(self, lines: str) -> None:
        home = os.path.dirname(self.layout.home)
        self.config.write_text(
            f'[cellarman]\nbarman_home = "{home}"\nstate_directory = "{home}/state"\n'
            f'[servers.{self.layout.name}]\nconninfo = "host=nowhere"\n{lines}\n'
        )

    def __call__(self, *words: str) -> tuple[int, str, str]:
        code = main(["--config", str(self.config), *words])
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    def json(self, *words: str) -> Any:
        code, out, err = self(*words, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = empty(tmp_path)
    add(layout, 1, 3, backup_name="before-upgrade", tablespaces=(Tablespace("fast", 16386, "/ssd"),))
    add(layout, 2, 6, span=3)
    archive(layout, *segments(1, 3, 7))
    return layout


@pytest.fixture
def cellarman(layout: Layout, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    return Command(layout, capsys, tmp_path)


KEYS = {
    "id", "name", "status", "method", "begin_time", "end_time", "begin_lsn", "end_lsn", "begin_wal", "end_wal",
    "timeline", "size_bytes", "version", "keep",
}  # fmt: skip


def test_programs_read_the_catalogue(cellarman: Command) -> None:
    document = cellarman.json("backups", "main")
    assert document["server"] == "main"
    newest, oldest = document["backups"]
    assert set(oldest) >= KEYS
    assert (
        oldest
        | {
            "id": FIRST,
            "name": "before-upgrade",
            "status": "done",
            "method": "postgres",
            "begin_time": "2026-11-01T12:00:00+00:00",
            "end_time": "2026-11-01T12:05:00+00:00",
            "begin_lsn": "0/3000028",
            "end_lsn": "0/4000000",
            "begin_wal": "000000010000000000000003",
            "end_wal": "000000010000000000000003",
            "timeline": 1,
            "size_bytes": 30,
            "version": 180000,
            "keep": None,
        }
        == oldest
    )
    assert newest["id"] == SECOND


def test_people_read_the_catalogue(cellarman: Command, layout: Layout) -> None:
    Path(layout.backup_info("20261103T120000")).write_text("gar\x1b[2Jbage\n")
    marks.set_keep(layout, FIRST, "full")
    code, out, err = cellarman("backups", "main")
    assert code == 0
    header, newest, oldest = out.splitlines()
    assert header.split()[:3] == ["ID", "NAME", "STATUS"]
    assert newest.startswith(SECOND) and "full" in oldest and "before-upgrade" in oldest
    assert "20261103T120000 cannot be read" in err and "\x1b" not in err


def test_a_server_without_backups_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cellarman = Command(empty(tmp_path), capsys, tmp_path)
    assert f"cellarman --config {cellarman.config} backup main" in cellarman("backups", "main")[1]
    assert cellarman.json("backups", "main")["backups"] == []
    assert cellarman("show", "main", "latest")[0] == 2


def test_half_deleted_backups_are_not_in_the_list_for_programs(cellarman: Command, layout: Layout) -> None:
    marks.set_deleting(layout, FIRST)
    document = cellarman.json("backups", "main")
    assert [backup["id"] for backup in document["backups"]] == [SECOND]
    assert document["deleting"] == [FIRST]
    assert "deleting" in cellarman("backups", "main")[1]


def test_show_says_which_wal_is_there_and_which_is_missing(cellarman: Command) -> None:
    code, out, _ = cellarman("show", "main", "latest")
    assert code == 0
    assert "000000010000000000000006 to 000000010000000000000008" in out
    assert "2 of 3 segments" in out and "missing   000000010000000000000008" in out
    document = cellarman.json("show", "main", "before-upgrade")
    assert document["id"] == FIRST and document["wal"]["missing"] == [] and document["wal"]["size_bytes"] == 24
    assert document["tablespaces"] == [{"name": "fast", "oid": 16386, "location": "/ssd"}]
    missing = cellarman.json("show", "main", SECOND)["wal"]["missing"]
    assert missing == ["000000010000000000000008"]


@pytest.mark.parametrize("server", ["pgs", "pgt", "pgf", "pgh", "pg17"])
def test_barmans_backups_are_shown_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str], server: str) -> None:
    layout = barman(tmp_path, server)
    for info in repository.backups(layout):
        os.makedirs(layout.data(info.id))
    cellarman = Command(layout, capsys, tmp_path)
    code, out, err = cellarman("show", server, "latest")
    assert code == 0 and not err
    assert "None" not in out and "system id" in out and "done" in out
    assert cellarman.json("show", server, "oldest")["system_id"].isdigit()


def test_a_backup_that_never_began_is_shown_too(cellarman: Command, layout: Layout) -> None:
    info = repository.load(layout, SECOND)
    repository.save(layout, replace(info, status="FAILED", begin_wal=None, end_wal=None, error="no space\nleft"))
    code, out, _ = cellarman("show", "main", SECOND)
    assert code == 0 and "no space left" in out and "not known" in out


def test_keep_and_release(cellarman: Command, layout: Layout) -> None:
    assert cellarman("keep", "main", "oldest", "--standalone")[0] == 0
    assert marks.keep(layout, FIRST) == "standalone"
    assert cellarman.json("backups", "main")["backups"][1]["keep"] == "standalone"
    assert cellarman.json("keep", "main", FIRST, "--full") == {"server": "main", "backup": FIRST, "keep": "full"}
    assert cellarman("delete", "main", FIRST, "--yes", FIRST)[0] == 3
    assert "not kept any more" in cellarman("keep", "main", FIRST, "--release")[1]
    assert marks.keep(layout, FIRST) is None
    assert cellarman("keep", "main", FIRST)[0] == 2


def test_only_whole_backups_are_kept(cellarman: Command, layout: Layout) -> None:
    repository.save(layout, replace(repository.load(layout, SECOND), status="FAILED"))
    code, _, err = cellarman("keep", "main", SECOND, "--full")
    assert code == 3 and "its status is failed" in err and marks.keep(layout, SECOND) is None


def test_read_only_changes_nothing(cellarman: Command, layout: Layout) -> None:
    before = tree(layout)
    assert cellarman("--read-only", "keep", "main", FIRST, "--full")[0] == 3
    assert cellarman("--read-only", "delete", "main", FIRST, "--yes", FIRST)[0] == 3
    cellarman.settings("protected = true")
    assert cellarman("delete", "main", FIRST, "--yes", FIRST)[0] == 3
    assert cellarman("delete", "main", FIRST, "--dry-run")[0] == 0
    assert tree(layout) == before


def test_a_dry_run_says_what_would_go(cellarman: Command, layout: Layout) -> None:
    before = tree(layout)
    code, out, err = cellarman("delete", "main", "oldest", "--dry-run")
    assert code == 0 and not err
    assert "3 files, 000000010000000000000003 to 000000010000000000000005" in out
    document = cellarman.json("delete", "main", FIRST, "--dry-run")
    assert (document["deleted"], document["size_bytes"], document["wal"]["count"]) == (False, 30, 3)
    assert document["freed_bytes"] == 30 + 72 and document["refusals"] == []
    assert tree(layout) == before


def test_delete_wants_the_id_typed(cellarman: Command, layout: Layout) -> None:
    before = tree(layout)
    for words in ((), ("--yes", "yes"), ("--yes", SECOND), ("--yes", "")):
        code, _, err = cellarman("delete", "main", "oldest", *words)
        assert code == 3 and f"--yes {FIRST}" in err
    assert tree(layout) == before
    code, out, _ = cellarman("delete", "main", "oldest", "--yes", FIRST)
    assert code == 0 and f"backup {FIRST} is deleted; 102 B freed" in out
    assert cellarman("delete", "main", FIRST, "--yes", FIRST)[0] == 2
    code, _, err = cellarman("delete", "main", SECOND, "--yes", SECOND)
    assert code == 3 and "last usable backup" in err and f"cellarman --config {cellarman.config} backup main" in err


def test_programs_read_why_not(cellarman: Command, layout: Layout) -> None:
    cellarman.settings("minimum_redundancy = 2")
    marks.set_keep(layout, FIRST, "full")
    code, out, err = cellarman("delete", "main", FIRST, "--dry-run", "--json")
    assert code == 3 and "minimum_redundancy = 2" in err
    assert [refusal["kind"] for refusal in json.loads(out)["refusals"]] == ["keep", "minimum_redundancy"]


def test_delete_names_who_holds_the_backup(cellarman: Command, layout: Layout) -> None:
    with locks.hold(layout.lock(FIRST), shared=True):
        code, _, err = cellarman("delete", "main", FIRST, "--yes", FIRST)
    assert code == 3 and f"process {os.getpid()}" in err


def test_a_broken_and_a_half_deleted_entry_can_be_deleted_by_id(cellarman: Command, layout: Layout) -> None:
    add(layout, 3, 9)
    Path(layout.backup_info(FIRST)).write_text("garbage\n")
    code, _, err = cellarman("show", "main", FIRST)
    assert code == 4 and "garbage" in err
    assert cellarman("delete", "main", FIRST, "--yes", FIRST)[0] == 0
    marks.set_deleting(layout, SECOND)
    os.unlink(layout.backup_info(SECOND))
    assert cellarman.json("delete", "main", SECOND, "--yes", SECOND)["resumed"]
    assert not [name for name in tree(layout) if SECOND in name or FIRST in name]


def test_an_unknown_server_or_backup_is_wrong_usage(cellarman: Command) -> None:
    for words in (("backups", "mian"), ("show", "main", "20200101T000000"), ("delete", "main", "x", "--dry-run")):
        code, _, err = cellarman(*words)
        assert code == 2 and len(err.splitlines()) >= 2


def test_a_backup_whose_files_are_gone_is_not_done(layout: Layout, cellarman: Command) -> None:
    os.rename(layout.backup(SECOND), layout.backup(SECOND) + ".moved")
    assert [backup["status"] for backup in cellarman.json("backups", "main")["backups"]] == ["gone", "done"]
    assert cellarman.json("show", "main", SECOND)["status"] == "gone"
