"""What of the archive was read when, and what was found: the memory of the content audit.

SQLite in .cellarman/, derived: deleting it costs the time to read the archive again and nothing else. It is apart from
the index so that rebuilding the one does not forget the other. One process uses it at a time, under a lock.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable
from types import TracebackType
from typing import NamedTuple

from engine.errors import CellarmanError
from engine.repository.layout import Layout
from engine.wal import derived

VERSION = 1
"""Of the schema; a log of another version is begun anew."""

HARMLESS = "harmless: "
"""How the problem begins of a segment that is damaged where replay never looks."""

Identity = tuple[int, int, int]
"""Of a file: size, mtime in nanoseconds, inode."""


class Reading(NamedTuple):
    """What was read of one segment; with every field but the name None, it was not read yet."""

    name: str
    size: int | None = None
    mtime_ns: int | None = None
    inode: int | None = None
    digest: int | None = None
    """CRC-32C of the plain content when it was good."""
    problem: str | None = None
    """Why the file satisfies nothing, or, behind HARMLESS, what is damaged where nobody looks."""
    unknown: str | None = None
    """Why it could not be judged."""
    short: str | None = None
    """Why its valid data ends before it does; a problem as soon as something goes on from it."""
    system: str | None = None
    """The system identifier in its header, in decimal: SQLite's integers are signed."""
    ending: bytes | None = None
    """`contentcheck.Ending` packed, when replay can go on behind it."""
    before: str | None = None
    """The segment that it goes on from."""
    joined: bytes | None = None
    """The ending of that, when both were held against each other."""
    since: int | None = None
    """When this file was first read, or first found to be bad as it is: nanoseconds of the epoch."""

    @property
    def harmless(self) -> bool:
        """Whether replay does not mind what is wrong."""
        return (self.problem or "").startswith(HARMLESS)

    @property
    def identity(self) -> Identity | None:
        if self.size is None or self.mtime_ns is None or self.inode is None:
            return None
        return self.size, self.mtime_ns, self.inode


class Round(NamedTuple):
    """A reading of the whole archive; times in nanoseconds of the epoch."""

    started: int
    ended: int | None
    read: int
    """Segments that it has read."""
    left: int


_COLUMNS = ", ".join(Reading._fields)
_SCHEMA = f"""
CREATE TABLE segment (
    name TEXT PRIMARY KEY, {", ".join(Reading._fields[1:])}, read_at INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX segment_age ON segment (read_at, name);
CREATE INDEX segment_bad ON segment (name) WHERE problem IS NOT NULL;
CREATE INDEX segment_unknown ON segment (name) WHERE unknown IS NOT NULL;
CREATE INDEX segment_before ON segment (before) WHERE before IS NOT NULL;
CREATE TABLE directory (name TEXT PRIMARY KEY, mtime_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE round (number INTEGER PRIMARY KEY, started INTEGER NOT NULL, ended INTEGER);
PRAGMA user_version = {VERSION};
"""


def path(layout: Layout) -> str:
    return os.path.join(layout.own, "wal-audit.sqlite")


