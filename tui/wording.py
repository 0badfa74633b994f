"""The engine's values as lines for the screen: pure; colours are roles, signs come from the table of glyphs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from tui.format import (
    Line,
    Span,
    calm_span,
    capital,
    counted,
    exactly,
    listed,
    number,
    plain,
    said_span,
    size,
    stopwatch,
    version,
    when,
    width_of,
)
from tui.glyphs import Glyphs
from tui.widgets.axis import Mark, Stretch

if TYPE_CHECKING:
    from engine.job.state import JobState
    from engine.repository.backupinfo import BackupInfo
    from engine.status import Finding, Health, ServerStatus
    from engine.status.live import Live

HEALTH_ROLE: dict[Health, str] = {
    "critical": "bad",
    "warning": "soon",
    "unknown": "quiet",
    "running": "moving",
    "ok": "good",
}
SEVERITY_ROLE = {"critical": "bad", "warning": "soon", "note": "quiet"}
JOB_ROLE = {"running": "moving", "done": "good", "failed": "bad", "died": "bad", "cancelled": "soon"}
DOING = {
    "backup": "Backing up",
    "restore": "Restoring",
    "verify": "Verifying a backup of",
    "delete": "Deleting a backup of",
    "fetch": "Looking for missing WAL of",
    "aftermath": "Proving the whole loop of",
}
NOUNS = {"fetch": "search for missing WAL", "aftermath": "proof"}
"""What a kind of job is called, where that is not its own word."""
PHASE_WORDS = {"wal": "wal to stop", "files": "every byte", "checkpoint": "checkpoint"}


def health_sign(health: Health, glyphs: Glyphs) -> Span:
    """Return the sign of a verdict."""
    return str(getattr(glyphs, health)), HEALTH_ROLE[health]


def health_cell(health: Health, glyphs: Glyphs) -> Line:
    """Return sign and word of a verdict."""
    sign, role = health_sign(health, glyphs)
    return ((f"{sign} {health}", role),)


def job_sign(job: JobState, glyphs: Glyphs) -> Span:
    """Return the sign of how a job stands; one that is done and found something wrong has that of a warning."""
    signs = {"running": glyphs.running, "done": glyphs.ok, "cancelled": glyphs.warning}
    if found_wrong(job):
        return glyphs.warning, "soon"
    return signs.get(job.status, glyphs.critical), JOB_ROLE[job.status]


def found_wrong(job: JobState) -> bool:
    """Tell whether a job is done, and what it looked at is not well."""
    return job.status == "done" and job.result.get("good") is False


def type_of(info: BackupInfo) -> str:
    """Return what a backup is: full or incr."""
    return "incr" if info.parent_backup_id else "full"


def fleet(servers: Sequence[ServerStatus], now: datetime) -> Line:
    """Return the sentence above all servers: how many, and who is in trouble."""
    count = len(servers)
    line: list[Span] = [(f"{capital(number(count))} server{'' if count == 1 else 's'}.", "strong")]
    bad = [s for s in servers if s.health == "critical"]
    soon = [s for s in servers if s.health == "warning"]
    if len(bad) == 1:
        end = bad[0].recoverable_to
        past = f"past {when(end, now)}" if end else "at all"
        line.append((f"  One cannot be restored {past}.", "bad"))
    elif bad:
        line.append((f"  {capital(number(len(bad)))} cannot be restored to now.", "bad"))
    if soon:
        verb = "is" if len(soon) == 1 else "are"
        line.append((f"  {capital(number(len(soon)))} {verb} at risk.", "soon"))
    unknown = sum(s.health == "unknown" for s in servers)
    if unknown:
        line.append((f"  {capital(number(unknown))} {'is' if unknown == 1 else 'are'} unknown.", "quiet"))
    if not (bad or soon or unknown):
        line.append(("  It can be restored." if count == 1 else "  All can be restored.", "good"))
    return tuple(line)


def verdict(server: ServerStatus, now: datetime) -> Line:
    """Return the sentence about one server: to which moments it can be restored."""
    name: Span = (plain(server.name), "strong")
    begin, end = server.unbroken_from, server.recoverable_to
    if begin is None or end is None:
        if any(job.kind == "backup" for job in server.jobs):
            return name, ("  cannot be restored yet: ", "text"), ("a backup is being taken", "moving")
        if all(info.cancelled for info in server.backups):
            return name, ("  has no backup yet", "soon")
        return name, ("  cannot be restored: ", "bad"), ("no backup is good", "text")
    exposed = server.exposure(now)
    assert exposed is not None
    if not server.open_end:
        return (
            name,
            ("  cannot be restored past ", "text"),
            (exactly(end), "bad!"),
            (f"  ({said_span(exposed.total_seconds())} ago)", "quiet"),
        )
    return (
        name,
        ("  can be restored to any moment from ", "text"),
        (when(begin, now, seconds=True), "good!"),
        (" to ", "text"),
        (f"{when(end, now, seconds=True)} UTC", "good!"),
        ("" if begin == server.recoverable_from else "; some before", "soon"),
    )


def no_answer(live: Live) -> str:
    """Return why a server does not answer and when it is asked again, for a row."""
    from engine.status.live import short

    again = f" (again {live.again:%H:%M})" if live.again else ""
    return f"{plain(short(live.reason))}{again}"


def pulse(server: ServerStatus, live: Live | None) -> Line:
    """Return what a running server says of itself, in one line; nothing when it was not asked or does not answer."""
    if live is None or live.pulse is None:
        return ()
    found = live.pulse
    role = "a standby that has replayed" if found.in_recovery else "writes"
    said = f"PostgreSQL {version(found.version_num)} answers, {role} {found.lsn}" if found.lsn else "PostgreSQL answers"
    line: list[Span] = [("now  ", "quiet"), (said, "text")]
    lane = "receiving its WAL" if server.wal.receiving else "its WAL is not being received"
    if found.slot_active is not None or server.wal.receiving:
        line.append((f"; {lane}", "text" if server.wal.receiving else "soon"))
    return tuple(line)


def exposed_cell(server: ServerStatus, now: datetime) -> Line:
    """Return what would be lost if the server died now, for a column."""
    exposed = server.exposure(now)
    if exposed is None:
        return (("", "quiet"),)
    return ((calm_span(exposed.total_seconds()), "bad" if server.gaps else "text"),)


def wal_cell(server: ServerStatus) -> Line:
    """Return how the WAL stands, in two words."""
    if server.gaps:
        return ((counted(server.gaps, "gap"), "bad"),)
    if server.wal.refused:
        return ((f"{len(server.wal.refused):,} refused", "soon"),)
    if server.wal.queued:
        return ((f"{server.wal.queued:,} queued", "soon" if server.health == "warning" else "text"),)
    return (("no gaps", "good"),) if server.wal.newest else (("none yet", "quiet"),)


def kept_cell(server: ServerStatus, policy: str, now: datetime) -> Line:
    """Return how much of what retention wants is there."""
    from engine.repository import retention

    wanted = retention.parse_policy(policy)
    if isinstance(wanted, retention.Redundancy):
        good = sum(info.usable for info in server.backups)
        return ((f"{good} of {wanted.count}", "quiet" if good >= wanted.count else "text"),)
    if isinstance(wanted, retention.RecoveryWindow):
        begin = server.recoverable_from
        reached = (now - begin).days if begin else 0
        return ((f"{min(reached, wanted.length.days)} of {wanted.length.days} d", "quiet"),)
    return (("all", "quiet"),)


def finding_line(finding: Finding, glyphs: Glyphs) -> list[Line]:
    """Return a finding: what with its sign, why beside it."""
    role = SEVERITY_ROLE[finding.severity]
    sign = {"critical": glyphs.critical, "warning": glyphs.warning}.get(finding.severity, glyphs.dot)
    line: Line = ((f"{sign} ", role), (plain(finding.what), "text"))
    return [(*line, (f"   {plain(finding.why)}", "quiet"))] if finding.why else [line]


def repair(server: ServerStatus, keys: dict[str, str], named: str) -> Line:
    """Return what to press, or what to run, against the worst finding that can be mended; nothing when none can.

    `named` is the configuration that commands have to name.
    """
    for finding in server.findings:
        if finding.command == "backup":
            last = server.last_backup
            about = f" now, about {size(last.size)} in {_took(last)}" if last and last.size and _took(last) else " now"
            return ("the repair is a new backup:  ", "text"), (keys["backup"], "hand!"), (about, "quiet")
        if finding.command == "fetch":
            return ("the repair is to look for it:  ", "text"), (keys["fetch"], "hand!"), (" fetch", "quiet")
        if finding.command in keys:
            return ("see what happened:  ", "text"), (keys[finding.command], "hand!"), (f" {finding.command}", "quiet")
        if finding.fix:
            return ("the repair is  ", "text"), (plain(finding.fix.text(named)), "moving")
    return ()


def _took(info: BackupInfo) -> str:
    if info.begin_time is None or info.end_time is None:
        return ""
    return said_span((info.end_time - info.begin_time).total_seconds())


def stretches(server: ServerStatus) -> list[Stretch]:
    """Return what the axis draws solid."""
    return [Stretch(window.begin, window.end) for window in server.windows]


def marks(server: ServerStatus) -> list[Mark]:
    """Return the backups that the axis marks."""
    found = []
    for info in server.backups:
        at = info.end_time or info.begin_time
        if at is not None and info.status in ("DONE", "FAILED", "WAITING_FOR_WALS") and not info.cancelled:
            found.append(Mark(at, type_of(info) == "full", info.status == "DONE"))
    return found


def backup_state(info: BackupInfo, running: JobState | None, glyphs: Glyphs) -> Span:
    """Return the sign of a backup."""
    if running is not None:
        return glyphs.running, "moving"
    if info.status == "DONE":
        return glyphs.ok, "good"
    if info.status == "WAITING_FOR_WALS":
        return glyphs.warning, "soon"
    if info.cancelled:
        return glyphs.warning, "quiet"
    return glyphs.critical, "bad"


def _lasted(seconds: float) -> str:
    return "less than a second" if seconds < 1 else stopwatch(seconds)


def remark(job: JobState) -> str:
    """Return what a list says of a job that has ended otherwise than well."""
    return job.reason or (str(job.result.get("summary", "")) if found_wrong(job) else "")


def state_word(info: BackupInfo) -> str:
    """Return the word for how a backup stands."""
    return "cancelled" if info.cancelled else info.status.lower().replace("_", " ")


def job_title(job: JobState) -> str:
    """Return what a job does, as a sentence's beginning."""
    return f"{DOING[job.kind]} {plain(job.server)}"


