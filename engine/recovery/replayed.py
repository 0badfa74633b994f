"""The tablespaces that WAL makes during a recovery: PostgreSQL puts each where it was, whatever a restore says."""

from __future__ import annotations

import os

from engine.postgres.lsn import Lsn
from engine.postgres.segment import segment_of
from engine.postgres.walrecord import TablespaceMade
from engine.recovery.candidates import keys
from engine.recovery.reached import Reached
from engine.recovery.target import LsnTarget, Target


def tablespaces(target: Target, reached: Reached) -> tuple[TablespaceMade, ...]:
    """Return the tablespaces that are made, outside the data directory, by the WAL that is replayed to a target."""
    start = reached.choice.run.base.start
    made: dict[str, TablespaceMade] = {}
    for space in reached.facts.tablespaces(reached.segments()):
        if os.path.isabs(space.location) and space.lsn >= start:
            if _stops_before(space.lsn, target, reached):
                break
            made.setdefault(space.location, space)
    return tuple(made.values())


def _stops_before(lsn: Lsn, target: Target, reached: Reached) -> bool:
    """Tell whether it is certain that replay stops before the record at an LSN."""
    choice, archive = reached.choice, reached.archive
    if choice.dropped is not None and lsn > choice.dropped.lsn:
        return True
    if not isinstance(target, LsnTarget) or lsn < target.lsn:
        return False
    if not target.inclusive:
        return True
    number = segment_of(target.lsn, archive.segment_size)
    firsts = (reached.facts.first_record(key, target.lsn) for key in keys(choice.run, archive, number, number))
    return any(first is not None and first < lsn for first in firsts)
