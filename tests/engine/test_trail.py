"""The trail: every action is one line, whoever writes it at the same time, and a full disk keeps nobody from acting."""

from __future__ import annotations

import json
import multiprocessing
import os
from datetime import datetime, timezone
from pathlib import Path

import pytest

from engine import trail
from engine.config import Config, Server
from engine.errors import Cancelled, CellarmanError, Refused, UsageError
from engine.job.happenings import happenings
from engine.job.state import JobState

NOW = datetime(2026, 11, 22, 14, 0, tzinfo=timezone.utc)


def lines(state: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (state / "trail.jsonl").read_text().splitlines()]


def test_an_entry_says_who_from_where_and_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.7 51022 10.0.0.1 22")
    monkeypatch.setenv("SUDO_USER", "ana")
    with trail.Acting(str(tmp_path / "new"), "keep", "main", subject="20261122T135801", command="cellarman keep"):
        pass
    (found,) = trail.read(str(tmp_path / "new"))
    assert (found.action, found.server, found.outcome) == ("keep", "main", "done")
    assert (found.who, found.uid, found.pid) == ("ana", os.getuid(), os.getpid())
    assert found.ssh.startswith("10.0.0.7 ") and found.at.tzinfo is not None
    assert (tmp_path / "new" / "trail.jsonl").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Refused("no", "it is protected"), "refused"),
        (Cancelled("stopped"), "cancelled"),
        (UsageError("what?"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (RuntimeError("a defect"), "failed"),
    ],
)
def test_however_an_action_ends_it_is_written_and_the_error_goes_on(
    tmp_path: Path, error: BaseException, outcome: str
) -> None:
    with pytest.raises(type(error)), trail.Acting(str(tmp_path), "delete", "main"):
        raise error
    (found,) = trail.read(str(tmp_path))
    assert found.outcome == outcome
    assert found.detail


def test_passwords_are_taken_out(tmp_path: Path) -> None:
    with (
        pytest.raises(CellarmanError),
        trail.Acting(str(tmp_path), "switch", "main", command="x hunter2", clean=lambda t: t.replace("hunter2", "*")),
    ):
        raise CellarmanError("cannot connect", "password hunter2 was refused")
    assert "hunter2" not in (tmp_path / "trail.jsonl").read_text()


def write_many(state: str, name: str) -> None:
    for number in range(200):
        assert trail.write(state, trail.entry("keep", name, "done", detail=f"{number} " + "x" * 900)) == ""


def test_writers_at_the_same_time_do_not_mix_their_lines(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(str(tmp_path), name)) for name in ("a", "b", "c")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    written = lines(tmp_path)
    assert len(written) == 600
    assert {str(line["server"]) for line in written} == {"a", "b", "c"}


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    state = str(tmp_path)
    trail.write(state, trail.entry("keep", "first", "done"))
    with open(trail.path(state), "a") as file:
        file.write('{"at": "2026-11-22T14:00:00+00:00", "action": "ke')
    trail.write(state, trail.entry("keep", "second", "done"))
    assert [entry.server for entry in trail.read(state)] == ["second", "first"]


@pytest.mark.parametrize(
    "line", ["[]", "{}", '{"at": "yesterday"}', '{"at": "2026-11-22T14:00:00", "action": "a", "outcome": "done"}', "\0"]
)
def test_what_is_no_entry_is_passed_over(tmp_path: Path, line: str) -> None:
    (tmp_path / "trail.jsonl").write_text(line + "\n")
    assert trail.read(str(tmp_path)) == []


def test_a_trail_that_cannot_be_written_is_said_and_stops_nobody(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("in the way")
    said: list[str] = []
    with trail.Acting(str(place / "state"), "keep", "main", say=said.append) as acting:
        acting.detail = "went well"
    assert len(said) == 1 and "not written down" in said[0]
    assert trail.read(str(tmp_path / "nowhere")) == []


def test_only_the_end_of_a_long_trail_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "trail.jsonl", "w") as file:
        for number in range(20000):
            document = {"at": NOW.isoformat(), "action": "keep", "server": str(number), "outcome": "done"}
            file.write(json.dumps(document) + "\n")
    found = trail.read(str(tmp_path), last=5)
    assert [entry.server for entry in found] == ["19999", "19998", "19997", "19996", "19995"]


def test_a_job_and_the_action_that_started_it_are_one_happening(tmp_path: Path) -> None:
    state = str(tmp_path)
    trail.write(
        state, trail.entry("backup", "main", "started", job="j1", via="console", command="cellarman backup main")
    )
    trail.write(state, trail.entry("backup", "main", "failed", job="j1", via="job", detail="the disk was full"))
    trail.write(state, trail.entry("keep", "main", "done", subject="b1"))
    old = JobState("j0", "verify", "main", "done", NOW, "bo", started=NOW, result={"summary": "all is well"})
    kept, backup, verify = happenings(state, [old])
    assert (kept.action, kept.status, kept.subject) == ("keep", "done", "b1")
    assert (backup.status, backup.detail, backup.via) == ("failed", "the disk was full", "console")
    assert (verify.status, verify.who, verify.detail) == ("done", "bo", "all is well")
    died = JobState("j1", "backup", "main", "died", NOW, reason="without a word")
    assert [each.status for each in happenings(state, [died]) if each.job == "j1"] == ["died"]


def test_refusing_a_job_is_written_too(tmp_path: Path) -> None:
    from engine.job import launch, spec

    config = Config(
        str(tmp_path / "barman"),
        str(tmp_path / "state"),
        {"main": Server("main", str(tmp_path / "barman"), protected=True)},
    )
    with pytest.raises(Refused):
        launch.launch(config, spec.make(config, "delete", "main", backup="20261122T135801"), via="console")
    (found,) = trail.read(config.state_directory)
    assert (found.action, found.outcome, found.via) == ("delete", "refused", "console")
    assert found.command == "cellarman delete main 20261122T135801 --yes 20261122T135801"
    assert "protected" in found.detail
    assert not (tmp_path / "state" / "jobs").exists()
