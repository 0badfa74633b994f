"""Making a plan: reads the catalogue, the archive and the destination, and writes nothing but the derived index."""

from __future__ import annotations

import os
import shlex
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from engine import amounts
from engine.config import Server
from engine.errors import CellarmanError, NotFound, Refused
from engine.event import Reporter, Silent
from engine.host.local import installed
from engine.postgres import programs
from engine.postgres.lsn import Lsn
from engine.postgres.segment import parse_segment, segment_of
from engine.postgres.timeline import latest_timeline
from engine.postgres.walrecord import TablespaceMade
from engine.recovery import destination, elsewhere, nearest, place, replayed, settings, source, staging
from engine.recovery.candidates import Choice, Miss, choose, keys, lost_history
from engine.recovery.evidence import InvalidSegment, WalFacts
from engine.recovery.facts import Base, Mark
from engine.recovery.place import Ground, Leftover, Place
from engine.recovery.plan import Order, Plan, WalRange
from engine.recovery.target import EndOfArchive, TimeTarget, XidTarget
from engine.repository import identity, repository
from engine.repository.backupinfo import BackupInfo
from engine.repository.layout import Layout
from engine.repository.repository import Catalogue
from engine.wal import contentcheck, index
from engine.wal.consistent import MOST_READ, Consistent, consistent
from engine.wal.gaps import Archive, Key, history_holes, with_invalid
from engine.wal.listing import scan
from engine.wal.scrutiny import begins_of, invalid_keys

_INDEX_BUDGET = 30.0
"""Seconds that bringing the index up to date may take; what it lacks then is read from the segments."""
PROVING = 10.0
"""Seconds of it that may go into verifying every record of what is new."""
PROVING_QUICKLY = 2.0
"""The same where a restore is waited for: what is not read then, `cellarman-wal get` reads before it hands it out."""
_RESERVE_SEGMENTS = 4
"""WAL that replay keeps in pg_wal at a time, reckoned with the free space."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What the rules say, over an archive without what turned out to be invalid."""

    result: Choice | list[Miss]
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
            f"cellarman backup {server.name}",
        )
    found = repository.catalogue(layout)
    try:
        infos = _candidates(server, order.backup, found)
    except Refused as none:
        return Plan(order, False, (none,))
    system = _system_id(server, infos)
    if not read_only:
        _index(server, reporter, proving)
    known = [*infos, *(info for info in found.backups if restorable(info) and info not in infos)]
    best = _search(server, order, infos, known, system, reporter, read_only=read_only, proving=proving)
    warnings = [f"backup {bad.id} cannot be read and was not considered: {bad.reason}" for bad in found.unreadable]
    if not isinstance(best.result, Choice):
        refused, before, after = nearest.explain(order, best.result, best.archive, best.facts, now)
        return Plan(order, False, (refused,), before, after, warnings=tuple(warnings))
    user = os.geteuid() if uid is None else uid
    plan = _detail(server, order, best.result, best, infos, warnings, user, state_directory)
    return elsewhere.with_changes(server, plan) if compare and plan.delta and not plan.refusals else plan


def bases(layout: Layout, infos: Sequence[BackupInfo], system: int | None) -> list[Base]:
    """Return backups as starts of a recovery, newest (by where they end) first."""
    if any(info.end_time is None or info.version is None for info in infos):
        raise AssertionError("only backups that have ended are asked for")
    spans = consistent(layout, infos, most_read=MOST_READ)
    found = [_base(layout, info, spans[info.id], system) for info in infos]
    return sorted(found, key=lambda base: (base.ended, base.id), reverse=True)


def _base(layout: Layout, info: BackupInfo, span: Consistent, system: int | None) -> Base:
    assert info.end_time is not None
    unusable = span.lacking
    if info.is_incremental:
        unusable = f"backup {info.id} is incremental: it has to be combined with {info.parent_backup_id} first"
    elif info.snapshots_info:
        unusable = f"backup {info.id} is a disk snapshot, which its provider restores"
    elif system is not None and info.systemid is not None and info.systemid != system:
        unusable = f"backup {info.id} is of another system, {info.systemid}; the archive's is {system}"
    elif not os.path.isdir(source.data_directory(layout, info)):
        unusable = f"the files of backup {info.id} are gone: there is no {layout.data(info.id)}"
    standalone = info.keep == "standalone"
    return Base(
        info.id,
        span.timeline,
        span.start,
        span.stop,
        info.end_time,
        standalone,
        unusable,
        span.exact,
        span.stop_timeline,
    )


