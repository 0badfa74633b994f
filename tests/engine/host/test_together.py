"""Threads that do one work: all of it, or the first error when all have stopped."""

from __future__ import annotations

import threading

import pytest

from engine.errors import Cancelled
from engine.host.together import Together, meanwhile


def test_all_work_at_once_and_are_looked_at() -> None:
    meeting = threading.Barrier(3)
    looks: list[int] = []

    def meets() -> None:
        meeting.wait(60)

    Together().run([meets] * 3, lambda: looks.append(1))
    assert looks


def test_the_first_error_stops_the_others_and_is_raised() -> None:
    together = Together()

    def fails() -> None:
        raise OSError("the first")

    def waits() -> None:
        assert together.stop.wait(60)
        raise Cancelled("stopped")

    with pytest.raises(OSError, match="the first"):
        together.run([waits, fails, waits], lambda: None)


def test_an_error_of_the_look_stops_all() -> None:
    together = Together()
    ended: list[bool] = []

    def looks() -> None:
        raise Cancelled("by hand")

    with pytest.raises(Cancelled, match="by hand"):
        together.run([lambda: ended.append(together.stop.wait(60))], looks)
    assert ended == [True]


def test_what_is_done_meanwhile_ends_with_the_block_or_by_itself() -> None:
    calls: list[int] = []
    enough = threading.Event()

    def work() -> bool:
        calls.append(1)
        if len(calls) == 3:
            enough.set()
        return len(calls) < 3

    with meanwhile(0.001, work):
        assert enough.wait(60)
    assert len(calls) == 3
