"""A fleet of servers on disk for the console: catalogues, archives and journals made with the engine's own functions.

Nothing runs: the times are those of one fixed moment, so that what is painted is always the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from engine import event as ev
from engine.config import Config, Server
from engine.job import spec as spec_
from engine.job.spec import JobKind, JobSpec
from engine.postgres.lsn import Lsn
from engine.postgres.segment import segment_name
from engine.repository import annotations, repository
from engine.repository.backupinfo import BackupInfo
from engine.wal import archive, index
from tests.support import pages
from tests.support.pages import Ended, Promoted

NOW = datetime(2026, 11, 22, 14, 2, 11, tzinfo=timezone.utc)
SEGMENT = 1 << 20
SYSTEM = 7441002266771234567
GB = 1 << 30


def segment_bytes(timeline: int, number: int, said: Sequence[Ended | Promoted] = (), previous: int = 0) -> bytes:
    """Return a whole WAL segment of PostgreSQL 17."""
    return pages.segment(timeline, number, said, system=SYSTEM, previous=previous, size=SEGMENT)


class Fleet:
    """Servers below one directory."""

    def __init__(self, root: Path, now: datetime = NOW) -> None:
        self.root = root
        self.now = now
        self.servers: dict[str, Server] = {}
        self._locks: list[int] = []

    @property
    def config(self) -> Config:
        return Config(str(self.root / "barman"), str(self.root / "state"), dict(self.servers))

    def server(self, name: str, **settings: object) -> Server:
        """Add a server with an empty repository."""
        server = Server(name, str(self.root / "barman"), **settings)  # type: ignore[arg-type]
        repository.prepare(server.layout)
        self.servers[name] = server
        return server

    def segments(
        self, server: Server, first: int, times: list[datetime], missing: Sequence[int] = (), timeline: int = 1
    ) -> None:
        """Archive segments from number `first` on, one for each time, without those missing; a transaction ends in each
        at its time, one some seconds before."""
        previous = 0
        with tempfile.TemporaryDirectory(dir=self.root) as place:
            for number, at in enumerate(times, first):
                said = ends(number, at)
                if number not in missing:
                    path = os.path.join(place, segment_name(timeline, number, SEGMENT))
                    Path(path).write_bytes(segment_bytes(timeline, number, said, previous))
                    os.utime(path, (at.timestamp(), at.timestamp()))
                    archive.store(server.layout, path, os.path.basename(path))
                previous = pages.last_record(number, said, SEGMENT)
        index.catch_up(server.layout)

    def backup(self, server: Server, ended: datetime, number: int, **facts: object) -> BackupInfo:
        """Add a backup that ended then and whose WAL is in segment `number`."""
        took = timedelta(minutes=facts.pop("minutes", 36))  # type: ignore[arg-type]
        keep = facts.pop("keep", None)
        begun = ended - took
        info = BackupInfo(
            begun.strftime(repository.ID_FORMAT),
            server_name=server.name,
            status="DONE",
            begin_time=begun,
            end_time=ended,
            version=170002,
            systemid=SYSTEM,
            xlog_segment_size=SEGMENT,
            size=412 * GB,
            pgdata="/srv/pg",
        )
        info = info.began(Lsn(number * SEGMENT + 40), 1).ended(Lsn(number * SEGMENT + 600), 1)
        info = replace(info, **facts)
        os.makedirs(server.layout.data(info.id), exist_ok=True)
        repository.save(server.layout, info)
        if keep:
            annotations.set_keep(server.layout, info.id, keep)  # type: ignore[arg-type]
        return info

    def journal(
        self, kind: JobKind, server: str, events: list[ev.Event], *, running: bool = False, **args: object
    ) -> str:
        """Write a job's journal, event by event; a running one has its lock held until the fleet is closed."""
        began = events[0].at
        job = f"{began:%Y%m%d%H%M%S}-{len(self._locks):02x}{zlib.crc32(server.encode()) % 16:x}{len(kind):x}"
        place = Path(spec_.directory(self.config.state_directory)) / job
        place.mkdir(parents=True)
        spec_.write(str(place / spec_.SPEC), JobSpec(job, kind, server, "", args, began, "dba"))
        told = [replace(e, job=job) if isinstance(e, ev.Started) else e for e in events]
        (place / spec_.EVENTS).write_text("".join(json.dumps(ev.to_json(event)) + "\n" for event in told))
        lock = os.open(place / spec_.LOCK, os.O_RDWR | os.O_CREAT, 0o640)
        if running:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._locks.append(lock)
        else:
            os.close(lock)
        return job

    def close(self) -> None:
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()


