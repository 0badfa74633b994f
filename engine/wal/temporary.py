"""Dot-files on their way into the repository, locked while their maker lives. Light: the WAL client loads this."""

from __future__ import annotations

import fcntl
import os
import time

from engine.errors import Advice, CellarmanError

PREFIX = ".cellarman-"
"""How their names begin; Barman passes over dot-files in its queues and in wals/."""


def new_temporary(directory: str, server: str, name: str) -> tuple[str, int]:
    """Make a dot-file for WAL file `name`, locked so that nobody takes it for one that a crash left.

    Return its path and descriptor. Raises CellarmanError when the directory is not there or not this account's.
    """
    path = unique(directory, name)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileNotFoundError as error:
        from engine.commands import cellarman

        raise CellarmanError(
            f"the archive of {server} is not there",
            f"{error}",
            Advice("see that its file system is mounted; a new archive is made by: ", cellarman("cron")),
        ) from error
    except PermissionError as error:
        from engine.repository.ownership import forbidden

        raise forbidden(server, path, error) from error
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return path, descriptor


def unique(directory: str, name: str) -> str:
    """Return a path for a dot-file for WAL file `name` that no other has."""
    return os.path.join(directory, f"{PREFIX}{os.fsdecode(os.fsencode(name)[:150])}.{os.getpid()}-{time.time_ns():x}")


def remove_stale(directory: str, young: float) -> int:
    """Remove the dot-files whose maker is gone, and that are older than `young` seconds; return how many.

    Younger ones are not even tried: their maker may not have locked them yet, and must find the lock free.
    """
    removed = 0
    try:
        names = [name for name in os.listdir(directory) if name.startswith(PREFIX)]
    except FileNotFoundError:
        return 0
    for name in names:
        path = os.path.join(directory, name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        try:
            if time.time() - os.fstat(descriptor).st_ctime >= young:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
                removed += 1
        except (BlockingIOError, FileNotFoundError):
            continue
        finally:
            os.close(descriptor)
    return removed
