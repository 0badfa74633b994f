"""The commands that mend what is found."""

from __future__ import annotations

import shlex

from engine.wal.judgement.states import DELAYED, LOST, PARTIAL_ONLY, RECOVERABLE
from engine.wal.judgement.values import Case

PENDING_WARNING = 600
"""Seconds that a file may wait for archive_command before it is worth a warning."""
PENDING_CRITICAL = 86400


def of_missing(case: Case, timeline: int, first: int, last: int, state: str, *, critical: bool) -> str:
    """Return what to do about a range of segments in a state."""
    known = of_a_copy(case, timeline, first, state)
    if known:
        return known
    alone = _without_copy(case, timeline, first, last, state, critical=critical)
    return alone if first in case.unseen.get(timeline, ()) or state == DELAYED else after_looking(case, alone)


def of_a_copy(case: Case, timeline: int, first: int, state: str) -> str:
    """Return what has a segment again of which a copy is known; "" when none is."""
    if state == LOST and (timeline, first) in case.kept:
        return looking(case)
    return _recover(case, timeline, first) if state == RECOVERABLE else ""


def after_looking(case: Case, otherwise: str) -> str:
    """Return what to do when no copy is found, after the looking where it is not known that there is none."""
    if not case.unasked:
        return otherwise
    return f"{looking(case)}; if that finds nothing: {otherwise}" if otherwise else looking(case)


def looking(case: Case) -> str:
    """Return the command that looks for what lacks, and archives it."""
    return f"cellarman wal fetch-missing {shlex.quote(case.server)}"


def _without_copy(case: Case, timeline: int, first: int, last: int, state: str, *, critical: bool) -> str:
    archive, server = case.archive, shlex.quote(case.server)
    name = archive.name(timeline, first)
    if state == PARTIAL_ONLY:
        partial = case.partials.get((timeline, first))
        path = partial.path if partial else f"{name}.partial"
        reach = f" (its valid data ends at {partial.end})" if partial and partial.end else ""
        ask = f"only {path} is left{reach}: look for the whole segment on the server and its standbys"
        return f"{ask}; cellarman backup {server}" if critical else ask
    if critical:
        return f"cellarman backup {server}"
    if state == LOST:
        span = name if first == last else f"{name}..{archive.name(timeline, last)}"
        return f'cellarman wal gaps {server} --accept {span} --reason "..."'
    return ""


def _recover(case: Case, timeline: int, first: int) -> str:
    """Return what fetches a segment that is somewhere; a whole .partial is never made a segment unasked."""
    server, key, name = shlex.quote(case.server), (timeline, first), case.archive.name(timeline, first)
    partial = case.partials.get(key)
    held = case.live.pg_wal if case.live is not None and case.live.pg_wal else {}
    elsewhere = name in held or key in case.encoded or any(name in (s.pg_wal or {}) for s in case.standbys)
    if partial is not None and not elsewhere:
        copy = f"/tmp/{name}"
        return f"cp {shlex.quote(partial.path)} {copy} && cellarman-wal push {copy} --server {server}"
    return looking(case)
