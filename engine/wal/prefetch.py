"""The helper that makes segments ready ahead of replay.

::

    python -m engine.wal.prefetch SPOOL HOME WALS NAME SYSTEM DATA WORDS

`cellarman-wal get` starts it and then tells it each segment that was delivered. It reads, decompresses and verifies
those that follow, on every timeline that recovery may go on with, into a bounded spool. It decides nothing: what it
cannot use it leaves to `get`. It ends, and removes the spool, when recovery or its postmaster has ended, when nobody
asks for a while, or when it is told to; when it is killed, the next one clears away what it left. Light: replay waits
for it to start.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time

from engine.errors import Busy, CellarmanError
from engine.postgres import segment, timeline, walfile
from engine.postgres.timeline import Lineage, Switch
from engine.repository import locks
from engine.repository.layout import Layout
from engine.wal import codec, condemned, contentcheck, inspection, soundness, spool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import NoReturn

    Histories = Mapping[int, tuple[Switch, ...]]

MOST_SEGMENTS = 16
MOST_BYTES = 256 << 20
"""Bound of the spool, in plain segments and in bytes; segments larger than a quarter of it are not prefetched."""
SPARED_BYTES = 256 << 20
"""Free space that the spool leaves to PostgreSQL, which writes to the same file system."""
WORKERS = 2
_LEISURE = 0.1
"""Seconds without a request after which there is time to read what is ready record by record."""
_SOON = 3
"""Segments ahead of replay that are put on disk: all of the spool could be for nothing when recovery ends before it."""
_BRIEF = 0.05
"""Seconds between two requests below which nobody waits for the disk: no PostgreSQL replays a segment in that time."""
_MAKE, _WRITE, _READ = "make", "write", "read"
_TICK = 0.2
_IDLE_RECOVERY = 20.0
"""Seconds without a request after which it ends; replaying one segment can take a slow server that long."""
_IDLE = 3.0
_SETTLED = 0.1
"""Seconds since an archive's file changed from which on a further change shows in its times."""
_REST = 10.0
"""Seconds without work after the spool's file system refused to take more."""
_SIGNALS = ("recovery.signal", "standby.signal")


def ahead(
    name: str, size: int, count: int, histories: Histories, target: int | None = None
) -> Iterator[tuple[str, ...]]:
    """Yield for each of `count` segments after `name` the files that recovery may ask for, the likeliest first.

    Recovery asks for the newest timeline of its lineage that has begun (Lineage.canonical). Which lineage it follows
    is not known: the one to `target`, or to the newest timeline that descends from this one, or this one alone.

    >>> fork = {2: timeline.parse_history(2, "1\\t0/5800000\\tno reason")}
    >>> [names[0][7] + names[0][-1] for names in ahead("000000010000000000000003", 16 << 20, 3, fork)]
    ['14', '25', '26']
    """
    own, number = segment.parse_segment(name, size)
    line = _lineage(own, number, size, histories, target)
    for following in range(number + 1, number + 1 + count):
        likeliest = max(own, line.canonical(following, size))
        yield tuple(segment.segment_name(t, following, size) for t in dict.fromkeys((likeliest, own)))


