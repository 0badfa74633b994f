"""Old journals go; one whose worker lives never does."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

from engine.job import pruning
from engine.job import spec as spec_
from engine.job.journal import JournalReporter
from engine.job.spec import JobSpec
from tests.engine.job.test_journal import hold

NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)


def job(state: Path, created: datetime) -> Path:
    name = f"{created:%Y%m%d%H%M%S}-8f21"
    directory = state / "jobs" / name
    directory.mkdir(parents=True)
    spec = JobSpec(name, "backup", "main", "", {}, created, "dba")
    spec_.write(str(directory / spec_.SPEC), spec)
    (directory / spec_.LOCK).write_text("")
    with JournalReporter(str(directory), spec):
        pass
    return directory


def names(state: Path) -> list[str]:
    return sorted(os.listdir(state / "jobs"))


def test_what_is_older_than_the_bound_goes(tmp_path: Path) -> None:
    old = job(tmp_path, NOW - timedelta(days=91))
    new = job(tmp_path, NOW - timedelta(days=89))
    assert pruning.prune(str(tmp_path), NOW) == [old.name]
    assert names(tmp_path) == [new.name]


def test_only_so_many_of_the_newest_stay(tmp_path: Path) -> None:
    made = [job(tmp_path, NOW - timedelta(hours=i)) for i in range(5)]
    gone = pruning.prune(str(tmp_path), NOW, count=3)
    assert sorted(gone) == sorted(directory.name for directory in made[3:])
    assert names(tmp_path) == sorted(directory.name for directory in made[:3])


def test_a_job_that_runs_stays_however_old(tmp_path: Path) -> None:
    old = job(tmp_path, NOW - timedelta(days=400))
    lock = hold(old)
    assert pruning.prune(str(tmp_path), NOW, count=0) == []
    assert names(tmp_path) == [old.name]
    os.close(lock)
    assert pruning.prune(str(tmp_path), NOW, count=0) == [old.name]


def test_what_an_earlier_pass_left_half_removed_goes_too(tmp_path: Path) -> None:
    half = tmp_path / "jobs" / ".going-20250101000000-0000"
    half.mkdir(parents=True)
    (half / "events.jsonl").write_text("{}")
    assert pruning.prune(str(tmp_path), NOW) == []
    assert names(tmp_path) == []


def test_without_jobs_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert pruning.prune(str(tmp_path), NOW) == []
