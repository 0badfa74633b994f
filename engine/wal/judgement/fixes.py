"""What mends what is found."""

from __future__ import annotations

from engine.commands import cellarman
from engine.remedy import NOTHING, Remedy, push_copy, run, words
from engine.wal.judgement.states import DELAYED, LOST, PARTIAL_ONLY, RECOVERABLE
from engine.wal.judgement.values import Case

PENDING_WARNING = 600
"""Seconds that a file may wait for archive_command before it is worth a warning."""
PENDING_CRITICAL = 86400


def of_missing(case: Case, timeline: int, first: int, last: int, state: str, *, critical: bool) -> Remedy:
    """Return what to do about a range of segments in a state."""
    known = of_a_copy(case, timeline, first, state)
    if known:
        return known
    alone = _without_copy(case, timeline, first, last, state, critical=critical)
    return alone if first in case.unseen.get(timeline, ()) or state == DELAYED else after_looking(case, alone)


def of_a_copy(case: Case, timeline: int, first: int, state: str) -> Remedy:
    """Return what has a segment again of which a copy is known; nothing when none is."""
    if state == LOST and (timeline, first) in case.kept:
        return looking(case)
    return _recover(case, timeline, first) if state == RECOVERABLE else NOTHING


def after_looking(case: Case, otherwise: Remedy) -> Remedy:
    """Return what to do when no copy is found, after the looking where it is not known that there is none."""
    return looking(case).otherwise(otherwise) if case.unasked else otherwise


def looking(case: Case) -> Remedy:
    """Return the command that looks for what lacks, and archives it."""
    return run(cellarman("wal", "fetch-missing", case.server))


def checking(case: Case) -> Remedy:
    return run(cellarman("check", case.server))


def new_backup(case: Case, *, before: str = "") -> Remedy:
    """Return the command that takes a new backup, after words."""
    return run(cellarman("backup", case.server), before=before)


def _without_copy(case: Case, timeline: int, first: int, last: int, state: str, *, critical: bool) -> Remedy:
    name = case.archive.name(timeline, first)
    if state == PARTIAL_ONLY:
        partial = case.partials.get((timeline, first))
        path = partial.path if partial else f"{name}.partial"
        reach = f" (its valid data ends at {partial.end})" if partial and partial.end else ""
        ask = f"only {path} is left{reach}: look for the whole segment on the server and its standbys"
        return new_backup(case, before=f"{ask}; ") if critical else words(ask)
    if critical:
        return new_backup(case)
    if state == LOST:
        span = name if first == last else f"{name}..{case.archive.name(timeline, last)}"
        return run(cellarman("wal", "gaps", case.server, "--accept", span), after=' --reason "..."')
    return NOTHING


def _recover(case: Case, timeline: int, first: int) -> Remedy:
    """Return what fetches a segment that is somewhere; a whole .partial is never made a segment unasked."""
    key, name = (timeline, first), case.archive.name(timeline, first)
    partial = case.partials.get(key)
    held = case.live.pg_wal if case.live is not None and case.live.pg_wal else {}
    elsewhere = name in held or key in case.encoded or any(name in (s.pg_wal or {}) for s in case.standbys)
    if partial is not None and not elsewhere:
        return push_copy(partial.path, name, case.server)
    return looking(case)
