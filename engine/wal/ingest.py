"""One pass over incoming/ and streaming/: what arrived is archived durably, and only then removed from the queue.

Workers verify, compress and sync ahead while this thread publishes batches: one lock, one sync of each directory and
one of the index for many segments.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.commands import cellarman
from engine.config import Server
from engine.errors import Advice, CellarmanError
from engine.event import Reporter, Silent
from engine.faults import step
from engine.postgres import segment
from engine.repository import locks
from engine.repository.layout import Layout
from engine.wal import archive, codec, inspection, recycled
from engine.wal.archive import Damaged, Duplicate, Prepared, Stored, WalRefused
from engine.wal.reconcile import reconcile
from engine.wal.refusal import keep

_WORKERS = min(8, 2 * (os.cpu_count() or 1) + 2)
"""While some wait for the disk, the others compress: with one more than the processors, these had a rest."""
_BATCH = 16
_AHEAD = 2 * _BATCH
_SETTLE = 60.0
"""Seconds since its last change after which a damaged file in incoming/ is no longer one that is being written."""


class Refusal(NamedTuple):
    """A file that was not taken, why, and where it is kept."""

    name: str
    reason: str
    kept_at: str


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What one pass did. Sizes in bytes, before and after compression."""

    stored: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()
    bytes_in: int = 0
    bytes_out: int = 0
    arriving: tuple[str, ...] = ()
    """Files that somebody still writes; a later pass takes them."""


class Arrival(NamedTuple):
    """A file in a queue that this pass takes."""

    name: str
    path: str
    settled: bool
    """Nobody writes it any more: damaged content is final."""
    stays: bool = False
    """It is archived and left where it is."""


@dataclass(slots=True)
class _Tally:
    stored: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    arriving: list[str] = field(default_factory=list)
    bytes_in: int = 0
    bytes_out: int = 0

    def result(self) -> IngestResult:
        return IngestResult(
            tuple(self.stored),
            tuple(self.duplicates),
            tuple(self.refused),
            self.bytes_in,
            self.bytes_out,
            tuple(self.arriving),
        )


def ingest(
    server: Server, report: Reporter | None = None, *, wait: float | None = None, settle: float = _SETTLE
) -> IngestResult:
    """Take what arrived into the archive; files that are refused are kept in errors/, each with a note.

    `wait` bounds the wait for another pass in seconds (default: the server's lock_timeout). Raises Busy when one runs
    longer, and CellarmanError at the first file that cannot be archived now; what was archived before it stays so.
    """
    layout = server.layout
    patience = server.lock_timeout if wait is None else wait
    tally = _Tally()
    recycled.trim(layout)
    with locks.hold(layout.lock("archive-wal"), wait=patience, what=f"archive the WAL of {server.name}"):
        healed = reconcile(layout, wait=server.lock_timeout)
        told = report or Silent()
        if healed.added:
            told.note(f"{len(healed.added)} archived WAL files had no line in the index; added", "warn")
        arrivals = list(queued(layout, settle))
        if arrivals:
            _Pass(server, told, tally).take(arrivals)
    return tally.result()


def queued(layout: Layout, settle: float = _SETTLE) -> list[Arrival]:
    """Return the files that a pass would take now, by name; those still being written included."""
    now = time.time()
    found = [
        Arrival(name, path, now - changed >= settle)
        for name, path, changed in _files(layout.incoming)
        if not name.endswith(".tmp")
    ]
    streamed = {name: path for name, path, _ in _files(layout.streaming)}
    done = finished(streamed)
    found += [Arrival(name, streamed[name], True) for name in done]
    found += [
        Arrival(name, streamed[name], True, stays=True)
        for name in set(streamed).difference(done)
        if segment.kind_of(name) == segment.SEGMENT and not os.path.exists(layout.wal(name))
    ]
    return sorted(found)


def finished(names: Iterable[str]) -> list[str]:
    """Return which files in streaming/ pg_receivewal is done with.

    It goes on from the newest file that it finds, so the newest .partial stays, or without one the newest segment. That
    one is complete too: it is archived at once, since on a quiet server the next may be long in coming, and left there.

    >>> finished(["000000010000000000000003", "000000010000000000000004", "000000010000000000000005.partial"])
    ['000000010000000000000003', '000000010000000000000004']
    >>> finished(["000000010000000000000003", "000000010000000000000004", "00000002.history"])
    ['000000010000000000000003', '00000002.history']
    """
    kinds = {name: segment.kind_of(name) for name in names if not name.endswith(".tmp")}
    partials = [name for name, kind in kinds.items() if kind == segment.PARTIAL]
    segments = [name for name, kind in kinds.items() if kind == segment.SEGMENT]
    stays = max(partials or segments, default="")
    return sorted(name for name in kinds if name != stays)


def _files(directory: str) -> Iterator[tuple[str, str, float]]:
    """Yield (name, path, ctime) of what lies in a queue, but not directories and dot-files."""
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return
    except OSError as error:
        raise CellarmanError(f"cannot read {directory}", str(error)) from error
    for entry in entries:
        if entry.name.startswith(".") or entry.is_dir(follow_symlinks=False):
            continue
        try:
            yield entry.name, entry.path, entry.stat(follow_symlinks=False).st_ctime
        except FileNotFoundError:
            continue


