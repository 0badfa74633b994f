"""Findings about the flow of WAL from the running server: what exists only there, and slots that hold nothing back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.commands import cellarman
from engine.postgres.lsn import Lsn
from engine.postgres.quoting import literal
from engine.postgres.segment import segment_start
from engine.remedy import run, words
from engine.wal.judgement import fixes
from engine.wal.judgement.coverage import Line
from engine.wal.judgement.values import Case, Finding

_QUIET = 600
"""Seconds without a new segment before it is worth saying what exists only on the server."""


def supply_findings(case: Case, lines: Sequence[Line]) -> Iterator[Finding]:
    if case.live is None or case.past:
        return
    yield from _exposure(case, lines)
    yield from _slot(case)


def _exposure(case: Case, lines: Sequence[Line]) -> Iterator[Finding]:
    """Yield how much exists only on the server, when nothing was archived for a while."""
    live = case.live
    assert live is not None
    line = next((line for line in lines if line.timeline == live.timeline), None)
    if line is None or live.in_recovery or not live.write_lsn or not len(line.good):
        return
    last = line.good[-1]
    end = Lsn(segment_start(last + 1, case.archive.segment_size))
    partial = case.partials.get(case.receiving) if case.receiving else None
    if partial is not None and partial.end is not None:
        end = max(end, partial.end)
    if live.write_lsn <= end:
        return
    arrived = case.evidence.arrived(line.canonical(last), last)
    age = (case.now - arrived).total_seconds() if arrived else None
    if age is not None and age < _QUIET:
        return
    ahead = live.write_lsn - end
    since = f" / {_duration(age)}" if age is not None else ""
    yield Finding(
        "rpo",
        "note",
        None,
        live.timeline,
        case.archive.name(live.timeline, last + 1),
        case.archive.name(live.timeline, live.written or last + 1),
        0,
        why=f"up to {ahead / (1 << 20):.1f} MB{since} of commits exist only on the server",
        fix=words("set archive_timeout on the server, or stream its WAL (streaming_archiver = true)"),
    )


def _duration(seconds: float) -> str:
    """Return a time in words.

    >>> _duration(259200), _duration(7200), _duration(600)
    ('3 days', '2 hours', '10 minutes')
    """
    for length, word in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {word}{'' if count == 1 else 's'}"
    return f"{int(seconds)} seconds"


def _slot(case: Case) -> Iterator[Finding]:
    """Yield that the receiver's slot no longer holds back what it has not received."""
    live = case.live
    assert live is not None
    slot = live.slot(case.slot) if case.slot else None
    if slot is None or slot.wal_status not in ("unreserved", "lost"):
        return
    lost = slot.wal_status == "lost"
    yield Finding(
        "slot",
        "critical" if lost else "warning",
        slot.wal_status,
        live.timeline,
        why=f"slot {slot.name} {'has lost' if lost else 'is about to lose'} WAL that was not received: it outgrew "
        "max_slot_wal_keep_size",
        fix=fixes.new_backup(case, before=f"SELECT pg_drop_replication_slot({literal(slot.name)}); then ")
        if lost
        else run(cellarman("wal", "receive", case.server), after="; raise max_slot_wal_keep_size"),
    )
