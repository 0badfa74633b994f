"""Reading files as they arrive: their checksum for the manifest, and their pages' own, in one go.

What has just come is still in memory, so that nothing is read from the disk; and its way to the disk begins here, while
the rest still comes.
"""

from __future__ import annotations

import ctypes
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import google_crc32c

from engine.backup.inventory import Arrival, Root
from engine.errors import CellarmanError
from engine.postgres.pagechecksum import PageCheck, segment_of

_BLOCK = 2 << 20
_AHEAD = 4096
"""Files that may wait to be read before rsync's words are read on."""
_LOOK = 0.05
"""Seconds between two looks at a file that still comes."""
_WRITTEN_AT_ONCE = 32 << 20
_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h
_libc = ctypes.CDLL(None, use_errno=True)
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
        self._following: dict[tuple[int, bytes], _Follower] = {}
        self._followers: list[threading.Thread] = []
        self.bad: list[BadPage] = []
        self.checked_pages = 0
        self._threads = [threading.Thread(target=self._work, name=f"reader {n}", daemon=True) for n in range(threads)]

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._given_up = kind is not None
        with self._lock:
            for follower in self._following.values():
                follower.arrived.set()
        for _ in self._threads:
            self._queue.put(None)
        for thread in (*self._threads, *self._followers):
            thread.join()
        if kind is None:
            self.complain()

    def read(self, root: Root, path: bytes) -> None:
        """Have a file read that has arrived, from any thread; waits while too many wait."""
        with self._lock:
            follower = self._following.pop((root.number, path), None)
        if follower is None:
            self._queue.put((root, path))
        else:
            follower.whole = True
            follower.arrived.set()

    def follow(self, root: Root, path: bytes) -> None:
        """Read a big file while it still comes; `read` then says that it has."""
        follower = _Follower(root, path)
        with self._lock:
            if (root.number, path) in self._following:
                return
            self._following[root.number, path] = follower
        thread = threading.Thread(target=self._keep_up, args=(follower,), daemon=True)
        self._followers.append(thread)
        thread.start()

    def complain(self) -> None:
        """Raise what went wrong in the threads."""
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        check = self._check()
        while True:
            item = self._queue.get()
            if item is None:
                break
            try:
                if not self._given_up and self._error is None:
                    self._one(*item, check)
            except BaseException as error:
                self._error = self._error or error
        self._end(check)

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
            total = self._total(root, path, check)
            left = os.fstat(fd).st_size
            # No more than is needed: many small blocks wait for the check of their pages.
            while block := os.read(fd, min(_BLOCK, max(0, left - total.size) + 1)):
                total.add(block)
            self._finish(fd, total)
        except OSError as error:
            raise _unreadable(place, error) from error
        finally:
            os.close(fd)

    def _keep_up(self, follower: _Follower) -> None:
        """Read what comes of a file until it is whole; read it anew when it turns out to be another."""
        try:
            check = self._check()
            if not self._followed(follower, check) and follower.whole:
                self._one(follower.root, follower.path, check)
            self._end(check)
        except BaseException as error:
            self._error = self._error or error

    def _followed(self, follower: _Follower, check: PageCheck | None) -> bool:
        """Tell whether all of the file was read as it came."""
        place = os.path.join(os.fsencode(follower.root.destination), follower.path)
        fd = _open_coming(place)
        if fd < 0:
            follower.arrived.wait()
            return False
        try:
            total, started = self._total(follower.root, follower.path, check), 0
            while not follower.arrived.wait(_LOOK):
                while (size := os.fstat(fd).st_size) - total.size >= _BLOCK and (block := os.read(fd, _BLOCK)):
                    started = _pass_on(fd, started, size, total.size)
                    total.add(block)
            if not follower.whole:
                return False
            if os.stat(place).st_ino != os.fstat(fd).st_ino:
                return False
            while block := os.read(fd, _BLOCK):
                total.add(block)
            self._finish(fd, total)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _unreadable(place, error) from error
        finally:
            os.close(fd)
        return True

    def _check(self) -> PageCheck | None:
        return PageCheck(self._pages.before, self._found, self._pages.size) if self._pages else None

    def _end(self, check: PageCheck | None) -> None:
        if check is not None and not self._given_up and self._error is None:
            check.flush()
            with self._lock:
                self.checked_pages += check.checked

    def _total(self, root: Root, path: bytes, check: PageCheck | None) -> _Total:
        segment = segment_of(root.prefix + path) if check is not None else None
        first = segment * self._pages.segment if segment is not None and self._pages is not None else 0
        return _Total(root, path, check if segment is not None else None, first)

    def _finish(self, fd: int, total: _Total) -> None:
        if total.size >= _SYNCED_HERE:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        self._take(Arrival(total.root.number, total.path, total.size, os.fstat(fd).st_mtime, crc32c(total.crc)))


@dataclass
class _Total:
    """What reading a file block by block adds up to."""

    root: Root
    path: bytes
    check: PageCheck | None
    first: int
    """The number of the file's first page in its fork."""
    size: int = 0
    crc: int = 0

    def add(self, block: bytes) -> None:
        self.crc = google_crc32c.extend(self.crc, block)
        if self.check is not None:
            key = b"%d:%b" % (self.root.number, self.path)
            self.check.add(key, block, self.first + self.size // self.check.page)
        self.size += len(block)


@dataclass
class _Follower:
    """A file that is read while it comes."""

    root: Root
    path: bytes
    arrived: threading.Event = field(default_factory=threading.Event)
    """Nothing more comes."""
    whole: bool = False
    """And it is there."""


def _open_coming(place: bytes) -> int:
    """Open the temporary file that rsync writes beside `place` (".NAME." and six characters); -1 when there is none."""
    directory, name = os.path.split(place)
    head = b"." + name + b"."
    try:
        with os.scandir(directory) as entries:
            found = [
                entry.path for entry in entries if entry.name.startswith(head) and len(entry.name) == len(head) + 6
            ]
        return os.open(found[0], os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW) if len(found) == 1 else -1
    except OSError:
        return -1


def _pass_on(fd: int, started: int, end: int, read: int) -> int:
    """Have the kernel begin to write what came to the disk, and forget what it has written and we have `read`; returns
    up to where it was asked (sync_file_range(2))."""
    if end - started < _WRITTEN_AT_ONCE:
        return started
    if known := min(started, read):
        os.posix_fadvise(fd, 0, known, os.POSIX_FADV_DONTNEED)
    _libc.sync_file_range(fd, ctypes.c_int64(started), ctypes.c_int64(end - started), _SYNC_FILE_RANGE_WRITE)
    return end


def _unreadable(place: bytes, error: OSError) -> CellarmanError:
    return CellarmanError(
        f"{os.fsdecode(place)} cannot be read after it came",
        str(error),
        "look at the file system and its disk, then back up again",
    )


def crc32c(value: int) -> str:
    """Return a CRC-32C as an Arrival has it: the four bytes as they lie in a little-endian server's memory."""
    return f"CRC32C:{value.to_bytes(4, 'little').hex()}"
