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
    if state == RECOVERABLE:
        return _recover(case, timeline, first, last, name)
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


def _recover(case: Case, timeline: int, first: int, last: int, name: str) -> str:
    server = shlex.quote(case.server)
    held = case.live.pg_wal if case.live is not None and case.live.pg_wal else {}
    if name in held:
        if first == last:
            return f"on the server, in its data directory: cellarman-wal push pg_wal/{name} --server {server}"
        names = " ".join(case.archive.name(timeline, number) for number in range(first, min(last, first + 7) + 1))
        more = f" (and on to {case.archive.name(timeline, last)})" if last > first + 7 else ""
        loop = f'for n in {names}; do cellarman-wal push "pg_wal/$n" --server {server}; done'
        return f"on the server, in its data directory: {loop}{more}"
    encoded = case.encoded.get((timeline, first))
    if encoded:
        return f"mv {shlex.quote(encoded)} {shlex.quote(encoded[: encoded.rindex(name) + len(name)])}"
    partial = case.partials.get((timeline, first))
    if partial is not None:
        copy = f"/tmp/{name}"
        return f"cp {shlex.quote(partial.path)} {copy} && cellarman-wal push {copy} --server {server}"
    return f"cellarman wal gaps {server}"
