"""The rules that turn facts into findings and findings into a verdict. Pure: now is a parameter."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from engine.amounts import counted
from engine.commands import cellarman
from engine.config import Server
from engine.errors import Advice
from engine.job.state import JobState
from engine.remedy import Remedy, run, words
from engine.repository.backupinfo import BackupInfo
from engine.repository.repository import BadPage, Unreadable
from engine.status.values import Finding, Health, Wal, Window
from engine.wal.judgement.values import Finding as WalFinding

STUCK_QUEUE = timedelta(minutes=10)
"""WAL that waits longer for its ingest has nobody who takes it in."""
QUIET_FLOOR = timedelta(minutes=30)
"""An archive that is silent for less is not suspicious yet."""
QUIET_FACTOR = 12
"""Nor is one that is silent for less than so many of its usual pauses."""

_AGE = re.compile(r"(\d+)\s*(minute|hour|day|week|month)s?", re.IGNORECASE)
_OF_BACKUPS = {
    "unusable": "cannot be restored",
    "not_yet_usable": "cannot be restored yet",
    "backup_off_branch": "is not on the way to the newest timeline",
}
_LENGTH = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
    "month": timedelta(days=31),
}


def age(text: str) -> timedelta | None:
    """Return the length of time that a configuration value says, None for nothing or what cannot be read.

    >>> age("2 DAYS"), age("")
    (datetime.timedelta(days=2), None)
    """
    found = _AGE.fullmatch(text.strip())
    return int(found[1]) * _LENGTH[found[2].lower()] if found else None


def findings(
    server: Server,
    backups: Sequence[BackupInfo],
    unreadable: Sequence[Unreadable],
    bad_pages: Sequence[BadPage],
    lacking: Mapping[str, str],
    windows: Sequence[Window],
    judged: Sequence[WalFinding],
    wal: Wal,
    jobs: Sequence[JobState],
    last_jobs: Sequence[JobState],
    now: datetime,
) -> tuple[Finding, ...]:
    """Return what is wrong with a server, worst first.

    `bad_pages` are those of the newest usable backup; `lacking` says why usable ones cannot be restored, by id.
    `judged` is what `engine.wal.findings` says of its WAL. `jobs` run, `last_jobs` have ended, newest first.
    """
    found = [
        *_about_backups(server, [info for info in backups if info.id not in lacking], windows, judged, jobs, now),
        *_about_files(server, lacking),
        *_about_pages(server, bad_pages),
        *map(about, (each for each in judged if each.severity != "note")),
        *_about_wal(server, wal, now),
        *_about_catalogue(backups, unreadable, jobs, last_jobs),
    ]
    rank = {"critical": 0, "warning": 1, "note": 2}
    return tuple(sorted(found, key=lambda finding: rank[finding.severity]))


def health(found: Sequence[Finding], jobs: Sequence[JobState]) -> Health:
    """Return the verdict that the findings come to."""
    worst = {finding.severity for finding in found}
    if "critical" in worst:
        return "critical"
    if "warning" in worst:
        return "warning"
    return "running" if jobs else "ok"


def _about_backups(
    server: Server,
    backups: Sequence[BackupInfo],
    windows: Sequence[Window],
    judged: Sequence[WalFinding],
    jobs: Sequence[JobState],
    now: datetime,
) -> Iterator[Finding]:
    good = [info for info in backups if info.usable]
    take = run(cellarman("backup", server.name))
    if not good:
        if any(job.kind == "backup" for job in jobs):
            yield Finding("note", "no good backup yet", "one is being taken")
        elif all(info.cancelled for info in backups):
            yield Finding("warning", "no backup yet", "until one ends nothing can be restored", take, "backup")
        else:
            yield Finding("critical", "no good backup", "without one nothing can be restored", take, "backup")
        return
    if not windows:
        what, why = "no backup has the WAL that it needs", "none can be made consistent"
        fix = next((each.fix for each in judged if each.kind == "unusable" and each.fix), take)
        yield Finding("critical", what, why, fix, _key(fix))
    if len(good) < server.minimum_redundancy:
        why = f"minimum_redundancy asks for {server.minimum_redundancy}"
        yield Finding("warning", f"only {len(good)} good backup{'' if len(good) == 1 else 's'}", why, take, "backup")
    limit = age(server.last_backup_maximum_age)
    ended = good[0].end_time
    if limit is not None and ended is not None and now - ended > limit:
        why = f"last_backup_maximum_age is {server.last_backup_maximum_age}"
        yield Finding("warning", f"the last good backup ended {_ago(now - ended)} ago", why, take, "backup")


def _about_files(server: Server, lacking: Mapping[str, str]) -> Iterator[Finding]:
    if lacking:
        backup, why = next(iter(lacking.items()))
        more = f", and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        fix = run(cellarman("check", server.name))
        yield Finding("warning", f"backup {backup}{more} cannot be restored", why, fix)


def _about_pages(server: Server, bad: Sequence[BadPage]) -> Iterator[Finding]:
    if bad:
        what = f"the last good backup holds {counted(len(bad), 'bad page')}"
        why = f"the checksum does not match, on the server too: {bad[0]}"
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        yield Finding("warning", what, why + more, run(cellarman("check", server.name)))


def gaps(judged: Sequence[WalFinding]) -> int:
    """Return how many breaks of the WAL there are that matter and are not accepted."""
    return sum(1 for each in judged if each.breaks and each.severity != "note")


def about(judged: WalFinding) -> Finding:
    """Return a finding about the WAL as one about the server."""
    what, why = f"{judged.kind.replace('_', ' ')}{_names(judged)}", judged.why
    if judged.kind in ("hole", "branch_hazard"):
        what = f"WAL{_names(judged)} {'is' if judged.count == 1 else 'are'} missing"
        what += "" if judged.count == 1 else f" ({judged.count} segments)"
    elif judged.kind == "wal_level_minimal":
        what = f"backups are not replayed past WAL{_names(judged)}"
    elif judged.breaks:
        what = f"WAL{_names(judged)} is not usable ({judged.why})"
        why = "nothing after it can be restored until a new backup ends" if judged.severity == "critical" else ""
    elif judged.kind in ("unusable", "not_yet_usable", "backup_off_branch"):
        what = f"backup {', '.join(judged.affected_backups)} {_OF_BACKUPS[judged.kind]}"
    return Finding(judged.severity, what, why, judged.fix, _key(judged.fix))


def _key(fix: Remedy) -> str:
    """Return the console's verb for what is to be done first; "" when it has none."""
    known = {"backup": ("backup",), "fetch": ("wal", "fetch-missing")}
    return next((key for key, verb in known.items() if fix.begins(*verb)), "")


