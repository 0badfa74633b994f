"""Programs and files on this host and on one behind SSH: the same answers, whatever is in a name."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.errors import CellarmanError
from engine.host import openssh
from engine.host.machine import Machine, machine, must
from engine.host.problems import HostError
from tests.support.sshd import Far

STRANGE = [
    "plain",
    "with space",
    "it's",
    'quote"d',
    "new\nline",
    "$(touch pwned)",
    "`touch pwned`",
    "-n",
    "--help",
    "semi;colon & more | less > x",
    "star*?[a]",
    "back\\slash",
    "!bang",
    "~",
    "caf\u00e9 \udcff",
    "",
]


@pytest.fixture(scope="module", params=["here", "there"])
def host(request: pytest.FixtureRequest, far: Far) -> Iterator[Machine]:
    with machine(None if request.param == "here" else far.endpoint) as made:
        yield made


def test_words_arrive_as_they_are(host: Machine, tmp_path: Path) -> None:
    done = host.run(["printf", "%s\\0", *STRANGE])
    assert done.status == 0
    assert [os.fsdecode(word) for word in done.out.split(b"\0")[:-1]] == STRANGE
    assert not (tmp_path / "pwned").exists() and not Path("pwned").exists()


def test_status_output_and_input(host: Machine) -> None:
    done = host.run(["sh", "-c", 'cat; echo "to err" >&2; echo "$LC_ALL"; exit 7'], stdin=b"\0\xff in\n")
    assert (done.status, done.out, done.err) == (7, b"\0\xff in\nC\n", b"to err\n")
    assert done.words == "to err"


def test_much_of_everything(host: Machine) -> None:
    """More than any window or pipe holds, in both directions and on both outputs at once."""
    data = os.urandom(1 << 20) * 5
    done = host.run(["sh", "-c", "tee /dev/stderr"], stdin=data)
    assert (done.status, done.out, done.err) == (0, data, data)


def test_a_program_that_does_not_read_its_input(host: Machine) -> None:
    assert host.run(["true"], stdin=bytes(1 << 22)).status == 0


def test_a_program_that_is_not_there(host: Machine) -> None:
    done = host.run(["no-such-program", "--version"])
    assert done.status == 127 and b"no-such-program" in done.err
    with pytest.raises(HostError) as caught:
        must(host, ["no-such-program"], "it failed")
    assert caught.value.kind == "command_missing" and caught.value.host == host.name


def test_time_is_up(host: Machine) -> None:
    began = time.monotonic()
    with pytest.raises(HostError) as caught:
        host.run(["sleep", "60"], timeout=1)
    assert caught.value.kind == "timeout" and time.monotonic() - began < 20
    assert host.run(["true"]).status == 0  # the connection goes on


@pytest.mark.parametrize("name", [name for name in STRANGE if name])
def test_files_under_strange_names(host: Machine, tmp_path: Path, name: str) -> None:
    path = str(tmp_path / name)
    host.write(path, b"\0one\n", mode=0o640)
    assert host.read(path) == b"\0one\n"
    assert os.stat(path).st_mode & 0o777 == 0o640
    host.write(path, b"two")
    assert host.read(path) == b"two" and os.listdir(tmp_path) == [name]


def test_reading_what_cannot_be_read(host: Machine, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        host.read(str(tmp_path / "absent"))
    (tmp_path / "long").write_bytes(bytes(100))
    assert len(host.read(str(tmp_path / "long"), limit=100)) == 100
    with pytest.raises(CellarmanError, match="too long"):
        host.read(str(tmp_path / "long"), limit=99)
    (tmp_path / "closed").touch(mode=0)
    with pytest.raises(CellarmanError) as caught:
        host.read(str(tmp_path / "closed"))
    assert "ermission denied" in caught.value.why


def test_writing_where_nothing_can_be_written(host: Machine, tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o500)
    with pytest.raises(CellarmanError) as caught:
        host.write(str(tmp_path / "shut" / "file"), b"x")
    assert "ermission denied" in caught.value.why
    assert os.listdir(tmp_path / "shut") == []


@pytest.mark.parametrize("stdin", [b"", bytes(100_000)], ids=["no input", "input that nobody reads"])
def test_many_threads_share_one_connection(far: Far, stdin: bytes) -> None:
    """More than sshd gives sessions to, and programs that end before their input does."""

    def ask(number: int) -> list[bytes]:
        with machine(far.endpoint) as host:
            return [host.run(["echo", str(number), str(turn)], stdin=stdin).out for turn in range(5)]

    with machine(far.endpoint), ThreadPoolExecutor(12) as threads:
        sessions = len(far.sessions())
        answers = list(threads.map(ask, range(12)))
        assert len(far.sessions()) == sessions
    assert answers == [[f"{number} {turn}\n".encode() for turn in range(5)] for number in range(12)]


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "ksh", "zsh", "csh", "tcsh", "fish"])
@pytest.mark.parametrize("drain", [False, True])
def test_words_arrive_through_any_shell(shell: str, drain: bool) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    command = openssh.remote_command(["printf", "%s\\0", *STRANGE], drain=drain)
    done = subprocess.run([shell, "-c", os.fsencode(command)], input=b"left", capture_output=True, check=False)
    assert [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]] == STRANGE, done.stderr
