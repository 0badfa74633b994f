"""What an operator does that is over at once: each asks for permission, is done, and is written into the trail.

The command line and the console both act through here, so that read-only and protected hold for both alike. Long work
is a job instead: `engine.job.launch`, which does the same for it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from engine import permission, trail
from engine.commands import cellarman
from engine.config import Config, Server
from engine.errors import Advice, Busy, CellarmanError, Refused, UsageError
from engine.postgres import dsn
from engine.repository import annotations as marks
from engine.repository import locks, repository
from engine.repository.annotations import Keep
from engine.repository.backupinfo import BackupInfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engine.postgres.lsn import Lsn

LABEL = "label"
"""The key of a backup's label among our own facts."""
LONGEST_LABEL = 200
_LONGEST_NAME = 63
_POLL = 0.2


def command_line(config: Config, *words: str) -> str:
    """Return a command line of ours on this configuration."""
    return cellarman(*words).line(config.named)


def keep_words(server: str, backup: str, how: Keep | None) -> list[str]:
    """Return the words of the command line that keeps a backup, or with None releases it."""
    return ["keep", server, backup, "--release" if how is None else f"--{how}"]


def label_words(server: str, backup: str, text: str) -> list[str]:
    return ["label", server, backup, *(["--text", text] if text else ["--remove"])]


def restore_point_words(server: str, name: str, switch: bool) -> list[str]:
    return ["wal", "restore-point", server, name, *(["--switch"] if switch else [])]


@dataclass(frozen=True, slots=True)
class Marked:
    """A named restore point that was made."""

    name: str
    lsn: Lsn
    switched: bool
    """Whether the segment was ended, so that it is archived at once."""


@dataclass(frozen=True, slots=True)
class Actions:
    """Acts on the servers of one configuration, on behalf of `via`: command or console."""

    config: Config
    via: str = "command"
    read_only: bool = False
    """Over the configuration's own."""
    say: Callable[[str], object] | None = None
    """Takes what went wrong beside the action itself."""

    def acting(self, action: permission.Action, server: Server, subject: str, *words: str) -> trail.Acting:
        """Return the context that writes this action down; asks for nothing yet."""
        return trail.Acting(
            self.config.state_directory,
            action,
            server.name,
            subject=subject,
            command=command_line(self.config, *words),
            via=self.via,
            say=self.say,
            clean=dsn.redact,
        )

    def require(self, action: permission.Action, server: Server) -> None:
        """Raise Refused when this is read-only, or the server protected against it."""
        permission.require(
            action, server.name, read_only=self.read_only or self.config.read_only, protected=server.protected
        )

    def keep(self, server_name: str, backup: str, how: Keep | None) -> BackupInfo:
        """Keep a backup from retention and deletion, or with None let it go again; returns it as it was before.

        Raises Refused for a backup that cannot usefully be kept, as Barman does.
        """
        server = self.config.server(server_name)
        with self.acting("keep", server, backup, *keep_words(server.name, backup, how)) as acting:
            self.require("keep", server)
            layout = server.layout
            info = repository.find(layout, backup)
            acting.subject = info.id
            with locks.hold(layout.lock(info.id), wait=server.lock_timeout, what=f"mark backup {info.id}"):
                if how is not None:
                    _must_be_keepable(server.name, repository.load(layout, info.id))
                try:
                    if how is None:
                        marks.release(layout, info.id)
                    else:
                        marks.set_keep(layout, info.id, how)
                except OSError as error:
                    raise CellarmanError(
                        f"backup {info.id} of server {server.name} is not marked", str(error)
                    ) from error
            acting.detail = "not kept any more" if how is None else f"kept, {how}"
            return info

    def label(self, server_name: str, backup: str, text: str) -> BackupInfo:
        """Write a line about a backup beside it, for people; an empty one removes it. Returns the backup."""
        server = self.config.server(server_name)
        clean = " ".join(text.split())
        with self.acting("label", server, backup, *label_words(server.name, backup, clean)) as acting:
            self.require("label", server)
            if len(clean) > LONGEST_LABEL or not (clean.isprintable() or not clean):
                raise UsageError(
                    "not a label", f"one line of at most {LONGEST_LABEL} characters is needed", "write a shorter one"
                )
            layout = server.layout
            info = repository.find(layout, backup)
            acting.subject = info.id
            with locks.hold(layout.lock(info.id), wait=server.lock_timeout, what=f"label backup {info.id}"):
                if not repository.load(layout, info.id).usable:
                    why = f"its status is {info.status.lower()}"
                    raise Refused(f"backup {info.id} is not labelled", why, "label a backup that is done")
                facts = {key: value for key, value in repository.facts(layout, info.id).items() if key != LABEL}
                repository.save_facts(layout, info.id, {**facts, LABEL: clean} if clean else facts)
            acting.detail = clean or "removed"
            return info

    def switch_wal(self, server_name: str) -> Lsn:
        """End the server's current WAL segment early, so that it is archived; returns the end of what it holds."""
        from engine.postgres import connection as pg

        server = self.config.server(server_name)
        with self.acting("switch", server, "", "wal", "switch", server.name) as acting:
            self.require("switch", server)
            with pg.connect(_conninfo(server), timeout=server.check_timeout) as connection:
                end = pg.switch_wal(connection)
            acting.detail = f"up to {end}"
            return end

    def hand_over(self, server_name: str, *, wait: float = 40.0) -> str:
        """Have the server end its current segment, and wait until that is archived; returns what came of it.

        Takes in what arrives meanwhile, whether or not an agent does so too. Raises Busy when time is up.
        """
        from engine.postgres import connection as pg

        server = self.config.server(server_name)
        with self.acting("switch", server, "", "wal", "switch", server.name) as acting:
            self.require("switch", server)
            with pg.connect(_conninfo(server), timeout=server.check_timeout) as connection:
                name = pg.segment_before(connection, pg.switch_wal(connection))
            acting.detail = f"{name} ended"
            _await_archived(server, name, wait)
            return f"All that was committed until now is archived, up to the end of {name}."

    def restore_point(self, server_name: str, name: str, *, switch: bool = True) -> Marked:
        """Make a named restore point on the server; with `switch` end its segment, so that it can soon be reached.

        Raises UsageError for a name that PostgreSQL would not take.
        """
        from engine.postgres import connection as pg

        server = self.config.server(server_name)
        with self.acting("restore-point", server, name, *restore_point_words(server.name, name, switch)) as acting:
            self.require("restore-point", server)
            _must_be_a_name(name)
            with pg.connect(_conninfo(server), timeout=server.check_timeout) as connection:
                lsn = pg.create_restore_point(connection, name)
                if switch:
                    pg.switch_wal(connection)
            acting.detail = f"at {lsn}"
            return Marked(name, lsn, switch)

    def accept_gap(self, server_name: str, first: str, last: str, reason: str) -> None:
        """Write down that a gap is borne, and why; it alarms no more, and still bounds what can be recovered."""
        from engine.wal import accepted

        server = self.config.server(server_name)
        span = f"{first}..{last}"
        words = ("wal", "gaps", server.name, "--accept", span, "--reason", reason)
        with self.acting("accept", server, span, *words) as acting:
            self.require("accept", server)
            if not reason.strip():
                raise UsageError("a gap is accepted with its reason", "there is none", "say why it is borne")
            accepted.parse_range(span)
            by = trail.entry("accept", server.name, "done").who
            accepted.accept(
                server.layout, accepted.Accepted(first, last, reason.strip(), datetime.now(timezone.utc), by)
            )
            acting.detail = reason.strip()


