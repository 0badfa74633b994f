"""A restore as a value: every step, byte and refusal, before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from engine.commands import Command, cellarman
from engine.errors import Refused
from engine.host.endpoint import Endpoint
from engine.postgres.lsn import Lsn
from engine.postgres.walrecord import TablespaceMade
from engine.recovery.destination import Placed
from engine.recovery.facts import Mark
from engine.recovery.place import Leftover
from engine.recovery.settings import Action
from engine.recovery.target import EndOfArchive, Target, TimeTarget, XidTarget, from_document, options, to_document
from engine.repository.backupinfo import BackupInfo


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for."""

    server: str
    destination: str
    """Absolute."""
    backup: str = "auto"
    """auto, an id, a name, latest, oldest."""
    target: Target = field(default_factory=EndOfArchive)
    timeline: str = "latest"
    action: Action = "pause"
    tablespaces: Mapping[str, str] = field(default_factory=dict)
    """Name or oid of a tablespace to its new directory."""
    start: bool = False
    port: int | None = None
    config_file: str = ""
    """The configuration that the restore_command names; empty for the usual places."""
    on: str = ""
    """Another host, "[user@]host[:port]"; empty for this one."""
    delta: bool = False
    """Change an existing, stopped data directory there into what the backup holds."""
    checksum: bool = False
    """Compare the files of a delta by content, not by size and time."""

    def command(self, *changed: str, backup: str | None = None, target: bool = True) -> Command:
        """Return the command that asks for this, with another backup, and other target options if told."""
        words = ["restore", self.server, backup or self.backup, self.destination]
        words += [*(options(self.target) if target else []), *changed]
        words += [] if self.timeline == "latest" else ["--timeline", self.timeline]
        words += [] if self.action == "pause" else ["--action", self.action]
        for name, directory in self.tablespaces.items():
            words += ["--tablespace", f"{name}={directory}"]
        words += ["--start"] if self.start else []
        words += ["--port", str(self.port)] if self.port else []
        words += ["--on", self.on] if self.on else []
        words += ["--delta"] if self.delta else []
        words += ["--checksum"] if self.checksum else []
        return cellarman(*words)

    def locks_readers(self, dropped: Mark) -> bool:
        """Tell whether a pause just before this transaction's end would leave the lock of what it drops in force."""
        before_its_end = isinstance(self.target, TimeTarget) or (
            isinstance(self.target, XidTarget) and not self.target.inclusive
        )
        return before_its_end and self.action == "pause" and dropped.drops

    def to_arguments(self) -> dict[str, Any]:
        """Return the order as a job's arguments, JSON-ready."""
        return {
            "destination": self.destination,
            "backup": self.backup,
            "target": to_document(self.target),
            "timeline": self.timeline,
            "action": self.action,
            "tablespaces": dict(self.tablespaces),
            "start": self.start,
            "port": self.port,
            "config_file": self.config_file,
            "on": self.on,
            "delta": self.delta,
            "checksum": self.checksum,
        }

    @classmethod
    def from_arguments(cls, server: str, arguments: Mapping[str, Any]) -> Order:
        """Return the order that `to_arguments` wrote."""
        known = {key: value for key, value in arguments.items() if key in cls.__slots__ and key != "target"}
        return cls(server=server, target=from_document(arguments["target"]), **known)


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment that can be reached, and the command that does it."""

    at: datetime | None
    lsn: Lsn | None
    what: str
    command: Command
    target: Target = field(default_factory=EndOfArchive)
    """What gets there."""
    backup: str = ""
    """The backup that it needs; empty: the one that was asked for."""

    def to_json(self) -> str | None:
        """Return the time, or the LSN where no time is known."""
        return self.at.isoformat() if self.at else (str(self.lsn) if self.lsn is not None else None)


@dataclass(frozen=True, slots=True)
class WalRange:
    """The segments that replay reads."""

    first: str
    last: str
    count: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What a delta would do to the files that are there."""

    bytes: int
    """Of the files that differ or are missing; rsync sends less of those that differ in part."""
    sent: int
    """Files."""
    removed: int
    lines: tuple[str, ...]
    """rsync's itemised lines, the first of them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a restore would do, or why it will not."""

    order: Order
    reachable: bool
    refusals: tuple[Refused, ...] = ()
    before: Moment | None = None
    """The nearest reachable moment before an unreachable target."""
    after: Moment | None = None
    info: BackupInfo | None = None
    timeline: int | None = None
    wal: WalRange | None = None
    kept: Mark | None = None
    dropped: Mark | None = None
    beneath: tuple[str, ...] = ()
    """The ids of the backups that an incremental one is combined with, newest first."""
    copy_bytes: int | None = None
    """Bytes that will be written to the data directory and the tablespaces."""
    free_bytes: int | None = None
    """Free where the data directory will be."""
    placed: tuple[Placed, ...] = ()
    replayed: tuple[TablespaceMade, ...] = ()
    """Tablespaces that WAL makes, each in a directory that nothing can change."""
    leftover: Leftover | None = None
    steps: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    endpoint: Endpoint | None = None
    """The other host that it goes to; None for this one."""
    delta: bool = False
    """The destination is a data directory that will be changed."""
    changes: Changes | None = None
    segments: tuple[str, ...] = ()
    """The names of the WAL that is staged on the other host."""
    open_end: bool = True
    """The archive ended after those when the plan was made."""
    staging: str = ""
    """The directory on the other host that WAL is staged in."""

    @property
    def roots(self) -> list[str]:
        """The directories that are made, the data directory first."""
        spaces = (space.directory for space in self.placed)
        return [self.order.destination, *spaces, *(space.location for space in self.replayed)]

    @property
    def goes_on(self) -> bool:
        """Whether a restore here takes up what an interrupted one left: rsync goes on with files; what comes out of tar
        files, or is combined from a chain, comes anew."""
        return bool(self.order.on) and self.info is not None and not self.info.is_tar and not self.beneath

    @property
    def refused(self) -> Refused | None:
        """The first reason why it will not be done, None when it can be."""
        return self.refusals[0] if self.refusals else None

    def to_json(self, config_file: str) -> dict[str, Any]:
        """Return the plan as the command line's JSON document; `config_file` is named in the commands."""
        why = self.refused
        return {
            "server": self.order.server,
            "destination": self.order.destination,
            "host": str(self.endpoint) if self.endpoint else None,
            "staging": self.staging or None,
            "changes": (
                {
                    "bytes": self.changes.bytes,
                    "sent_files": self.changes.sent,
                    "removed_files": self.changes.removed,
                    "lines": list(self.changes.lines),
                }
                if self.changes
                else None
            ),
            "reachable": self.reachable,
            "reason": str(why) if why else None,
            "fix": why.now(config_file) if why else None,
            "refusals": [{"what": r.what, "why": r.why, "fix": r.now(config_file)} for r in self.refusals],
            "nearest": {
                "before": self.before.to_json() if self.before else None,
                "after": self.after.to_json() if self.after else None,
            },
            "nearest_commands": {
                "before": self.before.command.line(config_file) if self.before else None,
                "after": self.after.command.line(config_file) if self.after else None,
            },
            "backup": self.info.id if self.info else None,
            "rests_on": list(self.beneath),
            "target": to_document(self.order.target),
            "timeline": self.timeline,
            "wal": (
                {"first": self.wal.first, "last": self.wal.last, "count": self.wal.count, "bytes": self.wal.bytes}
                if self.wal
                else None
            ),
            "last_kept": _mark(self.kept),
            "first_dropped": _mark(self.dropped),
            "copy_bytes": self.copy_bytes,
            "free_bytes": self.free_bytes,
            "steps": list(self.steps),
            "settings": dict(self.settings),
            "warnings": list(self.warnings),
        }


def _mark(mark: Mark | None) -> dict[str, Any] | None:
    if mark is None:
        return None
    return {"time": mark.at.isoformat(), "xid": mark.xid, "lsn": str(mark.lsn), "commit": mark.commit}
