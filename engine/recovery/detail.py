"""What a restore takes whose target can be reached: what goes where, what replay reads, and what stands in the way."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from engine import amounts
from engine.commands import Command
from engine.config import Server
from engine.errors import CellarmanError, Refused
from engine.host.local import installed
from engine.postgres import programs
from engine.postgres.lsn import Lsn
from engine.postgres.segment import parse_segment
from engine.postgres.walrecord import TablespaceMade
from engine.recovery import caveats, destination, elsewhere, place, replayed, settings, source, staging, steps
from engine.recovery.place import Ground, Place
from engine.recovery.plan import Order, Plan, WalRange
from engine.recovery.reached import Reached
from engine.recovery.target import EndOfArchive
from engine.repository.backupinfo import BackupInfo

_RESERVE_SEGMENTS = 4
"""WAL that replay keeps in pg_wal at a time, reckoned with the free space."""


def of(
    server: Server, order: Order, reached: Reached, info: BackupInfo, *, uid: int, state_directory: str = ""
) -> Plan:
    """Return the plan of a target that can be reached from the backup `info`, as account `uid`.

    Looks at the backup's files and at the destination, on another host too. Raises UsageError and HostError.
    """
    choice = reached.choice
    placed = source.placed_tablespaces(info, order.tablespaces)
    made = replayed.tablespaces(order.target, reached)
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
    segments = _staged(reached) if other else ()
    if content is not None and not refusals:
        # What is there already, of an interrupted restore or to be changed, is not reckoned.
        fresh = left is None and not delta
        size = reached.archive.segment_size
        parts = _needs(ground, content, placed, size) if fresh else []
        parts += [(other.staging, len(segments) * size)] if other else []
        refusals += _space(ground, parts)
    program = installed("cellarman-wal")
    if not program and not other:
        refusals.append(_no_client())
    staged = other.staging.path if other else ""
    plan = Plan(
        order,
        True,
        tuple(refusals),
        info=info,
        timeline=choice.run.lineage.timeline,
        wal=_wal_range(reached),
        kept=choice.kept,
        dropped=choice.dropped,
        beneath=content.beneath if content else (),
        copy_bytes=content.bytes if content else None,
        free_bytes=ground.destination.free,
        placed=placed,
        replayed=made,
        leftover=left,
        settings=_recovery_settings(server, order, reached, info.major or 0, program, staged),
        warnings=tuple(
            caveats.of(
                order,
                reached,
                odd=content.odd if content else (),
                partial=_received(server, order, reached),
                config_file=server.named,
            )
        ),
        endpoint=other.endpoint if other else None,
        delta=delta,
        segments=segments,
        open_end=choice.run.reach.end_kind == "open_end" and _is_last(reached, segments),
        staging=staged,
    )
    told = steps.of(plan, pg_ctl=_pg_ctl(server, info, other), limit=server.restore_bandwidth_limit)
    return replace(plan, steps=tuple(told))


def _ground(order: Order, placed: Sequence[destination.Placed], made: Sequence[TablespaceMade], uid: int) -> Ground:
    spaces = tuple(place.look(space.directory) for space in placed)
    return Ground(uid, place.look(order.destination), spaces, tuple(place.look(space.location) for space in made))


def _before(order: Order) -> Callable[[Lsn], Command]:
    """Return what gives the command that stops before an LSN."""
    return lambda lsn: order.command("--to-lsn", str(lsn), "--exclusive", target=False)


def _staged(reached: Reached) -> tuple[str, ...]:
    """Return the segments that replay reads, and one more: the record it stops at may end there."""
    return tuple(reached.archive.name(*key) for key in reached.segments(more=1))


def _is_last(reached: Reached, segments: Sequence[str]) -> bool:
    """Tell whether these go to the end of what can be replayed."""
    last = reached.choice.run.reach.last
    return last is None or not segments or parse_segment(segments[-1], reached.archive.segment_size)[1] >= last


def _received(server: Server, order: Order, reached: Reached) -> str:
    """Return the path of the segment that was received in part and comes after the end of the archive; "" when that is
    not what is restored to, or there is none."""
    run = reached.choice.run
    if not isinstance(order.target, EndOfArchive) or run.reach.end_kind != "open_end" or run.reach.last is None:
        return ""
    name = reached.archive.name(run.lineage.timeline, run.reach.last + 1)
    partial = os.path.join(server.layout.streaming, f"{name}.partial")
    return partial if os.path.exists(partial) else ""


def _recovery_settings(
    server: Server, order: Order, reached: Reached, major: int, program: str, staged: str
) -> dict[str, str]:
    """Return what is written to postgresql.auto.conf; `staged` is where WAL lies ready on another host."""
    run = reached.choice.run
    timeline = "current" if run.lineage.timeline == run.base.timeline else str(run.lineage.timeline)
    command = staging.command(staged) if staged else settings.restore_command(program, server.name, order.config_file)
    written = settings.recovery_settings(
        order.target,
        timeline=timeline,
        action=order.action,
        command=command,
        major=major,
        stop_before_hole=run.reach.end_kind != "open_end" or (bool(staged) and order.target != EndOfArchive()),
    )
    return {**written, "recovery_end_command": staging.clean_up(staged)} if staged else written


def _wal_range(reached: Reached) -> WalRange:
    needed = reached.segments()
    total = sum(reached.facts.size(key) for key in needed)
    name = reached.archive.name
    return WalRange(name(*needed[0]), name(*needed[-1]), len(needed), total)


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


def _pg_ctl(server: Server, info: BackupInfo, other: elsewhere.Elsewhere | None) -> str:
    """Return pg_ctl as it can be called where the cluster will be; by its bare name where its place is not known."""
    if other is not None:
        return shlex.quote(os.path.join(os.path.dirname(other.postgres), "pg_ctl"))
    try:
        return shlex.quote(programs.find("pg_ctl", server.path_prefix, info.major).path)
    except CellarmanError:
        return "pg_ctl"
