"""The tree of timelines: who left whom, where and why, and what the archive holds of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

from engine.config import Server
from engine.event import Silent
from engine.postgres.lsn import Lsn
from engine.wal.findings import gather
from engine.wal.gaps import newest_from
from engine.wal.judgement.values import Case


@dataclass(frozen=True, slots=True)
class Branch:
    """One timeline."""

    timeline: int
    parent: int | None
    begin: Lsn | None
    """Where it left its parent."""
    reason: str
    history: Literal["none", "ok", "missing", "invalid"]
    """Whether the archive has its history file; timeline 1 has none."""
    first: str | None
    last: str | None
    count: int
    lacking: int
    """Segments that lack between the first and the last."""
    backups: tuple[str, ...]
    depth: int = 0
    current: bool = False
    """The running server is on it."""
    latest: bool = False
    """Recovery of the newest backup to `latest` follows it."""

    def to_json(self) -> dict[str, Any]:
        return {
            "timeline": self.timeline,
            "parent": self.parent,
            "begin_lsn": None if self.begin is None else str(self.begin),
            "reason": self.reason or None,
            "history": self.history,
            "first": self.first,
            "last": self.last,
            "count": self.count,
            "lacking": self.lacking,
            "backups": list(self.backups),
            "current": self.current,
            "latest": self.latest,
        }

    def remarks(self) -> Iterator[str]:
        """Yield what is worth a word about it."""
        if self.current:
            yield "the server is on it"
        if self.latest:
            yield "latest"
        if self.history in ("missing", "invalid"):
            yield f"its history is {self.history}"
        if self.lacking:
            yield f"{self.lacking} segments lack"
        if self.reason:
            yield self.reason


def family(server: Server, *, ask_server: bool, read_only: bool) -> tuple[list[Branch], tuple[str, ...]]:
    """Return a server's timelines, parents before their children, and what could not be judged."""
    made = gather(
        server,
        now=datetime.now(timezone.utc),
        ask_server=ask_server,
        read_only=read_only,
        selected=(),
        told=Silent(),
    )
    return (tree(made.cases[0]) if made.cases else []), made.unknown


def tree(case: Case) -> list[Branch]:
    """Return the timelines of a case, each parent followed by its children."""
    archive = case.archive
    seen = {t for t, numbers in archive.segments.items() if len(numbers)}
    seen |= {*archive.histories, *archive.bad_histories, *(base.timeline for base in case.bases)}
    seen |= {switch.timeline for switches in archive.histories.values() for switch in switches}
    if case.live is not None:
        seen.add(case.live.timeline)
    newest = max(case.bases, key=lambda base: (base.ended, base.id), default=None)
    latest = newest_from(archive, newest.timeline) if newest else max(seen, default=0)
    children: dict[int | None, list[int]] = {}
    for timeline in sorted(seen):
        history = archive.histories.get(timeline)
        children.setdefault(int(history[-1].timeline) if history else None, []).append(timeline)
    found: list[Branch] = []
    pending = [(timeline, 0) for timeline in reversed(children.get(None, ()))]
    while pending:
        timeline, depth = pending.pop()
        found.append(_branch(case, timeline, depth, latest))
        pending += [(child, depth + 1) for child in reversed(children.get(timeline, ()))]
    return found


def _branch(case: Case, timeline: int, depth: int, latest: int) -> Branch:
    archive = case.archive
    numbers = archive.segments.get(timeline, ())
    switches = archive.histories.get(timeline, ())
    history: Literal["none", "ok", "missing", "invalid"] = "none" if timeline == 1 else "missing"
    if timeline in archive.bad_histories:
        history = "invalid"
    elif switches:
        history = "ok"
    return Branch(
        timeline,
        int(switches[-1].timeline) if switches else None,
        switches[-1].lsn if switches else None,
        switches[-1].reason if switches else "",
        history,
        archive.name(timeline, numbers[0]) if len(numbers) else None,
        archive.name(timeline, numbers[-1]) if len(numbers) else None,
        len(numbers),
        numbers[-1] - numbers[0] + 1 - len(numbers) if len(numbers) else 0,
        tuple(base.id for base in case.bases if base.timeline == timeline),
        depth,
        case.live is not None and case.live.timeline == timeline,
        timeline == latest,
    )
