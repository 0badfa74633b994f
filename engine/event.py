"""What long work says while it runs: a closed union of frozen values, and the Reporter that takes them.

Work functions call a `Reporter`; the job's journal is the one that writes. Nothing here knows who reads.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, Literal, Protocol

Level = Literal["info", "warn", "error"]
Outcome = Literal["done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Started:
    """The worker runs: pid, and what it works on."""

    at: datetime
    job: str
    kind: str
    server: str
    pid: int


@dataclass(frozen=True, slots=True)
class BackupNamed:
    """The catalogue entry that this work makes or uses."""

    at: datetime
    backup: str


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase begins: checkpoint, copy, sync, wal, …"""

    at: datetime
    phase: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Lane:
    """One of several workers of a phase: the file at work, and how far its share is."""

    name: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the current phase is; a total of None is not known (yet)."""

    at: datetime
    phase: str
    done_bytes: int
    total_bytes: int | None = None
    files_done: int | None = None
    files_total: int | None = None
    rate_bytes: float | None = None
    """Bytes a second over the last few seconds."""
    eta_seconds: float | None = None
    lanes: tuple[Lane, ...] = ()
    """The workers, where there are several."""

    @property
    def counts(self) -> str:
        """What `files_done` counts: WAL segments in the phases that go through WAL, else files."""
        return "segments" if self.phase in ("wal", "index", "fetch") else "files"


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the log."""

    at: datetime
    level: Level
    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event of a journal."""

    at: datetime
    status: Outcome
    reason: str = ""
    fix: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    """JSON-ready facts of what came out, such as the verdict of a restore."""


Event = Started | BackupNamed | Phase | Progress | Note | Ended
_KINDS: dict[str, type[Event]] = {
    "started": Started,
    "backup": BackupNamed,
    "phase": Phase,
    "progress": Progress,
    "note": Note,
    "ended": Ended,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def to_json(event: Event) -> dict[str, Any]:
    """Return the event as a JSON-ready dict, its kind under "event", times in ISO 8601."""
    body = {key: value for key, value in asdict(event).items() if value is not None and value != ()}
    return {"event": _NAMES[type(event)], **body, "at": event.at.isoformat()}


def from_json(document: dict[str, Any]) -> Event:
    """Return the event that `to_json` wrote; fields that are not known are left out.

    Raises ValueError for a kind that is not known.
    """
    kind = _KINDS.get(document.get("event", ""))
    if kind is None:
        raise ValueError(f"not an event: {document!r}")
    known = {f.name for f in fields(kind)}
    body = {key: value for key, value in document.items() if key in known}
    body["at"] = datetime.fromisoformat(document["at"])
    if "lanes" in body:
        body["lanes"] = tuple(
            Lane(str(lane["name"]), int(lane["done_bytes"]), int(lane["total_bytes"])) for lane in body["lanes"]
        )
    return kind(**body)


class Reporter(Protocol):
    """Takes what long work says. Cheap to call: progress is throttled behind it, rate and ETA are reckoned there."""

    def backup(self, backup_id: str) -> None:
        """Say which catalogue entry this work makes or uses."""

    def phase(self, name: str, detail: str = "") -> None:
        """Begin a phase."""

    def progress(
        self,
        done_bytes: int,
        total_bytes: int | None = None,
        files_done: int | None = None,
        files_total: int | None = None,
        lanes: tuple[Lane, ...] = (),
    ) -> None:
        """Tell how far the current phase is."""

    def note(self, text: str, level: Level = "info") -> None:
        """Add a line to the log."""


class Silent:
    """A Reporter that nobody listens to."""

    def backup(self, backup_id: str) -> None: ...

    def phase(self, name: str, detail: str = "") -> None: ...

    def progress(
        self,
        done_bytes: int,
        total_bytes: int | None = None,
        files_done: int | None = None,
        files_total: int | None = None,
        lanes: tuple[Lane, ...] = (),
    ) -> None: ...

    def note(self, text: str, level: Level = "info") -> None: ...


SILENT: Reporter = Silent()
