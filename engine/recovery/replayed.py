"""The tablespaces that WAL makes during a recovery: PostgreSQL puts each where it was, whatever a restore says."""

from __future__ import annotations

import os

from engine.postgres.lsn import Lsn
from engine.postgres.segment import segment_of
from engine.postgres.walrecord import TablespaceMade
from engine.recovery.candidates import Choice, keys
from engine.recovery.evidence import WalFacts
from engine.recovery.target import LsnTarget, Target
from engine.wal.gaps import Archive


def tablespaces(target: Target, choice: Choice, archive: Archive, facts: WalFacts) -> tuple[TablespaceMade, ...]:
    """Return the tablespaces that are made, outside the data directory, by the WAL that is replayed to a target."""
    start = choice.run.base.start
    read = keys(choice.run, archive, segment_of(start, archive.segment_size), choice.stop_segment)
    made: dict[str, TablespaceMade] = {}
    for space in facts.tablespaces(read):
        if os.path.isabs(space.location) and space.lsn >= start:
            if _stops_before(space.lsn, target, choice, archive, facts):
                break
            made.setdefault(space.location, space)
    return tuple(made.values())


def _stops_before(lsn: Lsn, target: Target, choice: Choice, archive: Archive, facts: WalFacts) -> bool:
    """Tell whether it is certain that replay stops before the record at an LSN."""
    if choice.dropped is not None and lsn > choice.dropped.lsn:
        return True
    if not isinstance(target, LsnTarget) or lsn < target.lsn:
        return False
    if not target.inclusive:
        return True
    number = segment_of(target.lsn, archive.segment_size)
    firsts = (facts.first_record(key, target.lsn) for key in keys(choice.run, archive, number, number))
    return any(first is not None and first < lsn for first in firsts)
