"""The minute: what must be done again and again, idempotent, safe beside Barman's own cron.

One pass over a server, under its `.S-cron.lock`: what dead workers left is marked FAILED, WAL is received and taken in,
backups whose WAL is complete become DONE, the index of commit times catches up, deletions are finished, and what
retention gives up is deleted. At the end of a pass some of the archived WAL is read whole, and journals of jobs that
are long over go. Each step is tried whatever the others did, and each server whatever the others did.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial

from engine import trail
from engine.amounts import counted
from engine.backup import ending, waiting
from engine.commands import cellarman
from engine.config import Config, Server, keys
from engine.errors import Busy, CellarmanError, Refused
from engine.event import SILENT, Reporter
from engine.host import scratch
from engine.job import pruning
from engine.postgres import connection
from engine.postgres.connection import ConnectionFailed
from engine.repository import deletion, files, locks, repository, retention
from engine.repository.backupinfo import BackupInfo
from engine.repository.layout import Layout
from engine.wal import audit, auditlog, condemned, index, receiver
from engine.wal.ingest import ingest
from engine.wal.supervisor import STOPPED

Step = Callable[[Server, Reporter], None]
VERIFY_BUDGET = 15.0
"""Seconds of a pass that may go into reading archived WAL whole, of all servers together."""
LEFTOVERS_FOR = 86400.0
"""Seconds after a backup failed in which the server is asked whether it still holds something of it."""
RECEIVER_PATIENCE = 60.0
"""Seconds without anything from a receiver that fails again and again, after which it is said."""
INDEX_BUDGET = 20.0
"""Seconds of a pass that may go into the index of one server; the next pass goes on."""


def pass_over(config: Config, *, report: Reporter = SILENT, by_hand: bool = False) -> list[str]:
    """Do one pass over all active servers and return what failed, a sentence each; `by_hand`: somebody called it.

    Raises Refused when everything is read-only.
    """
    if config.read_only:
        raise Refused("no maintenance is done", "Cellarman runs read-only", "run it again without --read-only")
    problems: list[str] = []
    active = [server for server in config.servers.values() if server.active]
    for server in active:
        problems += one_server(config, server, report, by_hand=by_hand)
    problems += _stop_abandoned(config, report)
    problems += _verify(active, report)
    return problems + _prune(config, report)


def _stop_abandoned(config: Config, report: Reporter) -> list[str]:
    """End receivers of servers that streamed by this configuration, and no longer do."""
    files = {os.path.abspath(file) for file in config.files}
    wanted = {server.name for server in config.servers.values() if server.active and server.streaming_archiver}
    problems: list[str] = []
    for each in receiver.detached():
        if each.origin not in files or each.server in wanted:
            continue
        why = "it does not stream" if each.server in config.servers else "it is not there"
        if not receiver.stop(each):
            problems.append(
                f"{each.server}: {why} by the configuration any more, and its receiver, process {each.pid}, stays"
            )
            continue
        report.note(f"{each.server}: {why} by the configuration any more: receiving its WAL was stopped", "warn")
        if each.slot:
            drop = f"SELECT pg_drop_replication_slot('{each.slot}')"
            report.note(f"{each.server}: its slot keeps WAL on the server until it is dropped there: {drop}", "warn")
    return problems


def _prune(config: Config, report: Reporter) -> list[str]:
    """Remove the journals of jobs that are long over, and the scratch directories that a kill left."""
    try:
        gone = pruning.prune(config.state_directory, datetime.now(timezone.utc))
    except (CellarmanError, OSError) as error:
        return [str(error)]
    if gone:
        report.note(f"{counted(len(gone), 'old job journal')} removed")
    if left := scratch.sweep():
        report.note(f"{counted(left, 'scratch directory', 'scratch directories')} of dead processes removed")
    return []


def one_server(
    config: Config, server: Server, report: Reporter = SILENT, *, wal_only: bool = False, by_hand: bool = False
) -> list[str]:
    """Do one pass over a server and return what failed; a pass that somebody else makes is none of ours.

    `wal_only` is the short pass for WAL that has just arrived.
    """
    layout = server.layout
    problems: list[str] = []
    try:
        repository.prepare(layout)
        with locks.hold(layout.lock("cron"), what=f"maintain {server.name}"):
            _mark(layout, by_hand)
            for step in _WAL_STEPS if wal_only else _steps(config.state_directory):
                problems += _try(step, server, report)
    except Busy as busy:
        report.note(f"{server.name}: {busy.what}: {busy.why}")
    except CellarmanError as error:
        problems.append(f"{server.name}: {error}")
    return problems


def _mark(layout: Layout, by_hand: bool) -> None:
    """Leave how this pass was begun, for check: only one that nobody began by hand shows that they go on."""
    with contextlib.suppress(OSError), open(layout.by_hand if by_hand else layout.by_itself, "wb") as file:
        os.utime(file.fileno())


def _verify(servers: Sequence[Server], report: Reporter) -> list[str]:
    """Read archived WAL whole, a little of each server, those read longest ago first, within the bound of a pass."""
    problems: list[str] = []
    deadline = time.monotonic() + VERIFY_BUDGET
    for server in sorted(servers, key=lambda server: _last_change(auditlog.path(server.layout))):
        left = deadline - time.monotonic()
        if server.wal_verify_budget and left > 0 and os.path.isdir(server.layout.wals):
            problems += _try(partial(_read_on, left=left), server, report)
    return problems


def _read_on(server: Server, report: Reporter, *, left: float) -> None:
    rest = keys.interval(server.wal_verify_interval).total_seconds()
    known = {name for name, _ in condemned.each(server.layout)}
    queues = _arrivals(server)
    found = audit.audit(
        server.layout,
        budget=min(server.wal_verify_budget, left),
        rest=rest,
        urgent=lambda: _arrivals(server) != queues,
    )
    new = [reading for reading in found.bad if reading.name not in known and not reading.harmless]
    for reading in new:
        report.note(f"{server.name}: archived WAL {reading.name} is bad: {reading.problem}", "error")
    if new:
        gaps = cellarman("wal", "gaps", server.name).line(server.named)
        report.note(f"{server.name}: what that costs: {gaps}", "error")


def _arrivals(server: Server) -> tuple[float, float]:
    """Return when the server's queues last changed."""
    return _last_change(server.layout.incoming), _last_change(server.layout.streaming)


