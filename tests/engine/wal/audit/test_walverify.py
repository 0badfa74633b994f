"""`cellarman wal verify`: budget, rounds, interruption, one at a time, exit codes and output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from engine.repository import locks
from engine.wal.audit import audit
from tests.engine.wal.audit.conftest import Repo
from tests.engine.wal.audit.test_audit import flipped, middle, written_quietly


def command(repo: Repo, *words: str) -> list[str]:
    config = repo.root / "cellarman.toml"
    if not config.exists():
        config.write_text(
            f'[cellarman]\nbarman_home = "{repo.root}/home"\nstate_directory = "{repo.root}/state"\n[servers.main]\n'
        )
    return [sys.executable, "-m", "engine.cli.main", "--config", str(config), "wal", "verify", "main", *words]


def run(repo: Repo, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(repo, *words),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environment},
    )


def test_good_and_bad_archives(repo: Repo) -> None:
    total = len(repo.life.segments())
    done = run(repo)
    assert done.returncode == 0
    assert f"{total} segments read, {total} MiB; 0 bad\nall {total} read since 20" in done.stdout

    name = middle(repo)[1]
    written_quietly(repo.path(name), flipped(repo.path(name).read_bytes(), 700_001))
    done = run(repo)
    assert done.returncode == 1
    assert f"{name}  20" in done.stdout and "corrupt: " in done.stdout
    assert f"cellarman --config {repo.root}/cellarman.toml wal fetch-missing main" in done.stderr
    done = run(repo, "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["status"] == "critical" and document["read"] == total
    assert document["round"]["left"] == 0 and document["round"]["ended"]
    assert [(each["name"], each["size_bytes"]) for each in document["bad"]] == [(name, 1 << 20)]


def test_a_budget_ends_a_run_and_the_next_goes_on(repo: Repo) -> None:
    total = len(repo.life.segments())
    first = audit(repo.layout, budget=0.05)
    assert 0 <= first.read < total and first.round.ended is None
    read, runs = first.read, 1
    while (outcome := audit(repo.layout, budget=0.1)).round.ended is None:
        read, runs = read + outcome.read, runs + 1
        assert outcome.round.read == read
        assert runs < 1000
    assert read + outcome.read == total
    assert audit(repo.layout).read == total  # a round of its own


def test_a_budget_that_cannot_be_read_is_refused(repo: Repo) -> None:
    for text in ("ten", "0", "10x", "-5m"):
        done = run(repo, f"--budget={text}")
        assert done.returncode == 2 and "is not a length of time" in done.stderr


def test_a_killed_run_loses_a_second_at_most(repo: Repo) -> None:
    total = len(repo.life.segments())
    killed = run(repo, CELLARMAN_CRASH_AT="audit.read")
    assert killed.returncode == -signal.SIGKILL
    outcome = audit(repo.layout)
    assert outcome.round.ended and outcome.round.read == total and outcome.bad == ()


def test_one_at_a_time(repo: Repo) -> None:
    with locks.hold(os.path.join(repo.layout.own, "wal-audit.lock")):
        done = run(repo)
    assert done.returncode == 4
    assert f"process {os.getpid()}" in done.stderr


def test_read_only_reads_nothing(repo: Repo) -> None:
    assert run(repo, "--read-only").returncode == 3
    assert not os.path.exists(os.path.join(repo.layout.own, "wal-audit.sqlite"))


def test_ctrl_c_says_how_to_go_on(repo: Repo) -> None:
    # The lock's file is there as soon as reading begins, and reading lasts longer than that takes to be seen.
    process = subprocess.Popen(command(repo), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "verify: " in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"cellarman --config {repo.root}/cellarman.toml wal verify main" in said
    assert audit(repo.layout).round.ended


def test_an_archive_that_is_not_there_is_not_good(repo: Repo) -> None:
    assert run(repo).returncode == 0
    os.rename(repo.layout.wals, repo.root / "unmounted")
    for verb in ("verify", "fetch-missing"):
        words = [verb if word == "verify" else word for word in command(repo)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 4 and "see that its file system is mounted" in done.stderr
    os.rename(repo.root / "unmounted", repo.layout.wals)
    assert audit(repo.layout).round.read == len(repo.life.segments())


def test_what_may_not_be_read_is_unknown_and_not_good(repo: Repo) -> None:
    name = middle(repo)[1]
    repo.path(name).chmod(0)
    done = run(repo)
    repo.path(name).chmod(0o600)
    assert done.returncode == 1
    assert f"unknown: {name}: it cannot be read: Permission denied" in done.stderr
    assert run(repo).returncode == 0
    directory = repo.path(name).parent
    directory.chmod(0)
    done = run(repo)
    directory.chmod(0o750)
    assert done.returncode == 1 and "Permission denied" in done.stderr
