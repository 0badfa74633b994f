"""The proof of the whole loop, on a real server with both lanes, and what it says when a part is broken."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from engine.job import follow
from engine.job.happenings import happenings
from tests.support import cluster
from tests.support.programs import BIN
from tests.support.site import Site, gone, processes, site
from tests.support.waiting import until


@pytest.fixture(scope="module")
def fresh(postgres: cluster.Install) -> Iterator[Site]:
    """A small server that archives and is streamed from, as a role without any special right."""
    archiving = {"archive_mode": "on", "archive_command": "true"}  # what initdb wrote is nobody's loss
    with cluster.running(postgres, extra=["--wal-segsize=1"], **archiving) as server:
        server.sql("CREATE ROLE keeper LOGIN REPLICATION")
        server.sql("GRANT pg_read_all_settings, pg_read_all_stats TO keeper")
        for function in ("pg_switch_wal()", "pg_create_restore_point(text)"):
            server.sql(f"GRANT EXECUTE ON FUNCTION {function} TO keeper")
        conninfo = server.conninfo.replace("user=postgres", "user=keeper")
        with site(server, conninfo=conninfo, archiver=True) as made:
            (made.root / "box").mkdir()
            server.sql(f"ALTER SYSTEM SET archive_command = 'sh {made.root}/archive %p'")
            both_lanes(made)
            yield made


def both_lanes(place: Site) -> None:
    """Have the server archive, and stream."""
    command = f'{BIN}/cellarman-wal push "$1" --server main --config {place.path}\n'
    (place.root / "archive").write_text(command)
    place.cluster.sql("SELECT pg_reload_conf()")
    place.run("cron")
    streams = "SELECT count(*) FROM pg_stat_replication"
    until(lambda: place.cluster.value(streams) > 0, "the receiver streams")


@pytest.fixture
def place(fresh: Site) -> Iterator[Site]:
    """The same, with a backup; afterwards both its lanes are up again."""
    if not fresh.backups():
        assert prove(fresh).returncode == 0
    yield fresh
    both_lanes(fresh)


def steps(document: dict[str, object]) -> dict[str, str]:
    found = document["steps"]
    assert isinstance(found, list)
    return {step["name"]: step["status"] for step in found}


def left(place: Site) -> list[str]:
    """Return what is left of sandboxes and markers."""
    objects = place.cluster.sql("SELECT oid::text FROM pg_largeobject_metadata")
    return [*os.listdir(place.root / "box"), *(row[0] for row in objects)]


def prove(place: Site, *more: str) -> subprocess.CompletedProcess[str]:
    return place.run("aftermath", "main", "--sandbox", str(place.root / "box"), "--json", *more, timeout=150)


def test_what_is_refused(fresh: Site) -> None:
    """The first of these tests: the others take a backup."""
    assert fresh.run("--read-only", "aftermath", "main").returncode == 3
    none = prove(fresh, "--no-backup")
    assert none.returncode == 4 and "there is no good backup" in none.stdout
    usual = fresh.path.read_text()
    try:
        fresh.configure(archiver=False, streaming_archiver=False)
        lanes = fresh.run("aftermath", "main")
        assert lanes.returncode == 3 and "no WAL lane is on" in lanes.stderr
        fresh.configure(active=False)
        assert fresh.run("aftermath", "main").returncode == 3
    finally:
        fresh.path.write_text(usual)


def test_it_is_proven_and_nothing_is_left(fresh: Site) -> None:
    done = prove(fresh)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["proven"] and document["good"]
    assert set(steps(document).values()) == {"ok"}
    assert {"lane: streaming", "lane: archive_command", "backup", "read the marker back"} <= steps(document).keys()
    backups = len(fresh.backups())
    assert document["backup"] == fresh.backups()[0].id
    assert document["answer"].startswith("You have both. They do not conflict")
    assert left(fresh) == []
    reports = list((fresh.repo / ".cellarman" / "aftermath").glob("*.json"))
    assert document in [json.loads(report.read_text()) for report in reports]

    again = fresh.run("aftermath", "main", "--no-backup", "--sandbox", str(fresh.root / "box"), timeout=150)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "main: proven" in again.stdout and "do they conflict?" in again.stdout
    newest = max((fresh.repo / ".cellarman" / "aftermath").glob("*.json"))
    assert steps(json.loads(newest.read_text()))["backup"] == "skip"
    assert len(fresh.backups()) == backups


def test_a_broken_lane_is_named_and_the_rest_is_proven(place: Site) -> None:
    (place.root / "archive").write_text("exit 1\n")
    done = prove(place, "--no-backup", "--patience", "4")
    assert done.returncode == 1, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["proven"] and not document["good"]
    assert steps(document)["lane: archive_command"] == "fail" and steps(document)["lane: streaming"] == "ok"


def test_no_lane_delivers(place: Site) -> None:
    (place.root / "archive").write_text("exit 1\n")
    place.close()
    done = prove(place, "--no-backup", "--patience", "2")
    assert done.returncode == 4, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert not document["proven"]
    details = {step["name"]: step["detail"] for step in document["steps"]}
    assert f"no receiver runs: cellarman --config {place.path} cron starts it" in details["lane: streaming"]
    assert steps(document)["plan the restore"] == "fail"
    assert left(place) == []


def test_killed_in_the_middle_the_next_one_clears_up(place: Site) -> None:
    box = place.root / "box"
    crash = {"CELLARMAN_CRASH_AT": "aftermath.started"}
    place.run("aftermath", "main", "--no-backup", "--sandbox", str(box), "--detach", env=crash)
    until(lambda: place.jobs()[0]["status"] == "died", "the worker is dead", 60)
    [pid] = processes("postgres", "-D", str(box))[:1]
    assert left(place) != []
    done = prove(place, "--no-backup")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "removing what an interrupted run left" in done.stderr
    until(lambda: gone(pid), "the copy that was left ends")
    assert left(place) == []


def test_cancelled_it_leaves_nothing_and_says_so(place: Site) -> None:
    (place.root / "archive").write_text("exit 1\n")  # so that it waits for this lane
    follower = place.start("aftermath", "main", "--no-backup", "--sandbox", str(place.root / "box"))
    [job] = until(lambda: [job for job in running(place) if job["phase"] == "lanes"], "it waits", 60)
    assert (job["kind"], job["server"]) == ("aftermath", "main") and left(place) != []
    done = place.run("job", "cancel", str(job["id"]))
    assert done.returncode == 0, done.stderr
    assert follower.communicate(timeout=20)[1].strip().endswith("cancelled by the operator")
    assert follower.returncode == 4
    assert place.jobs()[0]["status"] == "cancelled"
    assert left(place) == []


def test_cancelled_it_takes_the_backup_that_it_began_with_it(place: Site) -> None:
    usual = place.path.read_text()
    place.path.write_text(usual + "bandwidth_limit = 512\n")
    try:
        place.run("aftermath", "main", "--backup", "--sandbox", str(place.root / "box"), "--detach")
        until(lambda: any(j["kind"] == "backup" and j["phase"] == "copy" for j in running(place)), "it copies", 60)
        [proof] = [job["id"] for job in running(place) if job["kind"] == "aftermath"]
        assert place.run("job", "cancel", str(proof)).returncode == 0
        assert running(place) == []
        assert [job["status"] for job in place.jobs()[:2]] == ["cancelled", "cancelled"]
        assert left(place) == []
    finally:
        place.path.write_text(usual)


def running(place: Site) -> list[dict[str, object]]:
    return [job for job in place.jobs() if job["status"] == "running"]


def test_it_is_in_the_trail_once_with_how_it_ended(place: Site) -> None:
    assert prove(place, "--no-backup").returncode == 0
    told = happenings(place.config.state_directory, follow.jobs(place.config.state_directory))
    last = next(each for each in told if each.action == "aftermath")
    assert last.status == "done" and "the loop of main is proven" in last.detail
    assert last.command.endswith(f"aftermath main --no-backup --sandbox {place.root / 'box'} --patience 120")
