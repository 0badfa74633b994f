"""The values that the judgement takes and gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from engine.postgres.lsn import Lsn
from engine.remedy import NOTHING, Remedy
from engine.wal.accepted import Accepted
from engine.wal.gaps import Archive, Key
from engine.wal.live import Live
from engine.wal.runs import Runs
from engine.wal.standbys import Standby

Severity = Literal["note", "warning", "critical"]
Status = Literal["ok", "warning", "critical"]
_BREAKS = frozenset(("hole", "branch_hazard", "invalid", "corrupt", "misplaced", "alien"))
RANK: Mapping[str, int] = {"critical": 0, "warning": 1, "note": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is so, how bad it is, and the command that mends it."""

    kind: str
    severity: Severity
    state: str | None = None
    timeline: int | None = None
    first: str | None = None
    last: str | None = None
    """Names of the first and last file that it is about, both included."""
    count: int = 0
    affected_backups: tuple[str, ...] = ()
    lost_from: datetime | None = None
    lost_to: datetime | None = None
    """The times that cannot be recovered; an open end is None."""
    why: str = ""
    fix: Remedy = NOTHING

    @property
    def breaks(self) -> bool:
        """Whether it is about WAL that lacks or is bad, which ends what can be replayed, and can be accepted."""
        return self.kind in _BREAKS

    def to_json(self, config_file: str = "") -> dict[str, Any]:
        """Return it JSON-ready; `config_file` is named in the commands."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "state": self.state,
            "timeline": self.timeline,
            "first": self.first,
            "last": self.last,
            "count": self.count,
            "affected_backups": list(self.affected_backups),
            "lost_from": self.lost_from,
            "lost_to": self.lost_to,
            "why": self.why,
            "fix": self.fix.text(config_file),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """The findings about one server's WAL, worst first, and what could not be judged."""

    server: str
    findings: tuple[Finding, ...]
    unknown: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        severities = {finding.severity for finding in self.findings}
        if "critical" in severities:
            return "critical"
        return "warning" if "warning" in severities else "ok"

    def to_json(self, config_file: str = "") -> dict[str, Any]:
        return {
            "server": self.server,
            "status": self.status,
            "findings": [finding.to_json(config_file) for finding in self.findings],
            "unknown": list(self.unknown),
        }


@dataclass(frozen=True, slots=True)
class Base:
    """A backup, as far as WAL is concerned."""

    id: str
    timeline: int
    start: Lsn
    """Redo: where replay begins."""
    stop: Lsn
    """Where it is consistent."""
    ended: datetime
    checkpoint: Lsn
    standalone: bool = False
    """Kept with the WAL from its begin to its end, and no more."""
    self_contained: bool = False
    """It carries that WAL in its own pg_wal."""
    end: tuple[int, int] | None = None
    """Timeline and LSN at which it is consistent, where that is known exactly."""
    lacking: str = ""
    """Why the WAL of its range is not its own."""


@dataclass(frozen=True, slots=True)
class Partial:
    """A .partial file: where it lies, where its valid data ends, and whether that is the whole segment."""

    path: str
    end: Lsn | None = None
    whole: bool = False


class Evidence(Protocol):
    """What is asked only about the few segments beside a hole."""

    def arrived(self, timeline: int, number: int) -> datetime | None:
        """Return when a segment came into the archive."""

    def last_commit(self, timeline: int, number: int) -> datetime | None:
        """Return the time of the latest commit that is known up to a segment of a timeline, itself included."""


class NoEvidence:
    """Knows nothing."""

    def arrived(self, timeline: int, number: int) -> datetime | None:
        return None

    def last_commit(self, timeline: int, number: int) -> datetime | None:
        return None


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that is known of one incarnation of a server (system identifier and segment size)."""

    server: str
    archive: Archive
    bases: Sequence[Base]
    now: datetime
    live: Live | None = None
    """The running server, when it is of this incarnation."""
    accepted: Sequence[Accepted] = ()
    partials: Mapping[Key, Partial] = field(default_factory=dict)
    standbys: Sequence[Standby] = ()
    """Its standbys that answered."""
    receiving: Key | None = None
    """The segment that a running receiver writes."""
    encoded: Mapping[Key, str] = field(default_factory=dict)
    """Segments that are there only under a name with a codec's suffix, with their paths."""
    kept: frozenset[Key] = frozenset()
    """Segments of which a refused copy is in errors/."""
    slot: str = ""
    """The name of the slot that the receiver uses."""
    selected: Sequence[int] = ()
    """Timelines that the operator asks about."""
    evidence: Evidence = field(default_factory=NoEvidence)
    concurrency: int = 1
    """So many pushers may work at once: that far behind the newest a segment may still be on its way. PostgreSQL
    itself archives one after the other, and cellarman-wal acknowledges only what is archived."""
    unseen: Mapping[int, Runs] = field(default_factory=dict)
    """By timeline, the segments whose directories cannot be read."""
    unasked: bool = False
    """Whether there is a server or a standby whose pg_wal may hold what lacks, and what it holds is not known."""
    past: bool = False
    """Of an older incarnation: nothing is written to it any more."""
