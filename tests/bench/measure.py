"""Timing things side by side: rivals in turn, medians, one line a target."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One target: what was measured, the limit, and whether it was kept."""

    what: str
    measured: str
    limit: str
    kept: bool

    def line(self) -> str:
        return f"{'ok  ' if self.kept else 'MISS'}  {self.what:<58}  {self.measured:<44}  {self.limit}"


def seconds(work: Callable[[], object]) -> float:
    """Return how long the work takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def in_turn(repeat: int, *contestants: tuple[Callable[[], object], Callable[[], object]]) -> list[float]:
    """Run (prepare, work) of each contestant in turn, `repeat` times; return the median seconds of each one's work."""
    times: list[list[float]] = [[] for _ in contestants]
    for _ in range(repeat):
        for mine, (prepare, work) in zip(times, contestants, strict=True):
            prepare()
            mine.append(seconds(work))
    return [statistics.median(mine) for mine in times]


def ratio(what: str, ours: float, theirs: float, rival: str, at_most: float) -> Result:
    """Judge a duration against a rival's."""
    measured = f"{ours:.2f} s, {rival} {theirs:.2f} s: {ours / theirs:.2f} x"
    return Result(what, measured, f"at most {at_most} x", ours / theirs <= at_most)


def rate(what: str, ours: float, theirs: float, rival: str, at_least: float) -> Result:
    """Judge segments a second against a rival's."""
    measured = f"{ours:.0f} a second, {rival} {theirs:.0f}: {ours / theirs:.2f} x"
    return Result(what, measured, f"at least {at_least} x", ours / theirs >= at_least)


def at_least(what: str, value: float, limit: float, unit: str) -> Result:
    """Judge a value against a fixed limit that it has to reach."""
    return Result(what, f"{value:.1f} {unit}", f"at least {limit:g} {unit}", value >= limit)


def at_most(what: str, value: float, limit: float, unit: str) -> Result:
    """Judge a value against a fixed limit."""
    return Result(what, f"{value:.1f} {unit}", f"at most {limit:g} {unit}", value <= limit)
