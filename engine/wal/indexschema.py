"""The tables of the WAL index, and the values that its rows are read into."""

from __future__ import annotations

from collections import namedtuple

VERSION = 8
"""Of the schema; an index of another version is made anew."""

RESTORE_POINT = "restore_point"
CHECKPOINT = "checkpoint"
BACKUP_END = "backup_end"
END_OF_RECOVERY = "end_of_recovery"
DROP = "drop"
MINIMAL = "wal_level_minimal"
TABLESPACE = "tablespace"
KINDS = (RESTORE_POINT, DROP, CHECKPOINT, BACKUP_END, END_OF_RECOVERY, MINIMAL, TABLESPACE)


class SegmentRow(
    namedtuple(
        "SegmentRow",
        (
            "timeline",
            "number",
            "name",
            "size",
            "mtime_ns",
            "problem",
            "system_id",
            "segment_size",
            "magic",
            "first_timeline",
            "last_timeline",
            "rem_len",
            "joined",
            "end_lsn",
            "ended_by",
            "last_record_lsn",
            "n_commits",
            "n_aborts",
            "n_drops",
            "first_commit",
            "last_commit",
            "min_commit",
            "max_commit",
            "last_commit_lsn",
            "last_commit_xid",
            "min_xid",
            "max_xid",
            "proven",
        ),
    )
):
    """What is known of one archived segment. Times are microseconds since 2000-01-01 UTC, LSNs plain integers.

    With a `problem` the segment satisfies nothing and the fields after it may be None.
    """

    __slots__ = ()
    timeline: int
    number: int
    name: str
    size: int
    """Bytes in the archive, compressed."""
    mtime_ns: int
    problem: str | None
    """Why the file is not this segment: unreadable, or in `walfile.check_segment`'s words."""
    system_id: str | None
    """In decimal: SQLite's integers are signed."""
    segment_size: int | None
    magic: int | None
    first_timeline: int | None
    last_timeline: int | None
    rem_len: int | None
    joined: int | None
    """1 when the record that the segment's start continues is known whole, or there is none; else 0."""
    end_lsn: int | None
    ended_by: str | None
    """As `walfile.SegmentFacts.ended_by`."""
    last_record_lsn: int | None
    n_commits: int | None
    n_aborts: int | None
    n_drops: int | None
    first_commit: int | None
    last_commit: int | None
    min_commit: int | None
    """Of commits and aborts, as `max_commit`: a time target stops at both."""
    max_commit: int | None
    last_commit_lsn: int | None
    last_commit_xid: int | None
    min_xid: int | None
    max_xid: int | None
    proven: int
    """1 when every record was verified, or there is a `problem`; 0 when there was no time for it yet."""

    @property
    def complete(self) -> bool:
        """Whether replay can go on in the next segment."""
        return self.problem is None and self.ended_by in ("end", "switch")


class Event(namedtuple("Event", ("timeline", "number", "lsn", "kind", "timestamp", "name", "value"))):
    """A landmark in the WAL; the timestamp is in microseconds since 2000-01-01 UTC, or None.

    `name` is a restore point's, or where a tablespace was made. `value` is the redo LSN of a checkpoint, the start LSN
    of a backup's end, the timeline that an end of recovery left, the xid of a drop, the oid of a tablespace.
    """

    __slots__ = ()
    timeline: int
    number: int
    lsn: int
    kind: str
    timestamp: int | None
    name: str
    value: int | None


COLUMNS = SegmentRow._fields
CARRY = ("carry_lsn", "carry_length", "carry_missing", "carry_data")
"""The fields of `walfile.Carry`: the record that the segment's end cuts."""

SCHEMA = f"""
CREATE TABLE segment ({", ".join((*COLUMNS, *CARRY))}, PRIMARY KEY (timeline, number, name)) WITHOUT ROWID;
CREATE TABLE event (timeline, number, lsn, kind, timestamp, name, value);
CREATE UNIQUE INDEX segment_name ON segment (name);
CREATE INDEX segment_loose ON segment (number) WHERE joined = 0;
CREATE INDEX segment_bad ON segment (timeline, number) WHERE problem IS NOT NULL;
CREATE INDEX segment_short ON segment (timeline, number) WHERE problem IS NULL AND ended_by NOT IN ('end', 'switch');
CREATE INDEX event_place ON event (timeline, number);
CREATE INDEX event_minimal ON event (timeline, number, lsn) WHERE kind = '{MINIMAL}';
CREATE INDEX event_tablespace ON event (timeline, number, lsn) WHERE kind = '{TABLESPACE}';
CREATE INDEX segment_unproven ON segment (timeline, number) WHERE proven = 0;
CREATE TABLE directory (name PRIMARY KEY, mtime_ns) WITHOUT ROWID;
PRAGMA user_version = {VERSION};
"""
