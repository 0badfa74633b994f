"""Take WAL files into the archive durably: nothing is acknowledged, and no source removed, before that is done.

A file is verified, compressed into a dot-file in wals/ and synced (`prepare`); then, under the lock of xlog.db, it is
renamed into its place, the directories are synced and its line is appended and synced (`publish`). A crash between any
two steps leaves a stale dot-file or a file without a line, and `engine.wal.reconcile` puts both right. Light: the WAL
client loads this.
"""

from __future__ import annotations

import errno
import os
from collections import namedtuple

from engine.errors import CellarmanError
from engine.faults import step
from engine.repository import locks, xlogdb
from engine.repository.files import sync_directory, sync_file
from engine.wal import codec, inspection
from engine.wal.refusal import Alien, Conflict, Damaged, Foreign, WalRefused, keep
from engine.wal.temporary import new_temporary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.repository.layout import Layout
    from engine.wal.inspection import Facts

__all__ = ["Alien", "Conflict", "Damaged", "Duplicate", "Foreign", "Prepared", "Stored", "WalRefused"]

_LOCK_WAIT = 60.0


class Stored(namedtuple("Stored", ("name", "read_bytes", "stored_bytes"))):
    """A file that is in the archive now, durably."""

    __slots__ = ()
    name: str
    read_bytes: int
    stored_bytes: int


class Duplicate(namedtuple("Duplicate", ("name",))):
    """A file whose same content the archive held already, durably."""

    __slots__ = ()
    name: str


class Prepared:
    """A verified file on its way: compressed and synced in `temporary`, or, when that is empty, archived before."""

    __slots__ = ("codec", "descriptor", "facts", "owned", "source", "stored", "temporary")

    def __init__(self, source: str, facts: Facts, owned: bool, temporary: str = "", descriptor: int = -1) -> None:
        """`owned` says that the segment was checked to be of the archive's cluster."""
        self.source = source
        self.facts = facts
        self.owned = owned
        self.temporary = temporary
        self.descriptor = descriptor
        self.codec = facts.codec
        self.stored = 0

    def discard(self) -> None:
        """Remove what is left of it outside the archive; a second call does nothing."""
        if self.temporary:
            temporary, self.temporary = self.temporary, ""
            try:
                os.unlink(temporary)
            except FileNotFoundError:
                pass
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            os.close(descriptor)


def store(
    layout: Layout,
    source: str,
    name: str,
    *,
    compression: str = "zstd",
    level: int | None = None,
    system_id: int | None = None,
    wait: float = _LOCK_WAIT,
    threads: int = 0,
) -> Stored | Duplicate:
    """Archive one WAL file durably under `name`; the source stays where it is.

    Raises WalRefused (Conflict, Alien, Damaged, Foreign) for a file that must not enter, and CellarmanError when the
    archive cannot take it now: full, locked for longer than `wait` seconds, or not there.
    """
    known = inspection.known_system(layout) if system_id is None else system_id
    prepared = prepare(layout, source, name, compression=compression, level=level, system_id=known, threads=threads)
    try:
        outcome = publish(layout, [prepared], wait=wait)[0]
    finally:
        prepared.discard()
    if isinstance(outcome, WalRefused):
        raise outcome
    return outcome


def prepare(
    layout: Layout,
    source: str,
    name: str,
    *,
    compression: str,
    level: int | None,
    system_id: int | None,
    threads: int = 0,
) -> Prepared:
    """Verify a file and write it, compressed and synced, beside its place in the archive. Raises as `store` does."""
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise CellarmanError(f"cannot read {source}", str(error)) from error
    try:
        facts = inspection.examine(descriptor, name, system_id)
        owned = facts.header is None or system_id is not None
        if _held(layout, descriptor, facts):
            return Prepared(source, facts, owned)
        item = Prepared(source, facts, owned, *new_temporary(layout.wals, layout.name, name))
        return _write(item, descriptor, compression, level, threads)
    except OSError as error:
        raise failed(layout.wals, name, error) from error
    finally:
        os.close(descriptor)


