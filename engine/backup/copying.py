"""Several rsyncs at once over the lists of an inventory, taken up again when the link is lost."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial

from engine.backup.arrival import Readers
from engine.backup.inventory import Part, Root
from engine.config import Server
from engine.errors import Cancelled, CellarmanError
from engine.event import Lane, Reporter
from engine.host import rsync
from engine.host.endpoint import Endpoint
from engine.host.problems import HostError
from engine.host.rsync import Tick, Transfer
from engine.host.together import Together

_PASSING = frozenset(("dropped", "timeout", "no_route", "refused", "unknown_name"))
"""Problems of a link that may be over soon, once it has worked."""
_LONGEST_PAUSE = 60.0
_SHORT = 32 << 20
"""Bytes of a part below which a connection of its own is not worth its handshake."""


@dataclass
class Worker:
    """One rsync at a time, and how far it is."""

    part: Part | None = None
    tick: Tick = field(default_factory=lambda: Tick(0, 0, ""))
    before: int = 0
    """Bytes of this part that came before the link was lost."""
    noticed: str = ""
    """The file that was at work at the last look."""
    followed: str = ""
    """The file that is read while it comes."""
    lost: float = 0.0
    """When its link was lost, by time.monotonic; 0 while it has none to get back."""

    @property
    def lane(self) -> Lane | None:
        part = self.part
        if part is None or not part.coming:
            return None
        name = os.fsdecode(part.root.prefix) + self.tick.name if self.tick.name else ""
        return Lane(name, min(self.before + self.tick.done_bytes, part.coming), part.coming)


@dataclass
class Copying:
    """The transfers of a backup; `run` does them all."""

    server: Server
    far: Endpoint | None
    near: Endpoint | None
    """The same over a connection that is there, for what is short."""
    compress: str
    whole: bool
    """Whether files that changed since the parent are sent whole."""
    report: Reporter
    readers: Readers
    waiting: deque[Part] = field(default_factory=deque)
    finished: deque[Part] = field(default_factory=deque)
    """Parts that are all here; taken from it by whoever looks after what was not transferred."""
    done_bytes: int = 0
    """Of the parts that are finished."""
    cut: bool = False
    """Whether a link was lost on the way: how long all took is then no measure of it."""
    _workers: list[Worker] = field(default_factory=list)
    _together: Together = field(default_factory=Together)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, parts: Iterable[Part], look: Callable[[], None]) -> None:
        """Transfer all parts, heaviest first; `look` is called a few times a second, in this thread.

        Raises what the first transfer that failed for good, or `look`, raised, when all others have stopped.
        """
        self.waiting.extend(parts)
        count = min(self.server.parallel_jobs, len(self.waiting))
        self._workers = [Worker() for _ in range(count)]

        def look_after() -> None:
            for worker in self._workers:
                self._follow(worker)
            look()

        self._together.run([partial(self._work, worker) for worker in self._workers], look_after)

    def _follow(self, worker: Worker) -> None:
        """Have a file that takes longer than from one look to the next read while it comes."""
        part, name = worker.part, worker.tick.name
        if part is not None and name and name == worker.noticed and name != worker.followed:
            worker.followed = name
            self.readers.follow(part.root, os.fsencode(name))
        worker.noticed = name

    @property
    def lanes(self) -> tuple[Lane, ...]:
        return tuple(lane for lane in (worker.lane for worker in self._workers) if lane is not None)

    @property
    def moving(self) -> int:
        """Bytes of the parts that are under way."""
        return sum(worker.before + worker.tick.done_bytes for worker in self._workers if worker.part is not None)

    def _work(self, worker: Worker) -> None:
        while not self._together.stop.is_set():
            try:
                part = self.waiting.popleft()
            except IndexError:
                return
            worker.before, worker.tick, worker.part = 0, Tick(0, 0, ""), part
            self._persist(worker, part)
            with self._lock:
                self.done_bytes += part.coming
                worker.part = None
                self.finished.append(part)

    def _persist(self, worker: Worker, part: Part) -> None:
        """Do one part, again and again while the link comes and goes."""
        first_pause = float(self.server.basebackup_retry_sleep)
        tries, pause = 0, first_pause
        while True:
            came = _Came(part, self.readers)
            try:
                self._transfer(worker, part, came, whole=self.whole and not tries)
                return
            except HostError as error:
                if came.any:  # a link that brought something since it was last lost counts as new
                    tries, pause = 0, first_pause
                if error.kind not in _PASSING or tries >= self.server.basebackup_retry_times:
                    raise _given_up(error, worker, part, tries) from error
                tries += 1
                self.cut = True
                worker.lost = worker.lost or time.monotonic()
                self.report.note(
                    f"{error.what}, at {_at(worker, part)}: taken up again in {pause:g} s"
                    f" ({tries} of {self.server.basebackup_retry_times})",
                    "warn",
                )
                if self._together.stop.wait(pause):
                    raise Cancelled("the transfer was stopped") from error
                pause = min(2 * pause, _LONGEST_PAUSE)
                worker.before += came.size
                worker.followed = ""
                worker.tick = replace(worker.tick, done_bytes=0)

    def _transfer(self, worker: Worker, part: Part, came: _Came, *, whole: bool) -> None:
        def tick(tick: Tick) -> None:
            if worker.lost:
                self.report.note(f"resumed after {time.monotonic() - worker.lost:.0f} s, at {_at(worker, part)}")
                worker.lost = 0.0
            worker.tick = tick

        far = self.near if part.coming < _SHORT else self.far
        transfer = transfer_of(self.server, part.root, far, self.compress, len(self._workers))
        anew = bool(part.root.parent) and not part.kept
        transfer = replace(transfer, files=part.left(), ignore_times=anew, whole=anew and whole)
        rsync.move(transfer, tick, stop=self._together.stop, arrived=came.take)


@dataclass
class _Came:
    """What one run of rsync brought."""

    part: Part
    readers: Readers
    any: bool = False
    size: int = 0

    def take(self, path: bytes) -> None:
        place = os.path.join(os.fsencode(self.part.root.destination), path)
        try:
            self.size += os.stat(place).st_size
        except FileNotFoundError:  # it shrank under rsync's hands, which gets it again
            return
        self.any = True
        self.part.arrived(path)
        self.readers.read(self.part.root, path)


def transfer_of(server: Server, root: Root, far: Endpoint | None, compress: str, jobs: int) -> Transfer:
    """Return the transfer of some of a root's files, which the caller names; `jobs` of them share the bandwidth."""
    limit = root.bandwidth_limit or server.bandwidth_limit
    return Transfer(
        root.source,
        root.destination,
        far,
        link_dest=root.parent if server.reuse_backup == "link" else "",
        copy_dest=root.parent if server.reuse_backup == "copy" else "",
        bandwidth_limit=max(1, limit // max(1, jobs)) if limit else 0,
        compress=compress,
        links="follow",
        partial=True,
    )


def _given_up(error: HostError, worker: Worker, part: Part, tries: int) -> CellarmanError:
    times = f", and stayed so after {tries} more {'try' if tries == 1 else 'tries'}" if tries else ""
    what = f"{error.what}{times}: at {_at(worker, part)}"
    return HostError(error.kind, error.host, what, error.why, error.fix)


def _at(worker: Worker, part: Part) -> str:
    """Return the path there of the file at work, or of the next one when rsync named none yet."""
    name = worker.tick.name or os.fsdecode(next(iter(part.left()), b""))
    return os.path.join(part.root.source, name)
