"""A target that can be reached, with what shows it: what the search for a plan gives, and the plan is made of."""

from __future__ import annotations

from dataclasses import dataclass

from engine.postgres.segment import segment_of
from engine.recovery.candidates import Choice, keys
from engine.recovery.evidence import WalFacts
from engine.wal.gaps import Archive, Key


@dataclass(frozen=True, slots=True)
class Reached:
    """A backup and a lineage that get to the target, in an archive without what turned out to be invalid."""

    choice: Choice
    archive: Archive
    facts: WalFacts
    """What was read of the archive for it."""

    def segments(self, *, more: int = 0) -> list[Key]:
        """Return the segments that replay reads, and so many more where they are there."""
        run, archive = self.choice.run, self.archive
        first = segment_of(run.base.start, archive.segment_size)
        return list(keys(run, archive, first, self.choice.stop_segment + more))
