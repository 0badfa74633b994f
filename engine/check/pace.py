"""How much WAL the server writes, and what that means for archiving and checkpoints. Pure: facts in, result out."""

from __future__ import annotations

from datetime import timedelta

from engine.check.facts import Facts, Unknown
from engine.check.live import Live
from engine.check.postgres import UNREACHED
from engine.check.repository import age, size
from engine.check.result import CheckResult, ok, skip, warn

LONGEST_EXPOSURE = 15 * 60.0
"""Seconds of commits that a lost server may cost before it is said."""
SHORTEST_TIMEOUT = 30
"""Seconds of archive_timeout below which segments are mostly empty and many."""
_ENOUGH_CHECKPOINTS = 10


def archive_timeout(facts: Facts) -> CheckResult:
    """By archive_command alone, what is in an unfinished segment is lost with the server."""
    name = "archive_timeout"
    if not facts.server.archiver:
        return skip(name, "archiver is off")
    if isinstance(facts.live, Unknown):
        return skip(name, UNREACHED)
    found = facts.live.facts
    seconds = int(found.settings.get("archive_timeout", "0"))
    rate = facts.live.wal_rate
    pace = f"; the server writes {size_of(rate)} of WAL an hour" if rate is not None else ""
    if facts.server.streaming_archiver:
        return ok(name, f"{_text(seconds)}; WAL is streamed as it is written{pace}")
    held = exposure(facts.live)
    if seconds and seconds < SHORTEST_TIMEOUT:
        daily = size(86400 // seconds * found.segment_size)
        return warn(name, f"{seconds} s: up to {daily} of segments a day before compression{pace}", _set("1min"))
    if held is None or held > LONGEST_EXPOSURE:
        wait = "for as long as a segment takes to fill" if held is None else f"for up to {age(timedelta(seconds=held))}"
        return warn(name, f"{_text(seconds)}: what is committed stays on the server alone {wait}{pace}", _set("5min"))
    return ok(name, f"{_text(seconds)}; at most {age(timedelta(seconds=held))} of commits are not here yet{pace}")


def exposure(live: Live) -> float | None:
    """Return the seconds of commits that archiving alone leaves on the server; None when nothing bounds them."""
    timeout = int(live.facts.settings.get("archive_timeout", "0"))
    fill = live.facts.segment_size / live.wal_rate if live.wal_rate else None
    return min((float(bound) for bound in (timeout or None, fill) if bound is not None), default=None)


def size_of(rate: float) -> str:
    """Return bytes an hour for people."""
    return size(int(rate * 3600))


def _text(seconds: int) -> str:
    return f"{seconds} s" if seconds else "off"


def _set(value: str) -> str:
    return f"ALTER SYSTEM SET archive_timeout = '{value}'; SELECT pg_reload_conf();"


def checkpoints(facts: Facts) -> CheckResult:
    """A backup begins with one; those that WAL forces, because max_wal_size is small, cost more WAL still."""
    name = "checkpoints"
    if isinstance(facts.live, Unknown) or facts.live.checkpoint_settings is None:
        return skip(name, UNREACHED)
    said = facts.live.checkpoint_settings
    timed = facts.live.checkpoints[0]
    every, target = int(said["checkpoint_timeout"]), float(said["checkpoint_completion_target"])
    limit = int(said["max_wal_size"])
    forced = _forced(facts.live, limit << 20, target)
    if forced > timed and timed + forced >= _ENOUGH_CHECKPOINTS:
        return warn(
            name,
            f"{timed} came by time, and up to {forced} because of {size(int(facts.live.checkpoint_wal or 0))} of WAL:"
            f" max_wal_size = {limit}MB may be too small",
            f"ALTER SYSTEM SET max_wal_size = '{2 * limit}MB'; SELECT pg_reload_conf();",
        )
    if target < 0.5:
        return warn(
            name,
            f"checkpoint_completion_target = {target:g}: each is a burst of writes",
            "ALTER SYSTEM SET checkpoint_completion_target = 0.9; SELECT pg_reload_conf();",
        )
    wait = "a backup asks for one at once"
    if not facts.server.immediate_checkpoint:
        wait = f"a backup waits for one, up to {age(timedelta(seconds=every * target))}"
    return ok(name, f"every {age(timedelta(seconds=every))}; {wait}")


def _forced(live: Live, limit: int, target: float) -> int:
    """Return how many of the checkpoints that were asked for the volume of WAL can have forced, at most.

    It forces one whenever so many segments were begun since the last (CalculateCheckpointSegments in xlog.c); backups
    and CHECKPOINT ask too, and are counted with it.
    """
    segment = live.facts.segment_size
    apart = max(1, int(limit // segment / (1 + target)) - 1) * segment
    return min(live.checkpoints[1], int((live.checkpoint_wal or 0) // apart))
