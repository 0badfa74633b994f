"""The journal that a job writes, and what readers make of it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

from engine import event as ev
from engine.errors import Cancelled, NotFound, Refused
from engine.job import follow
from engine.job import spec as spec_
from engine.job.journal import JournalReporter, Rate
from engine.job.spec import JobSpec


def job_in(state: Path, name: str = "20261123014200-8f21", **arguments: object) -> tuple[Path, JobSpec]:
    directory = state / "jobs" / name
    directory.mkdir(parents=True)
    spec = JobSpec(name, "backup", "main", "", arguments, datetime(2026, 11, 23, tzinfo=timezone.utc), "dba")
    spec_.write(str(directory / spec_.SPEC), spec)
    (directory / spec_.LOCK).write_text("")
    return directory, spec


def hold(directory: Path) -> int:
    lock = os.open(directory / spec_.LOCK, os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def test_a_spec_survives_its_file(tmp_path: Path) -> None:
    directory, spec = job_in(tmp_path, name_="x", immediate=False)
    assert spec_.read(str(directory)) == spec
    assert (directory / spec_.SPEC).stat().st_mode & 0o777 & ~0o640 == 0


def test_events_are_told_whole_and_folded(tmp_path: Path) -> None:
    directory, spec = job_in(tmp_path)
    with JournalReporter(str(directory), spec) as journal:
        journal.backup("20261123T014200")
        journal.phase("copy", "to base/")
        journal.progress(10, 100)
        journal.note("half way", "warn")
        journal.result["summary"] = "fine"
    kinds = [type(event) for event in follow.follow(str(directory))]
    assert kinds == [ev.Started, ev.BackupNamed, ev.Phase, ev.Progress, ev.Note, ev.Ended]
    job = follow.find(str(tmp_path), "8f21")
    assert (job.status, job.phase, job.backup, job.result) == ("done", "copy", "20261123T014200", {"summary": "fine"})
    assert job.progress is not None and job.progress.done_bytes == 10
    assert [note.text for note in job.log] == ["half way"]


def test_the_state_is_derived_from_the_events(tmp_path: Path) -> None:
    directory, spec = job_in(tmp_path)
    with JournalReporter(str(directory), spec) as journal:
        journal.phase("wal")
    stored = follow.state(str(directory))
    (directory / spec_.STATE).unlink()
    assert follow.state(str(directory)) == stored
    (directory / spec_.STATE).write_text("{")
    assert follow.state(str(directory)) == stored


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Refused("no", "because", "do this"), "failed", 3),
        (Cancelled("cancelled by the operator"), "cancelled", 4),
        (ZeroDivisionError("boom"), "failed", 4),
    ],
)
def test_every_way_out_is_an_end(tmp_path: Path, error: Exception, status: str, code: int) -> None:
    directory, spec = job_in(tmp_path)
    with pytest.raises(type(error)), JournalReporter(str(directory), spec):
        raise error
    job = follow.find(str(tmp_path), "latest")
    assert job.status == status
    assert job.result["error"]["exit_code"] == code
    assert job.reason


def test_a_full_disk_is_no_defect_of_ours(tmp_path: Path) -> None:
    directory, spec = job_in(tmp_path)
    with pytest.raises(OSError, match="full"), JournalReporter(str(directory), spec):
        raise OSError(errno.ENOSPC, "full", "/srv/barman/main/x")
    error = follow.find(str(tmp_path), "latest").result["error"]
    assert error["what"].endswith("/srv/barman/main/x") and "df -h /srv/barman/main" in error["fix"]


def test_progress_is_throttled_and_its_last_word_kept(tmp_path: Path) -> None:
    directory, spec = job_in(tmp_path)
    with JournalReporter(str(directory), spec) as journal:
        journal.phase("copy")
        for done in range(5000):
            journal.progress(done, 5000)
        journal.phase("sync")
    told = [event for event in follow.follow(str(directory)) if isinstance(event, ev.Progress)]
    assert 2 <= len(told) < 50
    assert told[-1].done_bytes == 4999 and told[-1].phase == "copy"


def test_the_workers_of_a_phase_are_told_and_read_again(tmp_path: Path) -> None:
    directory, spec = job_in(tmp_path)
    lanes = (ev.Lane("base/5/16384", 10, 100), ev.Lane("base/5/16385", 20, 90))
    with JournalReporter(str(directory), spec) as journal:
        journal.phase("copy")
        journal.progress(30, 190, 1, 2, lanes)
    [told] = [event for event in follow.follow(str(directory)) if isinstance(event, ev.Progress)]
    assert told.lanes == lanes
    assert "lanes" not in ev.to_json(ev.Progress(told.at, "sync", 1))


def test_rate_is_that_of_the_last_seconds() -> None:
    rate = Rate()
    assert rate.add(0.0, 0) is None
    for second in range(1, 61):
        rate.add(float(second), second * 100)
    for second in range(61, 91):
        last = rate.add(float(second), 6000)
    assert last == 0
    assert rate.add(91.0, 10) is None  # a new count begins


def test_no_secret_reaches_the_journal(tmp_path: Path) -> None:
    directory, spec = job_in(tmp_path)
    with pytest.raises(Refused), JournalReporter(str(directory), spec, secrets=["hunter2"]) as journal:
        journal.note("cannot use host=pg password='swordfish one' or postgresql://u:swordfish@h/db")
        journal.phase("copy", "with hunter2")
        raise Refused("hunter2 was refused", "password=hunter2", "say hunter2 again")
    text = "".join(path.read_text() for path in directory.iterdir())
    assert "hunter2" not in text and "swordfish" not in text


def test_a_job_runs_while_its_lock_is_held_and_died_when_it_is_free(tmp_path: Path) -> None:
    directory, spec = job_in(tmp_path)
    lock = hold(directory)
    journal = JournalReporter(str(directory), spec)
    journal.__enter__()
    journal.phase("copy")
    assert follow.find(str(tmp_path), spec.id).status == "running"
    os.close(lock)
    died = follow.find(str(tmp_path), spec.id)
    assert died.status == "died" and died.ended is not None and died.phase == "copy"
    assert "died without a word" in died.reason
    assert [type(event) for event in follow.follow(str(directory))] == [ev.Started, ev.Phase]


def test_a_reader_is_not_taken_for_the_worker(tmp_path: Path) -> None:
    directory, _ = job_in(tmp_path)
    reader = os.open(directory / spec_.LOCK, os.O_RDONLY)
    fcntl.flock(reader, fcntl.LOCK_SH)
    assert not follow.held(str(directory))
    os.close(reader)


def test_a_torn_line_and_a_later_versions_event_are_passed_over(tmp_path: Path) -> None:
    directory, spec = job_in(tmp_path)
    with JournalReporter(str(directory), spec) as journal:
        journal.note("one")
        with (directory / spec_.EVENTS).open("ab") as events:
            events.write(
                b'{"event": "note", "at": "2026-11-\n{"event": "levitated", "at": "2026-11-23T00:00:00+00:00"}\n'
            )
        journal.note("two")
    texts = [event.text for event in follow.follow(str(directory)) if isinstance(event, ev.Note)]
    assert texts == ["one", "two"]


def test_following_from_now_on_tells_only_what_is_new(tmp_path: Path) -> None:
    directory, spec = job_in(tmp_path)
    lock = hold(directory)
    with JournalReporter(str(directory), spec) as journal:
        journal.note("before")
        follower = follow.follow(str(directory), from_start=False)
        tail = follow.Tail(str(directory), from_start=False)
        journal.note("after")
        assert [event.text for event in tail.new() if isinstance(event, ev.Note)] == ["after"]
    os.close(lock)
    assert list(follower) == []


def test_a_journal_on_a_full_disk_does_not_fail_the_work(tmp_path: Path) -> None:
    directory, spec = job_in(tmp_path)
    script = (
        "import resource, signal, sys\n"
        "from engine.job import spec\n"
        "from engine.job.journal import JournalReporter\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "with JournalReporter(sys.argv[1], spec.read(sys.argv[1])) as journal:\n"
        "    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (700, hard))\n"
        "    for n in range(20): journal.note(f'note {n} ' + 'x' * 80)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
        "    journal.note('room again')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(directory)], check=True, timeout=30)
    job = follow.find(str(tmp_path), spec.id)
    texts = [event.text for event in follow.follow(str(directory)) if isinstance(event, ev.Note)]
    assert job.status == "done"
    assert "room again" in texts
    assert any("could not be written" in text for text in texts)


def test_jobs_are_listed_newest_first_and_rubbish_is_left_out(tmp_path: Path) -> None:
    for name in ("20261123014200-aaaa", "20261123014201-bbbb"):
        directory, spec = job_in(tmp_path, name)
        with JournalReporter(str(directory), spec):
            pass
    (tmp_path / "jobs" / "rubbish").mkdir()
    (tmp_path / "jobs" / ".20261123014202-cccc.new").mkdir()
    assert [job.id for job in follow.jobs(str(tmp_path))] == ["20261123014201-bbbb", "20261123014200-aaaa"]
    assert follow.jobs(str(tmp_path / "nowhere")) == []
    with pytest.raises(NotFound):
        follow.find(str(tmp_path), "dddd")


def test_json_has_the_promised_keys(tmp_path: Path) -> None:
    from engine.job import state as state_

    directory, spec = job_in(tmp_path)
    with JournalReporter(str(directory), spec):
        pass
    document = state_.to_json(follow.find(str(tmp_path), spec.id))
    promised = {"id", "kind", "server", "status", "pid", "started", "ended", "phase", "backup", "reason"}
    assert promised <= set(document)
    assert json.loads(json.dumps(document)) == document
