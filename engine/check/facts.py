"""What checks judge: gathered once for a server, every source by itself and for a bounded time.

A source that fails or hangs leaves `Unknown` with the reason; the others are not kept waiting by it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from engine.check import live as live_
from engine.check import reach as reach_
from engine.check import storage
from engine.check.live import Live
from engine.check.reach import Reach
from engine.check.storage import Storage
from engine.commands import cellarman
from engine.config import Config, Problem, Server, places
from engine.errors import CellarmanError
from engine.oserrors import explain
from engine.postgres import dsn, pgpass
from engine.postgres.connection import Identity
from engine.postgres.pgpass import PasswordFile
from engine.postgres.programs import Program
from engine.repository import identity, locks
from engine.repository.chain import Chains
from engine.repository.repository import BadPage, Catalogue, bad_pages, catalogue
from engine.repository.repository import facts as repository_facts
from engine.wal import receiver
from engine.wal.judgement.values import Finding

T = TypeVar("T")

_LEAST_FOR_SSH = 25.0
"""Seconds: the server's host is asked to reach this one, and each link may take ten to fail."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Why something is not known, and what to do about it."""

    what: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Home:
    """What the server's part of the repository says."""

    catalogue: Catalogue
    lacking: Mapping[str, str]
    """Why usable backups cannot be restored all the same, by id."""
    system_id: int | None
    receiver: locks.Holder | None
    receiver_said: str
    """The last line of the detached receiver's log."""
    backup: locks.Holder | None
    bad_pages: Mapping[str, tuple[BadPage, ...]]
    """Of the usable backups that hold pages whose checksum did not match, by id."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known about a server now."""

    server: Server
    now: datetime
    config_file: str
    """The configuration to name to other accounts' programs; "" when they find it by themselves."""
    warnings: tuple[Problem, ...]
    """What the configuration should not stay like."""
    live: Live | Unknown
    streaming: Identity | Unknown
    programs: Mapping[str, Program | Unknown]
    storage: Storage | Unknown
    home: Home | Unknown
    reach: Reach | Unknown | None = None
    """The server's host by SSH; None when none is configured."""
    passwords: PasswordFile | None = None
    """None when there is no connection to make."""
    rsync: str = ""
    """The version of rsync here; "" when there is none."""
    arrived: bool | None = None
    """Whether the last segment that archive_command delivered is here; None when that cannot be told."""
    archive: tuple[Finding, ...] | Unknown = Unknown("it was not looked into")
    """What `engine.wal.findings` says of the archive from the disk alone, worst first."""
    named: str = ""
    """The configuration to name to our programs as they are run here; "" when they find it by themselves."""

    def ours(self, *words: str) -> str:
        """Return a command line of ours to paste here."""
        return cellarman(*words).line(self.named)


class Probe(threading.Thread, Generic[T]):
    """One source being asked, in a thread that is left behind when it hangs."""

    def __init__(self, what: str, seconds: float, ask: Callable[[], T], named: str) -> None:
        """`named`: the configuration that commands to paste have to name."""
        super().__init__(name=what, daemon=True)
        self._what = what
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._ask = ask
        self._named = named
        self._answer: T | Unknown | None = None
        self._defect: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._answer = self._ask()
        except CellarmanError as error:
            self._answer = Unknown(str(error), error.now(self._named))
        except OSError as error:
            told = explain(error)
            self._answer = Unknown(f"{told}: {told.why}", told.now(self._named))
        except BaseException as error:  # a defect is raised where the answer is asked for
            self._defect = error

    def answer(self) -> T | Unknown:
        """Return the answer, waiting no longer than agreed."""
        self.join(max(0.0, self._deadline - time.monotonic()))
        if self._defect is not None:
            raise self._defect
        if self._answer is None:
            return Unknown(
                f"{self._what}: no answer within {self._seconds:g} s", "raise check_timeout, or see why it hangs"
            )
        return self._answer


