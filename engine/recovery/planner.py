"""Making a plan: reads the catalogue, the archive and the destination, and writes nothing but the derived index."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from engine.commands import cellarman
from engine.config import Server
from engine.errors import Advice, CellarmanError, NotFound, Refused
from engine.event import Reporter, Silent
from engine.postgres.segment import segment_of
from engine.recovery import detail, elsewhere, nearest
from engine.recovery.candidates import Choice, Miss, choose, keys
from engine.recovery.evidence import InvalidSegment, WalFacts
from engine.recovery.plan import Order, Plan
from engine.recovery.reached import Reached
from engine.recovery.stock import bases, restorable, sound, system_id
from engine.recovery.target import EndOfArchive
from engine.repository import repository
from engine.repository.backupinfo import BackupInfo
from engine.repository.repository import Catalogue
from engine.wal import index
from engine.wal.gaps import Archive, Key

_INDEX_BUDGET = 30.0
"""Seconds that bringing the index up to date may take; what it lacks then is read from the segments."""
PROVING = 10.0
"""Seconds of it that may go into verifying every record of what is new."""
PROVING_QUICKLY = 2.0
"""The same where a restore is waited for: what is not read then, `cellarman-wal get` reads before it hands it out."""


@dataclass(frozen=True, slots=True)
class _Missed:
    """Why no backup gets to the target, newest first."""

    misses: list[Miss]
    archive: Archive
    facts: WalFacts


def make_plan(
    server: Server,
    order: Order,
    *,
    now: datetime,
    report: Reporter | None = None,
    uid: int | None = None,
    read_only: bool = False,
    proving: float = PROVING,
    state_directory: str = "",
    compare: bool = True,
) -> Plan:
    """Return what a restore would do, or why it will not. Raises NotFound and UsageError for what does not exist.

    Up to `proving` seconds go into verifying every record of WAL that nobody has looked into yet. Nothing is restored
    into `state_directory`. `compare` lets the plan of a delta say what it will change, for which every file is looked
    at on both sides.
    """
    reporter = report or Silent()
    layout = server.layout
    if not os.path.isdir(layout.home):
        raise NotFound(
            f"server {server.name} has no repository yet",
            f"{layout.home} does not exist",
            Advice(cellarman("backup", server.name)),
        )
    found = repository.catalogue(layout)
    try:
        infos = _candidates(server, order.backup, found)
    except Refused as none:
        return Plan(order, False, (none,))
    system = system_id(server.layout, infos)
    if not read_only:
        _index(server, reporter, proving)
    known = [*infos, *(info for info in found.backups if restorable(info) and info not in infos)]
    user = os.geteuid() if uid is None else uid

    def told(best: Reached | _Missed) -> Plan:
        if isinstance(best, _Missed):
            refused, before, after = nearest.explain(order, best.misses, best.archive, best.facts, now)
            return Plan(order, False, (refused,), before, after)
        info = next(info for info in infos if info.id == best.choice.run.base.id)
        return detail.of(server, order, best, info, uid=user, state_directory=state_directory)

    plan = _search(server, order, infos, known, system, reporter, told, read_only=read_only, proving=proving)
    warnings = [f"backup {bad.id} cannot be read and was not considered: {bad.reason}" for bad in found.unreadable]
    plan = replace(plan, warnings=(*warnings, *plan.warnings))
    return elsewhere.with_changes(server, plan) if compare and plan.delta and not plan.refusals else plan


def _candidates(server: Server, ref: str, found: Catalogue) -> list[BackupInfo]:
    """Return the backups to choose from: all that ended well, or the one that was named."""
    if ref == "auto":
        usable = [info for info in found.backups if restorable(info)]
        if not usable:
            raise Refused(
                f"server {server.name} has no backup that can be restored",
                "; ".join(f"{i.id} is {i.status.lower()}" for i in found.backups[:3])
                or "; ".join(f"{bad.id}: {bad.reason}" for bad in found.unreadable[:3])
                or "no backup was taken yet",
                Advice(cellarman("backup", server.name)),
            )
        return usable
    info = repository.find(server.layout, ref)
    if not restorable(info):
        state = "is being deleted" if info.deleting else f"is {info.status.lower()}"
        if info.status == "DONE" and not info.deleting:
            state = "lacks end_time, begin_wal, end_wal or version in its backup.info"
        raise Refused(
            f"backup {info.id} cannot be restored",
            f"it {state}" + (f": {info.error}" if info.error else ""),
            Advice(cellarman("backups", server.name), " lists the others; auto chooses one"),
        )
    return [info]


def _index(server: Server, report: Reporter, proving: float) -> None:
    """Bring the derived index up to date, as far as the time allows; without it the segments themselves are read."""
    report.phase("plan", "reading the WAL archive")
    try:
        index.catch_up(server.layout, budget=_INDEX_BUDGET, report=report, prove=proving)
    except (CellarmanError, OSError, sqlite3.Error) as error:
        report.note(f"the WAL index could not be brought up to date: {error}", "warn")


def _search(
    server: Server,
    order: Order,
    infos: Sequence[BackupInfo],
    known: Sequence[BackupInfo],
    system: int | None,
    report: Reporter,
    told: Callable[[Reached | _Missed], Plan],
    *,
    read_only: bool,
    proving: float,
) -> Plan:
    """Apply the rules until no segment that they, or what is `told` of the result, rely on turns out to be invalid; all
    backups that are `known` tell which those are."""
    size = infos[0].xlog_segment_size
    archive = sound(server.layout, known, system, keep=not read_only)
    starts = bases(server.layout, [info for info in infos if info.xlog_segment_size == size], system)
    while True:
        facts = WalFacts(server.layout, archive, system)
        try:
            opens = order.action == "promote" or isinstance(order.target, EndOfArchive)
            result = choose(order.target, starts, order.timeline, archive, facts, opens=opens)
            found = Reached(result, archive, facts) if isinstance(result, Choice) else _Missed(result, archive, facts)
            bad = facts.check(_relied_on(found), proving)
            if not bad:
                return told(found)
        except InvalidSegment as invalid:
            bad = {invalid.key: invalid.reason}
        for key, reason in bad.items():
            report.note(f"{archive.name(*key)} is not usable: {reason}", "warn")
        archive = replace(archive, invalid={**archive.invalid, **bad})


def _relied_on(found: Reached | _Missed) -> list[Key]:
    """Return the segments that a result stands on, and the one behind them, which tells whether the last is its own."""
    if isinstance(found, Reached):
        return found.segments(more=1)
    run = next((miss.run for miss in found.misses if miss.kind == "unreachable" and miss.run), None)
    first = segment_of(run.base.start, found.archive.segment_size) if run else 0
    return list(keys(run, found.archive, first)) if run else []