class Log:
    """The log, opened for writing; a context manager: a block that raises takes back what was not committed."""

    def __init__(self, layout: Layout) -> None:
        """Open or begin the log; a damaged one is begun anew. Raises sqlite3.Error and OSError."""
        os.makedirs(layout.own, mode=0o750, exist_ok=True)
        try:
            self._database = derived.opened(path(layout), VERSION, _SCHEMA)
        except sqlite3.DatabaseError as error:
            # A full disk, missing rights and the like are operational errors; those are not mended by beginning anew.
            if isinstance(error, sqlite3.OperationalError):
                raise
            derived.remove(path(layout))
            self._database = derived.opened(path(layout), VERSION, _SCHEMA)

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._database.commit()
        finally:
            self._database.close()

    def commit(self) -> None:
        self._database.commit()

    def directories(self) -> dict[str, int]:
        """Return the directories of wals/ whose names were taken, each with the mtime_ns that it had then."""
        return dict(self._database.execute("SELECT name, mtime_ns FROM directory"))

    def take_names(self, directory: str, mtime_ns: int, names: Iterable[str]) -> None:
        """Note which segments a directory holds; one with mtime_ns 0 is looked at again the next time."""
        where = (directory + "00000000", directory + "FFFFFFFF")
        found = self._database.execute("SELECT name FROM segment WHERE name BETWEEN ? AND ?", where)
        known = {name for (name,) in found}
        present = set(names)
        for name in known - present:
            self.forget(name)
        self._database.executemany("INSERT INTO segment (name) VALUES (?)", [(name,) for name in present - known])
        self._database.execute("INSERT OR REPLACE INTO directory VALUES (?, ?)", (directory, mtime_ns))

    def forget_directory(self, directory: str) -> None:
        self.take_names(directory, 0, ())
        self._database.execute("DELETE FROM directory WHERE name = ?", (directory,))

    def forget(self, name: str) -> None:
        """Forget a segment that is gone, and have those read again that went on from it."""
        self._database.execute("DELETE FROM segment WHERE name = ?", (name,))
        self._database.execute("UPDATE segment SET read_at = 0 WHERE before = ? AND joined IS NOT NULL", (name,))

    def look_again(self, name: str) -> None:
        """Have a segment read before all others."""
        self._database.execute("UPDATE segment SET read_at = 0 WHERE name = ?", (name,))

    def begin_round(self, rest: float = 0.0) -> int:
        """Return when the current round began; one that was not finished goes on, and no new one begins before the
        last is `rest` seconds old."""
        found = self._database.execute("SELECT started, ended FROM round").fetchone()
        now = time.time_ns()
        if found is not None and (found[1] is None or 0 <= now - found[0] < rest * 1e9):
            return int(found[0])
        self._database.execute("DELETE FROM round")
        self._database.execute("INSERT INTO round (started) VALUES (?)", (now,))
        return now

    def end_round(self) -> None:
        self._database.execute("UPDATE round SET ended = ? WHERE ended IS NULL", (time.time_ns(),))

    def round(self) -> Round:
        query = (
            "SELECT started, ended, (SELECT count(*) FROM segment WHERE read_at >= started),"
            " (SELECT count(*) FROM segment WHERE read_at < started) FROM round"
        )
        return Round._make(self._database.execute(query).fetchone())

    def due(self, started: int, count: int) -> list[str]:
        """Return the next segments that a round has to read, those read longest ago first."""
        query = "SELECT name FROM segment WHERE read_at < ? ORDER BY read_at, name LIMIT ?"
        return [name for (name,) in self._database.execute(query, (started, count))]

    def reading(self, name: str) -> Reading | None:
        """Return what was read of a segment, None when nothing was."""
        query = f"SELECT {_COLUMNS} FROM segment WHERE name = ? AND size IS NOT NULL"
        found = self._database.execute(query, (name,)).fetchone()
        return None if found is None else Reading._make(found)

    def bad(self) -> list[Reading]:
        """Return what was found bad, by name."""
        query = f"SELECT {_COLUMNS} FROM segment WHERE problem IS NOT NULL ORDER BY name"
        return [Reading._make(row) for row in self._database.execute(query)]

    def unknown(self) -> list[tuple[str, str]]:
        """Return (name, why) of what could not be judged."""
        return self._database.execute(
            "SELECT name, unknown FROM segment WHERE unknown IS NOT NULL ORDER BY name"
        ).fetchall()

    def followed(self, name: str, system: str) -> bool:
        """Tell whether a segment of the same system that was read goes on from this one."""
        query = "SELECT 1 FROM segment WHERE before = ? AND system = ? LIMIT 1"
        return self._database.execute(query, (name, system)).fetchone() is not None

    def write(self, reading: Reading) -> None:
        """Note what was read now, and have the neighbours read again that it puts into another light."""
        values = (*reading, time.time_ns())
        self._database.execute(f"INSERT OR REPLACE INTO segment VALUES ({', '.join('?' * len(values))})", values)
        self._database.execute(
            "UPDATE segment SET read_at = 0 WHERE before = ? AND joined IS NOT ?", (reading.name, reading.ending)
        )
        self._database.execute(
            "UPDATE segment SET read_at = 0 WHERE name = ? AND short IS NOT NULL AND problem IS NULL", (reading.before,)
        )


def cannot_write(layout: Layout, error: Exception) -> CellarmanError:
    return CellarmanError(
        f"the log of what was read of the WAL archive cannot be written: {path(layout)}",
        str(error),
        "see that the file system has room and belongs to this account; the file may be deleted, it is made anew",
    )
