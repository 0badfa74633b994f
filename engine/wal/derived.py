"""SQLite files of what can be found out again: opened for writing, and thrown away when they are of another version."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable


def opened(
    path: str, version: int, schema: str, *, discarded: Callable[[], object] = lambda: None
) -> sqlite3.Connection:
    """Return a connection to a file of this version, made if need be; `schema` are its statements, user_version among
    them. Calls `discarded` when a file of another version is begun anew. Raises sqlite3.Error and OSError."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640))
    database = sqlite3.connect(path, timeout=10)
    try:
        (known,) = database.execute("PRAGMA user_version").fetchone()
        if known == version:
            return database
        if known:
            database.close()
            discarded()
            remove(path)
            return opened(path, version, schema)
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(f"BEGIN; {schema} COMMIT;")
        return database
    except BaseException:
        database.close()
        raise


def remove(path: str) -> None:
    """Remove such a file, and what SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + suffix)
