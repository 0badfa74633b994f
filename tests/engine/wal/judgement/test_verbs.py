"""`wal gaps`, `wal timelines` and `wal events` beside a running server."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.config import Server
from engine.postgres.segment import segment_name
from engine.wal import index
from tests.support.cluster import Cluster, Install, running
from tests.support.programs import BIN, Cellarman, configure
from tests.support.waiting import until

MB = 1 << 20


@pytest.fixture(scope="module")
def site(postgres: Install, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Cellarman]]:
    root = tmp_path_factory.mktemp("site")
    with running(postgres, extra=["--wal-segsize=1"], archive_mode="on", wal_keep_size="64MB") as cluster:
        cellarman = configure(
            root, cluster, archiver=True, streaming_archiver=False, slot_name=None, retention_policy=None
        )
        command = shlex.join(cellarman.wal("push", "%p", "--server", "main"))
        cluster.sql(f"ALTER SYSTEM SET archive_command = {command!r}".replace('"', "'"))
        cluster.sql("SELECT pg_reload_conf()")
        cluster.sql("CREATE TABLE told (id int)")
        cellarman.backup()
        for row in range(8):
            cluster.sql(f"INSERT INTO told VALUES ({row})")
            cluster.sql("SELECT pg_switch_wal()")
        archived(cluster, cellarman)
        yield cluster, cellarman


def archived(cluster: Cluster, cellarman: Cellarman) -> None:
    """Wait until everything that is ready is archived, and take it in."""
    until(
        lambda: not cluster.value("SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"),
        what="archiving",
    )
    cellarman.run("wal", "ingest", "main")


def wals(cellarman: Cellarman) -> Path:
    return cellarman.config.parent / "barman" / "main" / "wals"


def place(cellarman: Cellarman, name: str) -> Path:
    return wals(cellarman) / name[:16] / name


def newest(cellarman: Cellarman, back: int) -> str:
    names = sorted(path.name for path in wals(cellarman).glob("*/*") if len(path.name) == 24)
    return names[-1 - back]


def alarms(document: Any) -> list[tuple[str, str]]:
    return [(f["kind"], f["state"]) for f in document["findings"] if f["severity"] != "note"]


def test_a_whole_archive_is_well(site: tuple[Cluster, Cellarman]) -> None:
    _, cellarman = site
    document = cellarman.json("wal", "gaps", "main")
    assert (document["server"], document["status"], alarms(document), document["unknown"]) == ("main", "ok", [], [])
    assert "main: ok" in cellarman.run("wal", "gaps", "main").out


def test_what_nobody_verified_is_said(site: tuple[Cluster, Cellarman]) -> None:
    _, cellarman = site
    layout = Server("main", str(cellarman.config.parent / "barman")).layout
    os.unlink(layout.index)
    count = index.catch_up(layout, prove=0)
    reindex = f"cellarman --config {cellarman.config} wal reindex main"
    sentence = f"the records of {count} segments have not been verified yet: maintenance does it, or {reindex}"
    assert any(said.startswith(sentence) for said in cellarman.json("wal", "gaps", "main")["unknown"])
    assert cellarman.run("windows", "main").err == ""  # which takes the time to do it
    assert cellarman.json("wal", "gaps", "main")["unknown"] == []


def test_what_the_server_still_has_can_be_fetched_again(site: tuple[Cluster, Cellarman]) -> None:
    _, cellarman = site
    name = newest(cellarman, 2)
    place(cellarman, name).unlink()
    document = cellarman.json("wal", "gaps", "main", code=1)
    [finding] = [f for f in document["findings"] if f["severity"] == "critical"]
    assert (finding["kind"], finding["state"], finding["first"]) == ("hole", "lost_but_recoverable", name)
    assert finding["lost_from"] and finding["lost_to"] is None and len(finding["affected_backups"]) == 1
    offline = cellarman.json("wal", "gaps", "main", "--offline", code=1)
    assert alarms(offline) == [("hole", "unknown")]
    look = f"cellarman --config {cellarman.config} wal fetch-missing main"
    assert offline["findings"][0]["fix"].startswith(f"{look}; if that finds nothing: ")
    assert finding["fix"] == look
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    subprocess.run(shlex.split(finding["fix"]), env=environment, check=True)
    assert cellarman.json("wal", "gaps", "main")["status"] == "ok"


def test_a_server_whose_archiving_fails_is_said_with_the_name(site: tuple[Cluster, Cellarman]) -> None:
    cluster, cellarman = site
    right = cluster.value("SHOW archive_command")
    cluster.sql("ALTER SYSTEM SET archive_command = 'false'")
    cluster.sql("SELECT pg_reload_conf()")
    try:
        cluster.sql("INSERT INTO told VALUES (7)")
        name = cluster.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
        cluster.sql("SELECT pg_switch_wal()")
        until(lambda: cluster.value("SELECT last_failed_wal FROM pg_stat_archiver") == name, what="a failure")
        document = cellarman.json("wal", "gaps", "main")
        [finding] = [f for f in document["findings"] if f["kind"] == "pending"]
        assert (finding["severity"], finding["first"]) == ("warning", name) and name in finding["why"]
        assert document["status"] == "warning"
    finally:
        cluster.sql(f"ALTER SYSTEM SET archive_command = $a${right}$a$".replace("$a$", "'"))
        cluster.sql("SELECT pg_reload_conf()")
        cluster.sql("SELECT pg_switch_wal()")
        archived(cluster, cellarman)
    assert cellarman.json("wal", "gaps", "main")["status"] == "ok"


def test_a_gap_is_accepted_with_a_reason_and_taken_back(site: tuple[Cluster, Cellarman]) -> None:
    _, cellarman = site
    name = newest(cellarman, 1)
    kept = place(cellarman, name).read_bytes()
    nothing = cellarman.run("wal", "gaps", "main", "--accept", name, "--reason", "x", code=2)
    assert "nothing is missing" in nothing.err
    place(cellarman, name).unlink()
    assert cellarman.run("wal", "gaps", "main", code=1).out.startswith("main: critical")
    assert "belong together" in cellarman.run("wal", "gaps", "main", "--accept", name, code=2).err
    refused = cellarman.run("--read-only", "wal", "gaps", "main", "--accept", name, "--reason", "x", code=3)
    assert "read-only" in refused.err
    document = cellarman.json("wal", "gaps", "main", "--accept", f"{name}..{name}", "--reason", "the disk died")
    assert document["status"] == "ok"
    [finding] = [f for f in document["findings"] if f["state"] == "accepted"]
    assert "the disk died" in finding["why"] and finding["severity"] == "note"
    assert "the disk died" in cellarman.run("wal", "gaps", "main").out
    assert cellarman.json("wal", "gaps", "main", "--withdraw", name, code=1)["status"] == "critical"
    place(cellarman, name).write_bytes(kept)
    assert cellarman.json("wal", "gaps", "main")["status"] == "ok"


def test_a_timeline_that_is_not_there_is_refused(site: tuple[Cluster, Cellarman]) -> None:
    _, cellarman = site
    assert "timeline 7 cannot be followed" in cellarman.run("wal", "gaps", "main", "--timeline", "7", code=3).err
    assert "is not a timeline" in cellarman.run("wal", "gaps", "main", "--timeline", "latest", code=2).err


def test_without_the_server_the_disk_answers_and_says_so(site: tuple[Cluster, Cellarman], tmp_path: Path) -> None:
    _, cellarman = site
    text = cellarman.config.read_text()
    other = cellarman.config.with_name("down.toml")
    other.write_text(
        "\n".join(line for line in text.splitlines() if not line.startswith(("conninfo", "streaming_conn")))
        + '\nconninfo = "host=127.0.0.1 port=1 user=postgres dbname=postgres"\n'
    )
    document = Cellarman(other).json("wal", "gaps", "main")
    assert document["status"] == "ok"
    assert any("cannot connect" in sentence for sentence in document["unknown"])
    assert all(sentence.isprintable() for sentence in document["unknown"])


def test_a_role_that_may_see_little_makes_no_false_alarm(site: tuple[Cluster, Cellarman]) -> None:
    cluster, cellarman = site
    cluster.sql("DROP ROLE IF EXISTS blind")
    cluster.sql("CREATE ROLE blind LOGIN")
    other = cellarman.config.with_name("blind.toml")
    other.write_text(cellarman.config.read_text().replace("user=postgres", "user=blind"))
    document = Cellarman(other).json("wal", "gaps", "main")
    assert document["status"] == "ok"
    assert any("pg_wal" in sentence for sentence in document["unknown"]), document["unknown"]
    path = place(cellarman, newest(cellarman, 2))
    aside = path.rename(path.with_name("aside"))
    try:
        document = Cellarman(other).json("wal", "gaps", "main", code=1)
        assert alarms(document) == [("hole", "unknown")], "the server has it, and may not say so"
        assert document["findings"][0]["fix"].startswith(f"cellarman --config {other} wal fetch-missing main; ")
    finally:
        aside.rename(path)


def test_timelines_and_events(site: tuple[Cluster, Cellarman]) -> None:
    cluster, cellarman = site
    cluster.sql("SELECT pg_create_restore_point('before lunch')")
    cluster.sql("SELECT pg_switch_wal()")
    archived(cluster, cellarman)
    [only] = cellarman.json("wal", "timelines", "main")["timelines"]
    assert (only["timeline"], only["parent"], only["history"], only["current"]) == (1, None, "none", True)
    assert only["lacking"] == 0 and len(only["backups"]) == 1
    assert "the server is on it" in cellarman.run("wal", "timelines", "main").out
    events = cellarman.json("wal", "events", "main", "--kind", "restore_point")["events"]
    assert events[-1]["name"] == "before lunch" and events[-1]["at"]
    assert "before lunch" in cellarman.run("wal", "events", "main").out
    assert segment_name(1, 1, MB).startswith("00000001")


def test_garbage_in_the_archive_makes_no_traceback(site: tuple[Cluster, Cellarman]) -> None:
    _, cellarman = site
    home = wals(cellarman)
    directory = next(home.glob("0000000100000000"))
    junk = [
        directory / "00000001000000000000000a",
        directory / "0000000100000000000000",
        directory / "000000010000000000000003.zip",
        directory / "bad\x1bname",
        home / "00000009.history",
        home / "note.txt",
        home / "00000001ABCDEF01",
        cellarman.config.parent / "barman/main/.cellarman/wal-names.json",
    ]
    for path in junk:
        path.write_bytes(b"\xff\x00 garbage")
    try:
        document = cellarman.json("wal", "gaps", "main", code=None)
        kinds = [f["kind"] for f in document["findings"]]
        assert kinds.count("foreign_file") == 6 and "history_missing" in kinds
        assert "\x1b" not in cellarman.run("wal", "gaps", "main", "--all", code=None).out
        cellarman.run("wal", "timelines", "main")
    finally:
        for path in junk:
            path.unlink(missing_ok=True)
    assert cellarman.json("wal", "gaps", "main")["status"] == "ok"
