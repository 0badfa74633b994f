"""What must be true so that every WAL segment reaches the archive. Pure: facts in, result out."""

from __future__ import annotations

import re
from datetime import datetime

from engine.check.facts import Facts, Home, Unknown
from engine.check.live import Live
from engine.check.postgres import UNREACHED
from engine.check.reach import needs_way_back
from engine.check.result import CheckResult, fail, ok, skip, warn
from engine.host.local import installed
from engine.postgres.connection import Slot
from engine.postgres.quoting import literal, shell_word
from engine.status import verdict
from engine.wal import anew
from engine.wal.receiver import gets_nothing, log_path

_ACKNOWLEDGES_ALL = re.compile(
    r"\s*(:|true|/bin/true|/usr/bin/true|exit 0|echo\b[^|&;]*|/bin/echo\b[^|&;]*|cd \.|rem)\s*$"
)
_PUSHES_FOR = re.compile(r"\bcellarman-wal['\"]?\s+push\b.*?--server[=\s]\s*['\"]?([^\s'\"]+)")
_HIDES_FAILURE = re.compile(r"(\|\||;)\s*(true|:|/bin/true|exit 0)\s*$")
_NEARLY_LOST = 2
"""Segments that may still be written before the server gives a slot up."""
SLOT_LAG_LIMIT = 10 << 30
"""Bytes of WAL that the server may have to keep for us before it is said."""


def lanes(facts: Facts) -> CheckResult:
    name = "WAL lanes"
    server = facts.server
    if not server.active:
        return skip(name, "the server is not active")
    found = [key for key in ("archiver", "streaming_archiver") if getattr(server, key)]
    if not found:
        return fail(
            name,
            "no WAL reaches the archive, so no backup can be restored",
            f'in [servers.{server.name}]: streaming_archiver = true and slot_name = "cellarman"; or archiver = true',
        )
    return ok(name, " and ".join(found))


def archive_mode(facts: Facts) -> CheckResult:
    name = "archive_mode"
    reason = _no_archiver(facts)
    if reason or isinstance(facts.live, Unknown):
        return skip(name, reason)
    mode = facts.live.facts.archive_mode
    if mode == "off":
        return fail(name, "off", "ALTER SYSTEM SET archive_mode = on;  -- then restart PostgreSQL")
    if facts.live.facts.in_recovery and mode != "always":
        return fail(
            name, f"{mode}: a standby archives nothing", "ALTER SYSTEM SET archive_mode = always;  -- then restart"
        )
    return ok(name, mode)


def archive_command(facts: Facts) -> CheckResult:
    name = "archive_command"
    reason = _no_archiver(facts)
    if reason or isinstance(facts.live, Unknown):
        return skip(name, reason)
    found = facts.live.facts
    if found.archive_mode == "off":
        return skip(name, "archive_mode is off")
    if found.archive_library:
        return ok(name, f"archive_library = {found.archive_library}")
    if found.archive_command is None:
        return skip(name, f"hidden from role {found.role} (pg_read_all_settings)")
    command = found.archive_command.strip()
    if not command or command == "(disabled)":
        return fail(name, "empty: PostgreSQL keeps every segment until its disk is full", _set_command(facts))
    if _ACKNOWLEDGES_ALL.match(command) or _HIDES_FAILURE.search(command):
        return fail(name, f"{command}: it says yes to WAL that may be stored nowhere", _set_command(facts))
    if "%p" not in command:
        return warn(name, f"{command}: it does not name the file (%p)", _set_command(facts))
    pushed = _PUSHES_FOR.search(command)
    if pushed and pushed[1] != facts.server.name:
        return warn(name, f"{command}: it archives for the server {pushed[1]}", _set_command(facts))
    if pushed or facts.server.layout.incoming in command:
        return ok(name, command)
    if facts.arrived:
        return ok(name, f"{command}: what it stored last is here")
    fix = f"SELECT pg_switch_wal();  -- then check again, or:\n{_set_command(facts)}"
    return warn(name, f"{command}: it names neither cellarman-wal push nor {facts.server.layout.incoming}", fix)