def job_sentence(job: JobState) -> Line:
    """Return how a job stands, in one sentence."""
    took = _lasted((job.ended - job.started).total_seconds() if job.ended and job.started else 0)
    if job.status == "running":
        return ((f"{job_title(job)}.", "strong"),)
    what = f"{capital(NOUNS.get(job.kind, job.kind))} of {plain(job.server)}"
    if found_wrong(job):
        return (
            (f"{what} is done", "strong"),
            (f" in {took}, ", "text"),
            ("and found something wrong.", "soon"),
        )
    if job.status == "done":
        return (f"{what} is done", "strong"), (f" in {took}.", "text")
    if job.status == "cancelled":
        return (f"{what} was cancelled", "strong"), (f" after {took}.", "soon")
    word = "died" if job.status == "died" else "failed"
    return (f"{what} {word}", "strong"), (f" after {took}.", "bad")


def outcome(job: JobState) -> list[Line]:
    """Return what came out of a job that is done, and each step of a proof that went wrong."""
    said = str(job.result.get("summary", ""))
    lines: list[Line] = [((f"{capital(plain(said))}.", "soon" if found_wrong(job) else "text"),)] if said else []
    for step in (job.result.get("report") or {}).get("steps", ()):
        if step["status"] == "fail":
            lines.append(((f"{plain(step['name'])}  ", "soon"), (plain(" ".join(step["detail"].split())), "text")))
    return lines


