"""Reading files as they arrive: their checksum for the manifest, and their pages' own, in one go.

What has just come is still in memory, so that nothing is read from the disk; and its way to the disk begins here, while
the rest still comes.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

import google_crc32c

from engine.backup.inventory import Arrival, Root
from engine.errors import CellarmanError
from engine.postgres.pagechecksum import PageCheck, segment_of

_BLOCK = 1 << 20
_AHEAD = 4096
"""Files that may wait to be read before rsync's words are read on."""
_SYNCED_HERE = 1 << 20
"""Bytes from which on a file is synced here; small ones are synced together, later."""


@dataclass(frozen=True, slots=True)
class Pages:
    """What page checksums are checked against."""

    before: int
    """The LSN at which the backup began."""
    size: int
    """Bytes of a page."""
    segment: int
    """Pages of a relation's file."""


@dataclass(frozen=True, slots=True, order=True)
class BadPage:
    """A page whose checksum does not match."""

    root: int
    path: bytes
    """Below the root."""
    block: int
    """In its fork, over all segments."""


class Readers:
    """Threads that read what arrived; a context manager, at whose end all of it is read."""

    def __init__(self, threads: int, pages: Pages | None, take: Callable[[Arrival], None]) -> None:
        """`take` is called with each file that was read, from these threads; one that is not there is passed over."""
        self._queue: queue.Queue[tuple[Root, bytes] | None] = queue.Queue(_AHEAD)
        self._pages = pages
        self._take = take
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._given_up = False
        self.bad: list[BadPage] = []
        self.checked_pages = 0
        self._threads = [threading.Thread(target=self._work, name=f"reader {n}", daemon=True) for n in range(threads)]

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._given_up = kind is not None
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        if kind is None:
            self.complain()

    def read(self, root: Root, path: bytes) -> None:
        """Have a file read, from any thread; waits while too many wait."""
        self._queue.put((root, path))

    def complain(self) -> None:
        """Raise what went wrong in the threads."""
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        check = PageCheck(self._pages.before, self._found, self._pages.size) if self._pages else None
        while True:
            item = self._queue.get()
            if item is None:
                break
            try:
                if not self._given_up and self._error is None:
                    self._one(*item, check)
            except BaseException as error:
                self._error = self._error or error
        if check is not None and not self._given_up and self._error is None:
            check.flush()
            with self._lock:
                self.checked_pages += check.checked

    def _found(self, key: bytes, block: int) -> None:
        number, _, path = key.partition(b":")
        with self._lock:
            self.bad.append(BadPage(int(number), path, block))

    def _one(self, root: Root, path: bytes, check: PageCheck | None) -> None:
        place = os.path.join(os.fsencode(root.destination), path)
        try:
            fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        try:
            segment = segment_of(root.prefix + path) if check is not None and self._pages is not None else None
            first = 0 if segment is None or self._pages is None else segment * self._pages.segment
            key = b"%d:%b" % (root.number, path)
            crc = size = 0
            left = os.fstat(fd).st_size
            # No more than is needed: many small blocks wait for the check of their pages.
            while block := os.read(fd, min(_BLOCK, max(0, left - size) + 1)):
                crc = google_crc32c.extend(crc, block)
                if check is not None and segment is not None:
                    check.add(key, block, first + size // check.page)
                size += len(block)
            if size >= _SYNCED_HERE:
                os.fsync(fd)
            facts = os.fstat(fd)
        except OSError as error:
            raise CellarmanError(
                f"{os.fsdecode(place)} cannot be read after it came",
                str(error),
                "look at the file system and its disk, then back up again",
            ) from error
        finally:
            os.close(fd)
        self._take(Arrival(root.number, path, size, facts.st_mtime, crc32c(crc)))


def crc32c(value: int) -> str:
    """Return a CRC-32C as an Arrival has it: the four bytes as they lie in a little-endian server's memory."""
    return f"CRC32C:{value.to_bytes(4, 'little').hex()}"
