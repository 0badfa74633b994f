"""The files that a manifest expects, kept on disk: a cluster may have millions, and a job's memory is bounded."""

from __future__ import annotations

import os
import sqlite3
from types import TracebackType

from engine.postgres.manifest import ManifestFile, scan_manifest

_CACHE_KIB = 4096


class Expected:
    """A manifest's files, of which each can be taken once; a context manager.

    They lie in a temporary database without a name, which goes with the process however it ends.
    """

    def __init__(self, manifest: str) -> None:
        """Read the manifest; raises ManifestError for one that cannot be trusted."""
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute(
            "CREATE TABLE file (path BLOB PRIMARY KEY, size INT, algorithm TEXT, checksum TEXT) WITHOUT ROWID"
        )
        self._db.execute("BEGIN")
        try:
            scan_manifest(manifest, self._add)
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Expected:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def _add(self, entry: ManifestFile) -> None:
        row = (os.fsencode(entry.path), entry.size, entry.checksum_algorithm, entry.checksum)
        self._db.execute("INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?)", row)

    def take(self, path: str) -> ManifestFile | None:
        """Return what the manifest says of a file, None when it says nothing or was asked before."""
        key = os.fsencode(path)
        row = self._db.execute("SELECT size, algorithm, checksum FROM file WHERE path = ?", (key,)).fetchone()
        if row is None:
            return None
        self._db.execute("DELETE FROM file WHERE path = ?", (key,))
        return ManifestFile(path, *row)

    def forget(self, prefix: str) -> None:
        """Expect nothing more below `prefix`; "" means all that is no tablespace's."""
        where = "path >= ? AND path < ?" if prefix else "NOT (path >= ? AND path < ?)"
        first = os.fsencode(prefix or "pg_tblspc/")
        self._db.execute(f"DELETE FROM file WHERE {where}", (first, first[:-1] + b"0"))  # 0 comes after /

    def rest(self, limit: int) -> list[str]:
        """Return the first files that were never taken."""
        rows = self._db.execute("SELECT path FROM file ORDER BY path LIMIT ?", (limit,))
        return [os.fsdecode(path) for (path,) in rows]
