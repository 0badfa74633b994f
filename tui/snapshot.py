"""What the screens show, at one moment: frozen values, and nothing to import before the first paint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine import event as ev
    from engine.job.state import JobState
    from engine.status import ServerStatus
    from engine.status.live import Live
    from tui.operators import Operator


@dataclass(frozen=True, slots=True)
class JobView:
    """One job in full: its state, its whole log, its rates over time."""

    state: JobState
    notes: tuple[ev.Note | ev.Phase, ...] = ()
    rates: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the screens show."""

    minute: datetime
    servers: tuple[ServerStatus, ...] = ()
    """Worst first."""
    jobs: tuple[JobState, ...] = ()
    """Newest first."""
    job: JobView | None = None
    """The one that is looked at."""
    live: Mapping[str, Live] = field(default_factory=dict)
    """What each server that was asked answered last."""
    others: tuple[Operator, ...] = ()
    """Who else has a console open."""
    trail: int = 0
    """When the trail of actions was written to last; 0: never."""
    looked: bool = True
    """Whether the disk has been read yet."""
    trouble: str = ""
    """Why the disk cannot be read just now; the rest is what was read before."""

    def server(self, name: str) -> ServerStatus | None:
        return next((server for server in self.servers if server.name == name), None)

    @property
    def running(self) -> tuple[JobState, ...]:
        return tuple(job for job in self.jobs if job.status == "running")


def utc_now() -> datetime:
    return datetime.now(timezone.utc)


def minute_of(now: datetime) -> datetime:
    """Return `now` to the minute: what is painted from it changes once a minute at most."""
    return now.replace(second=0, microsecond=0)
