"""Reading every byte of a backup against its manifest, and the WAL that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.config import Server
from engine.event import SILENT, Reporter
from engine.repository.backupinfo import BackupInfo


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: a path inside the backup or a WAL file's name, and what is wrong with it."""

    path: str
    problem: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What reading the whole backup said."""

    backup: str
    findings: tuple[Finding, ...]
    files: int
    bytes: int
    method: str
    """Who read the files: pg_verifybackup or cellarman."""

    @property
    def good(self) -> bool:
        return not self.findings


def verify(server: Server, info: BackupInfo, report: Reporter = SILENT) -> Verdict:
    """Read all of the backup; holds its lock meanwhile. Raises Refused for a backup that never ended."""
    raise NotImplementedError


def work(server: Server, report: Reporter, *, job: str, **arguments: Any) -> dict[str, Any]:
    """Verify as a job; argument `backup`: the backup's id."""
    raise NotImplementedError