def publish(
    layout: Layout, items: Sequence[Prepared], *, wait: float = _LOCK_WAIT
) -> list[Stored | Duplicate | WalRefused]:
    """Put prepared files into their places, durably, and return what became of each, in the same order.

    Raises Busy when another process holds the lock of xlog.db for longer than `wait` seconds; then nothing was placed.
    """
    with locks.hold(layout.lock("xlogdb"), wait=wait, what=f"archive WAL of {layout.name}"):
        step("wal.locked")
        try:
            system = _owner(layout, items)
            outcomes = [_place(layout, item, system) for item in items]
            _sync(layout, items, outcomes)
            step("wal.directory-synced")
            lines = _lines(layout, items, outcomes)
            if lines:
                xlogdb.append(layout, lines)
            step("wal.line-appended")
        except OSError as error:
            raise failed(layout.wals, items[0].facts.name, error) from error
    return outcomes


def _write(item: Prepared, descriptor: int, compression: str, level: int | None, threads: int) -> Prepared:
    """Fill the temporary file with the source's content, compressed unless it came so, and sync it."""
    facts, sink = item.facts, item.descriptor
    packed = facts.codec != "none"
    try:
        step("wal.temp-created")
        os.lseek(descriptor, 0, os.SEEK_SET)
        _, item.stored = codec.copy(descriptor, sink, "none" if packed else compression, level, facts.size, threads)
        item.codec = facts.codec if packed else compression
        _unchanged(descriptor, facts)
        os.fchmod(sink, facts.mode)
        os.utime(sink, ns=(facts.mtime_ns, facts.mtime_ns))
        os.fsync(sink)
        step("wal.temp-written")
    except BaseException:
        item.discard()
        raise
    return item


def _unchanged(descriptor: int, facts: Facts) -> None:
    info = os.fstat(descriptor)
    if (info.st_size, info.st_mtime_ns) != (facts.size, facts.mtime_ns):
        raise CellarmanError(f"{facts.name} changed while it was read", "somebody is still writing it")


def _owner(layout: Layout, items: Sequence[Prepared]) -> int | None:
    """Return the cluster that files of an unknown one must be of; the first segment ever decides."""
    headers = [item.facts.header for item in items if not item.owned and item.facts.header is not None]
    return inspection.establish(layout, headers[0]) if headers else None


def _place(layout: Layout, item: Prepared, system: int | None) -> Stored | Duplicate | WalRefused:
    """Rename one prepared file into its place unless the archive holds the name already."""
    target = layout.wal(item.facts.name)
    try:
        if not item.owned and item.facts.header is not None and system is not None:
            inspection.check_system(item.facts.name, item.facts.header, system)
        if os.path.lexists(target) and _same_as_source(layout, target, item):
            return Duplicate(item.facts.name)
    except WalRefused as refused:
        return refused
    if not item.temporary:
        raise CellarmanError(f"{item.facts.name} left the archive while it was compared", "", "try again")
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.rename(item.temporary, target)
    item.temporary = ""
    step("wal.renamed")
    return Stored(item.facts.name, item.facts.size, item.stored)


