"""How a server stands, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from engine.job.state import JobState
from engine.remedy import NOTHING, Remedy
from engine.repository.backupinfo import BackupInfo
from engine.repository.repository import Unreadable
from engine.wal.refused import Refused

Health = Literal["critical", "warning", "unknown", "running", "ok"]
Severity = Literal["critical", "warning", "note"]

ORDER: tuple[Health, ...] = ("critical", "warning", "unknown", "running", "ok")
"""Worst first."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong or worth saying: what, why, and what mends it."""

    severity: Severity
    what: str
    why: str = ""
    fix: Remedy = NOTHING
    command: str = ""
    """The console's verb that mends it: backup, fetch, jobs."""


@dataclass(frozen=True, slots=True)
class Window:
    """Moments that can be reached, without a break."""

    begin: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Wal:
    """What the disk tells of a server's WAL."""

    newest: str = ""
    """The newest whole segment in the archive."""
    newest_at: datetime | None = None
    """When PostgreSQL wrote it last."""
    usual_pause: timedelta | None = None
    """The longest time between two of the latest segments; None when there are too few."""
    queued: int = 0
    """Whole files in incoming/ and streaming/."""
    queued_since: datetime | None = None
    refused: tuple[Refused, ...] = ()
    """Files in errors/ that no good copy in the archive has settled."""
    receiving: bool = False
    """pg_receivewal runs for it."""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server, as it stands."""

    name: str
    health: Health
    description: str = ""
    protected: bool = False
    findings: tuple[Finding, ...] = ()
    """Worst first."""
    backups: tuple[BackupInfo, ...] = ()
    """Newest first."""
    unreadable: tuple[Unreadable, ...] = ()
    windows: tuple[Window, ...] = ()
    """Oldest first."""
    gaps: int = 0
    """Breaks in the WAL after the first good backup."""
    open_end: bool = True
    """Whether the last window goes as far as the archive does; False: a gap ends it."""
    archived_until: datetime | None = None
    """Until when everything that was committed is in the archive, without a gap before it."""
    wal: Wal = field(default_factory=Wal)
    jobs: tuple[JobState, ...] = ()
    """Those that run now."""

    @property
    def last_backup(self) -> BackupInfo | None:
        """The newest good one."""
        return next((info for info in self.backups if info.usable), None)

    @property
    def version(self) -> int | None:
        """PostgreSQL's server_version_num at the newest backup that tells it."""
        return next((info.version for info in self.backups if info.version), None)

    @property
    def recoverable_from(self) -> datetime | None:
        return self.windows[0].begin if self.windows else None

    @property
    def unbroken_from(self) -> datetime | None:
        """From when on every moment up to `recoverable_to` can be reached."""
        begin: datetime | None = None
        for window in sorted(self.windows, key=lambda window: window.end, reverse=True):
            if begin is None or window.end >= begin:
                begin = window.begin if begin is None else min(begin, window.begin)
        return begin

    @property
    def recoverable_to(self) -> datetime | None:
        """The latest commit that a restore can reach, or the last backup's end."""
        return max(window.end for window in self.windows) if self.windows else None

    def exposure(self, now: datetime) -> timedelta | None:
        """Return how much time would be lost if the server died now; None when nothing can be restored."""
        if self.archived_until is None:
            return None
        return max(now - self.archived_until, timedelta(0))
