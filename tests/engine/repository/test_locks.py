"""Locks as Barman takes them, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from engine.errors import Busy, CellarmanError
from engine.repository import locks
from tests.engine.repository.catalogues import python

HOLD = """
import sys
from engine.repository import locks
with locks.hold(sys.argv[1], shared=len(sys.argv) > 2):
    print("held", flush=True)
    sys.stdin.read()
"""


def holding(path: Path, *args: str) -> subprocess.Popen[str]:
    """Start a process that holds the lock until its standard input is closed."""
    process = python(HOLD, str(path), *args)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_the_pid_is_written_as_barman_reads_it(tmp_path: Path) -> None:
    path = tmp_path / ".main-backup.lock"
    path.write_text("4194303 an older and longer text\n")
    with locks.hold(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
        assert path.stat().st_mode & 0o777 == 0o644 or path.stat().st_mode & 0o777 == 0o600
    assert path.exists(), "lock files stay"


def test_a_held_lock_is_waited_for_no_longer_than_said_and_its_holder_named(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    other = holding(path)
    try:
        start = time.monotonic()
        with pytest.raises(Busy) as caught:
            locks.hold(str(path), wait=0.3, what="delete backup 1")
        assert 0.3 <= time.monotonic() - start < 5
        text = "\n".join(caught.value.lines(""))
        assert "cannot delete backup 1" in text and f"process {other.pid} (" in text and "since 20" in text
        assert caught.value.exit_code == 4
        held = locks.holder(str(path))
        assert held is not None and held.pid == other.pid and "locks.hold" in held.command
    finally:
        other.communicate("")
    assert locks.holder(str(path)) is None
    with locks.hold(str(path)):
        pass


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    other = holding(path)
    other.send_signal(signal.SIGKILL)
    other.communicate()
    assert locks.holder(str(path)) is None
    with locks.hold(str(path)):
        pass


def test_shared_holders_exclude_only_exclusive_ones(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    other = holding(path, "shared")
    try:
        with locks.hold(str(path), shared=True):
            pass
        with pytest.raises(Busy):
            locks.hold(str(path))
        assert locks.holder(str(path)) is None
        assert locks.holder(str(path), shared=True) is not None
    finally:
        other.communicate("")
    assert locks.holder(str(path), shared=True) is None


WAIT = """
import sys
from engine.errors import Busy
from engine.repository import locks
print("waiting", flush=True)
try:
    locks.hold(sys.argv[1], wait=1)
except Busy as error:
    print(error.why, flush=True)
"""


def test_who_waited_for_an_unlinked_lock_respects_the_new_one(tmp_path: Path) -> None:
    """Barman's cron unlinks lock files that it finds free while others wait for them."""
    path = tmp_path / "lock"
    with locks.hold(str(path)):
        waiter = python(WAIT, str(path))
        assert waiter.stdout is not None and waiter.stdout.readline() == "waiting\n"
        newer_path = tmp_path / "newer"
        newer = holding(newer_path)
        os.replace(newer_path, path)
    out, err = waiter.communicate(timeout=30)
    newer.communicate("")
    assert f"process {newer.pid} (" in out, err


def test_a_lock_on_an_unlinked_file_is_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    assert locks._is_current(fd, str(path))
    path.unlink()
    assert not locks._is_current(fd, str(path))
    path.touch()
    assert not locks._is_current(fd, str(path))
    os.close(fd)


def test_our_lock_keeps_flock_users_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locks.hold(str(path)):
        assert subprocess.run(["flock", "-n", str(path), "true"], check=False).returncode == 1
    assert subprocess.run(["flock", "-n", str(path), "true"], check=False).returncode == 0


def test_a_lock_that_cannot_be_made_says_where(tmp_path: Path) -> None:
    with pytest.raises(CellarmanError, match="nowhere/lock"):
        locks.hold(str(tmp_path / "nowhere" / "lock"))
    assert locks.holder(str(tmp_path / "nowhere" / "lock")) is None


def test_children_do_not_inherit_a_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    lock = locks.hold(path)
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    lock.release()
    lock.release()
    assert locks.holder(path) is None
    child.communicate()
