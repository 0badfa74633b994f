"""PostgreSQL's clock: timestamps in the WAL are microseconds since 2000-01-01 00:00 UTC.

Source: TimestampTz in PostgreSQL's src/include/datatype/timestamp.h.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

_EPOCH = datetime(2000, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


def pg_time(microseconds: int) -> datetime:
    """Return the moment of a timestamp found in the WAL, in UTC; raises ValueError when no calendar holds it.

    >>> pg_time(0).isoformat()
    '2000-01-01T00:00:00+00:00'
    """
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        raise ValueError(f"not a time: {microseconds} microseconds since 2000-01-01") from None


def pg_microseconds(moment: datetime) -> int:
    """Return a moment as the WAL writes it; raises ValueError for a time without a zone.

    >>> pg_microseconds(datetime(2000, 1, 1, 1, 0, 0, 7, tzinfo=timezone(timedelta(hours=1))))
    7
    """
    if moment.tzinfo is None:
        raise ValueError(f"a time without a zone: {moment}")
    return (moment - _EPOCH) // _MICROSECOND


def unix_time(seconds: int) -> datetime:
    """Return the moment of a pg_time_t (whole seconds since 1970), as pg_control and checkpoints carry it."""
    return datetime.fromtimestamp(seconds, timezone.utc)


def pg_literal(moment: datetime) -> str:
    """Return a moment as every supported PostgreSQL reads it: microseconds, and UTC as +00 (it rejects a Z).

    >>> pg_literal(pg_time(1))
    '2000-01-01 00:00:00.000001+00'
    """
    if moment.tzinfo is None:
        raise ValueError(f"a time without a zone: {moment}")
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f+00")
