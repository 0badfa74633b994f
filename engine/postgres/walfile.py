"""What is inside a WAL segment: its header, its commits, and where its valid data ends.

Sources: PostgreSQL's src/include/access/{xlog_internal,xlogrecord,xact}.h, src/include/catalog/pg_control.h and
src/backend/access/transam/xlogreader.c. Numbers are little-endian, records 8-aligned. A record may cross pages, and
segments: what is cut off at a segment's end is carried into the next one's walk. Light: the WAL client loads it.
"""

from __future__ import annotations

import struct
from collections import namedtuple

from engine.errors import CellarmanError
from engine.postgres import segment
from engine.postgres.lsn import Lsn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = 8192
"""Bytes of a WAL page as PostgreSQL is built unless told otherwise; a segment's header says its own."""
HEADER_SIZE = 40

_SHORT_HEADER = 24
_LONG_HEADER = 0x2
_CONTRECORD = 0x1
_MAJORS = {
    0xD093: 9,
    0xD097: 10,
    0xD098: 11,
    0xD101: 12,
    0xD106: 13,
    0xD10D: 14,
    0xD110: 15,
    0xD113: 16,
    0xD116: 17,
    0xD118: 18,
    0xD121: 19,
}
_FIRST_MAGIC_OF_19 = 0xD119

_XLOG, _XACT = 0, 1
_COMMIT, _PREPARE, _ABORT, _COMMIT_PREPARED, _ABORT_PREPARED = 0x00, 0x10, 0x20, 0x30, 0x40
_SHUTDOWN_CHECKPOINT, _ONLINE_CHECKPOINT, _SWITCH = 0x00, 0x10, 0x40
_BACKUP_END, _RESTORE_POINT, _END_OF_RECOVERY = 0x50, 0x70, 0x90
_KINDS = {
    _COMMIT: "commit",
    _ABORT: "abort",
    _COMMIT_PREPARED: "commit_prepared",
    _ABORT_PREPARED: "abort_prepared",
}


class WalFormatError(CellarmanError):
    """Bytes that are not a WAL segment; `why` gives the reason."""


class SegmentHeader(
    namedtuple(
        "SegmentHeader",
        ("magic", "info", "timeline", "address", "rem_len", "system_id", "segment_size", "block_size"),
    )
):
    """The long header at a segment's start; `timeline` is the first page's and may be an ancestor of the file's."""

    __slots__ = ()
    magic: int
    info: int
    timeline: int
    address: Lsn
    rem_len: int
    """Bytes that the first page continues of a record begun in the segment before."""
    system_id: int
    segment_size: int
    block_size: int


def read_header(data: bytes) -> SegmentHeader:
    """Return the header in a segment's first 40 bytes; raises WalFormatError with the reason."""
    if len(data) < HEADER_SIZE:
        raise _not_wal(f"it is too short: {len(data)} bytes")
    magic, info, timeline, address, rem_len, system_id, size, block = struct.unpack_from("<HHIQI4xQII", data)
    if magic >> 12 != 0xD:
        raise _not_wal(f"invalid magic number {magic:04X}")
    if not info & _LONG_HEADER:
        raise _not_wal("its first page has no long header")
    if not segment.valid_segment_size(size):
        raise _not_wal(f"its header states segments of {size} bytes")
    if not 1024 <= block <= 65536 or block & (block - 1):
        raise _not_wal(f"its header states pages of {block} bytes")
    return SegmentHeader(magic, info, timeline, Lsn(address), rem_len, system_id, size, block)


def _not_wal(reason: str) -> WalFormatError:
    return WalFormatError("not a WAL segment", reason)


def major_of(magic: int) -> int | None:
    """Return the PostgreSQL major version that writes pages with this magic number, None when it is not known.

    >>> major_of(0xD110), major_of(0xD0FF)
    (15, None)
    """
    return _MAJORS.get(magic)


def check_segment(name: str, header: SegmentHeader, *, system_id: int | None, size: int) -> str | None:
    """Return None when the header fits the file's name, its plain size in bytes and the server; else why not.

    The text begins with one of the words `alien`, `wrong size`, `misplaced`, `wrong timeline` and a colon. `name` may
    be a segment's or a .partial's.
    """
    if system_id is not None and header.system_id != system_id:
        return f"alien: it belongs to the system {header.system_id}, this server is {system_id}"
    if size != header.segment_size:
        return f"wrong size: {size} bytes instead of {header.segment_size}"
    try:
        timeline, number = segment.parse_segment(name, header.segment_size)
    except ValueError as error:
        return f"misplaced: {error}"
    if header.address != number * header.segment_size:
        inside = segment.segment_name(header.timeline, header.address // header.segment_size, header.segment_size)
        return f"misplaced: it holds the WAL of {inside} (address {header.address})"
    if not 1 <= header.timeline <= timeline:
        return f"wrong timeline: its first page is of timeline {header.timeline}, its name says {timeline}"
    return None