class _Pass:
    """One pass's workers and its tally."""

    def __init__(self, server: Server, report: Reporter, tally: _Tally) -> None:
        self._server = server
        self._layout = server.layout
        self._report = report
        self._tally = tally
        self._system = inspection.known_system(server.layout)
        self._room = recycled.room(server.layout)
        """Bytes of sources that may yet be kept to be written over."""

    def take(self, arrivals: list[Arrival]) -> None:
        """Archive the arrivals in order, stopping at the first that the archive cannot take."""
        codec.compress(b"", self._server.compression, self._server.compression_level)  # loaded before threads race
        waiting: deque[tuple[Arrival, Future[Prepared | None]]] = deque()
        upcoming = iter(arrivals)
        batch: list[tuple[Arrival, Prepared]] = []
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="wal") as pool:
            try:
                while True:
                    for arrival in upcoming:
                        waiting.append((arrival, pool.submit(self._prepare, arrival)))
                        if len(waiting) >= _AHEAD:
                            break
                    if not waiting:
                        break
                    self._collect(*waiting.popleft(), batch)
                    if len(batch) >= _BATCH:
                        self._publish(batch)
                self._publish(batch)
            except CellarmanError:
                self._publish(batch)
                raise
            finally:
                _abandon(batch, waiting)

    def _prepare(self, arrival: Arrival) -> Prepared | None:
        """Prepare one file in a worker; None when it is gone."""
        if not stat.S_ISREG(os.lstat(arrival.path).st_mode):
            raise archive.Foreign(f"{arrival.name} is refused", "it is not a regular file")
        try:
            return archive.prepare(
                self._layout,
                arrival.path,
                arrival.name,
                compression=self._server.compression,
                level=self._server.compression_level,
                system_id=self._system,
            )
        except CellarmanError:
            if os.path.lexists(arrival.path):
                raise
            return None

    def _collect(
        self, arrival: Arrival, future: Future[Prepared | None], batch: list[tuple[Arrival, Prepared]]
    ) -> None:
        """Add a prepared file to the batch, or keep it in errors/."""
        try:
            prepared = future.result()
        except FileNotFoundError:
            return
        except WalRefused as refused:
            if isinstance(refused, Damaged) and not arrival.settled:
                self._tally.arriving.append(arrival.name)
            else:
                self._refuse(arrival, refused)
            return
        if prepared is not None:
            batch.append((arrival, prepared))

    def _publish(self, batch: list[tuple[Arrival, Prepared]]) -> None:
        """Place a batch in the archive, then remove its sources; leaves the batch empty."""
        taken, batch[:] = list(batch), []
        if not taken:
            return
        try:
            outcomes = archive.publish(self._layout, [item for _, item in taken], wait=self._server.lock_timeout)
        finally:
            for _, item in taken:
                item.discard()
        for (arrival, item), outcome in zip(taken, outcomes, strict=True):
            if isinstance(outcome, WalRefused):
                self._refuse(arrival, outcome)
                continue
            if isinstance(outcome, Stored):
                self._tally.stored.append(outcome.name)
                self._tally.bytes_in += outcome.read_bytes
                self._tally.bytes_out += outcome.stored_bytes
            elif isinstance(outcome, Duplicate):
                self._tally.duplicates.append(outcome.name)
            if not arrival.stays:
                self._remove(arrival.path, item)
            step("wal.source-removed")
        self._report.progress(self._tally.bytes_in, None, len(self._tally.stored))

    def _remove(self, path: str, item: Prepared) -> None:
        """Remove a source that is archived, unless a new file has taken its name meanwhile."""
        try:
            info = os.stat(path, follow_symlinks=False)
            if (info.st_size, info.st_mtime_ns) != (item.facts.size, item.facts.mtime_ns):
                return
            pushed = os.path.dirname(path) == self._layout.incoming
            if pushed and info.st_size <= self._room and recycled.keep(self._layout, path):
                self._room -= info.st_size
            else:
                os.unlink(path)
        except FileNotFoundError:
            pass

    def _refuse(self, arrival: Arrival, refused: WalRefused) -> None:
        try:
            kept = keep(self._layout, arrival.path, arrival.name, refused)
        except OSError as error:
            raise CellarmanError(
                f"{refused}, and it cannot be moved to {self._layout.errors}",
                str(error),
                Advice(f"make {self._layout.errors} writable, then: ", cellarman("wal", "ingest", self._server.name)),
            ) from error
        self._tally.refused.append(Refusal(arrival.name, refused.why or refused.what, kept))
        self._report.note(f"{refused}; kept as {kept}", "error")


def _abandon(batch: list[tuple[Arrival, Prepared]], waiting: deque[tuple[Arrival, Future[Prepared | None]]]) -> None:
    """Remove what workers have prepared and nobody will publish."""
    for _, item in batch:
        item.discard()
    for _, future in waiting:
        future.cancel()
    for _, future in waiting:
        if not future.cancelled() and future.exception() is None:
            prepared = future.result()
            if prepared is not None:
                prepared.discard()
