"""Writing the WAL index: one pass over the archive that reads what is new or changed and forgets what is gone."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections import namedtuple
from collections.abc import Generator, Iterable, Iterator

from engine.errors import CellarmanError
from engine.event import Reporter
from engine.postgres import segment, walfile
from engine.postgres.lsn import Lsn
from engine.postgres.timeline import first_segment
from engine.repository import identity
from engine.repository.layout import Layout
from engine.wal import indexschema, reading

_BATCH_SECONDS = 1.0
_HURRY = 1.0
"""Seconds within which other processes would hardly have begun to read."""
_SETTLED_NS = 2_000_000_000
"""A directory changed less than this before it was read may change again under the same mtime."""
_MOST_DROPS = 100
"""Events of dropped files kept for one segment; the row counts them all."""
_MOST_PROVEN = 1024
"""Segments indexed earlier that one pass verifies at most."""
_BEYOND = 1 << 63
"""The first number that SQLite cannot hold."""
_UNIX_EPOCH = 946_684_800
"""Unix seconds at PostgreSQL's epoch, 2000-01-01 UTC."""


class _Found(namedtuple("_Found", ("directory", "mtime_ns", "files"))):
    """A directory of wals/ to look through: what to index in it, as (name, size, mtime_ns); mtime None if unsettled."""

    __slots__ = ()
    directory: str
    mtime_ns: int | None
    files: list[tuple[str, int, int]]


