"""Real rsync, here and over a real sshd, in both directions."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from engine.errors import Cancelled, CellarmanError
from engine.host import rsync
from engine.host.local import ThisHost
from engine.host.machine import machine
from engine.host.problems import HostError
from engine.host.rsync import Entry, Tick, Transfer
from tests.support.sshd import Far
from tests.support.waiting import until

ODD = [
    b"a'b\"c",
    b"new\nline",
    b"caf\xc3\xa9",
    b"no utf \xff",
    b"lit\\#123",
    b"$(id) ; x",
    b"-n",
    b"* [1]?",
    b" blank ",
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory whose own name, and whose files' names, mean something to shells and to rsync."""
    top = tmp_path / "we ird [1]* 'x'"
    inside = os.fsencode(top / "sub")
    os.makedirs(inside)
    for name in ODD:
        with open(os.path.join(inside, name), "wb") as file:
            file.write(name * 100)
    (top / "empty").mkdir()
    (top / "link").symlink_to("sub")
    return top


def content(top: Path) -> dict[bytes, bytes]:
    root = os.fsencode(top)
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                with open(path, "rb") as file:
                    found[os.path.relpath(path, root)] = file.read()
    return found


def silent(tick: Tick) -> None:
    """Take a tick."""


@pytest.mark.parametrize("direction", ["from there", "to there", "here"])
def test_everything_arrives_whatever_it_is_called(tree: Path, far: Far, tmp_path: Path, direction: str) -> None:
    there = None if direction == "here" else far.endpoint
    way = "destination" if direction == "to there" else "source"
    target = tmp_path / "tar get [2]*"
    arrived: list[bytes] = []
    ticks: list[Tick] = []
    moved = rsync.move(Transfer(str(tree), str(target), there, way), ticks.append, arrived=arrived.append)
    assert content(target) == content(tree) and (target / "empty").is_dir() and (target / "link").is_symlink()
    assert sorted(arrived) == sorted(content(tree)) and moved.files == len(ODD)
    assert moved.sent_bytes == sum(map(len, content(tree).values())) == ticks[-1].done_bytes


def test_a_list_of_files_of_which_some_are_gone(tree: Path, far: Far, tmp_path: Path) -> None:
    wanted = [b"sub/" + name for name in ODD[:5]]
    arrived: list[bytes] = []
    transfer = Transfer(str(tree), str(tmp_path / "some"), far.endpoint, files=[*wanted, b"sub/gone", b"gone/too"])
    rsync.move(transfer, silent, arrived=arrived.append)
    assert sorted(arrived) == sorted(wanted) == sorted(content(tmp_path / "some"))


def test_what_would_change_is_told_and_not_done(tree: Path, far: Far, tmp_path: Path) -> None:
    target = tmp_path / "there"
    shutil.copytree(tree, target, symlinks=True)
    (target / "sub" / "new").write_text("x")
    (target / "sub" / "-n").write_text("other")
    before = content(target)
    transfer = Transfer(str(tree), str(target), far.endpoint, "destination", delete=True, checksum=True, dry_run=True)
    moved = rsync.move(transfer, silent)
    assert content(target) == before
    assert any(line.startswith("<f") and line.endswith(" sub/-n") for line in moved.changed)
    assert "*deleting   sub/new" in moved.changed
    rsync.move(Transfer(str(tree), str(target), far.endpoint, "destination", delete=True, checksum=True), silent)
    assert content(target) == content(tree)


def test_a_listing_has_everything_and_follows_links(tree: Path, far: Far) -> None:
    (tree / "dangling").symlink_to("nowhere")
    os.utime(tree / "sub" / "-n", (1700000000, 1700000000))
    found: dict[bytes, Entry] = {}
    for there in (None, far.endpoint):
        found.clear()
        lost = rsync.listing(
            str(tree), there, lambda entry: found.update({entry.path: entry}), exclude=["/empty"], links="follow"
        )
        assert {path for path in found if path.startswith(b"sub/")} == {b"sub/" + name for name in ODD}
        assert found[b"link"].directory and b"link/-n" in found and b"empty" not in found
        assert found[b"sub/-n"].size == 200 and found[b"sub/-n"].modified == 1700000000
        assert len(lost) == 1 and "dangling" in lost[0]


def test_problems_are_named(tree: Path, far: Far, tmp_path: Path) -> None:
    target = str(tmp_path / "x")
    with pytest.raises(HostError) as missing:
        rsync.move(Transfer(str(tree), target, far.endpoint, rsync_path="/no/rsync"), silent)
    assert missing.value.kind == "command_missing"
    with pytest.raises(CellarmanError, match="No such file"):
        rsync.move(Transfer(str(tree / "nowhere"), target, far.endpoint), silent)
    with pytest.raises(HostError) as unknown:
        rsync.move(Transfer(str(tree), target, far.but(known_hosts="/dev/null")), silent)
    assert unknown.value.kind == "unknown_host_key" and "ssh-keyscan" in unknown.value.fix
    (tree / "sub" / "-n").chmod(0)
    if os.geteuid() != 0:
        with pytest.raises(CellarmanError, match="Permission denied"):
            rsync.move(Transfer(str(tree), target, far.endpoint), silent)


@pytest.mark.parametrize("end", ["cut", "stop"])
def test_a_transfer_that_is_ended(far: Far, tmp_path: Path, end: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "big").write_bytes(os.urandom(4 << 20))
    target = tmp_path / "target"
    stop, ticks = threading.Event(), []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            transfer = Transfer(str(source), str(target), far.endpoint, bandwidth_limit=200, partial=True)
            rsync.move(transfer, ticks.append, stop=stop)
        except CellarmanError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: ticks and ticks[-1].done_bytes > 0, "it transfers")
    if end == "cut":
        far.cut()
    else:
        stop.set()
    thread.join(20)
    assert not thread.is_alive() and len(raised) == 1
    if end == "cut":
        assert isinstance(raised[0], HostError) and raised[0].kind == "dropped"
        assert 0 < (target / "big").stat().st_size < 4 << 20
        rsync.move(Transfer(str(source), str(target), far.endpoint, partial=True), silent)
        assert content(target) == content(source)
    else:
        assert isinstance(raised[0], Cancelled)


def test_versions(far: Far) -> None:
    here = rsync.version(ThisHost())
    with machine(far.endpoint) as there:
        assert rsync.version(there) == here and here.number >= rsync.OLDEST
        with pytest.raises(HostError) as missing:
            rsync.version(there, "/no/rsync")
    assert missing.value.kind == "command_missing"


def test_files_are_sent_whole_where_that_is_asked_and_always_on_one_host(far: Far) -> None:
    for endpoint, whole, says in ((far.endpoint, True, True), (far.endpoint, False, False), (None, False, True)):
        assert ("--whole-file" in rsync.argv(Transfer("/a", "/b", endpoint, whole=whole))) is says