def _set_command(facts: Facts) -> str:
    """Return the statement that sets archive_command, when PostgreSQL's host is this one; else where to find it."""
    if needs_way_back(facts.server):
        return f"set the archive_command that this prints: {facts.ours('setup', facts.server.name)}"
    return f"ALTER SYSTEM SET archive_command = {literal(push_command(facts))}; SELECT pg_reload_conf();"


def push_command(facts: Facts) -> str:
    """Return the archive_command of a PostgreSQL on this host."""
    program, server = shell_word(installed("cellarman-wal") or "cellarman-wal"), shell_word(facts.server.name)
    config = f" --config {shell_word(facts.config_file)}" if facts.config_file else ""
    return f"{program} push %p --server {server}{config}"


def archiving(facts: Facts) -> CheckResult:
    name = "continuous archiving"
    reason = _no_archiver(facts)
    if reason or isinstance(facts.live, Unknown):
        return skip(name, reason)
    if facts.live.facts.archive_mode == "off":
        return skip(name, "archive_mode is off")
    archiver = facts.live.facts.archiver
    if archiver.failing:
        when = _second(archiver.last_failed_time)
        fix = "see PostgreSQL's log for what archive_command said, or run it by hand as PostgreSQL's account"
        return fail(name, f"{archiver.last_failed_wal} failed at {when}, {archiver.failed_count} failures in all", fix)
    if archiver.last_archived_wal is None:
        return warn(name, "nothing was archived yet", "SELECT pg_switch_wal();")
    if facts.arrived is False:
        empty = not isinstance(facts.storage, Unknown) and facts.storage.newest_wal is None
        verdict = warn if empty else fail
        return verdict(
            name,
            f"PostgreSQL was told that {archiver.last_archived_wal} is stored; neither incoming/ nor wals/ has it",
            "SELECT pg_switch_wal();  -- then check again\n"
            f"if it stays so, archive_command stores elsewhere, or see {facts.server.layout.errors}",
        )
    return ok(name, f"last: {archiver.last_archived_wal} at {_second(archiver.last_archived_time)}")


def _second(moment: datetime | None) -> str:
    return moment.astimezone().isoformat(" ", "seconds") if moment else "an unknown time"


def _no_archiver(facts: Facts) -> str:
    """Return why archive_command does not matter or cannot be judged, or ""."""
    if not facts.server.archiver:
        return "archiver is off"
    return UNREACHED if isinstance(facts.live, Unknown) else ""


def archive(facts: Facts) -> CheckResult:
    """What `cellarman status` counts as gaps, in its words; accepted gaps are none."""
    name = "WAL archive"
    if isinstance(facts.archive, Unknown):
        return skip(name, facts.archive.what)
    wrong = [each for each in facts.archive if each.severity != "note"]
    if not wrong:
        accepted = sum(each.state == "accepted" for each in facts.archive)
        return ok(name, "nothing is missing" + (f" but what was accepted ({accepted})" if accepted else ""))
    worst = verdict.about(wrong[0])
    every = facts.ours("wal", "gaps", facts.server.name)
    more = f" (and {len(wrong) - 1} more: {every})" if len(wrong) > 1 else ""
    detail = worst.what + (f": {worst.why}" if worst.why else "") + more
    say = fail if worst.severity == "critical" else warn
    return say(name, detail, "\n".join(worst.fix.lines(facts.named)) or every)


def slot(facts: Facts) -> CheckResult:
    name = "replication slot"
    server = facts.server
    if not server.streaming_archiver and not server.slot_name:
        return skip(name, "streaming_archiver is off")
    if isinstance(facts.live, Unknown):
        return skip(name, UNREACHED)
    found = facts.live.slot
    if not server.streaming_archiver:
        if found is None:
            return skip(name, "streaming_archiver is off")
        return warn(
            name,
            f"{server.slot_name} is there, but streaming_archiver is off: the server keeps WAL for nobody",
            f"SELECT pg_drop_replication_slot({literal(server.slot_name)});  -- or streaming_archiver = true",
        )
    if found is None:
        return _missing_slot(facts, facts.live)
    if found.kind != "physical":
        return fail(name, f"{found.name} is a {found.kind} slot", 'choose another: slot_name = "cellarman"')
    return _held(facts, facts.live, found)


