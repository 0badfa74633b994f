"""Why a target cannot be reached, and the nearest moments that can, with the commands that reach them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from engine.commands import Command, cellarman
from engine.errors import Advice, Refused, one_a_line
from engine.postgres.clock import pg_time
from engine.recovery.candidates import Miss, Run, last_commit, last_record, latest_time
from engine.recovery.facts import Facts
from engine.recovery.plan import Moment, Order
from engine.recovery.target import Immediate, LsnTarget, TimeTarget
from engine.wal.gaps import Archive

_MEND_HISTORY = (
    "put the server's own copy of that history in its place (pg_wal), or move what contradicts it out of the archive,"
    " or, when its timeline is not wanted any more, all that is of it"
)


def explain(
    order: Order, misses: Sequence[Miss], archive: Archive, facts: Facts, now: datetime
) -> tuple[Refused, Moment | None, Moment | None]:
    """Return the refusal and the nearest reachable moments before and after; `misses` are newest backup first."""
    short = next((miss for miss in misses if miss.kind == "unreachable"), None)
    new = [miss for miss in misses if miss.kind == "too_new" and miss.run is not None]
    before = _end_of(order, short.run, archive, facts) if short and short.run else None
    after = _start_of(order, new[-1].run) if new and new[-1].run else None
    lines = [_reason(order, misses, short, now)]
    take = cellarman("backup", order.server)
    fixes: list[str | Advice] = [Advice(f"{each.what}: ", each.command) for each in (before, after) if each]
    if short and short.run and short.run.reach.end_kind == "open_end":
        fixes.append("or wait until later WAL is archived (SELECT pg_switch_wal() on the server) and ask again")
    elif short and short.run and short.run.reach.end_kind == "bad_history":
        fixes.append(_MEND_HISTORY)
    elif short and short.run and short.run.reach.end_kind == "minimal":
        fixes.append(Advice("for what comes from now on take a new backup: ", take))
    elif short:
        fixes.append(Advice("look for what is missing: ", _look(order)))
        fixes.append(Advice("if that finds nothing, take a new backup now: ", take))
    if new and order.backup != "auto":
        fixes.append(Advice("an older backup may get there: ", order.command(backup="auto")))
    if not fixes:
        fixes.append(_without_moment(order, misses))
    return Refused(f"{_subject(order)} cannot be reached", "\n".join(lines), one_a_line(fixes)), before, after


def _look(order: Order) -> Command:
    return cellarman("wal", "fetch-missing", order.server)


def _subject(order: Order) -> str:
    text = str(order.target)
    if order.timeline in ("latest", "current"):
        return text if order.timeline == "latest" else f"{text} on the backup's own timeline"
    return f"{text} on timeline {order.timeline}"


def _reason(order: Order, misses: Sequence[Miss], short: Miss | None, now: datetime) -> str:
    """Return the one reason that matters: the future, the end of what can be replayed, or the backups' own."""
    future = isinstance(order.target, TimeTarget) and order.target.at > now
    if short is not None:
        return ("it is in the future; " if future else "") + short.why
    too_new = [miss for miss in misses if miss.kind == "too_new"]
    if too_new:
        only = "the backup that was named" if order.backup != "auto" else "the oldest usable backup"
        others = "".join(f"\n{miss.why}" for miss in misses if miss.kind != "too_new")
        return f"it is before the end of {only}: {too_new[-1].why}{others}"
    return "\n".join(dict.fromkeys(miss.why for miss in misses[:5]))


def _end_of(order: Order, run: Run, archive: Archive, facts: Facts) -> Moment | None:
    """Return the last moment that a run gets to."""
    latest, commit = latest_time(run, archive, facts), last_commit(run, archive, facts)
    record = last_record(run, archive, facts)
    at = commit.at if commit else (pg_time(latest) if latest is not None else run.base.ended)
    said = (
        f"the last transaction, {commit.at.isoformat(sep=' ')} (xid {commit.xid}, LSN {commit.lsn})"
        if commit
        else "the end"
    )
    if run.reach.end_kind == "open_end":
        return Moment(at, record, f"to get to {said}, replay everything", order.command(target=False))
    if record is None:
        return None
    command = order.command("--to-lsn", str(record), target=False)
    return Moment(at, record, f"to get to {said}, the last before that", command, LsnTarget(record))


def _start_of(order: Order, run: Run) -> Moment:
    """Return the first moment that a run can stop at."""
    base = run.base
    command = order.command("--to-immediate", backup=base.id, target=False)
    what = f"the earliest after it is the end of backup {base.id}, {base.ended.isoformat(sep=' ')}"
    return Moment(base.ended, base.stop, what, command, Immediate(), base.id)


def _without_moment(order: Order, misses: Sequence[Miss]) -> str | Advice:
    if any(miss.kind == "bad_history" for miss in misses):
        return _MEND_HISTORY
    windows = cellarman("windows", order.server)
    if any(miss.kind == "off_branch" for miss in misses):
        return Advice("follow the backup's own timeline with --timeline current, or see ", windows)
    see = Advice("see what can be reached: ", windows)
    if any(miss.kind == "unusable" and not miss.base.unusable for miss in misses):
        return Advice("look for the WAL that is missing: ", _look(order), "\n", see)
    return see
