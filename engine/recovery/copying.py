"""Copying a backup's files: several threads, every file on disk before it counts."""

from __future__ import annotations

import os
import queue
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from engine.errors import CellarmanError
from engine.event import Reporter
from engine.recovery import combining
from engine.repository import files

BUFFER = 256 * 1024
_REPORT_EVERY = 8 << 20
_WRITE_OUT = 4 << 20
"""Bytes after which the disk is put to work; by itself the kernel would wait for the sync at the end."""


@dataclass(frozen=True, slots=True)
class Item:
    """One file to copy."""

    source: str
    destination: str
    size: int
    """Bytes of what is made."""
    beneath: tuple[str, ...] = ()
    """Where the source is an increment: the older ones, newest first, and the whole file below them."""
    page: int = 0
    """Bytes of a block, where there is something beneath."""


Tree = tuple[list[str], list[Item], list[str]]
"""The directories to make, the files to copy, and what is neither (links, sockets)."""


class Stopped(Exception):
    """Raised inside the threads when the work is given up."""


class Meter:
    """Adds up what the threads have done and tells the Reporter now and then."""

    def __init__(self, report: Reporter, total_bytes: int, total_files: int | None = None) -> None:
        self._report = report
        self._total, self._files = total_bytes, total_files
        self._lock = threading.Lock()
        self._done = self._told = self._finished = 0
        self.stopped = threading.Event()

    def add(self, count: int, files: int = 0) -> None:
        """Count bytes and finished files; raises Stopped when the work is given up."""
        if self.stopped.is_set():
            raise Stopped
        with self._lock:
            self._done += count
            self._finished += files
            if self._done - self._told < _REPORT_EVERY:
                return
            self._told = self._done
            self._say()

    def finish(self) -> None:
        """Tell the last state."""
        with self._lock:
            self._say()

    def _say(self) -> None:
        finished = self._finished if self._files is not None else None
        self._report.progress(self._done, self._total, finished, self._files)


def files_below(root: str, *, leave_out: Collection[str] = ()) -> Iterator[tuple[str, os.stat_result]]:
    """Yield (relative path, lstat) of everything below a directory, parents first; `leave_out` are relative paths."""
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        with os.scandir(os.path.join(root, inside)) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                path = os.path.join(inside, entry.name)
                if path in leave_out:
                    continue
                status = entry.stat(follow_symlinks=False)
                yield path, status
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(path)


def plan_tree(source: str, destination: str, *, leave_out: Collection[str]) -> Tree:
    """Return what there is to do for one tree."""
    directories, items, odd = [destination], [], []
    for path, status in files_below(source, leave_out=leave_out):
        target = os.path.join(destination, path)
        if stat.S_ISDIR(status.st_mode):
            directories.append(target)
        elif stat.S_ISREG(status.st_mode):
            items.append(Item(os.path.join(source, path), target, status.st_size))
        else:
            odd.append(path)
    return directories, items, odd


def copy_file(item: Item, meter: Meter) -> None:
    """Write what an item makes into a new file of mode 0600; it is not on disk before `files.sync_file`."""
    done = begun = 0
    writer = os.open(item.destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for piece in content(item):
            done += files.write_all(writer, piece)
            meter.add(len(piece))
            if done - begun >= _WRITE_OUT:
                files.write_out(writer, begun, done - begun)
                begun = done
    finally:
        os.close(writer)
    meter.add(0, 1)


def content(item: Item) -> Iterator[memoryview]:
    """Yield an item's bytes in pieces, each to be used before the next; raises OSError, and IncrementError."""
    if item.beneath:
        yield from combining.combined((item.source, *item.beneath), item.page)
        return
    view = memoryview(bytearray(min(BUFFER, max(item.size, 1))))
    reader = os.open(item.source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while count := os.readv(reader, [view]):
            yield view[:count]
    finally:
        os.close(reader)


def in_threads(work: Callable[[Item], None], items: Iterable[Item], threads: int, meter: Meter) -> None:
    """Do `work` on every item in some threads; the first error stops them all and is raised, naming the file."""
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)

    def drain() -> None:
        while not meter.stopped.is_set():
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                work(item)
            except OSError as error:
                raise _failed(item, error) from error

    run_all([drain] * max(1, threads), meter)


def run_all(works: Iterable[Callable[[], None]], meter: Meter) -> None:
    """Run each of the functions in a thread of its own; the first error stops them all and is raised."""
    functions = list(works)
    with ThreadPoolExecutor(max(1, len(functions)), thread_name_prefix="restore") as pool:
        futures: list[Future[None]] = [pool.submit(function) for function in functions]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # Also on the way out by Cancelled: the pool's exit waits for threads that must not go on.
            if any(future.done() and future.exception() for future in futures) or not all(f.done() for f in futures):
                meter.stopped.set()
    raise_first(futures)


def raise_first(futures: Iterable[Future[None]]) -> None:
    """Raise the error that stopped the threads, not the Stopped of the others."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda e: isinstance(e, Stopped)):
        raise error


def _failed(item: Item, error: OSError) -> CellarmanError:
    return CellarmanError(
        f"{item.destination} could not be written from {item.source}",
        str(error),
        "put right what is named, and run the restore again; nothing half-made is left",
    )