def _lineage(own: int, number: int, size: int, histories: Histories, target: int | None) -> Lineage:
    """Return the lineage that recovery most likely follows from segment `number` of timeline `own`."""
    for newest in [target] if target is not None else sorted(histories, reverse=True):
        switches = histories.get(newest, ())
        if any(switch.timeline == own and switch.lsn // size >= number for switch in switches):
            return Lineage.of(newest, switches)
    return Lineage.of(own)


class _Work:
    """What the workers share; every access is under `changed`."""

    __slots__ = (
        "asked",
        "changed",
        "failed",
        "over",
        "pause",
        "read",
        "ready",
        "rest_until",
        "underway",
        "wanted",
        "written",
    )

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.wanted: list[str] = []
        """Names to be made ready, in the order of replay."""
        self.ready: dict[str, str] = {}
        """Name to identity of what is in the spool."""
        self.failed: dict[str, str] = {}
        """Name to identity of what cannot be used: `get` will say why."""
        self.underway: set[str] = set()
        self.read: dict[str, str] = {}
        """Name to identity of what was read record by record."""
        self.written: dict[str, str] = {}
        """Name to identity of what was put on disk."""
        self.asked = 0.0
        """When a segment was asked for last."""
        self.pause = 0.0
        """Seconds between the last two requests."""
        self.rest_until = 0.0
        self.over = False


class Prefetcher:
    """Keeps one spool filled, under its held lock."""

    def __init__(self, path: str, layout: Layout, system_id: int | None, data: str, words: str) -> None:
        """`words` are those of spool.FOR; "" keeps the shell script from taking anything itself."""
        self._path = path
        self._words = words
        self._layout = layout
        self._system_id = system_id
        self._data = data
        self._postmaster = spool.postmaster(data) if data else 0
        self._size: int | None = None
        self._work = _Work()
        self._histories: dict[int, tuple[Switch, ...]] = {}
        self._histories_of: int | None = None
        self._endings: dict[str, contentcheck.Ending] = {}
        """How the segments that were read record by record end."""

    def run(self, name: str) -> None:
        """Follow replay from the delivered segment `name` on until it is over."""
        self._clear()
        bell_path = os.path.join(self._path, spool.BELL)
        os.mkfifo(bell_path, 0o600)
        bell = os.open(bell_path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # a writer of its own: never at its end
        workers = [threading.Thread(target=self._run_worker, daemon=True) for _ in range(WORKERS)]
        for worker in workers:
            worker.start()
        try:
            self._follow(bell, name)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.unlink(bell_path)
            with self._work.changed:
                self._work.over = True
                self._work.changed.notify_all()
            for worker in workers:
                worker.join(2.0)
            self._clear()

    def _sign(self, size: int) -> None:
        """Say whose the spool is, once the segment size is known."""
        words, self._words = self._words, ""
        lines = (_boot(), str(os.getpid()), str(size), words, self._layout.wals, condemned.directory(self._layout))
        if not words or any("\n" in line for line in lines):
            return
        making = os.path.join(self._path, spool.FOR + spool.UNDERWAY)
        with open(making, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write("".join(f"{line}\n" for line in lines))
        os.rename(making, os.path.join(self._path, spool.FOR))

    def _follow(self, bell: int, name: str) -> None:
        asked = time.monotonic()
        patience = _IDLE_RECOVERY if self._data else _IDLE
        while time.monotonic() - asked < patience and self._goes_on():
            self._plan(name)
            if select.select([bell], [], [], _TICK)[0]:
                name = os.read(bell, 65536).decode("ascii", "replace").split()[-1]
                asked = time.monotonic()
                self._work.pause, self._work.asked = asked - self._work.asked, asked

    def _goes_on(self) -> bool:
        """Tell whether the recovery that it was started for is still under way, and the spool still its own."""
        if not os.path.exists(os.path.join(self._path, spool.BELL)):
            return False
        if not self._data:
            return True
        running = spool.postmaster(self._data) == self._postmaster and spool.lives(self._postmaster)
        return running and _is_recovering(self._data)

    def _plan(self, name: str) -> None:
        """Decide what is wanted after `name`, and drop from the spool what is not, or is not the archive's any more."""
        size = self._segment_size(name)
        count = 0 if size is None else min(MOST_SEGMENTS, MOST_BYTES // size)
        present: dict[str, str] = {}
        if size is not None and count >= 4:
            self._sign(size)
            target = self._target()
            for names in ahead(name, size, count, self._read_histories(), target):
                found = [(one, known) for one in names if (known := self._identity(one)) is not None]
                if not found:
                    break
                present.update(found)
        bad = set(condemned.names(self._layout)).intersection(present)
        wanted = [one for one in list(present)[:count] if one not in bad or not condemned.reason(self._layout, one)]
        with self._work.changed:
            work = self._work
            work.wanted = [one for one in wanted if work.failed.get(one) != present[one]]
            work.read = {one: known for one, known in work.read.items() if one in present}
            work.written = {one: known for one, known in work.written.items() if one in present}
            for one, identified in list(work.ready.items()):
                if one not in work.wanted or identified != present[one]:
                    del work.ready[one]
                    _remove(os.path.join(self._path, spool.entry(one, identified)))
            work.changed.notify_all()

    def _identity(self, name: str) -> str | None:
        try:
            return spool.stamp(os.stat(self._layout.wal(name)))
        except OSError:
            return None

    def _segment_size(self, name: str) -> int | None:
        """Return the cluster's segment size, which the first segment that can be read tells."""
        if self._size is None:
            try:
                head = codec.read_head(self._layout.wal(name), walfile.HEADER_SIZE)
                self._size = walfile.read_header(head).segment_size
            except (OSError, CellarmanError):
                return None
        return self._size

    def _read_histories(self) -> dict[int, tuple[Switch, ...]]:
        """Return the archive's timelines; one that cannot be read is passed over, `get` will say so."""
        changed = os.stat(self._layout.wals).st_mtime_ns
        if changed != self._histories_of:
            self._histories_of = changed
            self._histories = {}
            for name in os.listdir(self._layout.wals):
                if segment.kind_of(name) == segment.HISTORY:
                    number = int(name[:8], 16)
                    try:
                        text = codec.read_segment(self._layout.wal(name), codec.SMALL_FILE).decode("utf-8", "replace")
                        self._histories[number] = timeline.parse_history(number, text)
                    except (OSError, ValueError, CellarmanError):
                        continue
        return self._histories

    def _target(self) -> int | None:
        """Return the timeline that recovery goes to: it keeps the history files up to it. None when it has none."""
        try:
            names = os.listdir(os.path.join(self._data, "pg_wal")) if self._data else []
        except OSError:
            return None
        return max((int(n[:8], 16) for n in names if segment.kind_of(n) == segment.HISTORY), default=None)

    def _run_worker(self) -> None:
        while (task := self._next()) is not None:
            what, name, made = task
            if what != _MAKE:
                self._read_through(name, made) if what == _READ else self._write_out(name, made)
                continue
            identified: str | None = None
            good = False
            try:
                identified, good = self._make(name)
            except OSError:
                self._make_room()
            finally:
                with self._work.changed:
                    self._work.underway.discard(name)
                    if identified is not None:
                        (self._work.ready if good else self._work.failed)[name] = identified
                    elif name in self._work.wanted:
                        self._work.wanted.remove(name)  # until the next plan
                    self._work.changed.notify_all()

    def _next(self) -> tuple[str, str, str] | None:
        """Wait for work and return what is to be done, with which segment, and the identity that it is ready under.

        While replay has enough to go on with, the next segments are put on disk, since PostgreSQL syncs what it is
        given before it goes on; while nobody is in a hurry, they are read record by record. None when it is over.
        """
        work = self._work
        with work.changed:
            while not work.over:
                resting = work.rest_until - time.monotonic()
                name = next((n for n in work.wanted if n not in work.ready and n not in work.underway), None)
                here = [n for n in work.wanted if n in work.ready]
                soon = [n for n in here[:_SOON] if work.written.get(n) != work.ready[n]]
                if soon and work.pause > _BRIEF and (len(here) > _SOON or name is None):
                    work.written[soon[0]] = work.ready[soon[0]]
                    return _WRITE, soon[0], work.ready[soon[0]]
                if name is not None and resting <= 0:
                    work.underway.add(name)
                    return _MAKE, name, ""
                leisure = work.asked + _LEISURE - time.monotonic()
                unread = [n for n in here if work.read.get(n) != work.ready[n]]
                if unread and leisure <= 0:
                    work.read[unread[0]] = work.ready[unread[0]]
                    return _READ, unread[0], work.ready[unread[0]]
                work.changed.wait(max(resting, _TICK) if name is not None else leisure if unread else None)
        return None

    def _write_out(self, name: str, identified: str) -> None:
        """Put a segment that is ready on disk; what fails there, PostgreSQL's own sync will say."""
        try:
            descriptor = os.open(os.path.join(self._path, spool.entry(name, identified)), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return  # it was delivered meanwhile
        try:
            os.fsync(descriptor)
        except OSError:
            return
        finally:
            os.close(descriptor)

    def _read_through(self, name: str, identified: str) -> None:
        """Read a segment that is ready, record by record, and take it back when PostgreSQL would stop in it."""
        path = os.path.join(self._path, spool.entry(name, identified))
        try:
            with open(path, "rb", buffering=0) as file:
                good = self._is_sound(name, file.read())
        except (OSError, CellarmanError, ValueError):
            return  # it was delivered meanwhile
        if not good:
            with self._work.changed:
                if self._work.ready.pop(name, None) is not None:
                    self._work.failed[name] = identified
                    _remove(path)

    def _make(self, name: str) -> tuple[str | None, bool]:
        """Put one segment into the spool; return its identity, and whether it is good.

        The identity is None when it is to be tried again later. Raises OSError when the spool cannot take it.
        """
        archived = self._layout.wal(name)
        try:
            before = os.stat(archived)
        except OSError:
            return None, False
        identified = spool.stamp(before)
        if time.time() - max(before.st_mtime, before.st_ctime) < _SETTLED or not self._has_room():
            return None, False
        ready = os.path.join(self._path, spool.entry(name, identified))
        sink = os.open(ready + spool.UNDERWAY, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if not self._pour(archived, name, sink):
                return identified, False
            if spool.identity(archived) != identified:
                return None, False
            os.utime(sink, ns=(before.st_mtime_ns, before.st_mtime_ns))  # whoever writes to it later gives it away
            os.rename(ready + spool.UNDERWAY, ready)
            return identified, True
        finally:
            os.close(sink)
            _remove(ready + spool.UNDERWAY)

    def _pour(self, archived: str, name: str, sink: int) -> bool:
        """Write a segment's plain content; tell whether it is usable. Raises OSError when it cannot be written."""
        try:
            stored = codec.read_stored(archived)
        except OSError:
            return False
        try:
            head, size = codec.pour(stored, sink)
            inspection.check_segment(name, head, size, self._system_id)
            if codec.checks_itself(stored[:32]):
                return True  # as it was archived; it is read record by record while there is time
            return self._is_sound(name, soundness.written(stored, sink, size))
        except CellarmanError:
            return False

    def _is_sound(self, name: str, plain: bytes) -> bool:
        """Tell whether every record of a segment is as PostgreSQL wrote it: one whose file has no checksum itself."""
        systems = () if self._system_id is None else (self._system_id,)
        before = contentcheck.predecessor(name, walfile.read_header(plain), self._histories)
        ending = self._endings.get(before or "")
        joined = (before, ending) if before and ending else None
        found = contentcheck.check(name, plain, systems=systems, histories=self._histories, before=joined)
        if found.ending is None:
            return False
        with self._work.changed:
            self._endings[name] = found.ending
            while len(self._endings) > MOST_SEGMENTS:
                del self._endings[next(iter(self._endings))]
        return True

    def _has_room(self) -> bool:
        space = os.statvfs(self._path)
        if space.f_bavail * space.f_frsize >= SPARED_BYTES + WORKERS * (self._size or 0):
            return True
        self._make_room()
        return False

    def _make_room(self) -> None:
        """Give back what the spool takes, and rest: PostgreSQL needs the space more."""
        with self._work.changed:
            self._work.rest_until = time.monotonic() + _REST
            for name, identified in self._work.ready.items():
                _remove(os.path.join(self._path, spool.entry(name, identified)))
            self._work.ready.clear()

    def _clear(self) -> None:
        """Remove everything in the spool but its lock."""
        for name in os.listdir(self._path):
            if name != spool.LOCK:
                _remove(os.path.join(self._path, name))


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _is_recovering(data: str) -> bool:
    return any(os.path.exists(os.path.join(data, name)) for name in _SIGNALS)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _end(*_: object) -> NoReturn:
    raise SystemExit(0)


def main() -> None:
    """Run the helper, unless this spool has one."""
    path, home, wals, name, system, data, words = sys.argv[1:]
    signal.signal(signal.SIGTERM, _end)
    if not spool.is_private(path):
        return
    lock = os.path.join(path, spool.LOCK)
    try:
        with locks.hold(lock):
            layout = Layout("", home, wals=wals)
            try:
                Prefetcher(path, layout, int(system) if system else None, data, words).run(name)
            finally:
                os.unlink(lock)
                os.rmdir(path)
    except Busy:
        return


if __name__ == "__main__":
    main()
