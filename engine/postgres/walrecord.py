"""Single WAL records that recovery cares about: ends of transactions, the landmarks of the XLOG manager, tablespaces.

Sources: PostgreSQL's src/include/access/{xlogrecord,xact,rmgrlist}.h, src/include/catalog/pg_control.h,
src/include/commands/tablespace.h and ParseCommitRecord, ParseAbortRecord in src/backend/access/rmgrdesc/xactdesc.c.
Light: the WAL client loads it.
"""

from __future__ import annotations

import struct
from collections import namedtuple

from engine.postgres.lsn import Lsn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Landmark: TypeAlias = "RestorePoint | Checkpoint | BackupEnd | EndOfRecovery | Minimal | TablespaceMade"

HEADER = 24
"""Bytes of a record's header."""

SHORT_DATA = 255
"""The id of a record's main data of up to 255 bytes, XLR_BLOCK_ID_DATA_SHORT."""

XLOG, XACT, TABLESPACE = 0, 1, 5
COMMIT, ABORT, COMMIT_PREPARED, ABORT_PREPARED = 0x00, 0x20, 0x30, 0x40
_KINDS = {COMMIT: "commit", ABORT: "abort", COMMIT_PREPARED: "commit_prepared", ABORT_PREPARED: "abort_prepared"}

SWITCH = 0x40
_CHECKPOINTS = (0x00, 0x10)
_BACKUP_END, _PARAMETER_CHANGE, _RESTORE_POINT, _END_OF_RECOVERY = 0x50, 0x60, 0x70, 0x90
_WANTED_XLOG = frozenset((*_CHECKPOINTS, SWITCH, _BACKUP_END, _PARAMETER_CHANGE, _RESTORE_POINT, _END_OF_RECOVERY))

_CREATE = 0x00
_HAS_XINFO = 0x80
_DBINFO, _SUBXACTS, _RELFILES, _INVALS, _TWOPHASE, _STATS = 0x1, 0x2, 0x4, 0x8, 0x10, 0x100
_MAGIC_OF_18 = 0xD118


class Commit(namedtuple("Commit", ("lsn", "xid", "timestamp", "kind", "drops"))):
    """A point where recovery can stop: the end of a transaction."""

    __slots__ = ()
    lsn: Lsn
    """Where its record begins."""
    xid: int
    """Of the transaction; the prepared one's for COMMIT PREPARED; 0 when it never had one."""
    timestamp: int
    """Microseconds since 2000-01-01 UTC."""
    kind: str
    """`commit`, `abort`, `commit_prepared` or `abort_prepared`."""
    drops: bool
    """Whether files go away with it, as for DROP TABLE, TRUNCATE and rewrites."""


class RestorePoint(namedtuple("RestorePoint", ("lsn", "timestamp", "name"))):
    """A named restore point; microseconds since 2000-01-01 UTC."""

    __slots__ = ()
    lsn: Lsn
    timestamp: int
    name: str


class Checkpoint(namedtuple("Checkpoint", ("lsn", "time", "redo", "timeline", "shutdown"))):
    """A checkpoint record; `time` is in Unix seconds, None when the layout of the version is not known."""

    __slots__ = ()
    lsn: Lsn
    time: int | None
    redo: Lsn
    timeline: int
    shutdown: bool


class BackupEnd(namedtuple("BackupEnd", ("lsn", "start_lsn"))):
    """The end of a base backup taken on this primary, and where it began."""

    __slots__ = ()
    lsn: Lsn
    start_lsn: Lsn


class EndOfRecovery(namedtuple("EndOfRecovery", ("lsn", "timestamp", "timeline", "previous"))):
    """A promotion: the timeline that begins and the one before; microseconds since 2000-01-01 UTC."""

    __slots__ = ()
    lsn: Lsn
    timestamp: int
    timeline: int
    previous: int


class Minimal(namedtuple("Minimal", ("lsn",))):
    """A change to wal_level = minimal: recovery of a backup ends at it with an error (CheckRequiredParameterValues)."""

    __slots__ = ()
    lsn: Lsn


class TablespaceMade(namedtuple("TablespaceMade", ("lsn", "oid", "location"))):
    """CREATE TABLESPACE. Replay makes it in the same directory again, wherever a restore put the others, and goes on
    with what is there; without that directory recovery ends with an error (create_tablespace_directories)."""

    __slots__ = ()
    lsn: Lsn
    oid: int
    location: str
    """Empty for one in the data directory itself."""