def ends(number: int, at: datetime) -> list[Ended | Promoted]:
    """Return the transactions of a segment: the last one ends at `at`, every tenth segment's first one drops a file."""
    earlier = at - timedelta(seconds=7, microseconds=12)
    return [Ended(2 * number, earlier, drops=number % 10 == 7), Ended(2 * number + 1, at)]


def every(begin: datetime, end: datetime, step: timedelta) -> list[datetime]:
    """Return the moments until `end` and after `begin`, a step apart."""
    return [end - step * i for i in range(int((end - begin) / step), -1, -1)]


def copying(server: str, at: datetime, done: float, pid: int = 40112) -> list[ev.Event]:
    """Return the events of a backup that copies: `done` of it, for six minutes."""
    total = 11 * GB
    rates = [
        min(1.0, i / 8) * (212 - 60 * (i % 17 == 5) - 90 * (30 < i < 36) + 9 * (i % 5)) * (1 << 20) for i in range(75)
    ]
    begun = at - timedelta(seconds=374)
    events: list[ev.Event] = [
        ev.Started(begun, "", "backup", server, pid),
        ev.BackupNamed(begun, (begun).strftime(repository.ID_FORMAT)),
        ev.Phase(begun, "checkpoint"),
        ev.Note(begun, "info", "streaming from shop-eu-1 (PostgreSQL 17.2) as barman"),
        ev.Phase(begun + timedelta(seconds=9), "copy"),
    ]
    for i, speed in enumerate(rates):
        when = begun + timedelta(seconds=10 + i * 4.8)
        copied = int(total * done * (i + 1) / len(rates))
        events.append(ev.Progress(when, "copy", copied, total, None, None, speed, (total - copied) / max(speed, 1)))
        if i == 12:
            events.append(ev.Note(when, "info", "tablespace fast is copied, 1.0 GiB in 5.2 s"))
        if i == 33:
            events.append(ev.Note(when, "warn", "reading slowly: 7 MiB/s for 34 s on base/16384/24988"))
        if i == 36:
            events.append(ev.Note(when, "info", "archived up to 00000001000001A40000008E"))
    return events


def ended(
    events: list[ev.Event], at: datetime, status: ev.Outcome = "done", reason: str = "", fix: str = ""
) -> list[ev.Event]:
    """Return the events with their end."""
    return [*events, ev.Phase(at - timedelta(seconds=30), "wal"), ev.Ended(at, status, reason, fix)]


@contextlib.contextmanager
def standing(root: Path, now: datetime = NOW) -> Iterator[Fleet]:
    """Build the fleet that the pictures show: one server with a gap, one at risk, one that runs, two that are well."""
    fleet = Fleet(root, now)
    hour = timedelta(hours=1)
    day = timedelta(days=1)
    try:
        _erp(fleet, now, hour, day)
        crm = fleet.server("crm")
        fleet.segments(crm, 300, every(now - 7 * day, now - timedelta(seconds=41), 6 * hour))
        fleet.backup(crm, now - 6.6 * day, 303, size=38 * GB, version=150008, minutes=9)
        good = fleet.backup(crm, now - 31 * hour, 324, size=39 * GB, version=150008, minutes=9)
        failed = now - 7 * hour
        fleet.backup(
            crm,
            failed,
            327,
            status="FAILED",
            size=None,
            end_time=None,
            version=150008,
            error="pg_basebackup ended with 1: connection to server was lost",
            minutes=4,
        )
        begun: list[ev.Event] = [
            ev.Started(failed - timedelta(minutes=4), "", "backup", "crm", 3991),
            ev.BackupNamed(failed - timedelta(minutes=4), good.id),
        ]
        fleet.journal(
            "backup",
            "crm",
            ended(
                begun,
                failed,
                "failed",
                "the backup of crm failed: connection to server was lost",
                "cellarman check crm",
            ),
        )
        _shop(fleet, now, hour, day)
        for name, version, size in (("geo", 160004, 220 * GB), ("ledger", 140009, 1290 * GB)):
            server = fleet.server(name)
            fleet.segments(server, 500, every(now - 6 * day, now - timedelta(seconds=20), 6 * hour))
            fleet.backup(
                server, now - 5.7 * day, 502, size=size, version=version, keep="full" if name == "ledger" else None
            )
            fleet.backup(
                server, now - 9.7 * hour, 522, size=size, version=version, compression="zstd", cluster_size=3 * size
            )
        yield fleet
    finally:
        fleet.close()