def restorable(info: BackupInfo) -> bool:
    """Tell whether a backup has ended with all its files; that its WAL is there is proven apart."""
    ended = info.end_time is not None and info.begin_wal is not None and info.end_wal is not None
    return info.status in ("DONE", "WAITING_FOR_WALS") and not info.deleting and ended and info.version is not None


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
                f"cellarman backup {server.name}",
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
            f"cellarman backups {server.name} lists the others; auto chooses one",
        )
    return [info]


def _system_id(server: Server, infos: Sequence[BackupInfo]) -> int | None:
    """Return the system whose WAL counts: the newest backup's, or else the repository's."""
    newest = next((info.systemid for info in infos if info.systemid is not None), None)
    return newest if newest is not None else identity.system_id(server.layout)


def _index(server: Server, report: Reporter, proving: float) -> None:
    """Bring the derived index up to date, as far as the time allows; without it the segments themselves are read."""
    report.phase("plan", "reading the WAL archive")
    try:
        index.catch_up(server.layout, budget=_INDEX_BUDGET, report=report, prove=proving)
    except (CellarmanError, OSError, sqlite3.Error) as error:
        report.note(f"the WAL index could not be brought up to date: {error}", "warn")


def sound(layout: Layout, infos: Sequence[BackupInfo], system: int | None, *, keep: bool) -> Archive:
    """Return the archive with what in it satisfies nothing: by the index, by the audit, or as it is read now."""
    size = infos[0].xlog_segment_size
    own = [info for info in infos if info.xlog_segment_size == size]
    begins = frozenset(parse_segment(name, size) for name in begins_of(own))
    archive = replace(scan(layout, size), minimal=index.minimal(layout), begins=begins)
    return with_invalid(archive, invalid_keys(layout, size, own, system, keep=keep))


def _search(
    server: Server,
    order: Order,
    infos: Sequence[BackupInfo],
    known: Sequence[BackupInfo],
    system: int | None,
    report: Reporter,
    *,
    read_only: bool,
    proving: float,
) -> _Found:
    """Apply the rules until no segment that they rely on turns out to be invalid; all backups that are `known` tell
    which those are."""
    size = infos[0].xlog_segment_size
    archive = sound(server.layout, known, system, keep=not read_only)
    starts = bases(server.layout, [info for info in infos if info.xlog_segment_size == size], system)
    while True:
        facts = WalFacts(server.layout, archive, system)
        try:
            opens = order.action == "promote" or isinstance(order.target, EndOfArchive)
            result = choose(order.target, starts, order.timeline, archive, facts, opens=opens)
            bad = facts.check(_relied_on(result, archive), proving)
        except InvalidSegment as invalid:
            bad = {invalid.key: invalid.reason}
        if not bad:
            return _Found(result, archive, facts)
        for key, reason in bad.items():
            report.note(f"{archive.name(*key)} is not usable: {reason}", "warn")
        archive = replace(archive, invalid={**archive.invalid, **bad})


def _relied_on(result: Choice | list[Miss], archive: Archive) -> list[Key]:
    """Return the segments that a result stands on, and the one behind them, which tells whether the last is its own."""
    if isinstance(result, Choice):
        first = segment_of(result.run.base.start, archive.segment_size)
        return list(keys(result.run, archive, first, result.stop_segment + 1))
    run = next((miss.run for miss in result if miss.kind == "unreachable" and miss.run), None)
    return list(keys(run, archive, segment_of(run.base.start, archive.segment_size))) if run else []


def _perhaps_dead(choice: Choice, archive: Archive) -> list[str]:
    """Return that what is replayed may be a branch which was left, where a timeline that lost its history began before
    the target."""
    timeline = choice.run.lineage.timeline
    lost = latest_timeline(timeline, archive.histories) + 1
    first = archive.segments[lost][0]
    if choice.stop_segment < first:
        return []
    return [
        f"timeline {lost} began in or before {archive.name(lost, first)}: what timeline {timeline} has from there on"
        " may be a branch that was left"
    ]