class Switch(namedtuple("Switch", ("lsn",))):
    """The end of a segment's use: zeros follow."""

    __slots__ = ()
    lsn: Lsn


def is_wanted(rmid: int, info: int) -> bool:
    """Tell whether `decode` makes something of a record with these two header bytes."""
    if rmid == XACT:
        return info & 0x70 in _KINDS
    return info & 0xF0 in _WANTED_XLOG if rmid == XLOG else rmid == TABLESPACE and info & 0xF0 == _CREATE


def decode(record: bytes, lsn: int, magic: int) -> Commit | Switch | Landmark | None:
    """Return what a whole record at `lsn` says, None when recovery does not care or its content is not to be read.

    `magic` is the page's: the layouts of some records changed with PostgreSQL's versions.
    """
    info, rmid = record[16], record[17]
    if not is_wanted(rmid, info):
        return None
    try:
        main = _main_data(record)
        if rmid == TABLESPACE:
            location = main[4:].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            return TablespaceMade(Lsn(lsn), struct.unpack_from("<I", main)[0], location)
        return _transaction_end(main, record, lsn, magic) if rmid == XACT else _landmark(main, info & 0xF0, lsn, magic)
    except (struct.error, IndexError):
        return None


def _main_data(record: bytes) -> bytes:
    """Return a record's main data, its last bytes; the records decoded here refer to no blocks."""
    at = HEADER
    while at < len(record):
        kind = record[at]
        if kind == SHORT_DATA:
            return record[len(record) - record[at + 1] :] if record[at + 1] else b""
        if kind == 254:
            (length,) = struct.unpack_from("<I", record, at + 1)
            return record[len(record) - length :] if length else b""
        if kind == 253:  # replication origin
            at += 3
        elif kind == 252:  # xid of the top-level transaction
            at += 5
        else:
            break
    return b""


def _transaction_end(main: bytes, record: bytes, lsn: int, magic: int) -> Commit:
    (timestamp,) = struct.unpack_from("<q", main)
    (xid,) = struct.unpack_from("<I", record, 4)
    info = record[16]
    op = info & 0x70
    xinfo = struct.unpack_from("<I", main, 8)[0] if info & _HAS_XINFO else 0
    if xinfo & _TWOPHASE:
        xid = _twophase_xid(main, xinfo, magic)
    return Commit(Lsn(lsn), xid, timestamp, _KINDS[op], bool(xinfo & _RELFILES))


def _twophase_xid(main: bytes, xinfo: int, magic: int) -> int:
    """Return the prepared transaction's xid, which follows the optional lists of the record."""
    at = 12
    if xinfo & _DBINFO:
        at += 8
    stats_size = 16 if magic >= _MAGIC_OF_18 else 12
    for flag, item_size in ((_SUBXACTS, 4), (_RELFILES, 12), (_STATS, stats_size), (_INVALS, 16)):
        if xinfo & flag:
            at += 4 + struct.unpack_from("<i", main, at)[0] * item_size
    return int(struct.unpack_from("<I", main, at)[0])


def _landmark(main: bytes, op: int, lsn: int, magic: int) -> Switch | Landmark | None:
    if op == SWITCH:
        return Switch(Lsn(lsn))
    if op == _PARAMETER_CHANGE:  # wal_level is the last of the numbers, before two booleans
        (level,) = struct.unpack_from("<I", main, len(main) // 4 * 4 - 8)
        return None if level else Minimal(Lsn(lsn))
    if op == _BACKUP_END:
        return BackupEnd(Lsn(lsn), Lsn(struct.unpack_from("<Q", main)[0]))
    if op == _RESTORE_POINT:
        name = main[8:72].split(b"\0", 1)[0].decode("utf-8", "replace")
        return RestorePoint(Lsn(lsn), struct.unpack_from("<q", main)[0], name)
    if op == _END_OF_RECOVERY:
        return EndOfRecovery(Lsn(lsn), *struct.unpack_from("<qII", main))
    redo, timeline = struct.unpack_from("<QI", main)
    # PostgreSQL 19 grew the record before the time: it moved from 64 to 72.
    (time,) = struct.unpack_from("<q", main, 64 if magic <= _MAGIC_OF_18 else 72)
    return Checkpoint(Lsn(lsn), time, Lsn(redo), timeline, op == _CHECKPOINTS[0])
