"""The checksums of WAL records: whether one bit of a segment's records has changed since PostgreSQL wrote it.

A record's CRC-32C covers its data and then its header up to the checksum itself (XLogRecordAssemble in xloginsert.c,
ValidXLogRecord in xlogreader.c). Page headers and the padding between records have none.
"""

from __future__ import annotations

import struct
from collections import namedtuple
from collections.abc import Iterator

import google_crc32c

from engine.postgres.walfile import SegmentHeader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engine.postgres.recordruns import Runs

_SHORT, _LONG = 24, 40  # SizeOfXLogShortPHD and SizeOfXLogLongPHD
_RECORD, _CHECKED = 24, 20  # SizeOfXLogRecord, and its part before xl_crc
_LENGTH_AND_CRC = struct.Struct("<I16xI")
_IS_LONG = 0x0002  # XLP_LONG_HEADER
_FIRST_MAGIC_OF_19 = 0xD119
_LARGE = 512
"""Bytes of a record from which on a second call costs less than its copy."""
_PIECE = 32
"""Pages whose contents are put together at once: what is held beside the segment itself."""


class Tail(namedtuple("Tail", ("left", "crc", "head"))):
    """A record that has begun and not ended: what must be kept of it to check the rest, however long it is."""

    __slots__ = ()
    left: int
    """Bytes of it that are still to come."""
    crc: int
    """Of its data so far."""
    head: bytes
    """Its header as far as it has come; b"" when its begin was not seen, so that it cannot be checked."""


NOTHING = Tail(0, 0, b"")


class RecordCheck:
    """Checks consecutive segments, one after the other; what the last record of one lacks the next one brings."""

    def __init__(self, tail: Tail | None = None) -> None:
        """`tail` is what the segment before left over; None when nothing is known of it."""
        self.tail = tail

    def segment(self, data: bytes, header: SegmentHeader, valid: int, runs: Runs | None = None) -> str | None:
        """Check the records of a whole segment up to byte `valid`; returns where and how the first bad one is wrong.

        `runs` are those that may be checked together, when the segment is valid to its end.
        """
        if self.tail is None:
            self.tail = Tail(header.rem_len, 0, b"")
        left = self.tail.left
        if left != header.rem_len and not overwrites(header.magic, header.info):
            self.tail = None
            return f"it continues {header.rem_len} bytes of a record, and the segment before leaves {left} to come"
        if runs is not None and not runs.are_right():
            runs = None  # one by one, to say which
        for contents, anew in _pieces(data, header, valid, runs):
            if anew:
                self.tail = NOTHING
            problem = self._check(contents)
            if problem is not None:
                self.tail = None
                return problem
        return None

    def lose(self) -> None:
        """Forget what came before: the next segment does not follow the last one."""
        self.tail = None

    def _check(self, contents: bytes) -> str | None:
        """Check the records in the contents of pages, the first of which may have begun earlier."""
        position, problem = self._end(contents)
        if problem is not None:
            return problem
        end, unpack = len(contents), _LENGTH_AND_CRC.unpack_from
        value, extend = google_crc32c.value, google_crc32c.extend
        while position + _RECORD <= end:
            length, crc = unpack(contents, position)
            after = position + length
            if length < _RECORD or after > end:
                break
            head = contents[position : position + _CHECKED]
            if length < _LARGE:
                found = value(contents[position + _RECORD : after] + head)
            else:
                found = extend(value(contents[position + _RECORD : after]), head)
            if found != crc:
                return _wrong(length)
            position = after + 7 & -8
        return self._begin(contents[position:])

    def _begin(self, contents: bytes) -> str | None:
        """Keep what there is of a record that goes on behind these contents, if they are one."""
        length = int.from_bytes(contents[:4], "little")
        if length == 0:
            return None  # behind a switch there is nothing
        if length < _RECORD:
            return f"a record of {length} bytes cannot be"
        crc = google_crc32c.value(contents[_RECORD:])
        self.tail = Tail(length - len(contents), crc, contents[:_RECORD])
        return None

    def _end(self, contents: bytes) -> tuple[int, str | None]:
        """Take the rest of the record that began earlier; return where the next one begins, and what is wrong."""
        assert self.tail is not None
        left, crc, head = self.tail
        if not left:
            return 0, None
        part = min(left, len(contents))
        if head:
            lacking = min(_RECORD - len(head), part)
            head += contents[:lacking]
            crc = google_crc32c.extend(crc, contents[lacking:part])
        self.tail = Tail(left - part, crc, head)
        if left > part:
            return len(contents), None
        self.tail = NOTHING
        return -(-part // 8) * 8, _compare(head, crc, int.from_bytes(head[:4], "little")) if head else None


def overwrites(magic: int, info: int) -> bool:
    """Tell whether a page says that the record before it was given up: the server crashed while it wrote it."""
    return bool(info & (0x0008 if magic < _FIRST_MAGIC_OF_19 else 0x0004))  # XLP_FIRST_IS_OVERWRITE_CONTRECORD


def _compare(head: bytes, crc: int, length: int) -> str | None:
    whole = google_crc32c.extend(crc, head[:_CHECKED])
    return None if whole.to_bytes(4, "little") == head[_CHECKED:] else _wrong(length)


def _wrong(length: int) -> str:
    return f"the checksum of a record of {length} bytes is wrong: its content changed"


def _pieces(data: bytes, header: SegmentHeader, valid: int, without: Runs | None) -> Iterator[tuple[bytes, bool]]:
    """Yield the contents of the pages up to byte `valid`, some at a time, and whether they begin anew, with nothing
    left over, because the page says that the record before it was given up."""
    parts: list[memoryview] = []
    anew = False
    block, view = header.block_size, memoryview(data)
    for page in range(0, valid, block):
        info = struct.unpack_from("<H", data, page + 2)[0]
        gives_up = overwrites(header.magic, info)
        if parts and (gives_up or len(parts) >= _PIECE):
            yield b"".join(parts), anew
            parts, anew = [], False
        anew = anew or gives_up
        begin = page + (_LONG if info & _IS_LONG else _SHORT)
        if without is not None and without.begins[page // block] >= 0:
            parts.append(view[begin : without.begins[page // block]])
            begin = without.ends[page // block]
        parts.append(view[begin : min(page + block, valid)])
    if parts:
        yield b"".join(parts), anew
