"""What must be true of the disk and the catalogue. Pure: facts in, result out."""

from __future__ import annotations

import errno
import os
import shlex
from datetime import timedelta

from engine.amounts import counted
from engine.check.account import account, login, program
from engine.check.facts import Facts, Unknown
from engine.check.live import Live
from engine.check.result import CheckResult, fail, ok, skip, warn
from engine.check.storage import READ_ONLY
from engine.commands import Command
from engine.config.keys import interval
from engine.oserrors import advice
from engine.repository.backupinfo import BackupInfo
from engine.repository.retention import KeepAll, parse_policy

LEAST_FREE = 1 << 30
"""Bytes below which a disk is full for all that matters: some dozens of WAL segments."""
STUCK_QUEUE = timedelta(minutes=10)
"""WAL that waits longer has nobody who takes it in."""
MISSED_MAINTENANCE = timedelta(minutes=10)


def size(count: int) -> str:
    """Return bytes for people.

    >>> size(1 << 30), size(300 << 20)
    ('1.0 GiB', '300 MiB')
    """
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count >> 20} MiB"


def age(length: timedelta) -> str:
    """Return a length of time for people.

    >>> age(timedelta(seconds=7)), age(timedelta(minutes=7)), age(timedelta(hours=50))
    ('7 s', '7 min', '2 d 2 h')
    """
    seconds = int(length.total_seconds())
    hours = seconds // 3600
    if hours < 1:
        return f"{seconds // 60} min" if seconds >= 60 else f"{seconds} s"
    return f"{hours} h" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def configuration(facts: Facts) -> CheckResult:
    name = "configuration"
    if facts.warnings:
        return warn(name, "\n".join(map(str, facts.warnings)), "\n".join(w.fix for w in facts.warnings if w.fix))
    return ok(name)


def directories(facts: Facts) -> CheckResult:
    name = "directories"
    if isinstance(facts.storage, Unknown):
        return fail(name, facts.storage.what, facts.storage.fix)
    for place, reason in facts.storage.unusable.items():
        if reason == READ_ONLY:
            return fail(name, f"{place}: {reason}", advice(errno.EROFS, place))
        return fail(
            name,
            f"{place}: {reason}",
            f"install -d -o {account()} {shlex.quote(place)}  # as root; or run as its owner",
        )
    owner = facts.storage.owner
    if owner is not None and owner != os.geteuid():
        who = login(owner)
        return warn(name, f"{facts.server.layout.home} belongs to {who}, this is {account()}", f"run as {who}")
    if facts.storage.missing:
        return ok(name, f"{len(facts.storage.missing)} to be made when needed")
    return ok(name, facts.server.layout.home)


def space(facts: Facts) -> CheckResult:
    """Compare what is free with what the next backup will take: the last one's size, else the cluster's."""
    name = "free space"
    if isinstance(facts.storage, Unknown):
        return skip(name, facts.storage.what)
    if not facts.storage.free:
        return skip(name, "no directory to measure")
    place, free = min(facts.storage.free.items(), key=lambda row: row[1])
    if free < LEAST_FREE:
        return fail(name, f"{size(free)} free at {place}", make_room(facts))
    wanted, why = _next_backup(facts)
    room = facts.storage.free.get(facts.server.layout.base, free)
    if wanted and room < wanted:
        return warn(
            name,
            f"{size(room)} free at {facts.server.layout.base}; {why} {size(wanted)}",
            make_room(facts),
        )
    return ok(name, f"{size(free)} free at {place}" + (f"; {why} {size(wanted)}" if wanted else ""))


def _next_backup(facts: Facts) -> tuple[int, str]:
    if not isinstance(facts.home, Unknown):
        for info in facts.home.catalogue.usable:
            if info.size and not info.is_incremental:
                return info.size, "the last backup took"
    if isinstance(facts.live, Live) and facts.live.facts.cluster_size and facts.server.active:
        return facts.live.facts.cluster_size, "the cluster takes"
    return 0, ""


def queues(facts: Facts) -> CheckResult:
    name = "WAL queues"
    if isinstance(facts.storage, Unknown):
        return skip(name, facts.storage.what)
    server = facts.server
    lanes = (("incoming", facts.storage.incoming, server.archiver, 0),
             ("streaming", facts.storage.streaming, server.streaming_archiver, 1))  # fmt: skip
    total, limit = 0, server.max_incoming_wals_queue
    ingest = facts.ours("wal", "ingest", server.name)
    for lane, queue, on, usual in lanes:
        if queue.count > usual and not on:
            key = "archiver" if lane == "incoming" else "streaming_archiver"
            fix = f"in [servers.{server.name}]: {key} = true, or look what writes there"
            return warn(name, f"{counted(queue.count, 'file')} in {lane}/, which is switched off", fix)
        if limit and queue.count > limit:
            return fail(
                name,
                f"{counted(queue.count, 'file')} in {lane}/, more than {limit}",
                ingest,
            )
        waited = facts.now - queue.oldest if queue.oldest else timedelta(0)
        if queue.count > usual and waited > STUCK_QUEUE:
            fix = f"{ingest}  # and let maintenance run"
            return warn(name, f"{counted(queue.count, 'file')} in {lane}/, the oldest for {age(waited)}", fix)
        total += queue.count
    return ok(name, f"{total} waiting")


