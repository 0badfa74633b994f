"""Archives written in the shorthand of the test vectors: files with true headers, backups, histories."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from engine.config import Server
from engine.event import Silent
from engine.postgres.facts import Archiver
from engine.postgres.lsn import Lsn
from engine.repository import annotations, identity, repository, xlogdb
from engine.repository.backupinfo import BackupInfo
from engine.wal import codec
from engine.wal.findings import gather
from engine.wal.judgement.judge import in_order, judge
from engine.wal.judgement.values import Finding
from engine.wal.live import Live
from tests.engine.wal import pages
from tests.engine.wal.pages import SIZE, SYSTEM, filled

NOW = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(hours=2)
"""After everything that these tests write has settled."""
HOUR = timedelta(hours=1)


def numbers(text: str) -> list[tuple[int, int]]:
    """Return (timeline, number) of "1/1..1/4 2/5": hexadecimal, both ends included."""
    found: list[tuple[int, int]] = []
    for word in text.split():
        first, _, last = word.partition("..")
        timeline, begin = (int(part, 16) for part in first.split("/"))
        end = int(last.split("/")[1], 16) if last else begin
        found += [(timeline, number) for number in range(begin, end + 1)]
    return found


@dataclass
class Repo:
    """A server's repository under `root`."""

    root: Path
    server: Server = field(init=False)

    def __post_init__(self) -> None:
        self.server = Server("main", str(self.root / "home"))
        repository.prepare(self.server.layout)
        identity.write(self.server.layout, SYSTEM, 15)

    @property
    def layout(self) -> Any:
        return self.server.layout

    def put(self, text: str, compression: str = "none", **kind: int) -> Repo:
        """Archive segments."""
        for timeline, number in numbers(text):
            path = self.path(timeline, number)
            path.parent.mkdir(exist_ok=True)
            data = content(number, timeline, **kind)
            path.write_bytes(codec.compress(data, compression))
        return self

    def path(self, timeline: int, number: int) -> Path:
        return Path(self.layout.wal(pages.name(number, timeline)))

    def history(self, timeline: int, text: str) -> Repo:
        (Path(self.layout.wals) / f"{timeline:08X}.history").write_text(text)
        return self

    def backup(self, first: int, last: int, timeline: int = 1, *, hour: int, keep: Any = None, **facts: Any) -> str:
        """Add a backup whose WAL is in the segments `first` to `last`; it ended `hour` hours before now."""
        ended = NOW - hour * HOUR
        info = BackupInfo(
            (ended - HOUR / 2).strftime(repository.ID_FORMAT),
            server_name="main",
            status="DONE",
            begin_time=ended - HOUR / 2,
            end_time=ended,
            version=150000,
            systemid=SYSTEM,
            xlog_segment_size=SIZE,
        )
        info = replace(info, **facts)
        size = info.xlog_segment_size
        info = info.began(Lsn(first * size + 40), timeline).ended(Lsn(last * size + 600), timeline)
        os.makedirs(self.layout.data(info.id), exist_ok=True)
        repository.save(self.layout, info)
        if keep:
            annotations.set_keep(self.layout, info.id, keep)
        return info.id

    def catalogue_all(self) -> None:
        """Write every archived file into xlog.db."""
        xlogdb.rebuild(self.layout, codec.sniff)

    def findings(self, live: Live | None = None, now: datetime = NOW, selected: tuple[int, ...] = ()) -> list[Finding]:
        """Return the findings, worst first; `live` stands for the running server's word."""
        made = gather(self.server, now=now, ask_server=False, read_only=False, selected=selected, told=Silent())
        cases = [replace(case, live=None if case.past else live) for case in made.cases]
        return in_order([*made.remarks, *(finding for case in cases for finding in judge(case))])


def content(number: int, timeline: int, **kind: int) -> bytes:
    """Return a segment's bytes whose valid data fills it: one record of no interest from page to page. The timeline
    `of` wrote the first half of it, by default its own."""
    first = kind.pop("of", timeline)
    data = bytearray(filled(number, timeline, **kind))
    for page in range(0, len(data) // 2, 8192):
        data[page + 4 : page + 8] = first.to_bytes(4, "little")
    return bytes(data)


def primary(
    written: int,
    *,
    inside: bool = True,
    ready: dict[str, datetime] | None = None,
    done: tuple[str, ...] = (),
    pg_wal: tuple[str, ...] = (),
    last_archived: str | None = None,
    last_archived_time: datetime | None = NOW - timedelta(hours=1),
    timeline: int = 1,
    archive_timeout: int = 0,
    failing: str | None = None,
    **more: Any,
) -> Live:
    """Return a primary that writes segment `written`."""
    return Live(
        SYSTEM,
        SIZE,
        timeline,
        False,
        Lsn(written * SIZE + (5000 if inside else 0)),
        True,
        archive_timeout,
        Archiver(
            1 if last_archived else 0,
            last_archived,
            last_archived_time if last_archived else None,
            1 if failing else 0,
            failing,
            NOW if failing else None,
        ),
        ready or {},
        frozenset(done),
        dict.fromkeys(pg_wal, SIZE),
        **more,
    )


def alarms(found: list[Finding]) -> list[tuple[str, str, str | None, str | None, str | None]]:
    """Return (kind, severity, state, first, last) of what is more than a note."""
    return [(f.kind, f.severity, f.state, short(f.first), short(f.last)) for f in found if f.severity != "note"]


def notes(found: list[Finding]) -> set[str]:
    return {f.kind for f in found if f.severity == "note"}


def short(name: str | None) -> str | None:
    """Return a segment's name as the vectors write it: 1/5."""
    if name is None or len(name) != 24:
        return name
    return f"{int(name[:8], 16):X}/{int(name[8:16], 16) * (2**32 // SIZE) + int(name[16:], 16):X}"