def _erp(fleet: Fleet, now: datetime, hour: timedelta, day: timedelta) -> None:
    erp = fleet.server("erp-main", minimum_redundancy=2)
    hole = now.replace(hour=11, minute=48, second=2)
    times = every(hole - 4.5 * day, hole, 3 * hour) + every(hole + 0.3 * hour, now - timedelta(minutes=1), 0.3 * hour)
    last = 400 + len(every(hole - 4.5 * day, hole, 3 * hour)) - 1
    fleet.segments(erp, 400, times, range(last + 1, last + 4))
    fleet.backup(erp, hole - 4.4 * day, 401, version=160004)
    fleet.backup(erp, hole - 3.4 * day, 409, version=160004)
    fleet.backup(erp, hole - 2 * day, 420, version=160004, backup_name="before-upgrade", keep="full")


def _shop(fleet: Fleet, now: datetime, hour: timedelta, day: timedelta) -> None:
    shop = fleet.server("shop-eu")
    fleet.segments(shop, 100, every(now - 3.6 * day, now - timedelta(seconds=12), 4 * hour))
    fleet.backup(shop, now - 3.5 * day, 101, size=11 * GB, minutes=7)
    fleet.backup(shop, now - 2.5 * day, 107, size=11 * GB, minutes=8)
    fleet.backup(shop, now - 1.5 * day, 113, size=11 * GB, minutes=7)
    last = fleet.backup(shop, now - 5 * hour, 120, size=11 * GB, minutes=6)
    assert last.begin_time is not None and last.end_time is not None
    past: list[ev.Event] = [
        ev.Started(last.begin_time, "", "backup", "shop-eu", 38001),
        ev.BackupNamed(last.begin_time, last.id),
        ev.Phase(last.begin_time, "checkpoint"),
        ev.Phase(last.begin_time, "copy"),
        ev.Phase(last.end_time, "sync"),
    ]
    fleet.journal("backup", "shop-eu", ended(past, last.end_time + timedelta(seconds=40)))
    events = copying("shop-eu", now - timedelta(seconds=1), 0.43)
    fleet.journal("backup", "shop-eu", events, running=True)
    named = next(e.backup for e in events if isinstance(e, ev.BackupNamed))
    begun = events[0].at
    info = BackupInfo(named, server_name="shop-eu", status="STARTED", begin_time=begun, version=170002, timeline=1)
    os.makedirs(shop.layout.data(info.id), exist_ok=True)
    repository.save(shop.layout, info)


def write_config(fleet: Fleet) -> str:
    """Write the fleet's configuration as a file and return its path."""
    lines = [
        "[cellarman]",
        f'barman_home = "{fleet.config.barman_home}"',
        f'state_directory = "{fleet.config.state_directory}"',
    ]
    for name in fleet.servers:
        lines += ["", f"[servers.{name}]", 'conninfo = "host=127.0.0.1 port=1"', "archiver = true"]
    path = fleet.root / "cellarman.toml"
    path.write_text("\n".join(lines) + "\n")
    return str(path)