def gather(config: Config, server: Server, now: datetime) -> Facts:
    """Ask every source about a server; takes three times check_timeout at most, and 25 s with SSH."""
    from engine.wal import findings

    bound = float(server.check_timeout)
    measure, named = not config.read_only, config.named
    store = Probe(
        "the repository's disk", bound, lambda: storage.look(server.layout, config.state_directory, measure), named
    )
    home = Probe("the repository", bound, lambda: _home(server), named)
    archive = Probe("the WAL archive", bound, lambda: findings.at_a_glance(server, now)[1], named)
    ssh = server.ssh if server.active and server.ssh and server.ssh.host else None
    reach = Probe(f"ssh to {ssh}", max(bound, _LEAST_FOR_SSH), lambda: reach_.look(ssh, server), named) if ssh else None
    if server.active and server.conninfo:
        live = Probe(
            f"PostgreSQL of {server.name}", bound, lambda: live_.look(server, _patience(server)), named
        ).answer()
        if isinstance(live, Unknown) and server.streaming_conninfo in ("", server.conninfo):
            streaming: Identity | Unknown = live
        else:  # afterwards, so that this WAL sender is not counted among those in use
            streaming = Probe(f"replication to {server.name}", bound, lambda: _streaming(server), named).answer()
    else:
        why = "the server is not active" if not server.active else "there is no conninfo"
        live = streaming = Unknown(why)
    major = live.facts.major if isinstance(live, Live) else None
    programs = Probe("PostgreSQL's programs", bound, lambda: _programs(server, major), named)
    found = programs.answer()
    return Facts(
        server,
        now,
        _config_file(config),
        config.warnings,
        live,
        streaming,
        dict.fromkeys(PROGRAMS, found) if isinstance(found, Unknown) else found,
        store.answer(),
        home.answer(),
        reach.answer() if reach else None,
        _passwords(server),
        _rsync(),
        _arrived(server, live),
        archive.answer(),
        named,
    )


def _patience(server: Server) -> int:
    """Return the seconds that libpq may take, less than the probe's own so that its words are heard."""
    return min(10, max(2, server.check_timeout - 2))


def _streaming(server: Server) -> Identity:
    from engine.postgres import connection

    return connection.identify_system(server.streaming_conninfo or server.conninfo, timeout=_patience(server))


def _passwords(server: Server) -> PasswordFile | None:
    try:
        return pgpass.look(dsn.parse(server.conninfo)) if server.conninfo else None
    except ValueError:
        return None


def _rsync() -> str:
    from engine.host.local import ThisHost

    found = reach_.RSYNC.search(ThisHost().run(["rsync", "--version"]).out.decode(errors="replace"))
    return found[1] if found else ""


def _arrived(server: Server, live: Live | Unknown) -> bool | None:
    """Tell whether what PostgreSQL archived last is in incoming/ or wals/, or was refused and is known as such."""
    if isinstance(live, Unknown) or not server.archiver or live.facts.archiver.last_archived_wal is None:
        return None
    name, layout = live.facts.archiver.last_archived_wal, server.layout
    return any(os.path.lexists(path) for path in (os.path.join(layout.incoming, name), layout.wal(name)))


PROGRAMS = ("pg_basebackup", "pg_receivewal", "pg_verifybackup")


def _programs(server: Server, major: int | None) -> dict[str, Program | Unknown]:
    from engine.postgres import programs

    found: dict[str, Program | Unknown] = {}
    for name in PROGRAMS:
        try:
            found[name] = programs.find(name, server.path_prefix, major)
        except CellarmanError as error:
            found[name] = Unknown(str(error), error.now(server.named))
    return found


def _home(server: Server) -> Home:
    layout = server.layout
    found, chains = catalogue(layout), Chains(layout)
    return Home(
        found,
        {info.id: why for info in found.usable if (why := chains.lacking(info))},
        identity.system_id(layout),
        receiver.alive(layout),
        receiver.last_words(layout, 1),
        locks.holder(layout.lock("backup")),
        {info.id: bad for info in found.usable if (bad := bad_pages(repository_facts(layout, info.id)))},
    )


def _config_file(config: Config) -> str:
    own = places.of_one_account(config.files)
    return own[-1] if own else ""
