"""Retention: a policy's text becomes a value, and backups become verdicts with a reason. Pure: `now` is a parameter.

Grammar and verdicts are Barman's: `REDUNDANCY n`, `RECOVERY WINDOW OF n DAYS|WEEKS|MONTHS` (a month is 31 days), empty
keeps all. Incrementals follow their root. One difference, on the safe side: a backup kept standalone, from which no
later moment can be reached, makes no older backup dispensable, and its incrementals stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from engine.errors import UsageError
from engine.repository.backupinfo import BackupInfo

State = Literal["valid", "obsolete", "obsolete_protected", "keep_full", "keep_standalone", "none"]


@dataclass(frozen=True, slots=True)
class KeepAll:
    """No policy: nothing becomes obsolete."""

    def __str__(self) -> str:
        return "keep all"


@dataclass(frozen=True, slots=True)
class Redundancy:
    """The newest `count` backups are wanted."""

    count: int

    def __str__(self) -> str:
        return f"REDUNDANCY {self.count}"


@dataclass(frozen=True, slots=True)
class RecoveryWindow:
    """Every moment of the last `length` is wanted."""

    length: timedelta

    def __str__(self) -> str:
        return f"RECOVERY WINDOW OF {self.length.days} DAYS"


Policy = KeepAll | Redundancy | RecoveryWindow


@dataclass(frozen=True, slots=True)
class Verdict:
    """What retention says about one backup, and why; `none` for one that is not whole."""

    state: State
    reason: str

    @property
    def expires(self) -> bool:
        """Whether retention may delete the backup."""
        return self.state == "obsolete"


_WINDOW = re.compile(r"recovery\s+window\s+of\s+(\d{1,6})\s+(day|week|month)s?", re.IGNORECASE)
_REDUNDANCY = re.compile(r"redundancy\s+(\d{1,6})", re.IGNORECASE)
_DAYS = {"day": 1, "week": 7, "month": 31}


def parse_policy(text: str) -> Policy:
    """Return the policy that `text` describes.

    Raises UsageError with the two forms there are.

    >>> str(parse_policy("recovery window of 2 weeks")), str(parse_policy("REDUNDANCY 3")), str(parse_policy(""))
    ('RECOVERY WINDOW OF 14 DAYS', 'REDUNDANCY 3', 'keep all')
    """
    words = text.strip()
    if not words:
        return KeepAll()
    found = _REDUNDANCY.fullmatch(words)
    if found is not None and int(found[1]) > 0:
        return Redundancy(int(found[1]))
    found = _WINDOW.fullmatch(words)
    if found is not None and int(found[1]) > 0:
        return RecoveryWindow(timedelta(days=int(found[1]) * _DAYS[found[2].lower()]))
    raise UsageError(
        f"not a retention policy: {text!r}",
        "it is neither of the two forms",
        'write "REDUNDANCY 3" or "RECOVERY WINDOW OF 7 DAYS" (or WEEKS, MONTHS), with a number of at least 1',
    )


def verdicts(
    backups: Iterable[BackupInfo], policy: Policy, minimum_redundancy: int, now: datetime
) -> dict[str, Verdict]:
    """Return the verdict on each backup by id."""
    ordered = sorted(backups, key=lambda info: info.id, reverse=True)
    found: dict[str, Verdict] = {}
    newer = 0
    reached = False
    for info in ordered:
        if info.is_incremental:
            continue
        if not info.usable:
            found[info.id] = Verdict("none", _not_whole(info))
            continue
        found[info.id] = _kept(info) if info.keep else _judge(newer, reached, policy, minimum_redundancy, now)
        if info.keep != "standalone":
            newer += 1
            reached = reached or _ends_before_window(info, policy, now)
    roots = {info.id: info for info in ordered}
    for info in ordered:
        if info.is_incremental:
            found[info.id] = _of_root(info, roots, found)
    return found


def to_delete(backups: Iterable[BackupInfo], found: Mapping[str, Verdict]) -> list[str]:
    """Return the ids of those that may go, oldest root first and every incremental before what it rests on."""
    known = {info.id: info for info in backups}
    going = [info for info in known.values() if info.id in found and found[info.id].expires]
    newest_first = sorted(going, key=lambda info: info.id, reverse=True)
    return [info.id for info in sorted(newest_first, key=lambda info: _root(info, known).id)]


def _judge(newer: int, reached: bool, policy: Policy, minimum_redundancy: int, now: datetime) -> Verdict:
    """Judge a backup that has `newer` newer ones; `reached`: one of them already reaches the window's begin."""
    if isinstance(policy, KeepAll):
        return Verdict("valid", "no retention policy: all backups are kept")
    if isinstance(policy, Redundancy):
        wanted = max(policy.count, minimum_redundancy)
        if newer < wanted:
            return Verdict("valid", f"one of the newest {wanted}")
        why = f"{newer} newer backups satisfy {policy}"
    else:
        if not reached:
            return Verdict("valid", f"needed to reach back to {(now - policy.length).isoformat(' ', 'minutes')}")
        why = f"a newer backup reaches back to the begin of the {policy.length.days} days"
    if newer < minimum_redundancy:
        return Verdict("obsolete_protected", f"{why}, but minimum_redundancy = {minimum_redundancy} protects it")
    return Verdict("obsolete", why)


def _ends_before_window(info: BackupInfo, policy: Policy, now: datetime) -> bool:
    return isinstance(policy, RecoveryWindow) and info.end_time is not None and info.end_time < now - policy.length


def _kept(info: BackupInfo) -> Verdict:
    if info.keep == "standalone":
        return Verdict("keep_standalone", "kept by its mark, with the WAL from its begin to its end")
    return Verdict("keep_full", "kept by its mark, with all WAL since")


def _not_whole(info: BackupInfo) -> str:
    return "being deleted" if info.deleting else f"its status is {info.status}"


def _of_root(info: BackupInfo, backups: Mapping[str, BackupInfo], found: Mapping[str, Verdict]) -> Verdict:
    """Give an incremental the verdict of the full backup that it rests on."""
    if not info.usable:
        return Verdict("none", _not_whole(info))
    root = _root(info, backups)
    if root.is_incremental:
        return Verdict("none", f"its ancestor {root.parent_backup_id} is missing")
    verdict = found[root.id]
    state: State = "valid" if root.keep else verdict.state
    return Verdict(state, f"as its root {root.id}: {verdict.reason}")


def _root(info: BackupInfo, backups: Mapping[str, BackupInfo]) -> BackupInfo:
    """Return the full backup that one rests on, or the last ancestor there is; a circle ends where it closes."""
    seen: set[str] = set()
    while info.parent_backup_id is not None and info.id not in seen:
        parent = backups.get(info.parent_backup_id)
        if parent is None:
            break
        seen.add(info.id)
        info = parent
    return info