def label_of(server: Server, backup_id: str) -> str:
    """Return a backup's label, empty when it has none."""
    found = repository.facts(server.layout, backup_id).get(LABEL, "")
    return found if isinstance(found, str) else ""


def _await_archived(server: Server, name: str, wait: float) -> None:
    """Take in WAL until a segment is archived; raises Busy after `wait` seconds."""
    from engine.wal.ingest import ingest

    deadline = time.monotonic() + wait
    while not os.path.exists(server.layout.wal(name)):
        if time.monotonic() >= deadline:
            raise Busy(
                f"{name} has not been archived within {wait:.0f} s",
                "the server ended it, and it has not arrived here",
                Advice("see what keeps it: ", cellarman("check", server.name)),
            )
        with contextlib.suppress(Busy):
            ingest(server)
        time.sleep(_POLL)


def _conninfo(server: Server) -> str:
    if not server.conninfo:
        raise Refused(
            f"server {server.name} cannot be asked",
            "its configuration has no conninfo",
            f"set conninfo under [servers.{server.name}]",
        )
    return server.conninfo


def _must_be_a_name(name: str) -> None:
    """Raise UsageError for what pg_create_restore_point would refuse, or cut."""
    if not name or not name.isprintable() or len(name.encode()) > _LONGEST_NAME:
        raise UsageError(
            f"not a restore point's name: {name!r}",
            f"PostgreSQL takes 1 to {_LONGEST_NAME} bytes, on one line",
            "choose another name",
        )


def _must_be_keepable(server: str, info: BackupInfo) -> None:
    """Raise Refused for a backup that keeping would not make useful, as Barman does."""
    if info.deleting:
        why = "its deletion has begun"
    elif not info.usable:
        why = f"its status is {info.status.lower()}: only a backup that is done can be kept"
    elif info.is_incremental:
        why = (
            f"it is incremental: keep the full backup that it rests on instead ({info.parent_backup_id} is its parent)"
        )
    else:
        return
    choose = Advice("choose another: ", cellarman("backups", server))
    raise Refused(f"backup {info.id} of server {server} is not kept", why, choose)
