"""Making a finished copy durable: every file and directory of it synced, many at once.

pg_basebackup would sync one file after the other and say nothing meanwhile; a file system that is asked for several at
once commits them together.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from engine.errors import CellarmanError
from engine.event import Reporter
from engine.host.together import meanwhile
from engine.repository import files
from engine.repository.repository import Sizes

_WORKERS = 8
_AHEAD = 64
"""Files handed to the workers before the first of them is waited for."""
_EARLY = 1.0
"""Seconds between two orders to write what a running copy has left in memory."""


@contextlib.contextmanager
def written_early(top: str) -> Iterator[None]:
    """Have the file system of `top` write out what comes, while it comes, so that the sync at the end finds little to
    do: by itself the kernel waits half a minute, with the disk idle meanwhile.

    Only an order to begin: what it cannot do is said by the sync that proves each file.
    """
    syncfs = getattr(ctypes.CDLL(None), "syncfs", None)  # syncfs(2), which Python does not offer
    if syncfs is None:
        yield
        return
    directory = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def write() -> bool:
        syncfs(directory)
        return True

    try:
        with meanwhile(_EARLY, write):
            yield
    finally:
        os.close(directory)


def sync_tree(top: str, report: Reporter, total: Sizes) -> None:
    """Sync all that lies below `top`, and `top` itself; links are not followed. `total` is what there is, to report.

    Raises CellarmanError, naming the file, when the disk did not take it.
    """
    done = count = 0
    found = _files(top)
    with ThreadPoolExecutor(_WORKERS) as pool:
        while part := list(islice(found, _AHEAD)):
            done += sum(pool.map(_sync, part))
            count += len(part)
            report.progress(min(done, total.size), total.size, count, total.files)
        for _ in pool.map(files.sync_directory, [directory for directory, _, _ in os.walk(top)]):
            continue


def _sync(path: str) -> int:
    """Sync a file and return its size."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
            return os.fstat(fd).st_size
        finally:
            os.close(fd)
    except OSError as error:
        raise CellarmanError(
            f"{path} is not safe on disk", str(error), "look at the file system and its disk, then back up again"
        ) from error


def _files(top: str) -> Iterator[str]:
    """Yield every regular file below `top`."""
    for directory, _, _ in os.walk(top):
        with os.scandir(directory) as entries:
            yield from (entry.path for entry in entries if entry.is_file(follow_symlinks=False))
