"""What the running servers say, beside what the disk tells: asked in the background, each for a bounded time.

A server that does not answer is a value with the reason, and is asked again later and later; it keeps no other
waiting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone

from engine.commands import cellarman
from engine.config import Server
from engine.errors import CellarmanError
from engine.postgres.pulse import Pulse
from engine.remedy import run
from engine.status.values import ORDER, Finding, ServerStatus

ASKERS = 8
"""Connections that are open at the same time, at most."""
PAUSE = 10.0
"""Seconds between two questions to a server that answers; more when there are many servers."""
PATIENCE = 5
"""Seconds that connecting, or the answer, may take."""
LONGEST_PAUSE = 120.0
"""Seconds between two questions to a server that does not answer, at most."""


@dataclass(frozen=True, slots=True)
class Live:
    """How one server answered last."""

    name: str
    at: datetime = field(compare=False)
    pulse: Pulse | None = None
    """None when it did not answer."""
    reason: str = ""
    """Why not, in libpq's words."""
    fix: str = ""
    again: datetime | None = field(default=None, compare=False)
    """When it is asked again, to the minute, if it did not answer."""


def ask(server: Server) -> Pulse:
    """Ask a server once; raises CellarmanError when it does not answer in time."""
    from engine.postgres import connection, pulse

    with connection.connect(
        server.conninfo, timeout=PATIENCE, statement_timeout=PATIENCE, application_name="cellarman console"
    ) as link:
        return pulse.feel(link, server.slot_name)


def judged(status: ServerStatus, live: Live | None, server: Server) -> ServerStatus:
    """Return how a server stands when what it says itself is heard too."""
    if live is None:
        return status
    found = tuple(_findings(live, server))
    if not found:
        return status
    rank = {"critical": 0, "warning": 1, "note": 2}
    every = tuple(sorted((*status.findings, *found), key=lambda finding: rank[finding.severity]))
    health = status.health
    if live.pulse is None and not status.backups and health != "critical":
        health = "unknown"
    elif ORDER.index(health) > ORDER.index("warning"):
        health = "warning"
    return replace(status, health=health, findings=every)


def _findings(live: Live, server: Server) -> list[Finding]:
    check = run(cellarman("check", server.name))
    if live.pulse is None:
        again = f"asked again at {live.again:%H:%M} UTC" if live.again else ""
        return [Finding("warning", f"PostgreSQL does not answer: {short(live.reason)}", again, check)]
    found: list[Finding] = []
    pulse = live.pulse
    if pulse.failed_wal and server.archiver:
        since = f"last at {pulse.failed_at.astimezone(timezone.utc):%H:%M} UTC" if pulse.failed_at else ""
        what = f"archive_command fails for {pulse.failed_wal}"
        found.append(Finding("warning", what, since, check))
    if pulse.slot_lost and server.streaming_archiver:
        why = "the server has removed WAL that was not received yet"
        what, take = f"replication slot {server.slot_name} is lost", run(cellarman("backup", server.name))
        found.append(Finding("critical", what, why, take, "backup"))
    return found


def short(reason: str) -> str:
    """Return the heart of what libpq says.

    >>> short('connection to server at "db1", port 5432 failed: No route to host\\n\\tIs the server running?')
    'No route to host'
    >>> short("cannot connect to db1")
    'cannot connect to db1'
    """
    first = reason.strip().splitlines()[0] if reason.strip() else "no reason was given"
    return first.rpartition(" failed: ")[2].removeprefix("FATAL:").strip()


class Poller:
    """Asks the servers again and again, from a few threads; `changed` is called when an answer is another."""

    def __init__(self, servers: Sequence[Server], changed: Callable[[], None]) -> None:
        self._servers = {server.name: server for server in servers if server.active and server.conninfo}
        self._changed = changed
        self._turn = threading.Condition()
        self._due = dict.fromkeys(self._servers, 0.0)
        self._failures = dict.fromkeys(self._servers, 0)
        self._asked: set[str] = set()
        self._answers: dict[str, Live] = {}
        self._stopped = False

    def start(self) -> None:
        count = min(ASKERS, len(self._servers))
        for place in range(count):
            # Half of them ask only those that answered last time, so that the dead keep nobody waiting.
            well = place % 2 == 1
            threading.Thread(target=self._run, args=(well,), name=f"pulse-{place}", daemon=True).start()

    def stop(self) -> None:
        with self._turn:
            self._stopped = True
            self._turn.notify_all()

    def wake(self) -> None:
        """Ask all of them now."""
        with self._turn:
            self._due = dict.fromkeys(self._servers, 0.0)
            self._turn.notify_all()

    def answers(self) -> Mapping[str, Live]:
        """Return the latest answer of each server that was asked."""
        with self._turn:
            return dict(self._answers)

    def _run(self, well: bool) -> None:
        while True:
            with self._turn:
                name = self._next(well)
                while name is None and not self._stopped:
                    self._turn.wait(self._wait())
                    name = self._next(well)
                if self._stopped or name is None:
                    return
                self._asked.add(name)
            live = self._ask(name)
            with self._turn:
                self._asked.discard(name)
                news = self._answers.get(name) != live or _again(self._answers.get(name)) != _again(live)
                self._answers[name] = live
                self._turn.notify_all()
                stopped = self._stopped
            if news and not stopped:
                self._changed()

    def _next(self, well: bool) -> str | None:
        """Return the server to ask now: the one that is due longest of those that nobody asks."""
        now = time.monotonic()
        due = [
            (at, name)
            for name, at in self._due.items()
            if at <= now and name not in self._asked and not (well and self._failures[name])
        ]
        return min(due)[1] if due else None

    def _wait(self) -> float:
        now = time.monotonic()
        rest = [at - now for name, at in self._due.items() if name not in self._asked and at > now]
        return max(0.05, min(rest, default=PAUSE))

    def _ask(self, name: str) -> Live:
        now = datetime.now(timezone.utc)
        try:
            live = Live(name, now, ask(self._servers[name]))
        except CellarmanError as error:
            live = Live(name, now, None, error.why or error.what, error.now(self._servers[name].named))
        with self._turn:
            failures = self._failures[name] + 1 if live.pulse is None else 0
            pause = min(LONGEST_PAUSE, PAUSE * 2 ** min(failures, 5)) if failures else max(PAUSE, len(self._due) / 4)
            self._failures[name] = failures
            self._due[name] = time.monotonic() + pause
        again = (now + timedelta(seconds=pause + 60)).replace(second=0, microsecond=0)
        return replace(live, again=again) if failures else live


def _again(live: Live | None) -> datetime | None:
    return live.again if live else None
