"""The facts of real segments: the index where it is up to date, the file itself where it is not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.errors import CellarmanError
from engine.postgres import walfile, walrecord
from engine.postgres.lsn import Lsn
from engine.postgres.timeline import Lineage, first_segment
from engine.recovery.facts import Mark, Point, Row
from engine.repository.layout import Layout
from engine.wal import codec, contentcheck, index, inspection, soundness
from engine.wal.gaps import Archive, Key, goes_on
from engine.wal.listing import locate

_KEPT = 4
"""Walked segments kept in memory."""
_BLOCK = 4096
"""Rows read from the index at once."""
_WHOLE = 512
"""Segments that the index does not know, read whole to prove them; above that only their headers are read."""


class InvalidSegment(Exception):
    """A segment that satisfies nothing."""

    def __init__(self, key: Key, reason: str) -> None:
        super().__init__(reason)
        self.key = key
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Walked:
    row: Row
    marks: tuple[Mark, ...]
    points: tuple[Point, ...]
    ended_by: str
    carry: walfile.Carry | None


class WalFacts:
    """`facts.Facts` of one server's archive."""

    def __init__(self, layout: Layout, archive: Archive, system_id: int | None) -> None:
        self._layout, self._archive, self._system_id = layout, archive, system_id
        self._systems = () if system_id is None else (system_id,)
        self._walked: dict[Key, _Walked] = {}
        self._rows: dict[tuple[int, int], dict[int, index.SegmentRow]] = {}
        self._points: dict[Key, list[Point]] | None = None
        self._made: dict[Key, tuple[walrecord.TablespaceMade, ...]] = {}
        """The tablespaces that segments make which were read here."""
        self._newest_ending: tuple[str, contentcheck.Ending] | None = None
        self.headers_only = 0
        """Segments of which `check` read the header only."""
        self.unproven = 0
        """Segments that `check` took for what the index says, although nobody has verified their records."""

    def row(self, key: Key) -> Row | None:
        """Return what the index knows of a segment; None when it does not, or knows an older file."""
        if key in self._walked:
            return self._walked[key].row
        found = self._indexed(key)
        return _from_index(found) if found is not None and found.problem is None else None

    def _indexed(self, key: Key) -> index.SegmentRow | None:
        """Return the index's row of a segment, read with its neighbours."""
        timeline, number = key
        block = (timeline, number // _BLOCK)
        if block not in self._rows:
            found = index.rows(self._layout, timeline, block[1] * _BLOCK, (block[1] + 1) * _BLOCK - 1)
            self._rows[block] = {row.number: row for row in found}
        row = self._rows[block].get(number)
        torn = row is not None and contentcheck.CONTINUES in (row.problem or "")
        return None if torn and key in self._archive.begins else row

    def _forget(self, key: Key) -> None:
        self._rows[(key[0], key[1] // _BLOCK)].pop(key[1], None)

    def renew(self, keys: Iterable[Key]) -> None:
        """Forget what the index says of those segments whose files have changed since."""
        for key in keys:
            row = self._indexed(key)
            if row is not None and not self._unchanged(key, row):
                self._forget(key)

    def walk(self, key: Key) -> Row:
        """Return the facts of a segment, read now when the index does not have them.

        Raises InvalidSegment.
        """
        return self.row(key) or self._walk(key).row

    def marks(self, key: Key) -> Sequence[Mark]:
        """Return the commits and aborts of a segment, in WAL order; raises InvalidSegment."""
        return self._walk(key).marks

    def first_record(self, key: Key, lsn: Lsn) -> Lsn | None:
        """Return where the first record of a segment begins that begins at or after an LSN; raises InvalidSegment."""
        return walfile.first_record(*self._opened(key), lsn)

    def points(self, keys: Iterable[Key]) -> Sequence[Point]:
        """Return the named restore points in these segments, in WAL order; raises InvalidSegment."""
        if self._points is None:
            self._points = {}
            for event in index.events(self._layout, index.RESTORE_POINT):
                point = Point(event.name, event.timeline, Lsn(event.lsn), event.timestamp or 0)
                self._points.setdefault((event.timeline, event.number), []).append(point)
        found: list[Point] = []
        for key in keys:
            found += self._points.get(key, ()) if self._indexed(key) is not None else self._walk(key).points
        return sorted(found, key=lambda point: point.lsn)

    def tablespaces(self, keys: Iterable[Key]) -> list[walrecord.TablespaceMade]:
        """Return where tablespaces are made in these segments, which were checked, in WAL order."""
        indexed: dict[Key, tuple[walrecord.TablespaceMade, ...]] = {}
        for event in index.tablespaces(self._layout):
            made = walrecord.TablespaceMade(Lsn(event.lsn), event.value or 0, event.name)
            key = (event.timeline, event.number)
            indexed[key] = (*indexed.get(key, ()), made)
        found = [each for key in keys for each in (self._made if key in self._made else indexed).get(key, ())]
        return sorted(found, key=lambda each: each.lsn)

    def check(self, keys: Sequence[Key], seconds: float) -> dict[Key, str]:
        """Return the segments that satisfy nothing, with the reason; `keys` are in the order of replay.

        What the index knows of an unchanged file holds, but of a timeline's first segment, which is held against its
        history anew; where nobody has verified its records, it is read, for at most `seconds`. Other files are read:
        whole if they are few, else their headers. Only the last may hold less than a whole segment of records, and
        only where nothing tells of more.
        """
        bad: dict[Key, str] = {}
        unknown = 0
        deadline = time.monotonic() + seconds
        changed = open_record = False
        """Whether the segment before did, and whether a record that begins in a changed one goes on."""
        for position, key in enumerate(keys):
            row = self._indexed(key)
            unchanged = row is not None and self._unchanged(key, row)
            known = (
                unchanged
                and not changed
                and not self._begins_timeline(key)
                and not (open_record and row is not None and row.rem_len)
            )
            changed = not unchanged
            open_record = changed or (not known and row is not None and row.last_record_lsn is None)
            try:
                if known and row is not None and (row.proven or time.monotonic() > deadline):
                    self.unproven += not row.proven
                    end, ended_by = row.end_lsn, row.ended_by
                    if row.problem is not None:
                        raise InvalidSegment(key, row.problem)
                elif unknown < _WHOLE:
                    unknown += not known
                    self._forget(key)
                    walked = self._walk(key)
                    end, ended_by = walked.row.end, walked.ended_by
                else:
                    self.headers_only += 1
                    self._check_header(key)
                    continue
                followed = position + 1 < len(keys) or self._may_go_on(key)
                if ended_by not in ("end", "switch") and followed:
                    raise InvalidSegment(key, f"its valid data ends at {Lsn(end or 0)}: {ended_by}")
            except InvalidSegment as invalid:
                bad[invalid.key] = invalid.reason
        return bad

    def _begins_timeline(self, key: Key) -> bool:
        switches = self._archive.histories.get(key[0], ())
        return bool(switches) and first_segment(switches, self._archive.segment_size) == key[1]

    def _may_go_on(self, key: Key) -> bool:
        """Tell whether a timeline went on behind a segment, as far as the archive shows and can be read."""
        return goes_on(self._archive, *key) or any(number > key[0] for number in self._archive.bad_histories)

    def size(self, key: Key) -> int:
        """Return the bytes that a segment takes in the archive."""
        row = self._indexed(key)
        if row is not None:
            return int(row.size)
        return os.stat(self._path(key)).st_size

    def _path(self, key: Key) -> str:
        return locate(self._layout, self._archive.name(*key))

    def _unchanged(self, key: Key, row: index.SegmentRow) -> bool:
        try:
            status = os.stat(self._layout.wal(self._archive.name(*key)))
        except OSError:
            return False
        return status.st_size == row.size and status.st_mtime_ns == row.mtime_ns

    def _check_header(self, key: Key) -> None:
        name = self._archive.name(*key)
        try:
            header = walfile.read_header(codec.read_head(self._path(key), walfile.HEADER_SIZE))
        except (CellarmanError, OSError) as error:
            raise InvalidSegment(key, _why(error)) from error
        reason = walfile.check_segment(name, header, system_id=self._system_id, size=header.segment_size)
        if reason:
            raise InvalidSegment(key, reason)

    def _walk(self, key: Key) -> _Walked:
        if key not in self._walked:
            walked = self._read(key, self._carry_into(key))
            while len(self._walked) >= _KEPT:
                del self._walked[next(iter(self._walked))]
            self._walked[key] = walked
        return self._walked[key]

    def _carry_into(self, key: Key) -> walfile.Carry | None:
        """Return the record that the segment before leaves unfinished."""
        timeline, number = key
        lineage = Lineage.of(timeline, self._archive.histories.get(timeline, ()))
        before = (lineage.canonical(number - 1, self._archive.segment_size), number - 1) if number else None
        if before is None or not self._archive.good(*before):
            return None
        if before in self._walked:
            return self._walked[before].carry
        try:
            return self._read(before, None).carry
        except InvalidSegment:
            return None

    def _opened(self, key: Key) -> tuple[bytes, walfile.SegmentHeader]:
        """Return the plain content of a segment, and its header, which is right; raises InvalidSegment."""
        try:
            data = codec.read_segment(self._path(key))
            header = walfile.read_header(data)
            name = self._archive.name(*key)
            reason = walfile.check_segment(name, header, system_id=self._system_id, size=len(data))
        except (CellarmanError, OSError) as error:
            raise InvalidSegment(key, _why(error)) from error
        if reason:
            raise InvalidSegment(key, reason)
        return data, header

    def _read(self, key: Key, carry: walfile.Carry | None) -> _Walked:
        name = self._archive.name(*key)
        data, header = self._opened(key)
        facts = walfile.walk(data, header, carry)
        magic = inspection.magic_of(self._layout, self._system_id)
        histories = self._archive.histories
        found = soundness.joined(
            name,
            data,
            systems=self._systems,
            histories=histories,
            before=None if key in self._archive.begins else self._before(name, header),
            magic=magic,
            read=self._content,
        )
        self._newest_ending = None if found.ending is None else (name, found.ending)
        if found.problem:
            raise InvalidSegment(key, found.problem)
        self._made[key] = facts.tablespaces
        marks = tuple(
            Mark(Lsn(c.lsn), c.xid, c.timestamp, c.kind.startswith("commit"), c.drops)
            for c in walfile.commits(data, header, carry)
        )
        points = tuple(Point(p.name, key[0], Lsn(p.lsn), p.timestamp) for p in facts.restore_points)
        return _Walked(_row(key, marks, facts), marks, points, facts.ended_by, facts.carry)

    def _before(self, name: str, header: walfile.SegmentHeader) -> tuple[str, contentcheck.Ending] | None:
        """Return the segment that one goes on from, and how it ends, where that was read last or is needed."""
        histories = self._archive.histories
        if self._newest_ending and contentcheck.predecessor(name, header, histories) == self._newest_ending[0]:
            return self._newest_ending
        return contentcheck.ending_before(name, header, histories, self._content)

    def _content(self, name: str) -> bytes | None:
        """Return the plain content of a segment, None when it cannot be had."""
        try:
            return codec.read_segment(locate(self._layout, name))
        except (CellarmanError, OSError):
            return None


def _row(key: Key, marks: Sequence[Mark], facts: walfile.SegmentFacts) -> Row:
    times = [mark.time for mark in marks]
    xids = [mark.xid for mark in marks]
    last = Lsn(facts.last_record_lsn) if facts.last_record_lsn is not None else None
    return Row(
        key[0],
        key[1],
        max(times, default=None),
        min(times, default=None),
        min(xids, default=None),
        max(xids, default=None),
        last,
        Lsn(facts.end_lsn),
    )


def _from_index(row: index.SegmentRow) -> Row:
    last = Lsn(row.last_record_lsn) if row.last_record_lsn is not None else None
    return Row(
        row.timeline, row.number, row.max_commit, row.min_commit, row.min_xid, row.max_xid, last, Lsn(row.end_lsn or 0)
    )


def _why(error: Exception) -> str:
    return (error.why or error.what) if isinstance(error, CellarmanError) else str(error)
