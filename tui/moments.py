"""Restores in words: moments to choose, what a plan keeps and loses, its steps, and how it ended. Pure."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from engine.errors import CellarmanError
from engine.recovery.target import EndOfArchive, Immediate, LsnTarget, NameTarget, Target, TimeTarget, XidTarget
from tui.format import Line, Span, capital, counted, plain, said_span, size
from tui.glyphs import Glyphs

if TYPE_CHECKING:
    from engine.job.state import JobState
    from engine.recovery.choices import Ready
    from engine.recovery.facts import Mark
    from engine.recovery.plan import Order, Plan

_BYTES = re.compile(r"\b(\d+) bytes\b")
ENDINGS = {
    "pause": ("wait there", "it stops at the moment, open for reading; you look, then let it go on or not"),
    "promote": ("open", "it opens for writing there, on a timeline of its own"),
    "shutdown": ("shut down", "it shuts down there; started again it recovers again"),
}
"""What happens at the moment: a word for the form, and what it means."""


def clock(moment: datetime, zone: str, *, exact: bool = True) -> str:
    """Return a moment as the clocks of a zone show it, with the zone's name.

    >>> from datetime import timezone
    >>> clock(datetime(2026, 11, 22, 13, 40, 0, 4000, tzinfo=timezone.utc), "Europe/Paris")
    '2026-11-22 14:40:00.004 Europe/Paris'
    """
    from engine.recovery.spoken import in_zone

    at = in_zone(moment, zone)
    fraction = f".{at.microsecond:06d}".rstrip("0").rstrip(".") if exact else ""
    return f"{at:%Y-%m-%d %H:%M:%S}{fraction} {zone}"


def ago(moment: datetime, now: datetime) -> str:
    """Return how long ago a moment was."""
    seconds = (now - moment).total_seconds()
    if seconds < 0:
        return f"in {said_span(-seconds)}"
    return f"{int(seconds)} s ago" if seconds < 60 else f"{said_span(seconds)} ago"


def ready_words(ready: Ready) -> str:
    """Return what an offered moment is, in a few words."""
    if ready.kind == "end":
        return "the newest moment that is archived"
    if ready.kind == "backup":
        return f"the end of backup {plain(ready.name)}"
    if ready.kind == "restore_point":
        again = " (the name was used again)" if ready.repeated else ""
        return f"restore point {plain(ready.name)}{again}"
    return "before a table was dropped or emptied"


def short(moment: datetime, zone: str, now: datetime) -> str:
    """Return a moment for a column: its date only where it is not today's in that zone.

    >>> from datetime import timezone
    >>> at = datetime(2026, 11, 22, 23, 40, 0, 4567, tzinfo=timezone.utc)
    >>> short(at, "UTC", at), short(at, "Europe/Paris", at.replace(hour=12))
    ('23:40:00.004', '11-23 00:40:00.004')
    """
    from engine.recovery.spoken import in_zone

    at, today = in_zone(moment, zone), in_zone(now, zone)
    text = f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}"
    if at.date() == today.date():
        return text
    return f"{at:%m-%d} {text}" if at.year == today.year else f"{at:%Y-%m-%d} {text}"


def target_words(target: Target) -> str:
    """Return what a target means.

    >>> target_words(XidTarget(812, inclusive=False)), target_words(EndOfArchive())
    ('just before transaction 812', 'the newest moment that is archived')
    """
    before = "just before " if not getattr(target, "inclusive", True) else "up to and with "
    match target:
        case TimeTarget(at):
            return f"{before}{at:%Y-%m-%d %H:%M:%S} UTC"
        case LsnTarget(lsn):
            return f"{before}{lsn}"
        case XidTarget(xid):
            return f"{before}transaction {xid}"
        case NameTarget(name):
            return f"restore point {plain(name)}"
        case Immediate():
            return "the end of the backup"
        case EndOfArchive():
            return "the newest moment that is archived"


def mark_words(mark: Mark, zone: str) -> str:
    """Return one end of a transaction."""
    how = "" if mark.commit else ", rolled back"
    return f"{clock(mark.at, zone)}, transaction {mark.xid}{how}"


def facts(rows: Sequence[tuple[str, str, str]], width: int = 10) -> list[Line]:
    """Return labelled lines."""
    return [((f"{label:<{width}}", "quiet"), (text, role)) for label, text, role in rows]


def error_lines(error: CellarmanError, glyphs: Glyphs, named: str) -> list[Line]:
    """Return what, why and what now; `named` is the configuration that commands have to name."""
    lines: list[Line] = [((f"{glyphs.critical} ", "bad"), (f"{capital(plain(error.what))}.", "strong"))]
    lines += [(("  ", "text"), (plain(line), "text")) for line in error.why.splitlines()]
    lines += [(("now  ", "quiet"), (plain(line), "text")) for line in error.now(named).splitlines()]
    return lines


def verdict(plan: Plan, zone: str, now: datetime, glyphs: Glyphs, named: str) -> list[Line]:
    """Return whether a moment can be reached, what is kept of it, and from what; `named` as in `error_lines`."""
    if not plan.reachable:
        return _unreachable(plan, zone, glyphs, named)
    lines: list[Line] = [((f"{glyphs.ok} ", "good"), ("This moment can be reached.", "good!"))]
    rows: list[tuple[str, str, str]] = []
    if plan.kept is not None:
        rows.append(("you keep", f"all up to {mark_words(plan.kept, zone)}", "text"))
    if plan.dropped is not None:
        drops = ", which dropped or emptied a table" if plan.dropped.drops else ""
        rows.append(("you lose", f"from {mark_words(plan.dropped, zone)} on{drops}", "soon" if drops else "text"))
    elif isinstance(plan.order.target, EndOfArchive):
        rows.append(("you lose", "what came after it and is not archived yet; w asks the server for it", "text"))
    if plan.info is not None:
        name = f" ({plain(plan.info.backup_name)})" if plan.info.backup_name else ""
        ended = f", taken {ago(plan.info.end_time, now)}" if plan.info.end_time else ""
        rows.append(("from", f"backup {plan.info.id}{name}{ended}; timeline {plan.timeline}", "text"))
    if plan.wal is not None:
        rows.append(("replays", f"{counted(plan.wal.count, 'WAL segment')}, {size(plan.wal.bytes)}, all there", "text"))
    return [*lines, *facts(rows)]


def _unreachable(plan: Plan, zone: str, glyphs: Glyphs, named: str) -> list[Line]:
    refused = plan.refused
    lines: list[Line] = [((f"{glyphs.critical} ", "bad"), ("This moment cannot be reached.", "bad!"))]
    if refused is not None:
        lines += [
            ((f"{'why':<10}" if i == 0 else " " * 10, "quiet"), (plain(line), "text"))
            for i, line in enumerate(_reasons(refused))
        ]
    if plan.before is not None and plan.before.at is not None:
        lines += facts([("nearest", f"before it: {clock(plan.before.at, zone)}; f7 takes it", "strong")])
    if plan.after is not None and plan.after.at is not None:
        takes = "; f7 takes it" if plan.before is None else ""
        said = f"after it: {clock(plan.after.at, zone)}, the end of a backup{takes}"
        lines += facts([("nearest", said, "strong")])
    if plan.before is None and plan.after is None and refused is not None:
        lines += facts([("now", plain(line), "text") for line in refused.now(named).splitlines()])
    return lines


def _reasons(refused: CellarmanError) -> list[str]:
    return [line for line in (refused.why or refused.what).splitlines() if line]


def place(plan: Plan, glyphs: Glyphs, named: str) -> list[Line]:
    """Return whether a restore may be made where it is to go, and what it needs there; `named` as in `error_lines`."""
    if plan.refusals:
        return [line for refused in plan.refusals[:3] for line in (*error_lines(refused, glyphs, named), ())][:-1]
    changes = plan.changes
    if changes is not None:
        said = f"{counted(changes.sent, 'file')} to send, {size(changes.bytes)} at most; {changes.removed:,} to remove"
        lines: list[Line] = [
            ((f"{glyphs.warning} ", "soon"), ("The data directory there is changed into the backup's.", "soon!")),
            *facts([("changes", said, "text")]),
        ]
    else:
        lines = [((f"{glyphs.ok} ", "good"), (f"It can be made there; {_left_there(plan)}.", "good!"))]
    if plan.copy_bytes is not None and plan.free_bytes is not None:
        lines += facts([("writes", f"{size(plan.copy_bytes)}; {size(plan.free_bytes)} are free", "text")])
    return lines


def _left_there(plan: Plan) -> str:
    """Return what becomes of what is there."""
    if plan.leftover is None:
        return "nothing is overwritten"
    left = "what an interrupted restore left there"
    return f"it goes on with {left}" if plan.goes_on else f"{left} is removed first"


def warnings(plan: Plan, glyphs: Glyphs) -> list[Line]:
    return [((f"{glyphs.warning} ", "soon"), (capital(plain(text)) + ".", "text")) for text in plan.warnings]


def steps(plan: Plan) -> list[Line]:
    """Return the steps of a plan, numbered, its bytes in units that people read."""
    told = [_BYTES.sub(lambda found: size(int(found[1])), step) for step in plan.steps]
    return [((f"{number:>2}  ", "hand"), (capital(plain(step)), "text")) for number, step in enumerate(told, 1)]


def doing(plan: Plan, account: str) -> Line:
    """Return where and as whom a plan is done."""
    if plan.order.on:
        return (("This will be done on ", "text"), (plain(plan.endpoint or plan.order.on), "strong"))
    return (("This will be done on ", "text"), ("this host", "strong"), (" as ", "text"), (plain(account), "strong"))


def outcome(job: JobState, programs: str = "") -> list[Line]:
    """Return what came out of a restore that is done, and what can be done with it now; `programs` is the directory
    of the server's programs, where it is not known to the shell."""
    result = job.result
    if job.kind != "restore" or job.status != "done":
        return []
    lines: list[Line] = [((f"{capital(plain(result.get('summary', '')))}.", "strong"),)]
    directory, state = str(result.get("destination", "")), result.get("verdict")
    if state == "paused":
        connect, pg_ctl = _psql(result, programs), os.path.join(programs, "pg_ctl")
        lines += facts(
            [
                ("look", connect, "moving"),
                ("go on", f"{connect} -c 'SELECT pg_wal_replay_resume()'  # opens it for writing", "moving"),
                ("drop it", f"{pg_ctl} -D {shlex.quote(directory)} stop  # then remove the directory", "moving"),
            ]
        )
    elif state == "open":
        lines += facts([("look", _psql(result, programs), "moving")])
    elif begin := start(job, programs):
        lines += facts([("start it", begin, "moving")])
    return [tuple((plain(text) if i else text, role) for i, (text, role) in enumerate(line)) for line in lines]


