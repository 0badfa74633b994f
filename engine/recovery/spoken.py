"""A moment as a person types it: one text for times, LSNs, transactions, restore points and the end of the archive."""

from __future__ import annotations

import os
import re
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from engine.errors import UsageError
from engine.recovery.target import EndOfArchive, Immediate, Target, TimeTarget, parse_target, parse_time

UTC = "UTC"
_END = frozenset(("", "latest", "newest", "end", "now", "the end", "everything"))
_IMMEDIATE = frozenset(("immediate", "end of backup", "the end of the backup", "backup"))
_LSN = re.compile(r"(?:lsn\s+)?([0-9A-F]{1,8}/[0-9A-F]{1,8})", re.ASCII | re.IGNORECASE)
_XID = re.compile(r"(?:(?:xid|transaction)\s+)?(\d{1,20})", re.ASCII | re.IGNORECASE)
_NAME = re.compile(r"(?:restore point|name)\s+(.+)", re.IGNORECASE)
_QUOTED = re.compile(r"'(.+)'|\"(.+)\"")
_CLOCK = r"\d{1,2}:\d\d(?::\d\d(?:\.\d{1,6})?)?"
_TIME_OF_DAY = re.compile(rf"(?:(?P<day>today|yesterday)\s+)?(?P<clock>{_CLOCK})(?:\s*(?P<zone>\S.*))?", re.ASCII)
_DAY = re.compile(rf"(?P<month>\d\d)-(?P<day>\d\d)\s+(?P<clock>{_CLOCK})(?:\s*(?P<zone>\S.*))?", re.ASCII)
_DATE = re.compile(rf"(?P<date>\d{{4}}-\d\d-\d\d)(?:[ T]+(?P<clock>{_CLOCK}))?(?:\s*(?P<zone>[A-Za-z+-].*))?", re.ASCII)
_HOW = (
    "a time (13:40, 2026-11-22 13:40:05, 20 min ago), an LSN (0/5000028), xid 7421, the name of a restore point, "
    "or latest"
)


def parse_moment(text: str, *, zone: str, now: datetime, inclusive: bool = True) -> Target:
    """Return the target that a text means; a time in it without a zone is taken in `zone`, an IANA name or an offset.

    A time of day without a date is the latest one that has passed. Raises UsageError, with how to write it.

    >>> now = datetime(2026, 11, 22, 14, 5, 40, tzinfo=timezone.utc)
    >>> print(parse_moment("13:40", zone="UTC", now=now))
    time 2026-11-22 13:40:00.000000+00
    >>> print(parse_moment("15:40", zone="UTC", now=now))
    time 2026-11-21 15:40:00.000000+00
    >>> print(parse_moment("2026-11-22 14:40:00.5", zone="Europe/Paris", now=now, inclusive=False))
    time 2026-11-22 13:40:00.500000+00 (exclusive)
    >>> print(parse_moment("25 min ago", zone="UTC", now=now), "|", parse_moment("0/5000028", zone="UTC", now=now))
    time 2026-11-22 13:40:40.000000+00 | LSN 0/5000028
    >>> print(parse_moment("7421", zone="UTC", now=now), "|", parse_moment("before-upgrade", zone="UTC", now=now))
    transaction 7421 | restore point 'before-upgrade'
    >>> parse_moment("13:40 n", zone="UTC", now=now)
    Traceback (most recent call last):
    engine.errors.UsageError: not a time zone: 'n'
    """
    said = " ".join(text.split())
    if said.lower() in _END:
        return EndOfArchive()
    if said.lower() in _IMMEDIATE:
        return Immediate()
    if lsn := _LSN.fullmatch(said):
        return parse_target(lsn=lsn[1], exclusive=not inclusive, now=now)
    if xid := _XID.fullmatch(said):
        return parse_target(xid=xid[1], exclusive=not inclusive, now=now)
    if name := _NAME.fullmatch(said) or _QUOTED.fullmatch(said):
        return parse_target(name=next(part for part in name.groups() if part), now=now)
    if said[0].isdigit() or said.lower().startswith(("today", "yesterday")):
        return TimeTarget(_time(said.lower() if said[0].isalpha() else said, zone, now), inclusive)
    return parse_target(name=said, now=now)


def _time(said: str, zone: str, now: datetime) -> datetime:
    """Return the moment of a time; its date and zone may be left out."""
    if said.endswith("ago"):
        return parse_time(said, now)
    here = now.astimezone(_zone(zone))
    if match := _DATE.fullmatch(said):
        return parse_time(f"{match['date']} {_clock(match['clock'] or '00:00')} {match['zone'] or zone}", now)
    if match := _DAY.fullmatch(said):
        dated = [f"{year}-{match['month']}-{match['day']}" for year in (here.year, here.year - 1)]
        return _latest_past(dated, match["clock"], match["zone"] or zone, now)
    if match := _TIME_OF_DAY.fullmatch(said):
        own = now.astimezone(_zone(match["zone"])) if match["zone"] else here
        days = {"today": (0,), "yesterday": (1,)}.get(match["day"] or "", (0, 1))
        dated = [f"{own - timedelta(days=back):%Y-%m-%d}" for back in days]
        return _latest_past(dated, match["clock"], match["zone"] or zone, now)
    raise UsageError(f"not understood yet: {said!r}", "", _HOW)


def _latest_past(dates: list[str], clock: str, zone: str, now: datetime) -> datetime:
    """Return the first of these moments that has passed; the last one when none has."""
    for date in dates[:-1]:
        at = parse_time(f"{date} {_clock(clock)} {zone}", now)
        if at <= now:
            return at
    return parse_time(f"{dates[-1]} {_clock(clock)} {zone}", now)


def _clock(clock: str) -> str:
    return clock if clock.index(":") == 2 else f"0{clock}"


def _zone(name: str) -> timezone | ZoneInfo:
    """Return a zone by its name or offset; raises UsageError."""
    try:
        moment = parse_time(f"2000-01-01 00:00:00 {name}", datetime(2000, 1, 1, tzinfo=timezone.utc))
        if name[:1] in "+-" or name in ("Z", "z"):
            return timezone(datetime(2000, 1, 1, tzinfo=timezone.utc) - moment)
        return ZoneInfo(name)
    except (UsageError, ValueError, OSError, KeyError):
        raise UsageError(f"not a time zone: {name!r}", "", "UTC, Europe/Paris, +01") from None


def in_zone(moment: datetime, zone: str) -> datetime:
    """Return a moment as the clocks of `zone` show it."""
    return moment.astimezone(_zone(zone))


def host_zone() -> str:
    """Return this host's zone: its IANA name, or its present offset where the name is not to be found.

    UTC in any of its names is UTC.
    """
    name = os.environ.get("TZ", "").lstrip(":")
    if not name:
        target = os.path.realpath("/etc/localtime")
        name = target.partition("/zoneinfo/")[2].removeprefix("posix/").removeprefix("right/")
    try:
        if name and name not in ("localtime",):
            ZoneInfo(name)
            return UTC if name in ("UTC", "Etc/UTC", "Zulu", "Etc/Zulu", "Universal", "GMT", "UCT") else name
    except (UsageError, ValueError, OSError, KeyError):
        pass
    offset = datetime.now().astimezone().strftime("%z")
    return UTC if offset in ("+0000", "") else f"{offset[:3]}:{offset[3:5]}"


def zones() -> tuple[str, ...]:
    """Return the zones that a time may be meant in here: UTC, and this host's when it is another."""
    here = host_zone()
    return (UTC,) if here == UTC else (here, UTC)
