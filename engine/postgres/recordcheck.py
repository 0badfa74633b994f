"""The checksums of WAL records: whether one bit of a segment's records has changed since PostgreSQL wrote it.

A record's CRC-32C covers its data and then its header up to the checksum itself (XLogRecordAssemble in xloginsert.c,
ValidXLogRecord in xlogreader.c). Page headers and the padding between records have none.
"""

from __future__ import annotations

import struct

import google_crc32c

from engine.postgres.walfile import SegmentHeader

_SHORT, _LONG = 24, 40  # SizeOfXLogShortPHD and SizeOfXLogLongPHD
_RECORD = 24  # SizeOfXLogRecord; xl_crc is its last four bytes
_IS_LONG, _OVERWRITES = 0x0002, 0x0008  # XLP_LONG_HEADER, XLP_FIRST_IS_OVERWRITE_CONTRECORD


class RecordCheck:
    """Checks consecutive segments, one after the other; what the last record of one lacks the next one brings."""

    def __init__(self) -> None:
        self._rest: bytes | None = None
        """The begin of a record that goes on in the next segment; None when nothing is known of what comes before."""

    def segment(self, data: bytes, header: SegmentHeader, valid: int) -> str | None:
        """Check the records of a whole segment up to byte `valid`; returns where and how the first bad one is wrong."""
        for pages, continued in _runs(data, header.block_size, valid):
            if self._rest is None or continued is not None:
                stream, skip = pages, -(-(continued if continued is not None else header.rem_len) // 8) * 8
            else:
                stream, skip = self._rest + pages, 0
            position, problem = _check(stream, skip)
            if problem is not None:
                self._rest = None
                return problem
            self._rest = stream[position:]
        return None

    def lose(self) -> None:
        """Forget what came before: the next segment does not follow the last one."""
        self._rest = None


def _runs(data: bytes, block: int, valid: int) -> list[tuple[bytes, int | None]]:
    """Return the pages' contents put together, begun anew, with nothing left over, where a page says that the record
    before it was given up."""
    runs: list[tuple[bytes, int | None]] = []
    parts: list[bytes] = []
    begun: int | None = None
    for page in range(0, valid, block):
        info = struct.unpack_from("<H", data, page + 2)[0]
        if info & _OVERWRITES:
            runs.append((b"".join(parts), begun))
            parts, begun = [], 0
        parts.append(data[page + (_LONG if info & _IS_LONG else _SHORT) : min(page + block, valid)])
    runs.append((b"".join(parts), begun))
    return runs


def _check(stream: bytes, position: int) -> tuple[int, str | None]:
    """Check records from `position` on; returns where the first one that is cut short begins, or what is wrong."""
    end = len(stream)
    while position + 4 <= end:
        length = int.from_bytes(stream[position : position + 4], "little")
        if length == 0:
            return end, None  # behind a switch there is nothing
        if length < _RECORD:
            return position, f"a record of {length} bytes cannot be"
        if position + length > end:
            return position, None
        crc = google_crc32c.value(stream[position + _RECORD : position + length])
        crc = google_crc32c.extend(crc, stream[position : position + _RECORD - 4])
        if crc.to_bytes(4, "little") != stream[position + _RECORD - 4 : position + _RECORD]:
            return position, f"the checksum of a record of {length} bytes is wrong: its content changed"
        position += -(-length // 8) * 8
    return min(position, end), None