class Indexer:
    """One pass over the archive with the database open for writing."""

    def __init__(
        self, layout: Layout, database: sqlite3.Connection, told: Reporter, deadline: float | None, *, prove: float
    ) -> None:
        self._layout = layout
        self._to_prove = prove
        """Seconds that may still be spent on verifying records."""
        self._database = database
        self._told = told
        self._deadline = deadline
        self._system_id = _system_id(layout, told)
        self._reader = reading.Reader(layout, self._system_id, self._carry_into)
        self._after_bad = False
        sizes = database.execute("SELECT segment_size FROM segment WHERE problem IS NULL LIMIT 1").fetchone()
        self._segment_size = sizes[0] if sizes else 16 << 20

    def run(self) -> int:
        """Index what is new or changed until the deadline; returns how many segments were read."""
        found = list(self._changed())
        total = sum(len(directory.files) for directory in found)
        done, committed = 0, time.monotonic()
        if total:
            self._told.phase("index", f"{total} WAL segments")
        names = [name for directory in found for name, _, _ in directory.files]
        with contextlib.closing(self._reads(names)) as reads:
            for directory in found:
                self._database.execute("DELETE FROM directory WHERE name = ?", (directory.directory,))
                for name, size, mtime_ns in directory.files:
                    if self._deadline is not None and time.monotonic() >= self._deadline:
                        self._database.commit()
                        return done
                    done += self._index(name, size, mtime_ns, next(reads))
                    if time.monotonic() - committed > _BATCH_SECONDS:
                        self._database.commit()
                        committed = time.monotonic()
                        self._told.progress(0, None, done, total)
                if directory.mtime_ns is not None:
                    self._database.execute(
                        "INSERT INTO directory VALUES (?, ?)", (directory.directory, directory.mtime_ns)
                    )
        self._prove_what_is_left()
        self._database.commit()
        return done

    def _reads(self, names: list[str]) -> Generator[reading.Read | None, None, None]:
        """Return what other processes find in these segments, None for those that are to be read here."""
        hurried = self._deadline is not None and self._deadline - time.monotonic() < _HURRY
        processes = 1 if hurried else reading.processes()
        return reading.many(self._layout, self._system_id, names, lambda: self._to_prove, processes)

    def _prove_what_is_left(self) -> None:
        """Verify segments that were indexed when there was no time for it, as long as there is some now."""
        query = "SELECT name, size, mtime_ns FROM segment WHERE proven = 0"
        left = self._database.execute(f"{query} ORDER BY timeline DESC, number LIMIT {_MOST_PROVEN}").fetchall()
        for name, size, mtime_ns in left:
            if self._to_prove <= 0 or (self._deadline is not None and time.monotonic() >= self._deadline):
                return
            if self._database.execute(f"{query} AND name = ?", (name,)).fetchone():
                self._index(name, size, mtime_ns)

    def _changed(self) -> Iterator[_Found]:
        """Yield the directories of wals/ that changed since they were read, and forget those that are gone."""
        known = dict(self._database.execute("SELECT name, mtime_ns FROM directory"))
        present = sorted(name for name in os.listdir(self._layout.wals) if _is_directory_of_segments(name))
        for name in self._database.execute("SELECT DISTINCT substr(name, 1, 16) FROM segment").fetchall():
            if name[0] not in present:
                self._forget(self._names_in(name[0]))
                self._database.execute("DELETE FROM directory WHERE name = ?", name)
        for name in present:
            try:
                mtime_ns = os.stat(os.path.join(self._layout.wals, name)).st_mtime_ns
                if known.get(name) != mtime_ns:
                    settled = time.time_ns() - mtime_ns > _SETTLED_NS
                    yield _Found(name, mtime_ns if settled else None, self._unknown_files(name))
            except (FileNotFoundError, NotADirectoryError):
                continue

    def _unknown_files(self, directory: str) -> list[tuple[str, int, int]]:
        """Return the files in a directory that are not indexed as they are now, and forget those that are gone."""
        indexed = self._names_in(directory)
        unknown = []
        with os.scandir(os.path.join(self._layout.wals, directory)) as entries:
            for entry in entries:
                if segment.kind_of(entry.name) != segment.SEGMENT or not entry.name.startswith(directory):
                    continue
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue
                if indexed.pop(entry.name, None) != (status.st_size, status.st_mtime_ns):
                    unknown.append((entry.name, status.st_size, status.st_mtime_ns))
        self._forget(indexed)
        return sorted(unknown)

    def _names_in(self, directory: str) -> dict[str, tuple[int, int]]:
        query = "SELECT name, size, mtime_ns FROM segment WHERE name BETWEEN ? AND ?"
        found = self._database.execute(query, (directory + "00000000", directory + "FFFFFFFF"))
        return {name: (size, mtime_ns) for name, size, mtime_ns in found}

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            self._database.execute(
                "DELETE FROM event WHERE (timeline, number) = (SELECT timeline, number FROM segment WHERE name = ?)",
                (name,),
            )
            self._database.execute("DELETE FROM segment WHERE name = ?", (name,))

    def _index(self, name: str, size: int, mtime_ns: int, found: reading.Read | None = None) -> int:
        """Take in one segment, and those after it that waited for the end of its last record; returns how many.

        `found` is what reading it found, if it was read; behind a bad segment it may rest on that one.
        """
        found = None if self._after_bad else found
        done = 0
        waiting = [(name, size, mtime_ns)]
        first = name
        while waiting:
            name, size, mtime_ns = waiting.pop()
            try:
                read = found or self._reader.read(name, prove=self._to_prove > 0)
            except FileNotFoundError:
                continue
            self._to_prove -= read.seconds / (reading.processes() if found else 1)
            found = None
            self._forget([name])
            self._after_bad = read.problem is not None
            if read.problem:
                self._insert_problem(name, size, mtime_ns, read.problem)
            else:
                waiting += self._insert(name, size, mtime_ns, read, anew=name == first)
            done += 1
        return done

    def _insert_problem(self, name: str, size: int, mtime_ns: int, problem: str) -> None:
        try:
            timeline, number = segment.parse_segment(name, self._segment_size)
        except ValueError:
            timeline, number = int(name[:8], 16), int(name[8:], 16)
        self._put(
            {
                "timeline": timeline,
                "number": number,
                "name": name,
                "size": size,
                "mtime_ns": mtime_ns,
                "problem": problem,
                "proven": 1,
            }
        )

    def _insert(
        self, name: str, size: int, mtime_ns: int, read: reading.Read, *, anew: bool
    ) -> list[tuple[str, int, int]]:
        """Write a good segment's row and events; returns the files that are to be read again with what it says."""
        header, facts = read.header, read.facts
        assert header is not None and facts is not None
        self._segment_size = header.segment_size
        timeline, number = segment.parse_segment(name, header.segment_size)
        values = {
            field: getattr(facts, field) for field in walfile.SegmentFacts._fields if field in indexschema.COLUMNS
        }
        ahead = facts.carry
        self._put(
            {
                **values,
                "timeline": timeline,
                "number": number,
                "name": name,
                "size": size,
                "mtime_ns": mtime_ns,
                "problem": None,
                "system_id": str(header.system_id),
                "segment_size": header.segment_size,
                "magic": header.magic,
                "first_timeline": header.timeline,
                "rem_len": header.rem_len,
                "joined": int(read.joined),
                "n_drops": len(facts.drops),
                "proven": int(read.proven),
                "carry_lsn": ahead and int(ahead.lsn),
                "carry_length": ahead and ahead.length,
                "carry_missing": ahead and ahead.missing,
                "carry_data": ahead and ahead.data,
            }
        )
        self._database.executemany(
            "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(timeline, number, int(lsn), *rest) for lsn, *rest in _events_of(facts) if _fit(rest)],
        )
        return self._to_read_again(timeline, number, facts, anew=anew)

    def _to_read_again(
        self, timeline: int, number: int, facts: walfile.SegmentFacts, *, anew: bool
    ) -> list[tuple[str, int, int]]:
        """Return the indexed files that a segment's content says something about: what waited for the end of its last
        record, what was bad, and what follows, when it is new (`anew`) or filled by a record that goes on there."""
        query = "SELECT name, size, mtime_ns FROM segment WHERE"
        waiting = []
        if facts.carry is not None:
            waiting += self._database.execute(
                f"{query} number = ? AND joined = 0 AND first_timeline = ? AND rem_len = ?",
                (number + 1, timeline, facts.carry.missing),
            ).fetchall()
        which = "1"
        if not anew:
            which = "problem IS NOT NULL" + (" OR rem_len > 0" if facts.last_record_lsn is None else "")
        following = [
            row
            for own in (timeline, *self._beginning_in(timeline, number + 1))
            for row in self._database.execute(f"{query} timeline = ? AND number = ? AND ({which})", (own, number + 1))
        ]
        return list(dict.fromkeys([*waiting, *following]))

    def _beginning_in(self, timeline: int, number: int) -> list[int]:
        """Return the timelines that left this one in a segment: their first one goes on from the one before it."""
        return [
            child
            for child, own in self._reader.histories().items()
            if own and own[-1].timeline == timeline and first_segment(own, self._segment_size) == number
        ]

    def _carry_into(self, header: walfile.SegmentHeader, number: int) -> walfile.Carry | None:
        """Return the record that the indexed segment before leaves unfinished; its timeline is the first page's."""
        found = self._database.execute(
            f"SELECT {', '.join(indexschema.CARRY)} FROM segment"
            " WHERE timeline = ? AND number = ? AND segment_size = ? AND carry_lsn IS NOT NULL",
            (header.timeline, number - 1, header.segment_size),
        ).fetchone()
        return walfile.Carry(Lsn(found[0]), *found[1:]) if found else None

    def _put(self, values: dict[str, object]) -> None:
        names = ", ".join(values)
        self._database.execute(
            f"INSERT OR REPLACE INTO segment ({names}) VALUES ({', '.join('?' * len(values))})", tuple(values.values())
        )