def _last_change(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def _try(step: Step, server: Server, report: Reporter) -> list[str]:
    try:
        step(server, report)
    except Busy as busy:
        report.note(f"{server.name}: {busy.what}; the next pass does it")
    except (CellarmanError, OSError) as error:
        return [f"{server.name}: {error}"]
    except Exception as error:  # a defect in one step must not end the agent's care for all servers; it is said
        name = getattr(step, "func", step).__name__.strip("_")
        return [f"{server.name}: unexpected {type(error).__name__} in {name}: {error}"]
    return []


def _mark_the_dead(server: Server, report: Reporter) -> None:
    """Mark FAILED what a worker of ours left EMPTY or STARTED when it died: its locks are free."""
    layout = server.layout
    for info in repository.backups(layout):
        if info.status not in ("EMPTY", "STARTED") or info.deleting or not repository.facts(layout, info.id):
            continue
        try:
            with locks.hold(layout.lock("backup")), locks.hold(layout.lock(info.id)):
                now = repository.load(layout, info.id)
                if now.status in ("EMPTY", "STARTED"):
                    _fail(server, now, report)
        except Busy:
            return  # a backup runs, perhaps this one


def _fail(server: Server, info: BackupInfo, report: Reporter) -> None:
    facts = repository.facts(server.layout, info.id)
    job = f" (job {facts['job']})" if facts.get("job") else ""
    reason = f"the worker{job} died while the backup was {info.status}; found by maintenance"
    ending.give_up(server, info, reason, str(facts.get("client", "")), report)
    report.note(f"backup {info.id} of {server.name} is FAILED: {reason}", "warn")


def _end_leftovers(server: Server, report: Reporter) -> None:
    """End what the server still holds of backups that failed here not long ago: it may have been away when they did."""
    layout, since = server.layout, time.time() - LEFTOVERS_FOR
    over: dict[str, str] = {}
    for info in repository.backups(layout):
        client = repository.facts(layout, info.id).get("client")
        recent = info.status == "FAILED" and _last_change(layout.backup_info(info.id)) > since
        if client and recent and locks.holder(layout.lock(info.id)) is None:
            over[str(client)] = info.id
    if not over or not server.conninfo:
        return
    try:
        ended = ending.release_leftovers(server, over)
    except ConnectionFailed:
        return  # a server that is away: the next pass asks again
    for client, count in ended.items():
        sessions = f"{count} session{'' if count == 1 else 's'}"
        what = f"{sessions} of backup {over[client]}, which is over, ended on the server"
        report.note(f"{server.name}: {what} ({client})")


def _sweep(server: Server, report: Reporter) -> None:
    """Remove our facts about backups that are gone."""
    layout = server.layout
    ending = "-cellarman.json"
    for name in os.listdir(layout.meta):
        backup_id = name.removesuffix(ending)
        if backup_id == name or name.startswith(".") or not repository.is_backup_id(backup_id):
            continue
        if os.path.exists(layout.backup_info(backup_id)) or os.path.exists(layout.backup(backup_id)):
            continue
        if locks.holder(layout.lock(backup_id)) is None and locks.holder(layout.lock("backup")) is None:
            os.unlink(layout.own_facts(backup_id))


def _receive(server: Server, report: Reporter) -> None:
    if receiver.ensure(server, renew=True):
        report.note(f"{server.name}: pg_receivewal was started")


def _look_at_receiver(server: Server, report: Reporter) -> None:
    """Say that a receiver runs and nothing has come for a while, in the words of check."""
    layout = server.layout
    said = receiver.last_words(layout, 1)
    quiet = time.time() - _last_arrival(layout.streaming) > RECEIVER_PATIENCE
    if not server.streaming_archiver or not quiet or STOPPED not in said or receiver.alive(layout) is None:
        return
    try:
        with connection.connect(server.conninfo, timeout=5, statement_timeout=5) as link:
            slot = connection.slot(link, server.slot_name)
    except ConnectionFailed:
        return  # a server that is away writes nothing either
    if receiver.gets_nothing(slot, said):
        what = f"the WAL receiver runs, and nothing comes: {said}"
        check = cellarman("check", server.name).line(server.named)
        report.note(f"{server.name}: {what}; what to do about it: {check}", "warn")


def _last_arrival(streaming: str) -> float:
    """Return when something last came into the receiver's directory; 0 when it is not there."""
    return max(map(_last_change, (streaming, *(os.path.join(streaming, name) for name in files.listed(streaming)))))


def _take_in(server: Server, report: Reporter) -> None:
    result = ingest(server, report)
    if result.stored:
        count = len(result.stored)
        report.note(f"{server.name}: {count} WAL file{'' if count == 1 else 's'} archived")
    if result.refused:
        names = "; ".join(f"{refusal.name} ({refusal.reason})" for refusal in result.refused)
        raise CellarmanError(f"{len(result.refused)} WAL files were refused, kept in {server.layout.errors}", names)


def _promote(server: Server, report: Reporter) -> None:
    """Make DONE what only waited for its WAL, and now has it; ask the server for what it still holds."""
    layout = server.layout
    for info in repository.backups(layout):
        if info.status != "WAITING_FOR_WALS" or info.deleting or not (info.begin_wal and info.end_xlog):
            continue
        try:
            with locks.hold(layout.lock(info.id)):
                now = repository.load(layout, info.id)
                if now.status != "WAITING_FOR_WALS":
                    continue
                if waiting.missing(layout, now):
                    waiting.push(server, now)
                    continue
                ending.complete(server, now)
                report.note(f"backup {info.id} of {server.name} has its WAL and is DONE")
        except Busy:
            continue  # its own worker waits for the same


def _index(server: Server, report: Reporter) -> None:
    index.catch_up(server.layout, budget=INDEX_BUDGET, report=report, prove=INDEX_BUDGET / 4)


def _finish_deletions(server: Server, report: Reporter, *, state: str) -> None:
    if server.protected:
        return
    for backup_id in deletion.unfinished(server.layout):
        _delete(server, backup_id, "what was begun is finished", report, state)
        report.note(f"{server.name}: the deletion of backup {backup_id} was finished")


def _retain(server: Server, report: Reporter, *, state: str) -> None:
    """Delete what the retention policy gives up, oldest first; what forbids a deletion is said and stays."""
    if server.protected or not server.retention_policy:
        return
    layout = server.layout
    policy = retention.parse_policy(server.retention_policy)
    backups = repository.backups(layout)
    verdicts = retention.verdicts(backups, policy, server.minimum_redundancy, datetime.now(timezone.utc))
    for backup_id in retention.to_delete(backups, verdicts):
        reason = verdicts[backup_id].reason
        try:
            _delete(server, backup_id, reason, report, state)
            report.note(f"{server.name}: backup {backup_id} was deleted: {reason}")
        except Refused as refused:
            report.note(f"{server.name}: {refused}", "warn")


def _delete(server: Server, backup_id: str, reason: str, report: Reporter, state: str) -> None:
    """Delete a backup and leave a line in the trail; a refusal comes again with each pass and leaves none."""
    deletion.delete(server.layout, backup_id, minimum_redundancy=server.minimum_redundancy, wait=0, report=report)
    cron = cellarman("cron").line(server.named)
    line = trail.entry("delete", server.name, "done", subject=backup_id, command=cron, detail=reason, via="maintenance")
    if trouble := trail.write(state, line):
        report.note(f"the deletion of backup {backup_id} is not in the trail: {trouble}", "warn")


_WAL_STEPS: tuple[Step, ...] = (_receive, _take_in, _promote, _index)


def _steps(state: str) -> tuple[Step, ...]:
    """Return the steps of a whole pass; `state` is where the trail of deletions is written."""
    deletions = (partial(step, state=state) for step in (_finish_deletions, _retain))
    return (_mark_the_dead, _end_leftovers, _sweep, *_WAL_STEPS, _look_at_receiver, *deletions)
