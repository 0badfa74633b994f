"""Do I need streaming if I have archiving, and do they conflict? Answered for one server. Pure."""

from __future__ import annotations

from datetime import timedelta

from engine.check.facts import Facts
from engine.check.live import Live
from engine.check.pace import exposure, size_of
from engine.check.repository import age

QUESTION = "Do I need streaming if I have archiving, and do they conflict?"


def answer(facts: Facts) -> str:
    """Return the answer in sentences, by what is configured and what the server says."""
    server = facts.server
    live = facts.live if isinstance(facts.live, Live) else None
    if server.archiver and server.streaming_archiver:
        return _both(live)
    if server.archiver:
        return _archiving(live)
    if server.streaming_archiver:
        return _streaming(live)
    return "You have neither: no WAL reaches the archive, so no backup can be restored. Either one is enough to begin."


_NO_CONFLICT = "They do not conflict: a segment that comes by both is compared and stored once."


def _both(live: Live | None) -> str:
    return (
        f"You have both. {_NO_CONFLICT} Streaming is the one that loses least: a commit is here within a second or so, "
        f"while archive_command brings whole segments only{_alone(live)}. Archiving is the one that goes on when the "
        "slot is lost or the receiver is down. Either alone is enough to restore; with both, one may fail and nothing "
        "is lost, and check says so."
    )


def _archiving(live: Live | None) -> str:
    return (
        "You do not need streaming to restore: archiving delivers every segment. What it leaves on the server is the "
        f"segment being filled{_alone(live)}; that is what losing the server costs. Streaming brings it down to a "
        f"second or so, for one WAL sender and a slot. {_NO_CONFLICT}"
    )


def _streaming(live: Live | None) -> str:
    slot = "The slot keeps every segment on the server until it is here, so nothing is skipped"
    bound = "; but a limit is set (max_slot_wal_keep_size), beyond which the slot is lost and a new backup needed"
    limited = live is not None and live.facts.settings.get("max_slot_wal_keep_size", "-1") != "-1"
    return (
        f"You have streaming and do not need archiving. {slot}{bound if limited else ''}. Archiving beside it is a "
        f"second, independent way that needs no slot, for the price of sending each segment twice. {_NO_CONFLICT}"
    )


def _alone(live: Live | None) -> str:
    """Return what archiving alone leaves behind, in this server's numbers."""
    if live is None:
        return ""
    held = exposure(live)
    pace = f", at {size_of(live.wal_rate)} of WAL an hour" if live.wal_rate is not None else ""
    if held is None:
        return " (nothing bounds it here: archive_timeout is off)"
    return f" (here up to {age(timedelta(seconds=held))} of commits{pace})"