def _missing_slot(facts: Facts, live: Live) -> CheckResult:
    name, server = "replication slot", facts.server
    used, there = live.facts.replication_slots_used, live.facts.max_replication_slots
    if used >= there:
        fix = f"ALTER SYSTEM SET max_replication_slots = {used + 2};  -- then restart PostgreSQL"
        return fail(name, f"{server.slot_name} is missing and all {there} slots are in use", fix)
    if server.create_slot == "auto":
        return warn(name, f"{server.slot_name} is not there yet", f"{facts.ours('cron')}  # the receiver makes it")
    return fail(
        name,
        f"{server.slot_name} is missing",
        f"SELECT pg_create_physical_replication_slot({literal(server.slot_name)}, true);",
    )


def _held(facts: Facts, live: Live, found: Slot) -> CheckResult:
    name, server = "replication slot", facts.server
    receive = facts.ours("wal", "receive", server.name)
    if found.wal_status == "lost":
        return fail(
            name,
            f"{found.name} is lost: the server removed WAL that was not received (max_slot_wal_keep_size)",
            f"SELECT pg_drop_replication_slot({literal(found.name)});  -- in psql\n"
            f"{facts.ours('cron')}; {facts.ours('backup', server.name)}",
        )
    if found.wal_status == "unreserved":
        return fail(
            name,
            f"{found.name} is about to be lost: the server will remove WAL that was not received",
            f"{receive}  # and raise max_slot_wal_keep_size",
        )
    at, kept = live.facts.current_lsn, found.restart_lsn
    lag = max(0, int(at) - int(kept)) if at is not None and kept is not None else 0
    text = f"{found.name}, {'active' if found.active else 'not active'}, {lag >> 20} MiB behind"
    if found.wal_status:
        text += f", {found.wal_status}"
    safe = live.safe_wal_size
    if safe is not None:
        text += f", {max(0, safe) >> 20} MiB until it is lost"
        if safe < _NEARLY_LOST * live.facts.segment_size:
            room = "ALTER SYSTEM SET max_slot_wal_keep_size = -1; SELECT pg_reload_conf();"
            fix = f"{receive}  # or give it room, in psql:\n{room}"
            return fail(name, text, fix)
    if not found.active and isinstance(facts.home, Home) and facts.home.receiver is not None:
        return warn(name, text, f"see why the receiver does not stream: {log_path(server.layout)}")
    if not found.active:
        return warn(name, text, _start(facts))
    if lag > SLOT_LAG_LIMIT:
        return warn(name, text, "see whether the network or the repository's disk is too slow")
    return ok(name, text)


def _start(facts: Facts) -> str:
    return f"{facts.ours('cron')}  # starts it; or by hand: {facts.ours('wal', 'receive', facts.server.name)}"


def receiver(facts: Facts) -> CheckResult:
    name = "WAL receiver"
    if not facts.server.streaming_archiver:
        return skip(name, "streaming_archiver is off")
    if not facts.server.active:
        return skip(name, "the server is not active")
    if isinstance(facts.home, Unknown):
        return skip(name, facts.home.what)
    if facts.home.receiver is None:
        return fail(name, "it does not run", _start(facts))
    slot = facts.live.slot if isinstance(facts.live, Live) else None
    if gets_nothing(slot, facts.home.receiver_said):
        log = log_path(facts.server.layout)
        received = () if isinstance(facts.storage, Unknown) else facts.storage.received
        fix = anew.commands(facts.server, facts.home.receiver_said, received, facts.named)
        fix = fix or f"put right what its log says: {log}"
        return fail(name, f"it runs, and nothing comes: {facts.home.receiver_said}", fix)
    return ok(name, f"{facts.home.receiver}")
