"""How each server stands, read from the disk alone: no lock is taken and no server is asked.

The answer is a verdict (health), the findings behind it with what to do, and how far the server can be restored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from engine.config import Config, Server
from engine.errors import CellarmanError
from engine.job import follow
from engine.job.state import JobState
from engine.status import disk, verdict
from engine.status.values import ORDER, Finding, Health, ServerStatus, Severity, Wal, Window

__all__ = ["Finding", "Health", "ServerStatus", "Severity", "Statuses", "Wal", "Window", "statuses", "worst_first"]


AT_EASE = 40
"""Servers that are all judged in each minute."""


class Statuses:
    """Reads how all servers of a configuration stand; each look reads only what changed since the one before."""

    def __init__(self, config: Config) -> None:
        active = [server for server in config.servers.values() if server.active]
        # Of many servers each is judged less often, so that the work in a minute stays the same.
        good_for = disk.GOOD_FOR * max(1, len(active) // AT_EASE)
        self._readers = [disk.Reader(server, good_for=good_for) for server in active]

    def read(self, jobs: Sequence[JobState], now: datetime) -> tuple[ServerStatus, ...]:
        """Return every active server, worst first. One that cannot be read stops no other."""
        return worst_first(self.each(jobs, now))

    def each(self, jobs: Sequence[JobState], now: datetime) -> Iterator[ServerStatus]:
        """Yield the active servers one by one, as they are read."""
        for reader in self._readers:
            yield _status(reader, [job for job in jobs if job.server == reader.server.name], now)


def worst_first(found: Iterable[ServerStatus]) -> tuple[ServerStatus, ...]:
    """Return servers in the order in which they need a look."""
    return tuple(sorted(found, key=lambda status: (ORDER.index(status.health), status.name)))


def statuses(config: Config, now: datetime) -> list[ServerStatus]:
    """Return how every active server stands, worst first."""
    return list(Statuses(config).read(follow.jobs(config.state_directory), now))


def _status(reader: disk.Reader, jobs: Sequence[JobState], now: datetime) -> ServerStatus:
    server = reader.server
    try:
        return _read(reader, server, jobs, now)
    except (OSError, CellarmanError) as error:
        finding = Finding("warning", "its part of the repository cannot be read", str(error))
        running = tuple(job for job in jobs if job.status == "running")
        return ServerStatus(server.name, "unknown", server.description, server.protected, (finding,), jobs=running)


def _read(reader: disk.Reader, server: Server, jobs: Sequence[JobState], now: datetime) -> ServerStatus:
    catalogue = reader.catalogue()
    judged = reader.judged(catalogue, now)
    reached = reader.reached(catalogue, judged)
    wal = reader.wal(judged.archive)
    running = tuple(job for job in jobs if job.status == "running")
    ended = [job for job in jobs if job.status != "running"]
    found = verdict.findings(
        server,
        catalogue.backups,
        catalogue.unreadable,
        reader.bad_pages(catalogue),
        reader.lacking(catalogue),
        reached.windows,
        judged.findings,
        wal,
        running,
        ended,
        now,
    )
    return ServerStatus(
        server.name,
        verdict.health(found, running),
        server.description,
        server.protected,
        found,
        catalogue.backups,
        catalogue.unreadable,
        reached.windows,
        gaps=verdict.gaps(judged.findings),
        open_end=reached.open_end,
        archived_until=reached.archived_until,
        wal=wal,
        jobs=running,
    )
