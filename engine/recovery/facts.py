"""What recovery's rules ask of the WAL: per segment the times and ends, per backup where it starts and stops."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from engine.postgres.clock import pg_time
from engine.postgres.lsn import Lsn
from engine.wal.gaps import Key


@dataclass(frozen=True, slots=True)
class Mark:
    """One commit or abort in the WAL: a point where a time or xid target can stop."""

    lsn: Lsn
    xid: int
    time: int
    """Microseconds since 2000-01-01 UTC."""
    commit: bool = True
    drops: bool = False
    """Whether files go away with it, as for DROP TABLE and TRUNCATE."""

    @property
    def at(self) -> datetime:
        return pg_time(self.time)


@dataclass(frozen=True, slots=True)
class Point:
    """A named restore point: the record starts at `lsn`."""

    name: str
    timeline: int
    lsn: Lsn
    time: int

    @property
    def at(self) -> datetime:
        return pg_time(self.time)


@dataclass(frozen=True, slots=True)
class Row:
    """One segment, as the index keeps it. Times are microseconds since 2000-01-01 UTC, of commits and aborts."""

    timeline: int
    number: int
    max_time: int | None
    min_time: int | None
    min_xid: int | None
    max_xid: int | None
    last_record: Lsn | None
    """Start of the last record that is complete in the archive's segments up to this one."""
    end: Lsn
    """End of valid data."""


class Facts(Protocol):
    """What can be known of the archive's segments; cheap where the index knows, a walk where not."""

    def row(self, key: Key) -> Row | None:
        """Return what the index knows of a segment; None when it does not."""

    def walk(self, key: Key) -> Row:
        """Return the facts of a segment, read now when the index does not have them."""

    def marks(self, key: Key) -> Sequence[Mark]:
        """Return the commits and aborts of a segment, in WAL order."""

    def first_record(self, key: Key, lsn: Lsn) -> Lsn | None:
        """Return where the first record of a segment begins that begins at or after an LSN."""

    def points(self, keys: Iterable[Key]) -> Sequence[Point]:
        """Return the named restore points in these segments, in WAL order."""


@dataclass(frozen=True, slots=True)
class Base:
    """A backup as the start of a recovery."""

    id: str
    timeline: int
    start: Lsn
    """Redo: where replay begins."""
    stop: Lsn
    """Where it is consistent: with the record before this behind it."""
    ended: datetime
    standalone: bool = False
    """Kept with its own WAL only."""
    unusable: str = ""
    """Why it can start no recovery; empty when it can."""
    exact: bool = False
    """Whether `stop` is the very end of the record that makes it consistent, and not just somewhere behind it."""
    stop_timeline: int = 0
    """The timeline that `stop` is on; known only where it is exact."""
