"""The proof of the whole loop, on a real server with both lanes, and what it says when a part is broken."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import cluster
from tests.support.programs import BIN
from tests.support.site import Site, eventually, gone, processes, site


@pytest.fixture
def place(postgres: cluster.Install, tmp_path: Path) -> Iterator[Site]:
    """A small server that archives and is streamed from, as a role without any special right."""
    script = tmp_path / "archive"
    script.write_text("exit 0\n")  # what initdb wrote is nobody's loss
    settings = {"archive_mode": "on", "archive_command": f"sh {script} %p"}
    with cluster.running(postgres, extra=["--wal-segsize=1"], **settings) as server:
        server.sql("CREATE ROLE keeper LOGIN REPLICATION")
        server.sql("GRANT pg_read_all_settings, pg_read_all_stats TO keeper")
        for function in ("pg_switch_wal()", "pg_create_restore_point(text)"):
            server.sql(f"GRANT EXECUTE ON FUNCTION {function} TO keeper")
        conninfo = server.conninfo.replace("user=postgres", "user=keeper")
        with site(server, conninfo=conninfo, archiver=True) as made:
            script.write_text(f'{BIN}/cellarman-wal push "$1" --server main --config {made.path}\n')
            made.run("cron")
            eventually(lambda: server.value("SELECT count(*) FROM pg_stat_replication") > 0, "the receiver streams")
            yield made


def steps(document: dict[str, object]) -> dict[str, str]:
    found = document["steps"]
    assert isinstance(found, list)
    return {step["name"]: step["status"] for step in found}


def left(place: Site) -> list[str]:
    """Return what is left of sandboxes and markers."""
    objects = place.cluster.sql("SELECT oid::text FROM pg_largeobject_metadata")
    return [*os.listdir(place.root / "box"), *(row[0] for row in objects)]


def prove(place: Site, *more: str) -> subprocess.CompletedProcess[str]:
    (place.root / "box").mkdir(exist_ok=True)
    return place.run("aftermath", "main", "--sandbox", str(place.root / "box"), "--json", *more, timeout=150)


def test_it_is_proven_and_nothing_is_left(place: Site) -> None:
    done = prove(place)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["proven"] and document["good"]
    assert set(steps(document).values()) == {"ok"}
    assert {"lane: streaming", "lane: archive_command", "backup", "read the marker back"} <= steps(document).keys()
    assert document["backup"] == place.backups()[0].id
    assert document["answer"].startswith("You have both. They do not conflict")
    assert left(place) == []
    reports = list((place.repo / ".cellarman" / "aftermath").glob("*.json"))
    assert [json.loads(report.read_text()) for report in reports] == [document]

    again = prove(place, "--no-backup")
    assert again.returncode == 0, again.stdout + again.stderr
    assert steps(json.loads(again.stdout))["backup"] == "skip"
    assert len(place.backups()) == 1
    text = place.run("aftermath", "main", "--no-backup", "--sandbox", str(place.root / "box"), timeout=150)
    assert text.returncode == 0 and "main: proven" in text.stdout and "do they conflict?" in text.stdout


def test_a_broken_lane_is_named_and_the_rest_is_proven(place: Site, tmp_path: Path) -> None:
    assert prove(place).returncode == 0
    (tmp_path / "archive").write_text("exit 1\n")
    done = prove(place, "--no-backup", "--patience", "4")
    assert done.returncode == 1, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["proven"] and not document["good"]
    assert steps(document)["lane: archive_command"] == "fail" and steps(document)["lane: streaming"] == "ok"


def test_no_lane_delivers(place: Site, tmp_path: Path) -> None:
    assert prove(place).returncode == 0
    (tmp_path / "archive").write_text("exit 1\n")
    place.close()
    done = prove(place, "--no-backup", "--patience", "2")
    assert done.returncode == 4, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert not document["proven"]
    details = {step["name"]: step["detail"] for step in document["steps"]}
    assert "no receiver runs: cellarman cron starts it" in details["lane: streaming"]
    assert steps(document)["plan the restore"] == "fail"
    assert left(place) == []


def test_killed_in_the_middle_the_next_one_clears_up(place: Site) -> None:
    assert prove(place).returncode == 0
    box = place.root / "box"
    process = place.start("aftermath", "main", "--no-backup", "--sandbox", str(box))
    [pid] = eventually(lambda: processes("postgres", "-D", str(box)), "the copy runs", 60)[:1]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert left(place) != []
    done = prove(place, "--no-backup")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "removing what an interrupted run left" in done.stderr
    eventually(lambda: gone(pid), "the copy that was left ends")
    assert left(place) == []


def test_what_is_refused(place: Site) -> None:
    assert place.run("--read-only", "aftermath", "main").returncode == 3
    none = prove(place, "--no-backup")
    assert none.returncode == 4 and "there is no good backup" in none.stdout
    place.configure(archiver=False, streaming_archiver=False)
    lanes = place.run("aftermath", "main")
    assert lanes.returncode == 3 and "no WAL lane is on" in lanes.stderr
    place.configure(active=False)
    assert place.run("aftermath", "main").returncode == 3
