"""The commands that mend what is found."""

from __future__ import annotations

import shlex

from engine.wal.judgement.states import LOST, PARTIAL_ONLY, RECOVERABLE
from engine.wal.judgement.values import Case

PENDING_WARNING = 600
"""Seconds that a file may wait for archive_command before it is worth a warning."""
PENDING_CRITICAL = 86400


def of_missing(case: Case, timeline: int, first: int, last: int, state: str, *, critical: bool) -> str:
    """Return what to do about a range of segments in a state."""
    archive, server = case.archive, shlex.quote(case.server)
    name = archive.name(timeline, first)
    if state == LOST and (timeline, first) in case.kept:
        return f"cellarman wal fetch-missing {server}"
    if state == RECOVERABLE:
        return _recover(case, timeline, first, name)
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


def _recover(case: Case, timeline: int, first: int, name: str) -> str:
    """Return what fetches a segment that is somewhere; a whole .partial is never made a segment unasked."""
    server, key = shlex.quote(case.server), (timeline, first)
    partial = case.partials.get(key)
    held = case.live.pg_wal if case.live is not None and case.live.pg_wal else {}
    elsewhere = name in held or key in case.encoded or any(name in (s.pg_wal or {}) for s in case.standbys)
    if partial is not None and not elsewhere:
        copy = f"/tmp/{name}"
        return f"cp {shlex.quote(partial.path)} {copy} && cellarman-wal push {copy} --server {server}"
    return f"cellarman wal fetch-missing {server}"