def refused(facts: Facts) -> CheckResult:
    name = "refused WAL"
    if isinstance(facts.storage, Unknown):
        return skip(name, facts.storage.what)
    open_ = facts.storage.refused
    if open_:
        shown = ", ".join(f"{each.name} ({each.why})" if each.why else each.name for each in open_[:3])
        return warn(name, f"{len(open_)} in errors/: {shown}{', ...' if len(open_) > 3 else ''}", open_[0].fix)
    kept = sum(not each.endswith(".txt") for each in facts.storage.errors)
    return ok(name, f"{kept} in errors/, and good copies in the archive" if kept else "none")


def wal_age(facts: Facts) -> CheckResult:
    name = "newest WAL"
    server = facts.server
    if isinstance(facts.storage, Unknown):
        return skip(name, facts.storage.what)
    newest = facts.storage.newest_wal
    if newest is None:
        if not server.active:
            return skip(name, "the archive is empty")
        fix = f"{facts.ours('wal', 'switch', server.name)} && {facts.ours('cron')}"
        return warn(name, "the archive is empty", fix)
    old = max(facts.now - newest, timedelta(0))
    if server.last_wal_maximum_age and old > interval(server.last_wal_maximum_age):
        fix = f"{facts.ours('wal', 'ingest', server.name)}  # and see WAL lanes and queues above"
        return fail(name, f"{age(old)} old, more than {server.last_wal_maximum_age}", fix)
    return ok(name, f"{age(old)} old")


def make_room(facts: Facts) -> str:
    return f"make room: {facts.ours('delete', facts.server.name, 'oldest', '--dry-run')}"


def every_minute(config_file: str) -> str:
    """Return the crontab's line for maintenance; cron does not know the variables of a session."""
    command = Command(("cron",), program())
    return f"* * * * * {command.line(os.path.abspath(config_file) if config_file else '')}"


def crontab(line: str) -> str:
    """Return the command that puts a line into one's own crontab, once."""
    quoted = shlex.quote(line)
    return f"(crontab -l 2>/dev/null | grep -vxF {quoted}; echo {quoted}) | crontab -"


def maintenance(facts: Facts) -> CheckResult:
    """A pass of ours or of Barman's holds the same lock and leaves its pid, and so the time, in it."""
    name = "maintenance"
    if isinstance(facts.storage, Unknown):
        return skip(name, facts.storage.what)
    if not facts.server.active:
        return skip(name, "the server is not active")
    fix = crontab(every_minute(facts.config_file))
    last = facts.storage.last_maintenance
    if last is None:
        return warn(name, "it never ran", fix)
    itself = facts.storage.last_by_itself
    by_itself = "never by itself" if itself is None else f"by itself {age(max(facts.now - itself, timedelta(0)))} ago"
    if facts.now - last > MISSED_MAINTENANCE:
        return warn(name, f"it last ran {age(facts.now - last)} ago", fix)
    if itself is None or facts.now - itself > MISSED_MAINTENANCE:
        ran = age(max(facts.now - last, timedelta(0)))
        return warn(name, f"it last ran {ran} ago, by hand, and {by_itself}", fix)
    return ok(name, f"last ran {by_itself}")


def retention(facts: Facts) -> CheckResult:
    policy = parse_policy(facts.server.retention_policy)
    return ok("retention policy", "none: every backup is kept" if isinstance(policy, KeepAll) else str(policy))


def catalogue(facts: Facts) -> CheckResult:
    name = "catalogue"
    if isinstance(facts.home, Unknown):
        return fail(name, facts.home.what, facts.home.fix)
    for broken in facts.home.catalogue.unreadable:
        more = len(facts.home.catalogue.unreadable) - 1
        return fail(
            name,
            f"{broken.id} cannot be read: {broken.reason}" + (f" (and {more} more)" if more else ""),
            f"correct or remove {shlex.quote(facts.server.layout.backup_info(broken.id))}",
        )
    if facts.home.lacking:
        backup, why = next(iter(facts.home.lacking.items()))
        more = len(facts.home.lacking) - 1
        remedy = f"{facts.ours('delete', facts.server.name, backup)}  # or bring them back"
        return fail(name, f"{backup} is listed as good: {why}" + (f" (and {more} more)" if more else ""), remedy)
    return ok(name, counted(len(facts.home.catalogue.backups), "backup"))


def unfinished(facts: Facts) -> CheckResult:
    """A backup that is being taken holds the server's backup lock; begun without it means that its worker died."""
    name = "unfinished backups"
    if isinstance(facts.home, Unknown):
        return skip(name, facts.home.what)
    begun = [info for info in facts.home.catalogue.backups if info.status in ("EMPTY", "STARTED") and not info.deleting]
    if begun and facts.home.backup is None:
        return warn(name, f"{_ids(begun)}: nobody works on it", f"{facts.ours('cron')}  # marks it failed")
    waiting = [info for info in facts.home.catalogue.backups if info.status == "WAITING_FOR_WALS"]
    if waiting and facts.home.backup is None:
        missing = f"{facts.ours('wal', 'ingest', facts.server.name)}; {facts.ours('cron')}"
        return warn(name, f"{_ids(waiting)}: waits for WAL", missing)
    if begun or waiting:
        return ok(name, f"{_ids(begun + waiting)}: being taken by {facts.home.backup}")
    return ok(name, "none")