def _names(judged: WalFinding) -> str:
    if judged.first is None:
        return ""
    return f" {judged.first}" + ("" if judged.first == judged.last else f" to {(judged.last or '')[-8:]}")


def _about_wal(server: Server, wal: Wal, now: datetime) -> Iterator[Finding]:
    if wal.refused:
        first, more = wal.refused[0], len(wal.refused) - 1
        what = f"{first.name} was refused" + (f", and {more} more file{'' if more == 1 else 's'}" if more else "")
        yield Finding("warning", what, first.why or "no reason was written down", words(first.fix))
    if wal.queued and wal.queued_since is not None and now - wal.queued_since > STUCK_QUEUE:
        what = f"{wal.queued} WAL files wait for {_ago(now - wal.queued_since)}"
        fix = run(cellarman("agent"), after=Advice(" (or every minute: ", cellarman("cron"), ")"))
        yield Finding("warning", what, "nobody takes them in", fix)
    if server.streaming_archiver and not wal.receiving:
        why = "pg_receivewal does not run for it"
        yield Finding("warning", "WAL is not being received", why, run(cellarman("cron")))
    elif wal.newest_at is not None and wal.usual_pause is not None and not wal.receiving:
        silent = now - wal.newest_at
        if silent > max(QUIET_FLOOR, QUIET_FACTOR * wal.usual_pause):
            why = f"before, one came every {_ago(max(wal.usual_pause, timedelta(minutes=1)))} at least"
            yield Finding("warning", f"no WAL has come for {_ago(silent)}", why, run(cellarman("check", server.name)))


def _about_catalogue(
    backups: Sequence[BackupInfo],
    unreadable: Sequence[Unreadable],
    jobs: Sequence[JobState],
    last_jobs: Sequence[JobState],
) -> Iterator[Finding]:
    for entry in unreadable[:1]:
        more = f" and {len(unreadable) - 1} more" if len(unreadable) > 1 else ""
        yield Finding("warning", f"backup {entry.id}{more} cannot be read", entry.reason)
    worked_on = {job.backup for job in jobs}
    newest = next((info for info in backups if info.id not in worked_on and not info.cancelled), None)
    if newest is not None and newest.status == "FAILED":
        yield Finding("warning", f"the last backup failed ({newest.id})", newest.error or "", command="jobs")
    elif newest is not None and newest.status == "WAITING_FOR_WALS":
        why = "its WAL has not come yet; maintenance finishes it when it does"
        yield Finding("warning", f"backup {newest.id} waits for WAL", why)
    elif newest is not None and newest.status in ("EMPTY", "STARTED") and not jobs:
        why = "nothing works on it any more; the next maintenance pass marks it as failed"
        yield Finding("warning", f"backup {newest.id} was left unfinished", why, run(cellarman("cron")))
    died = last_jobs[0] if last_jobs and last_jobs[0].status == "died" else None
    told = newest is not None and (newest.status == "FAILED" or (died is not None and died.backup == newest.id))
    if died is not None and not told:
        yield Finding("warning", f"the last {died.kind} died", died.reason, command="jobs")


def _ago(length: timedelta) -> str:
    minutes = int(length.total_seconds()) // 60
    if minutes < 60:
        return f"{max(1, minutes)} min"
    if minutes < 2880:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} days"
