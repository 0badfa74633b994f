"""The steps of a restore in words, in the order in which they are done. Pure: a plan in, lines out."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import timezone

from engine import amounts
from engine.recovery.plan import Order, Plan
from engine.recovery.target import EndOfArchive


def of(plan: Plan, *, pg_ctl: str, limit: int) -> list[str]:
    """Return the steps of a plan that can be reached.

    `pg_ctl` is the program as a shell takes it where the cluster will be; `limit` is restore_bandwidth_limit, KiB a
    second, 0 for none.
    """
    order, info, wal = plan.order, plan.info, plan.wal
    assert info is not None and wal is not None  # a plan that can be reached has them
    where = f"{order.destination} on {order.on}" if order.on else order.destination
    how = "extract" if info.is_tar else "combine" if plan.beneath else "copy"
    lines = [_cleared(plan, where)] if plan.leftover else []
    ended = "" if info.end_time is None else f"ended {info.end_time.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    backup = f"backup {' with '.join(filter(None, (info.id, ', '.join(plan.beneath))))}"
    lines.append(f"{how} {backup} ({', '.join(filter(None, (ended, *_copied(plan, limit))))}) to {where}")
    lines += [f"{how} tablespace {space.name} to {space.directory}" for space in plan.placed]
    lines += [f"make {made.location}, where WAL makes tablespace {made.oid} at {made.lsn}" for made in plan.replayed]
    lines += [f"stage the WAL that replay needs, verified, in {plan.staging}"] if plan.staging else []
    lines.append(
        "write recovery.signal and the settings of recovery, archiving and subscriptions off; global/pg_control last"
    )
    if order.start:
        lines.append(f"start PostgreSQL {info.major} there" + (f" on port {order.port}" if order.port else ""))
    else:
        lines.append(f"start it yourself: {pg_ctl} -D {shlex.quote(order.destination)} start")
    lines.append(
        f"PostgreSQL replays {amounts.counted(wal.count, 'WAL segment')}, {wal.first} to {wal.last}, to {order.target}"
    )
    lines.append(_ending(order))
    return lines


def _cleared(plan: Plan, where: str) -> str:
    """Return what is done with what an interrupted restore left."""
    return f"{'go on with' if plan.goes_on else 'remove'} what an interrupted restore left in {where}"


def _copied(plan: Plan, limit: int) -> Iterator[str]:
    """Yield how much is copied, and how fast at most."""
    if plan.copy_bytes is not None:
        yield amounts.size(plan.copy_bytes)
    if limit and plan.order.on:
        yield f"at most {amounts.size(limit << 10)} a second by restore_bandwidth_limit"


def _ending(order: Order) -> str:
    if isinstance(order.target, EndOfArchive) or order.action == "promote":
        return "it opens for writing on a new timeline"
    if order.action == "pause":
        return "it pauses there, open for reading: SELECT pg_wal_replay_resume() opens it for writing"
    return "it shuts down there; started again it recovers again, until recovery.signal is removed"
