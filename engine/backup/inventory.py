"""The files of a backup by rsync while it is taken, kept on disk: a cluster may have millions, and a job's memory is
bounded."""

from __future__ import annotations

import heapq
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, NamedTuple

from engine.errors import CellarmanError
from engine.postgres.manifest import ManifestFile, scan_manifest
from engine.postgres.manifestwriter import Written

_CACHE_KIB = 4096
_BATCH = 2000
_FILE_WEIGHT = 16 << 10
"""Bytes that a file counts beyond its own when the lists are balanced: opening and closing it costs time too."""
_LISTED, _READ, _LOOKED_AT, _REUSED, _ARRIVED = range(5)
"""What is known of a file: nothing but its name; it is here and read; it was not transferred; it is the parent's; rsync
says that it came."""
_SCHEMA = """
CREATE TABLE file (id INTEGER PRIMARY KEY, root INT, path BLOB, size INT, modified INT, kept INT, part INT,
                   seen INT DEFAULT 0, checksum TEXT, read_size INT, read_modified REAL);
CREATE TABLE old (path BLOB PRIMARY KEY, size INT, checksum TEXT) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Root:
    """A directory that is copied: the data directory, or a tablespace's."""

    number: int
    """0 for the data directory, else the tablespace's oid."""
    source: str
    destination: str
    exclude: tuple[str, ...]
    parent: str = ""
    """The same of the backup whose unchanged files are used again; "" for none."""
    bandwidth_limit: int = 0
    """Of its own, in kilobytes a second."""

    @property
    def prefix(self) -> bytes:
        """What the manifest puts before its paths."""
        return manifest_prefix(self.number)


class Arrival(NamedTuple):
    """A file that was read after it came."""

    root: int
    path: bytes
    size: int
    modified: float
    checksum: str
    """ALGORITHM:hexadecimal."""


class Unseen(NamedTuple):
    """A file of a list that rsync did not have to transfer, or that is gone."""

    id: int
    path: bytes
    size: int
    old_size: int | None
    """What the parent's manifest says, if anything."""
    old_checksum: str | None
    """ALGORITHM:hexadecimal."""


@dataclass
class Part:
    """A share of a root's files, for one rsync."""

    number: int
    root: Root
    kept: bool
    """Whether these look unchanged since the parent: rsync compares them and links or copies what is."""
    coming: int = 0
    """Bytes that have to come, as far as can be foreseen."""
    files: int = 0
    settled: bool = False
    """Whether it was looked after what was not transferred."""
    _names: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    _arrived: IO[bytes] = field(default_factory=tempfile.TemporaryFile)

    def add(self, path: bytes, size: int) -> None:
        self._names.write(path + b"\0")
        self.coming += 0 if self.kept else size
        self.files += 1

    def arrived(self, path: bytes) -> None:
        """Remember that a file need not be asked for again."""
        self._arrived.write(path + b"\0")

    def arrivals(self) -> Iterator[bytes]:
        """Return the paths that arrived."""
        return _paths(self._arrived)

    def left(self) -> Iterable[bytes]:
        """Return the paths that have not arrived; can be gone through again."""
        return _Left(self._names, frozenset(_paths(self._arrived)))

    def close(self) -> None:
        self._names.close()
        self._arrived.close()


@dataclass(frozen=True)
class _Left:
    names: IO[bytes]
    arrived: frozenset[bytes]

    def __iter__(self) -> Iterator[bytes]:
        return (path for path in _paths(self.names) if path not in self.arrived)


def _paths(stream: IO[bytes]) -> Iterator[bytes]:
    stream.seek(0)
    rest = b""
    while block := stream.read(1 << 16):
        *paths, rest = (rest + block).split(b"\0")
        yield from paths
    stream.seek(0, os.SEEK_END)


