"""The moment to get back to: text in, one frozen value out, or an error that shows how to write it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from engine.commands import cellarman
from engine.errors import Advice, UsageError
from engine.postgres.clock import pg_literal
from engine.postgres.lsn import Lsn


@dataclass(frozen=True, slots=True)
class TimeTarget:
    """Stop before the first commit or abort after `at` (inclusive), or at or after it (exclusive)."""

    at: datetime
    inclusive: bool = True

    def __str__(self) -> str:
        return f"time {pg_literal(self.at)}" + ("" if self.inclusive else " (exclusive)")


@dataclass(frozen=True, slots=True)
class LsnTarget:
    """Stop after (inclusive) or before the first record that starts at or after `lsn`."""

    lsn: Lsn
    inclusive: bool = True

    def __str__(self) -> str:
        return f"LSN {self.lsn}" + ("" if self.inclusive else " (exclusive)")


@dataclass(frozen=True, slots=True)
class XidTarget:
    """Stop after (inclusive) or before the commit or abort of transaction `xid`."""

    xid: int
    inclusive: bool = True

    def __str__(self) -> str:
        return f"transaction {self.xid}" + ("" if self.inclusive else " (exclusive)")


@dataclass(frozen=True, slots=True)
class NameTarget:
    """Stop after the first restore point of this name."""

    name: str

    def __str__(self) -> str:
        return f"restore point {self.name!r}"


@dataclass(frozen=True, slots=True)
class Immediate:
    """Stop as soon as the backup is consistent."""

    def __str__(self) -> str:
        return "the end of the backup"


@dataclass(frozen=True, slots=True)
class EndOfArchive:
    """Replay all that the archive holds."""

    def __str__(self) -> str:
        return "the end of the archive"


Target = TimeTarget | LsnTarget | XidTarget | NameTarget | Immediate | EndOfArchive

_TIME = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)[ T](?P<time>\d\d:\d\d(:\d\d)?)(\.(?P<fraction>\d{1,6}))?\s*(?P<zone>\S.*)?", re.ASCII
)
_OFFSET = re.compile(r"(?P<sign>[+-])(?P<hours>\d\d):?(?P<minutes>[0-5]\d)?", re.ASCII)
_AGO = re.compile(r"(?P<count>\d{1,9})\s*(?P<unit>s|sec|second|min|minute|h|hour|d|day|week)s?\s+ago", re.ASCII)
_UNITS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400}
_HOW = "write it as 2026-11-22 13:40:00+00, 2026-11-22T13:40:00Z or '2026-11-22 13:40:00 Europe/Paris'"
_MAX_NAME = 63


def parse_target(
    *,
    time: str | None = None,
    lsn: str | None = None,
    xid: str | None = None,
    name: str | None = None,
    immediate: bool = False,
    exclusive: bool = False,
    now: datetime,
) -> Target:
    """Return the one target that the options name; none of them means the end of the archive.

    Raises UsageError for two targets, for an option without meaning, and for text that cannot be read.
    """
    given = [
        o for o, v in (("--to-time", time), ("--to-lsn", lsn), ("--to-xid", xid), ("--to-name", name)) if v is not None
    ]
    given += ["--to-immediate"] if immediate else []
    if len(given) > 1:
        raise UsageError("more than one target", " and ".join(given), "give one of them")
    if exclusive and given not in (["--to-time"], ["--to-lsn"], ["--to-xid"]):
        raise UsageError(
            "--exclusive has no meaning here", "it goes with --to-time, --to-lsn and --to-xid only", "leave it out"
        )
    if time is not None:
        return TimeTarget(parse_time(time, now), not exclusive)
    if lsn is not None:
        return LsnTarget(_parse_lsn(lsn), not exclusive)
    if xid is not None:
        return XidTarget(_parse_xid(xid), not exclusive)
    if name is not None:
        return NameTarget(_parse_name(name))
    return Immediate() if immediate else EndOfArchive()


def parse_time(text: str, now: datetime) -> datetime:
    """Return the moment in UTC; raises UsageError, showing how to write it, when there is no zone or no sense in it."""
    text = text.strip()
    ago = _AGO.fullmatch(text)
    if ago:
        unit = ago["unit"]
        seconds = int(ago["count"]) * (7 * 86400 if unit == "week" else _UNITS[unit])
        try:
            return now.astimezone(timezone.utc) - timedelta(seconds=seconds)
        except OverflowError:
            raise UsageError(f"there was no such time: {text!r}", "", _HOW) from None
    match = _TIME.fullmatch(text)
    if not match:
        raise UsageError(f"not a time: {text!r}", "a date, a time and a zone are needed", _HOW)
    clock = match["time"] if match["time"].count(":") == 2 else match["time"] + ":00"
    try:
        naive = datetime.strptime(f"{match['date']} {clock}", "%Y-%m-%d %H:%M:%S")
    except ValueError as error:
        raise UsageError(f"there is no such time: {text!r}", str(error), _HOW) from None
    naive = naive.replace(microsecond=int((match["fraction"] or "0").ljust(6, "0")))
    if not match["zone"]:
        local = naive.astimezone()
        here = f", for this host's zone ({local.tzname()}) '{text}{_offset_text(local)}'" if local.utcoffset() else ""
        raise UsageError(
            f"a time without a zone: {text!r}",
            "the server, this host and you may each mean another moment by it",
            f"for UTC write '{text}+00'{here}",
        )
    return _with_zone(naive, match["zone"].strip(), text)


def _with_zone(naive: datetime, zone: str, text: str) -> datetime:
    if zone in ("Z", "z"):
        return naive.replace(tzinfo=timezone.utc)
    offset = _OFFSET.fullmatch(zone)
    try:
        if offset:
            delta = timedelta(hours=int(offset["hours"]), minutes=int(offset["minutes"] or 0))
            return _utc(naive, timezone(delta if offset["sign"] == "+" else -delta), text)
        return _in_named_zone(naive, zone, text)
    except (ValueError, OSError, KeyError):
        raise UsageError(f"not a time zone: {zone!r} in {text!r}", "", _HOW) from None


def _in_named_zone(naive: datetime, zone: str, text: str) -> datetime:
    """Return the moment that a wall clock in `zone` showed once; twice and never are refused."""
    info = ZoneInfo(zone)
    first, second = _utc(naive, info, text), _utc(naive, info, text, fold=1)
    if first == second:
        return first
    shown_again = first.astimezone(info).replace(tzinfo=None) == naive
    if not shown_again:
        raise UsageError(f"there is no such time: {text!r}", f"the clocks of {zone} skipped it", "write it with +00")
    raise UsageError(
        f"{text!r} happened twice",
        f"the clocks of {zone} were set back",
        f"write which one: '{pg_literal(first)}' or '{pg_literal(second)}'",
    )


def _utc(naive: datetime, zone: tzinfo, text: str, fold: int = 0) -> datetime:
    try:
        return naive.replace(tzinfo=zone, fold=fold).astimezone(timezone.utc)
    except OverflowError:
        raise UsageError(f"there is no such time: {text!r}", "", _HOW) from None


def _offset_text(local: datetime) -> str:
    offset = local.strftime("%z")
    return f"{offset[:3]}:{offset[3:5]}"


def _parse_lsn(text: str) -> Lsn:
    try:
        return Lsn.parse(text)
    except ValueError as error:
        raise UsageError(str(error), "", "write it as PostgreSQL prints it: 0/5000028") from None


def _parse_xid(text: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit()) or not 3 <= int(text) < 1 << 64:
        raise UsageError(f"not a transaction id: {text!r}", "a number from 3 on is needed", "for example --to-xid 7421")
    xid = int(text) & 0xFFFFFFFF  # WAL has the lower half of what pg_current_xact_id() returns
    if xid < 3:
        raise UsageError(
            f"no transaction has the id {text}",
            "its lower 32 bits, which WAL records, are below 3: PostgreSQL never gives these to a transaction",
            Advice(
                "see the transactions around a time: ",
                cellarman("restore", "SERVER", "auto", "DEST", "--to-time", "TIME", "--plan"),
            ),
        )
    return xid


def _parse_name(text: str) -> str:
    if not text or "\0" in text or "\n" in text:
        raise UsageError(f"not a restore point's name: {text!r}")
    if len(text.encode()) > _MAX_NAME:
        raise UsageError(
            f"no restore point can have this name: {text!r}",
            f"PostgreSQL allows {_MAX_NAME} bytes",
            "use a shorter name",
        )
    return text


def to_document(target: Target) -> dict[str, Any]:
    """Return the target as a JSON-ready dict."""
    match target:
        case TimeTarget(at, inclusive):
            return {"kind": "time", "value": at.isoformat(), "inclusive": inclusive}
        case LsnTarget(lsn, inclusive):
            return {"kind": "lsn", "value": str(lsn), "inclusive": inclusive}
        case XidTarget(xid, inclusive):
            return {"kind": "xid", "value": str(xid), "inclusive": inclusive}
        case NameTarget(name):
            return {"kind": "name", "value": name}
        case Immediate():
            return {"kind": "immediate"}
        case EndOfArchive():
            return {"kind": "end"}


def from_document(document: Mapping[str, Any]) -> Target:
    """Return the target that `to_document` wrote; raises UsageError for anything else."""
    kind, value, inclusive = document.get("kind"), document.get("value"), bool(document.get("inclusive", True))
    try:
        match kind:
            case "time":
                at = datetime.fromisoformat(str(value))
                if at.tzinfo is not None:
                    return TimeTarget(at.astimezone(timezone.utc), inclusive)
            case "lsn":
                return LsnTarget(Lsn.parse(str(value)), inclusive)
            case "xid":
                return XidTarget(_parse_xid(str(value)), inclusive)
            case "name":
                return NameTarget(_parse_name(str(value)))
            case "immediate":
                return Immediate()
            case "end":
                return EndOfArchive()
    except ValueError as error:
        raise UsageError(f"not a target: {document!r}", str(error)) from None
    raise UsageError(f"not a target: {dict(document)!r}")


def options(target: Target) -> list[str]:
    """Return the command-line options that mean this target."""
    exclusive = [] if getattr(target, "inclusive", True) else ["--exclusive"]
    match target:
        case TimeTarget(at):
            return ["--to-time", pg_literal(at), *exclusive]
        case LsnTarget(lsn):
            return ["--to-lsn", str(lsn), *exclusive]
        case XidTarget(xid):
            return ["--to-xid", str(xid), *exclusive]
        case NameTarget(name):
            return ["--to-name", name]
        case Immediate():
            return ["--to-immediate"]
        case EndOfArchive():
            return []
