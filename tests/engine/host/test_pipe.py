"""Bytes into a program on another host that reads all, some or none of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import CellarmanError
from engine.host import pipe
from tests.support.sshd import Far
from tests.support.waiting import until

SMALL, LARGE = b"h" * 512, b"d" * (1 << 20)


def _headed(count: int) -> Iterator[bytes]:
    """Yield headers and data as a tar has them: of the small ones some wait in the pipe's buffer at any time."""
    for _ in range(count):
        yield SMALL
        yield LARGE
        yield SMALL


def test_all_of_it_arrives(far: Far, tmp_path: Path) -> None:
    pipe.feed(far.endpoint, ["tee", str(tmp_path / "came")], _headed(5), "tee failed")
    assert (tmp_path / "came").stat().st_size == 5 * (len(LARGE) + 2 * len(SMALL))


def _ssh_has_ended() -> bool:
    """Tell whether the ssh that this thread started is no more than its exit code."""
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    facts = [Path(f"/proc/{child}/stat").read_text().rpartition(")") for child in children]
    return all(rest.split()[0] == "Z" for name, _, rest in facts if name.endswith("(ssh"))


def test_a_program_that_reads_no_more_is_told_by_its_own_words(far: Far) -> None:
    def chunks() -> Iterator[bytes]:
        yield from _headed(1)
        until(_ssh_has_ended, what="ssh")
        yield from _headed(1)

    with pytest.raises(CellarmanError, match="it was not taken") as caught:
        pipe.feed(far.endpoint, ["sh", "-c", "echo no room >&2; exit 3"], chunks(), "it was not taken")
    assert "no room" in str(caught.value)


def test_what_goes_wrong_here_is_raised_as_it_is(far: Far) -> None:
    def chunks() -> Iterator[bytes]:
        yield from _headed(3)
        raise CellarmanError("the source is gone")

    with pytest.raises(CellarmanError, match="the source is gone"):
        pipe.feed(far.endpoint, ["sh", "-c", "cat >/dev/null; sleep 60"], chunks(), "it was not taken")