def _detail(
    server: Server,
    order: Order,
    choice: Choice,
    found: _Found,
    infos: Sequence[BackupInfo],
    warnings: list[str],
    uid: int,
    state_directory: str,
) -> Plan:
    """Return the plan of a target that can be reached: what is copied and written, and what stands in the way."""
    info = next(info for info in infos if info.id == choice.run.base.id)
    placed = source.placed_tablespaces(info, order.tablespaces)
    made = replayed.tablespaces(order.target, choice, found.archive, found.facts)
    other = elsewhere.look(server, order, info, placed, made) if order.on else None
    ground = other.ground if other else _ground(order, placed, made, uid)
    left = ground.destination.leftover
    delta = other is not None and other.delta and order.delta and left is None
    refusals = destination.refusals(
        server, ground, placed, made, delta=order.delta, state_directory=state_directory, instead=_before(order)
    )
    refusals += other.refusals if other else ()
    content: source.Source | None = None
    try:
        content = source.look(server.layout, info, order.destination, placed)
        source.control_file(server.layout, info)
    except Refused as refused:
        refusals.append(refused)
    wal = _wal_range(choice, found)
    segments = _staged(choice, found) if other else ()
    if content is not None and not refusals:
        # What is there already, of an interrupted restore or to be changed, is not reckoned.
        fresh = left is None and not delta
        size = found.archive.segment_size
        parts = _needs(ground, content, placed, size) if fresh else []
        parts += [(other.staging, len(segments) * size)] if other else []
        refusals += _space(ground, parts)
    program = installed("cellarman-wal")
    if not program and not other:
        refusals.append(_no_client())
    staged = other.staging.path if other else ""
    written = recovery_settings(server, order, choice, info, found.archive, program, staged)
    return Plan(
        order,
        True,
        tuple(refusals),
        info=info,
        timeline=choice.run.lineage.timeline,
        wal=wal,
        kept=choice.kept,
        dropped=choice.dropped,
        copy_bytes=content.bytes if content else None,
        free_bytes=ground.destination.free,
        placed=placed,
        replayed=made,
        leftover=left,
        steps=tuple(
            _steps(
                order,
                info,
                choice,
                placed,
                made,
                wal,
                content,
                left,
                staged,
                _pg_ctl(server, order, info),
                server.restore_bandwidth_limit,
            )
        ),
        settings=written,
        warnings=(*warnings, *_warnings(order, choice, found, content), *_received(server, order, choice, found)),
        endpoint=other.endpoint if other else None,
        delta=delta,
        segments=segments,
        open_end=choice.run.reach.end_kind == "open_end" and _is_last(choice, found, segments),
        staging=staged,
    )


def _ground(order: Order, placed: Sequence[destination.Placed], made: Sequence[TablespaceMade], uid: int) -> Ground:
    spaces = tuple(place.look(space.directory) for space in placed)
    return Ground(uid, place.look(order.destination), spaces, tuple(place.look(space.location) for space in made))


def _before(order: Order) -> Callable[[Lsn], str]:
    """Return what gives the command that stops before an LSN."""
    return lambda lsn: order.command("--to-lsn", str(lsn), "--exclusive", target=False)


def _staged(choice: Choice, found: _Found) -> tuple[str, ...]:
    """Return the segments that replay reads, and one more: the record it stops at may end there."""
    archive = found.archive
    first = segment_of(choice.run.base.start, archive.segment_size)
    return tuple(archive.name(*key) for key in keys(choice.run, archive, first, choice.stop_segment + 1))


def _is_last(choice: Choice, found: _Found, segments: Sequence[str]) -> bool:
    """Tell whether these go to the end of what can be replayed."""
    last = choice.run.reach.last
    return last is None or not segments or parse_segment(segments[-1], found.archive.segment_size)[1] >= last


def recovery_settings(
    server: Server, order: Order, choice: Choice, info: BackupInfo, archive: Archive, program: str, staged: str = ""
) -> dict[str, str]:
    """Return what is written to postgresql.auto.conf; `staged` is where WAL lies ready on another host."""
    run = choice.run
    timeline = "current" if run.lineage.timeline == run.base.timeline else str(run.lineage.timeline)
    command = staging.command(staged) if staged else settings.restore_command(program, server.name, order.config_file)
    written = settings.recovery_settings(
        order.target,
        timeline=timeline,
        action=order.action,
        command=command,
        major=info.major or 0,
        stop_before_hole=run.reach.end_kind != "open_end" or (bool(staged) and order.target != EndOfArchive()),
    )
    return {**written, "recovery_end_command": staging.clean_up(staged)} if staged else written


