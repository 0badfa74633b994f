"""What a check says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail", "skip"]
_SEVERITY: dict[Status, int] = {"skip": 0, "ok": 1, "warn": 2, "fail": 3}


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check of one server."""

    name: str
    status: Status
    detail: str = ""
    """What was found; other programs' words verbatim."""
    fix: str = ""
    """The exact statement, line or command that mends it."""


def ok(name: str, detail: str = "") -> CheckResult:
    return CheckResult(name, "ok", detail)


def warn(name: str, detail: str, fix: str = "") -> CheckResult:
    return CheckResult(name, "warn", detail, fix)


def fail(name: str, detail: str, fix: str = "") -> CheckResult:
    return CheckResult(name, "fail", detail, fix)


def skip(name: str, detail: str) -> CheckResult:
    return CheckResult(name, "skip", detail)


def worst(results: Iterable[CheckResult]) -> Status:
    """Return the worst status; ok when nothing could be checked.

    >>> worst([ok("a"), skip("b", "off"), warn("c", "old")]), worst([])
    ('warn', 'ok')
    """
    found: Status = "ok"
    for result in results:
        if _SEVERITY[result.status] > _SEVERITY[found]:
            found = result.status
    return found