class Inventory:
    """All files of the backup; a context manager. Used by one thread, but for what says otherwise.

    They lie in a temporary database without a name, which goes with the process however it ends.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.executescript(_SCHEMA)
        self._db.execute("BEGIN")
        self._rows: list[tuple[int, bytes, int, int, bool]] = []
        self._arrivals: list[Arrival] = []
        self._lock = threading.Lock()
        self.bytes = 0
        """Of all files listed."""
        self.kept_bytes = 0
        """Of those that look unchanged since the parent."""
        self.files = 0
        self.seen = 0
        """Files that are here."""

    def __enter__(self) -> Inventory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def add(self, root: Root, path: bytes, size: int, modified: int, *, kept: bool) -> None:
        """Take a file of the listing; `modified` in seconds."""
        self._rows.append((root.number, path, size, modified, kept))
        self.files += 1
        self.bytes += size
        self.kept_bytes += size if kept else 0
        if len(self._rows) >= _BATCH:
            self._store()

    def _store(self) -> None:
        self._db.executemany("INSERT INTO file (root, path, size, modified, kept) VALUES (?, ?, ?, ?, ?)", self._rows)
        self._rows.clear()

    def learn(self, manifest: str) -> bool:
        """Take the checksums of the parent's manifest; tells whether there is one that can be trusted."""
        rows: list[tuple[bytes, int, str]] = []

        def take(entry: ManifestFile) -> None:
            if entry.checksum_algorithm and entry.checksum:
                rows.append((os.fsencode(entry.path), entry.size, f"{entry.checksum_algorithm}:{entry.checksum}"))
            if len(rows) >= _BATCH:
                store()

        def store() -> None:
            self._db.executemany("INSERT OR REPLACE INTO old VALUES (?, ?, ?)", rows)
            rows.clear()

        try:
            scan_manifest(manifest, take)
        except CellarmanError:
            self._db.execute("DELETE FROM old")
            return False
        store()
        return True

    def parts(self, roots: Iterable[Root], wanted: int) -> list[Part]:
        """Split the files into lists, about `wanted` of equal weight, the heaviest first; never two roots in one."""
        self._store()
        whole = self._db.execute(
            "SELECT coalesce(sum(CASE WHEN kept THEN 0 ELSE size END + ?), 0) FROM file", (_FILE_WEIGHT,)
        ).fetchone()[0]
        found: list[Part] = []
        for root in roots:
            for kept in (False, True):
                weight, count = self._db.execute(
                    "SELECT coalesce(sum(CASE WHEN kept THEN 0 ELSE size END + ?), 0), count(*) FROM file"
                    " WHERE root = ? AND kept = ?",
                    (_FILE_WEIGHT, root.number, kept),
                ).fetchone()
                if count:
                    share = max(1, min(count, round(wanted * weight / whole)))
                    found += self._split(root, kept, share, len(found))
        self._db.execute("CREATE UNIQUE INDEX by_path ON file (root, path)")
        self._db.execute("CREATE INDEX by_part ON file (part)")
        return sorted(found, key=lambda part: part.coming, reverse=True)

    def _split(self, root: Root, kept: bool, share: int, number: int) -> list[Part]:
        parts = [Part(number + at, root, kept) for at in range(share)]
        lightest = [(0, at) for at in range(share)]
        rows = self._db.execute(
            "SELECT id, path, size FROM file WHERE root = ? AND kept = ? ORDER BY size DESC", (root.number, kept)
        )

        def assigned() -> Iterator[tuple[int, int]]:
            for row, path, size in rows:
                weight, at = lightest[0]
                heapq.heapreplace(lightest, (weight + (0 if kept else size) + _FILE_WEIGHT, at))
                parts[at].add(path, size)
                yield number + at, row

        self._db.executemany("UPDATE file SET part = ? WHERE id = ?", assigned())
        return parts

    def arrive(self, arrival: Arrival) -> None:
        """Take what reading a file said; from any thread."""
        with self._lock:
            self._arrivals.append(arrival)

    def take_in(self) -> None:
        """Store what arrived."""
        with self._lock:
            arrivals, self._arrivals = self._arrivals, []
        self._db.executemany(
            f"UPDATE file SET seen = {_READ}, read_size = ?, read_modified = ?, checksum = ?"
            " WHERE root = ? AND path = ?",
            [(a.size, a.modified, a.checksum, a.root, a.path) for a in arrivals],
        )
        self.seen += len(arrivals)

    def unseen(self, part: Part) -> list[Unseen]:
        """Return the next files of a finished part that rsync did not have to transfer, some at a time, each once."""
        if not part.settled:
            part.settled = True
            self._db.executemany(
                "UPDATE file SET seen = ? WHERE root = ? AND path = ? AND seen = ?",
                ((_ARRIVED, part.root.number, path, _LISTED) for path in part.arrivals()),
            )
        rows = self._db.execute(
            "SELECT id, file.path, file.size, old.size, old.checksum FROM file"
            " LEFT JOIN old ON old.path = CAST(? || file.path AS BLOB) WHERE part = ? AND seen = ? LIMIT ?",
            (part.root.prefix, part.number, _LISTED, _BATCH),
        ).fetchall()
        self._db.executemany("UPDATE file SET seen = ? WHERE id = ?", [(_LOOKED_AT, row[0]) for row in rows])
        return [Unseen(*row) for row in rows]

    def missing(self) -> dict[int, list[bytes]]:
        """Return the paths of what is not here, whole and read, by root."""
        found: dict[int, list[bytes]] = {}
        rows = self._db.execute("SELECT root, path FROM file WHERE seen NOT IN (?, ?)", (_READ, _REUSED))
        for root, path in rows:
            found.setdefault(root, []).append(path)
        return found

    def reuse(self, rows: Iterable[tuple[int, int, float, str]]) -> None:
        """Take files that are the parent's, as (id, size, modified, checksum)."""
        rows = list(rows)
        self.seen += len(rows)
        self._db.executemany(
            f"UPDATE file SET seen = {_REUSED}, read_size = ?, read_modified = ?, checksum = ? WHERE id = ?",
            [(size, modified, checksum, row) for row, size, modified, checksum in rows],
        )

    def add_late(self, root: Root, path: bytes) -> None:
        """Take a file that was not in the listing, such as pg_control, which comes last."""
        self._db.execute("INSERT OR REPLACE INTO file (root, path, size) VALUES (?, ?, 0)", (root.number, path))

    def is_reused(self, path: bytes) -> bool:
        """Tell whether a file, by its path in the manifest, is the parent's as it was."""
        row = self._db.execute(
            "SELECT 1 FROM file WHERE seen = ? AND"
            " CASE root WHEN 0 THEN path ELSE CAST('pg_tblspc/' || root || '/' AS BLOB) || path END = ?",
            (_REUSED, path),
        ).fetchone()
        return row is not None

    def written(self) -> Iterator[Written]:
        """Return all files that are here, by path within each root, as the manifest has them."""
        self.take_in()
        rows = self._db.execute(
            "SELECT root, path, read_size, read_modified, checksum FROM file WHERE seen IN (?, ?) ORDER BY root, path",
            (_READ, _REUSED),
        )
        for root, path, size, modified, checksum in rows:
            algorithm, _, digits = checksum.partition(":")
            yield Written(manifest_prefix(root) + path, size, modified, digits, algorithm)


def manifest_prefix(root: int) -> bytes:
    """Return what the manifest puts before the paths of a root."""
    return b"pg_tblspc/%d/" % root if root else b""