def _wal_range(choice: Choice, found: _Found) -> WalRange:
    archive = found.archive
    needed = list(
        keys(choice.run, archive, segment_of(choice.run.base.start, archive.segment_size), choice.stop_segment)
    )
    total = sum(found.facts.size(key) for key in needed)
    return WalRange(archive.name(*needed[0]), archive.name(*needed[-1]), len(needed), total)


def _no_client() -> Refused:
    return Refused(
        "cellarman-wal was not found",
        "PostgreSQL fetches WAL with it, and it is not beside this program",
        "install cellarman whole: pip install --force-reinstall cellarman",
    )


def _needs(
    ground: Ground, content: source.Source, placed: Sequence[destination.Placed], segment_size: int
) -> list[tuple[Place, int]]:
    """Return the bytes that each place needs."""
    spaces: Mapping[int, int] = content.spaces or {}
    rest = content.bytes - sum(spaces.values()) + _RESERVE_SEGMENTS * segment_size
    parts = [(there, spaces.get(space.oid, 0)) for space, there in zip(placed, ground.spaces, strict=True)]
    return [*parts, (ground.destination, rest)]


def _space(ground: Ground, parts: Sequence[tuple[Place, int]]) -> list[Refused]:
    """Return which file systems have too little room for all that goes to them."""
    needs: dict[str, tuple[Place, int]] = {}
    for there, count in parts:
        needs[there.device] = (there, needs.get(there.device, (there, 0))[1] + count)
    on = f" on {ground.host}" if ground.host else ""
    return [
        Refused(
            f"there is too little room for {there.path}{on}",
            f"{amounts.size(need)} are needed, {amounts.size(there.free)} are free",
            "free some, or choose a directory on another file system",
        )
        for there, need in needs.values()
        if there.free < need
    ]


def _steps(
    order: Order,
    info: BackupInfo,
    choice: Choice,
    placed: Sequence[destination.Placed],
    made: Sequence[TablespaceMade],
    wal: WalRange,
    content: source.Source | None,
    left: Leftover | None,
    staged: str,
    control: str,
    limit: int,
) -> list[str]:
    where = f"{order.destination} on {order.on}" if order.on else order.destination
    goes_on = order.on and not info.is_tar
    steps = [f"{'go on with' if goes_on else 'remove'} what an interrupted restore left in {where}"] if left else []
    how = "extract" if info.is_tar else "copy"
    amount = f", {amounts.size(content.bytes)}" if content else ""
    if limit and order.on:
        amount += f", at most {amounts.size(limit << 10)} a second by restore_bandwidth_limit"
    steps.append(f"{how} backup {info.id} (ended {info.end_time}{amount}) to {where}")
    steps += [f"{how} tablespace {space.name} to {space.directory}" for space in placed]
    steps += [f"make {space.location}, where WAL makes tablespace {space.oid} at {space.lsn}" for space in made]
    steps += [f"stage the WAL that replay needs, verified, in {staged}"] if staged else []
    steps.append(
        "write recovery.signal and the settings of recovery, archiving and subscriptions off; global/pg_control last"
    )
    if order.start:
        steps.append(f"start PostgreSQL {info.major} there" + (f" on port {order.port}" if order.port else ""))
    else:
        steps.append(f"start it yourself: {control} -D {shlex.quote(order.destination)} start")
    steps.append(
        f"PostgreSQL replays {amounts.counted(wal.count, 'WAL segment')}, {wal.first} to {wal.last}, to {order.target}"
    )
    steps.append(_ending(order))
    return steps


def _pg_ctl(server: Server, order: Order, info: BackupInfo) -> str:
    """Return pg_ctl as it can be called where the cluster will be; by its bare name where its place is not known."""
    if order.on:
        return "pg_ctl"
    try:
        return shlex.quote(programs.find("pg_ctl", server.path_prefix, info.major).path)
    except CellarmanError:
        return "pg_ctl"


