"""WAL segments of PostgreSQL 17 made by hand: whole pages, ends of transactions, then one record to the end."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import google_crc32c

from engine.postgres.clock import pg_microseconds

MAGIC_17 = 0xD116
_BLOCK = 8192
_LONG, _SHORT = 40, 24


@dataclass(frozen=True)
class Ended:
    """A transaction that committed."""

    xid: int
    at: datetime
    drops: bool = False


@dataclass(frozen=True)
class Promoted:
    """A timeline that began."""

    at: datetime
    timeline: int
    previous: int


def segment(
    timeline: int,
    number: int,
    said: Sequence[Ended | Promoted] = (),
    *,
    system: int,
    previous: int = 0,
    size: int = 1 << 20,
) -> bytes:
    """Return a whole segment's bytes; what is said lies in its first page. `previous`: where the last record before it
    begins."""
    start = number * size
    records = _records(said, start, previous)
    body = _LONG + len(records)
    room = (_BLOCK - body) + (size // _BLOCK - 1) * (_BLOCK - _SHORT)
    before = start + _LONG + _length(said[:-1]) if said else previous
    filler = _with_checksum(struct.pack("<IIQBBH", room, 0, before, 0, 10, 0), bytes(room - 24))
    first = _BLOCK - body
    pages = [_head(timeline, start, 0, system, size) + records + filler[:first]]
    left = room - first
    for at in range(_BLOCK, size, _BLOCK):
        done = room - left
        part = filler[done : done + _BLOCK - _SHORT]
        pages.append(_head(timeline, start + at, left, system, size) + part)
        left -= len(part)
    assert left == 0
    return b"".join(pages)


def last_record(number: int, said: Sequence[Ended | Promoted] = (), size: int = 1 << 20) -> int:
    """Return where the last record of such a segment begins."""
    return number * size + _LONG + _length(said)


def _records(said: Sequence[Ended | Promoted], start: int, previous: int) -> bytes:
    records = b""
    for each in said:
        at = start + _LONG + len(records)
        records += _padded(_record(each, previous))
        previous = at
    assert len(records) < _BLOCK // 2, "more than a page of records"
    return records


def _length(said: Sequence[Ended | Promoted]) -> int:
    return len(_records(said, 0, 0))


def _head(timeline: int, address: int, rest: int, system: int, size: int) -> bytes:
    long = address % size == 0
    head = struct.pack("<HHIQI4x", MAGIC_17, (0x2 if long else 0) | (0x1 if rest else 0), timeline, address, rest)
    return head + (struct.pack("<QII", system, size, _BLOCK) if long else b"")


def _record(said: Ended | Promoted, previous: int) -> bytes:
    if isinstance(said, Promoted):
        data = struct.pack("<qII", pg_microseconds(said.at), said.timeline, said.previous)
        return _made(0, 0x90, 0, previous, data)
    data = struct.pack("<q", pg_microseconds(said.at))
    if not said.drops:
        return _made(1, 0x00, said.xid, previous, data)
    # One file goes away: xinfo, a count, and the file's tablespace, database and number.
    return _made(1, 0x80, said.xid, previous, data + struct.pack("<Ii3I", 0x4, 1, 1663, 5, 16384))


def _made(manager: int, info: int, xid: int, previous: int, data: bytes) -> bytes:
    body = struct.pack("<BB", 255, len(data)) + data
    return _with_checksum(struct.pack("<IIQBBH", 24 + len(body), xid, previous, info, manager, 0), body)


def _with_checksum(head: bytes, body: bytes) -> bytes:
    checksum = google_crc32c.extend(google_crc32c.value(body), head)
    return head + struct.pack("<I", checksum) + body


def _padded(record: bytes) -> bytes:
    return record + bytes(-len(record) % 8)