def _same_as_source(layout: Layout, target: str, item: Prepared) -> bool:
    """Compare with what the archive holds; an archived file that nobody can read makes room in errors/."""
    descriptor = os.open(item.source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _held(layout, descriptor, item.facts):
            return True
    finally:
        os.close(descriptor)
    if os.path.lexists(target):
        known_bad = _condemned(layout, item.facts.name) or "it cannot be read"
        why = f"the archived file was bad ({known_bad}), and another one of this name arrived"
        keep(layout, target, item.facts.name, Damaged(f"{item.facts.name} was replaced in the archive", why))
    return False


def _held(layout: Layout, descriptor: int, facts: Facts) -> bool:
    """Tell whether the archive holds the same content; one that the audit found bad does not keep another out."""
    try:
        return holds(layout.wal(facts.name), descriptor, facts)
    except Conflict:
        if _condemned(layout, facts.name):
            return False
        raise


def _condemned(layout: Layout, name: str) -> str:
    """Return why the audit found the archived file bad, "" when it did not; loaded only when two files differ."""
    from engine.wal import condemned

    return condemned.reason(layout, name)


def holds(target: str, descriptor: int, facts: Facts) -> bool:
    """Tell whether the file at `target` has the same content; False also when it is damaged, or not there.

    Raises Conflict when it holds other content, or content that cannot be compared.
    """
    try:
        held = codec.read_segment(target)
        inspection.check_content(facts.name, held)
    except FileNotFoundError:
        return False
    except Damaged:
        return False
    except codec.Unreadable as error:
        if error.fix:
            raise _conflict(facts.name, f"it cannot be compared: {error.why}") from None
        return False
    except Alien as error:
        raise _conflict(facts.name, error.why) from None
    if facts.codec == "none":
        same = _equal(descriptor, held)
    else:
        same = codec.decompress(os.pread(descriptor, facts.size, 0)) == held
    if not same:
        raise _conflict(facts.name, "the content differs")
    return True


def _conflict(name: str, why: str) -> Conflict:
    return Conflict(
        f"{name} is refused: the repository holds it already",
        why,
        "two servers may be archiving here, as after a failover that left the old primary running: "
        "compare both with pg_waldump before removing either",
    )


def _equal(descriptor: int, held: bytes) -> bool:
    os.lseek(descriptor, 0, os.SEEK_SET)
    position = 0
    while piece := os.read(descriptor, codec.CHUNK):
        if held[position : position + len(piece)] != piece:
            return False
        position += len(piece)
    return position == len(held)


def _sync(layout: Layout, items: Sequence[Prepared], outcomes: Sequence[object]) -> None:
    """Make the names in the archive durable, and what an earlier, perhaps killed, process put there."""
    directories = {layout.wals}
    for item, outcome in zip(items, outcomes, strict=True):
        target = layout.wal(item.facts.name)
        if isinstance(outcome, Duplicate):
            sync_file(target)
        if isinstance(outcome, (Stored, Duplicate)):
            directories.add(os.path.dirname(target))
    for directory in sorted(directories):
        sync_directory(directory)


def _lines(layout: Layout, items: Iterable[Prepared], outcomes: Sequence[object]) -> list[xlogdb.Line]:
    """Return the lines to append: one for each new file, and for each old one that a crash left without."""
    new = {outcome.name for outcome in outcomes if isinstance(outcome, Stored)}
    old = {outcome.name for outcome in outcomes if isinstance(outcome, Duplicate)} - new
    lacking = set(xlogdb.lacking(layout, old)) if old else set()
    lines = []
    for item, outcome in zip(items, outcomes, strict=True):
        if isinstance(outcome, Stored):
            lines.append(xlogdb.Line(item.facts.name, item.stored, item.facts.mtime, item.codec))
        elif isinstance(outcome, Duplicate) and outcome.name in lacking:
            lacking.discard(outcome.name)
            lines.append(xlogdb.line_of(layout.wal(outcome.name), codec.sniff))
    return lines


def failed(directory: str, name: str, error: OSError) -> CellarmanError:
    """Return the error for a file that could not be written into `directory`, naming a full file system."""
    what = f"cannot archive {name}"
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return CellarmanError(what, str(error))
    try:
        free = os.statvfs(directory)
        room = f"{free.f_bavail * free.f_frsize} bytes free"
    except OSError as other:
        room = str(other)
    return CellarmanError(
        what,
        f"{error}\nfile system of {directory}, mounted at {_mount_point(directory)}: {room}",
        "make room there; PostgreSQL keeps the segment and sends it again",
    )


def _mount_point(path: str) -> str:
    path = os.path.realpath(path)
    while not os.path.ismount(path):
        path = os.path.dirname(path)
    return path