def _fit(values: Iterable[object]) -> bool:
    """Tell whether the database can hold these: what was not verified may say anything."""
    return all(-_BEYOND <= value < _BEYOND for value in values if isinstance(value, int))


def _events_of(facts: walfile.SegmentFacts) -> Iterator[tuple[int, str, int | None, str, int | None]]:
    """Yield (LSN, kind, microseconds since 2000-01-01 UTC, name, value) of what a segment tells."""
    for point in facts.restore_points:
        yield point.lsn, indexschema.RESTORE_POINT, point.timestamp, point.name, None
    for checkpoint in facts.checkpoints:
        at = None if checkpoint.time is None else (checkpoint.time - _UNIX_EPOCH) * 1_000_000
        yield checkpoint.lsn, indexschema.CHECKPOINT, at, "", int(checkpoint.redo)
    for backup in facts.backup_ends:
        yield backup.lsn, indexschema.BACKUP_END, None, "", int(backup.start_lsn)
    for promotion in facts.end_of_recovery:
        yield promotion.lsn, indexschema.END_OF_RECOVERY, promotion.timestamp, "", promotion.previous
    for change in facts.minimal:
        yield change.lsn, indexschema.MINIMAL, None, "", None
    for space in facts.tablespaces:
        yield space.lsn, indexschema.TABLESPACE, None, space.location, space.oid
    for drop in facts.drops[:_MOST_DROPS]:
        yield drop.lsn, indexschema.DROP, drop.timestamp, "", drop.xid


def _is_directory_of_segments(name: str) -> bool:
    return len(name) == 16 and segment.kind_of(name + "00000000") == segment.SEGMENT


def _system_id(layout: Layout, told: Reporter) -> int | None:
    try:
        return identity.system_id(layout)
    except CellarmanError as error:
        told.note(str(error), "warn")
        return None