def failed(facts: Facts) -> CheckResult:
    """Only failures since the last good backup ask for something to be done."""
    name = "failed backups"
    if isinstance(facts.home, Unknown):
        return skip(name, facts.home.what)
    backups = facts.home.catalogue.backups
    bad = [info for info in backups if info.status == "FAILED" and not info.deleting and not info.cancelled]
    good = next((info.id for info in backups if info.usable), "")
    recent = [info for info in bad if info.id > good]
    if recent:
        error = f": {recent[0].error}" if recent[0].error else ""
        name_, gone = facts.server.name, recent[0].id
        fix = f"{facts.ours('backup', name_)}\n{facts.ours('delete', name_, gone)}  # what is left of it"
        return warn(name, f"{_ids(recent)}{error}", fix)
    return ok(name, f"{len(bad)} before the last good one" if bad else "none")


def _ids(backups: list[BackupInfo]) -> str:
    return ", ".join(info.id for info in backups[:3]) + (f" and {len(backups) - 3} more" if len(backups) > 3 else "")


def redundancy(facts: Facts) -> CheckResult:
    name = "minimum redundancy"
    if isinstance(facts.home, Unknown):
        return skip(name, facts.home.what)
    have = sum(not info.is_incremental for info in facts.home.catalogue.usable)
    wanted = facts.server.minimum_redundancy
    if have < wanted:
        take = facts.ours("backup", facts.server.name)
        return fail(name, f"{counted(have, 'good backup')}, {wanted} wanted", take)
    return ok(name, counted(have, "good backup") + (f", {wanted} wanted" if wanted else ""))


def last_backup(facts: Facts) -> CheckResult:
    name = "last backup"
    server = facts.server
    if isinstance(facts.home, Unknown):
        return skip(name, facts.home.what)
    take = facts.ours("backup", server.name)
    usable = facts.home.catalogue.usable
    if not usable:
        if not server.active:
            return skip(name, "there is none")
        verdict = fail if server.last_backup_maximum_age else warn
        return verdict(name, "there is no good backup: nothing can be restored", take)
    last = usable[0]
    assert last.end_time is not None  # part of being usable
    old = max(facts.now - last.end_time, timedelta(0))
    if server.last_backup_maximum_age and old > interval(server.last_backup_maximum_age):
        return fail(name, f"{last.id} is {age(old)} old, more than {server.last_backup_maximum_age}", take)
    if server.last_backup_minimum_size and (last.size or 0) < server.last_backup_minimum_size:
        detail = f"{last.id} has {size(last.size or 0)}, less than {size(server.last_backup_minimum_size)}"
        return fail(name, detail, facts.ours("verify", server.name, last.id))
    newer = _tablespaces_since(facts, last)
    if newer:
        detail = f"{last.id} is from before tablespace {', '.join(newer)}, which it can give back only where it is now"
        return warn(name, detail, take)
    return ok(name, f"{last.id}, {age(old)} old" + (f", {size(last.size)}" if last.size else ""))


def _tablespaces_since(facts: Facts, last: BackupInfo) -> list[str]:
    """Return the tablespaces, outside the data directory, that the server has and its last backup does not."""
    if not isinstance(facts.live, Live):
        return []
    known = {space.oid for space in last.tablespaces}
    there = facts.live.facts.tablespaces
    return [space.name for space in there if space.oid not in known and os.path.isabs(space.location)]


def pages(facts: Facts) -> CheckResult:
    """A backup of what was spoilt already is as good as the server was; an older one may still have what is lost."""
    name = "page checksums"
    if isinstance(facts.home, Unknown):
        return skip(name, facts.home.what)
    usable, bad = facts.home.catalogue.usable, facts.home.bad_pages
    if not usable:
        return skip(name, "there is no good backup")
    last = usable[0]
    if last.id not in bad:
        return ok(name, f"{last.id}: no bad page is known")
    server, first = facts.server.name, bad[last.id][0]
    clean = next((info.id for info in usable if info.id not in bad), "")
    older = (
        f"keep the newest backup without them: {facts.ours('keep', server, clean, '--full')}; restored beside the"
        f" server, it gives back what those pages held: {facts.ours('restore', server, clean, 'DIR', '--start')}"
        if clean
        else "no older backup without them is left"
    )
    return warn(
        name,
        f"{last.id} holds {counted(len(bad[last.id]), 'page')} whose checksum does not match, on the server too:"
        f" {first}",
        f"{facts.ours('show', server, last.id)} names them all; look at the server's disk and memory; a bad index is"
        f" made anew by REINDEX; {older}; then: {facts.ours('backup', server)}",
    )