def _ending(order: Order) -> str:
    if isinstance(order.target, EndOfArchive) or order.action == "promote":
        return "it opens for writing on a new timeline"
    if order.action == "pause":
        return "it pauses there, open for reading: SELECT pg_wal_replay_resume() opens it for writing"
    return "it shuts down there; started again it recovers again, until recovery.signal is removed"


def locks_readers(order: Order, dropped: Mark) -> bool:
    """Tell whether a pause just before this transaction's end would leave the lock of what it drops in force."""
    before_its_end = isinstance(order.target, TimeTarget) or (
        isinstance(order.target, XidTarget) and not order.target.inclusive
    )
    return before_its_end and order.action == "pause" and dropped.drops


def _received(server: Server, order: Order, choice: Choice, found: _Found) -> list[str]:
    """Say that the last commits lie in a segment that was received in part, and is none of the archive's yet."""
    reach, archive = choice.run.reach, found.archive
    if not isinstance(order.target, EndOfArchive) or reach.end_kind != "open_end" or reach.last is None:
        return []
    name = archive.name(choice.run.lineage.timeline, reach.last + 1)
    partial = os.path.join(server.layout.streaming, f"{name}.partial")
    if not os.path.exists(partial):
        return []
    config = f" --config {shlex.quote(order.config_file)}" if order.config_file else ""
    take_in = f"cp {shlex.quote(partial)} /tmp/{name} && cellarman-wal push /tmp/{name} --server {server.name}{config}"
    return [
        f"what was received of {name} comes after this end; if the server is lost for good, take it in, and plan again:"
        f" {take_in} && cellarman{config} wal ingest {server.name}"
    ]


def _warnings(order: Order, choice: Choice, found: _Found, content: source.Source | None) -> list[str]:
    run, archive = choice.run, found.archive
    lines = list(choice.notes)
    for timeline in sorted(archive.histories):
        parent = archive.histories[timeline][-1]
        if all(timeline != span.timeline for span in run.lineage.spans):
            lines.append(
                f"timeline {timeline} left timeline {parent.timeline} at {parent.lsn} and is not followed; "
                f"--timeline {timeline} follows it"
            )
    if run.reach.end_kind == "bad_history":
        lines.append(
            f"{run.reach.reason}: until that file is mended, or out of the archive, recovery stops at the target and"
            " perhaps cannot open for writing"
        )
    lost = lost_history(run.lineage, archive)
    if lost:
        lines.append(f"{lost}: until that file is back, recovery stops at the target and cannot open for writing")
        lines += _perhaps_dead(choice, archive)
    if contentcheck.CONTINUES in run.reach.reason and run.reach.missing_first == choice.stop_segment + 1:
        last = archive.name(run.lineage.canonical(choice.stop_segment, archive.segment_size), choice.stop_segment)
        lines.append(
            f"{archive.name(run.reach.timeline, choice.stop_segment + 1)} does not go on from {last}: one of them is of"
            f" another history, and if that is {last}, so are the last transactions that are replayed"
        )
    lines += [f"{t:08X}.history is missing: latest stops below timeline {t}" for t in history_holes(archive)]
    if found.facts.headers_only:
        lines.append(f"of {found.facts.headers_only} WAL segments only the header was read")
    if found.facts.unproven:
        lines.append(
            f"the records of {amounts.counted(found.facts.unproven, 'WAL segment')} have not been verified yet, and"
            f" damage in them would end the restore: maintenance does it, or cellarman wal reindex {order.server}"
        )
    before, after = choice.kept, choice.dropped
    if isinstance(order.target, TimeTarget) and before and after and before.time - after.time > 1_000_000:
        lines.append("the server's clock went backward near the target: commits are not in the order of their times")
    if content and content.odd:
        lines.append(f"links and special files are not restored: {', '.join(content.odd[:5])}")
    if after and locks_readers(order, after):
        lines.append(
            f"transaction {after.xid} drops or empties a table: while paused just before its end, reading that table "
            "waits for its lock; --start stops after the last commit that stays, --action promote ends the lock"
        )
    lines.append(
        "archiving is off in the restored cluster, and so are subscriptions: set archive_mode, archive_command and"
        " max_logical_replication_workers before it goes into service"
    )
    return lines