def look(job: JobState, programs: str = "") -> str:
    """Return the command that looks at what a restore made and started; empty when nothing runs there."""
    running = job.kind == "restore" and job.status == "done" and job.result.get("verdict") in ("paused", "open")
    return _psql(job.result, programs) if running else ""


def start(job: JobState, programs: str = "") -> str:
    """Return the command that starts what a restore made; empty when that was started, or is not there."""
    directory = str(job.result.get("destination", ""))
    waits = job.kind == "restore" and job.status == "done" and job.result.get("verdict") not in ("paused", "open")
    return f"{os.path.join(programs, 'pg_ctl')} -D {shlex.quote(directory)} start" if waits and directory else ""


def _psql(result: Any, programs: str) -> str:
    host = result.get("socket") or "127.0.0.1"
    port = str(result.get("port", 5432))
    return shlex.join([os.path.join(programs, "psql"), "-h", str(host), "-p", port, "-U", "postgres", "-d", "postgres"])


def took(plan: Plan, jobs: Sequence[JobState]) -> str:
    """Return how long the copying may take, by what earlier restores or the backup itself took; empty when unknown."""
    from engine.recovery.suggest import seconds

    past = [
        (int(job.result.get("copy_bytes") or 0), (job.ended - job.started).total_seconds())
        for job in jobs
        if job.kind == "restore" and job.status == "done" and job.started and job.ended
    ]
    by = "as the last restore"
    info = plan.info
    if not past and info is not None and info.begin_time and info.end_time:
        past, by = [(info.size or 0, (info.end_time - info.begin_time).total_seconds())], "as the backup took"
    about = seconds(plan.copy_bytes or 0, past)
    if about is None:
        return ""
    return f"{'about ' if about >= 60 else ''}{said_span(about)}, {by}"


def order_words(order: Order, named: str) -> list[Span]:
    """Return the command line that does the same, as spans."""
    return [("same without this console  ", "quiet"), (plain(order.command().line(named)), "moving")]