def made(job: JobState) -> int | None:
    """Return what a job made, or has done so far, in bytes; None when that is not known."""
    size_bytes = job.result.get("size_bytes")
    if job.status == "done" and isinstance(size_bytes, int):
        return size_bytes
    return job.progress.done_bytes if job.progress is not None else None


def phases(job: JobState, known: Sequence[str], width: int, glyphs: Glyphs) -> Line:
    """Return the phases of a job: past, present, to come; where they are too wide, some as a number."""
    order = list(known) + [phase for phase in dict.fromkeys(job.phases_seen) if phase not in known]
    spans = [_phase(job, phase, glyphs) for phase in order]
    past = to_come = 0
    while _wide(spans, past, to_come, glyphs) > width:
        if past < len(spans) - 1 and spans[past][1] == "good":
            past += 1
        elif past + to_come < len(spans) - 1 and spans[-1 - to_come][1] == "faint":
            to_come += 1
        else:
            break
    shown = _folded(spans, past, to_come, glyphs)
    return tuple(part for span in shown for part in (span, ("   ", "text")))[:-1]


def _folded(spans: list[Span], past: int, to_come: int, glyphs: Glyphs) -> list[Span]:
    """Return the phases with so many of the first, and of the last, told by their number alone."""
    head = [(f"{glyphs.ok} {past} done", "good")] if past else []
    tail = [(f"{glyphs.waiting} {to_come} to come", "faint")] if to_come else []
    return [*head, *spans[past : len(spans) - to_come], *tail]


def _wide(spans: list[Span], past: int, to_come: int, glyphs: Glyphs) -> int:
    shown = _folded(spans, past, to_come, glyphs)
    return width_of(shown) + 3 * (len(shown) - 1)


def _phase(job: JobState, phase: str, glyphs: Glyphs) -> Span:
    word = PHASE_WORDS.get(phase, phase)
    seen = phase in job.phases_seen
    if job.status == "done" or (seen and phase != job.phase):
        return f"{glyphs.ok} {word}", "good"
    if phase == job.phase and seen:
        sign, role = job_sign(job, glyphs)
        return f"{sign} {word}", "moving!" if role == "moving" else role
    return f"{glyphs.waiting} {word}", "faint"


def backup_facts(info: BackupInfo, now: datetime) -> str:
    """Return size, duration and age of a backup as a clause."""
    facts = []
    if info.size:
        facts.append(size(info.size))
    if info.begin_time and info.end_time:
        facts.append(f"in {stopwatch((info.end_time - info.begin_time).total_seconds())}")
    if info.end_time:
        facts.append(f"{said_span((now - info.end_time).total_seconds())} ago")
    return ", ".join(facts)


def job_names(jobs: Sequence[JobState]) -> str:
    """Return what runs, as a sentence lists it.

    >>> job_names([])
    ''
    """
    return listed([f"{job.kind} of {plain(job.server)}" for job in jobs])
