"""What the archived files hold, as far as it is known: by the index, or by the file where it changed since.

A file that was changed in place leaves its directory's time as it was; so the files that matter most are looked at
one by one, and those that changed are read.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.errors import CellarmanError
from engine.postgres import segment, walfile
from engine.postgres.lsn import Lsn
from engine.repository.backupinfo import BackupInfo
from engine.repository.layout import Layout
from engine.wal import codec, contentcheck, index, inspection, soundness
from engine.wal.gaps import Key, left_later
from engine.wal.inventory import Inventory, Names, histories, list_names, listed, take
from engine.wal.listing import locate
from engine.wal.runs import Span

if TYPE_CHECKING:
    from engine.wal.contentcheck import Histories

MOST_LOOKED_AT = 4096
"""Files whose size and time are compared with the index's."""
_TORN = re.compile(f"{contentcheck.CONTINUES} ([0-9A-F]{{24}})")
_MOST_READ = 256
_MOST_FILLED = 1025
"""Segments that one record of 1 GiB can go on in."""
_MOST_ASKED = 64
"""Directories with something new whose files are compared with the index; beyond that all of one count as new."""
READING_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Scrutiny:
    """What is known of the content of the archived segments, by name."""

    invalid: Mapping[str, str] = field(default_factory=dict)
    """Files that satisfy nothing, with the reason in `walfile.check_segment`'s words or those of the codec."""
    unchecked: int = 0
    """Segments that nobody has looked into."""
    changed: int = 0
    """Files that changed after they were indexed and could not be read again in time."""
    looked_at: int = 0
    """Files that were found to be as they were when they were indexed."""


def examine(
    layout: Layout,
    names: Names,
    inventory: Inventory,
    first: Sequence[tuple[int, Span]],
    system_id: int | None,
    known: Histories,
    *,
    begins: Mapping[str, str],
    seconds: float = READING_SECONDS,
) -> Scrutiny:
    """Return what is known of the segments; `first` are (timeline, run) whose files are compared, first ones first.
    `begins` are the segments in which backups begin, each with the backup.

    At most `seconds` are spent on reading files that are new, or changed since they were indexed.
    """
    invalid: dict[str, str] = {}
    to_read: dict[str, None] = {}
    for name, size, mtime_ns, problem in index.bad_files(layout):
        _sort_in(layout, name, (size, mtime_ns), problem, invalid, to_read)
    for name, size, mtime_ns, why, end in index.short_files(layout):
        if _followed(name, inventory, known):
            problem = f"its valid data ends at {Lsn(end)}: {why}"
            _sort_in(layout, name, (size, mtime_ns), problem, invalid, to_read)
    for name, size, mtime_ns, before, lacks, continues in index.torn_files(layout):
        problem = f"it does not continue {before}: that needs {lacks or 0} bytes, and it continues {continues}"
        _sort_in(layout, name, (size, mtime_ns), problem, invalid, to_read)
    known_files = index.stats(layout, first, MOST_LOOKED_AT)
    for name, indexed in known_files.items():
        now = _stat(layout, name)
        if now is not None and now != indexed:
            to_read[name] = None
    unchecked, unindexed = unindexed_in(layout, names, inventory.segment_size)
    queued = _queued(layout, inventory)
    unchecked, unindexed = unchecked + len(queued), [*unindexed, *queued]
    to_read.update(dict.fromkeys(unindexed))
    to_read.update(dict.fromkeys(_going_on(layout, to_read, inventory.segment_size)))
    read = _read(layout, to_read, system_id, inventory, known, seconds)
    invalid.update({name: reason for name, reason in read.items() if reason})
    _blame_the_one_before(layout, invalid, begins, system_id, known)
    left = [name for name in to_read if name not in read]
    new = sum(1 for name in unindexed if name in read)
    return Scrutiny(invalid, unchecked - new, sum(1 for name in left if name not in unindexed), len(known_files))


def _blame_the_one_before(
    layout: Layout, invalid: dict[str, str], begins: Mapping[str, str], system_id: int | None, known: Histories
) -> None:
    """Take segments that do not continue the one before them for good where a backup begins in them, if nothing else is
    wrong with them: they are its history, and the one before is of another."""
    for name, backup in begins.items():
        torn = _TORN.search(invalid.get(name, ""))
        if torn is None:
            continue
        alone = _alone(layout, name, system_id, known)
        if alone:
            invalid[name] = alone
            continue
        del invalid[name]
        if os.path.exists(locate(layout, torn[1])):
            invalid.setdefault(torn[1], contradicted(name, backup))


def _alone(layout: Layout, name: str, system_id: int | None, known: Histories) -> str | None:
    """Return what is wrong with a segment itself, whatever comes before it."""
    try:
        data = codec.read_segment(locate(layout, name))
    except (CellarmanError, OSError) as error:
        return str(error)
    systems = () if system_id is None else (system_id,)
    return contentcheck.check(name, data, systems=systems, histories=known).problem


def _queued(layout: Layout, inventory: Inventory) -> list[str]:
    """Return the segments that wait to be archived and count as present, some of them when they are many."""
    names = {name for queue in (layout.incoming, layout.streaming) for name in listed(queue)}
    waiting = []
    for name in sorted(names)[:_MOST_READ]:
        if segment.kind_of(name) != segment.SEGMENT or os.path.exists(layout.wal(name)):
            continue
        try:
            timeline, number = segment.parse_segment(name, inventory.segment_size)
        except ValueError:
            continue  # of another segment size
        if number in inventory.segments.get(timeline, ()):
            waiting.append(name)
    return waiting


def _going_on(layout: Layout, changed: Iterable[str], size: int) -> list[str]:
    """Return the indexed segments that follow changed ones, as far as records of those go on: they are to be held
    against them anew."""
    found = []
    for name in changed:
        try:
            timeline, number = segment.parse_segment(name, size)
        except ValueError:
            continue
        for following in range(number + 1, number + _MOST_FILLED):
            row = next(iter(index.rows(layout, timeline, following, following)), None)
            if row is None or not (row.rem_len or following == number + 1):
                break
            found.append(row.name)
            if row.last_record_lsn is not None or not row.rem_len:
                break
    return found


def _sort_in(
    layout: Layout,
    name: str,
    known: tuple[int, int],
    problem: str,
    invalid: dict[str, str],
    to_read: dict[str, None],
) -> None:
    """Believe the index about a file that is as it was; one that changed is to be read, one that is gone is nothing."""
    now = _stat(layout, name)
    if now == known:
        invalid[name] = problem
    elif now is not None:
        to_read[name] = None


def _stat(layout: Layout, name: str) -> tuple[int, int] | None:
    try:
        found = os.stat(f"{layout.wals}/{name[:16]}/{name}")
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _followed(name: str, inventory: Inventory, known: Histories) -> bool:
    """Tell whether recovery has to get through this segment: the next one of its timeline is there, or a timeline with
    WAL left it later."""
    try:
        timeline, number = segment.parse_segment(name, inventory.segment_size)
    except ValueError:
        return False
    segments = inventory.segments
    return number + 1 in segments.get(timeline, ()) or left_later(
        known, segments, timeline, number, inventory.segment_size
    )


def unindexed_in(layout: Layout, names: Names, size: int) -> tuple[int, list[str]]:
    """Return how many segments the index has not read, and their names when they are few."""
    known = index.looked_at(layout)
    count, asked = 0, 0
    some: list[str] = []
    per_log = 0x1_0000_0000 // size
    for directory, listing in names.directories.items():
        present = sum(last - first + 1 for first, last in listing.spans)
        path = f"{layout.wals}/{directory}"
        if not present or known.get(directory) == (listing.mtime_ns or _mtime(path)):
            continue
        timeline, base = int(directory[:8], 16), int(directory[8:], 16) * per_log
        asked += 1
        here = [(timeline, (base, base + per_log - 1))]
        rows = index.stats(layout, here, per_log) if asked <= _MOST_ASKED else {}
        count += max(0, present - len(rows))
        if len(some) <= _MOST_READ and present > len(rows):
            own = (f"{directory}{n:08X}" for first, last in listing.spans for n in range(first, last + 1))
            some += [name for name in own if name not in rows]
    return count, some if len(some) <= _MOST_READ else []


def _mtime(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _read(
    layout: Layout,
    names: Iterable[str],
    system_id: int | None,
    inventory: Inventory,
    known: Histories,
    seconds: float,
) -> dict[str, str | None]:
    """Return the reasons against files that are read now, None for good ones; as many as the time allows."""
    deadline = time.monotonic() + seconds
    magic = inspection.magic_of(layout, system_id)
    found: dict[str, str | None] = {}
    for name in names:
        if time.monotonic() > deadline:
            break
        found[name] = _problem_of(
            layout, name, system_id, known, followed=_followed(name, inventory, known), magic=magic
        )
    return found


def _problem_of(
    layout: Layout, name: str, system_id: int | None, known: Histories, *, followed: bool, magic: int | None
) -> str | None:
    """Read a segment's file whole; return why it is not usable, or None. `followed`: valid data must fill it."""
    try:
        data = codec.read_segment(locate(layout, name))
    except FileNotFoundError:
        return None
    except CellarmanError as error:
        return error.why or error.what
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    found = soundness.judge_with(layout, name, data, system_id, known, magic)
    return found.problem or (found.short if followed else None)


def begins_of(infos: Iterable[BackupInfo]) -> dict[str, str]:
    """Return the segments in which backups begin, each with the first of those."""
    found: dict[str, str] = {}
    for info in infos:
        if info.begin_wal:
            found.setdefault(info.begin_wal, info.id)
    return found


def contradicted(following: str, backup: str) -> str:
    """Return what is wrong with a segment that the next one, in which a backup begins, does not continue."""
    return f"corrupt: {following}, in which backup {backup} begins, does not continue it"


def invalid_keys(
    layout: Layout,
    size: int,
    infos: Sequence[BackupInfo],
    system_id: int | None,
    *,
    keep: bool,
) -> dict[Key, str]:
    """Return the segments of `size` bytes that satisfy nothing, with the reason; `infos` are the backups that count,
    newest first. Those are among them of which there is only a file that recovery is never given: they tell that WAL
    went on."""
    names = list_names(layout, keep=keep)
    inventory = take(layout, names, size)
    known, _, _ = histories(layout, names.root)
    first = matter([(info.begin_wal, info.end_wal) for info in infos], inventory)
    found = examine(layout, names, inventory, first, system_id, known, begins=begins_of(infos))
    keys = {
        key: f"only {path} is there, a name that PostgreSQL does not ask for" for key, path in inventory.encoded.items()
    }
    keys |= {key: f"{path} is not whole" for key, path in inventory.unfinished.items()}
    for name, reason in found.invalid.items():
        if system_id is not None and reason.startswith(f"alien: it belongs to the system {system_id},"):
            continue  # alien to what is archived now, and what is asked about
        try:
            keys[segment.parse_segment(name, size)] = reason
        except ValueError:
            continue  # of another segment size
    return keys


def matter(backups: Sequence[tuple[str | None, str | None]], inventory: Inventory) -> list[tuple[int, Span]]:
    """Return what is looked at first: what backups need to be consistent, then the rest, newest first."""
    wanted: list[tuple[int, Span]] = []
    for first, last in backups:
        if first and last:
            try:
                timeline, begin = segment.parse_segment(first, inventory.segment_size)
                wanted.append((timeline, (begin, segment.parse_segment(last, inventory.segment_size)[1])))
            except ValueError:
                continue
    for timeline in sorted(inventory.segments, reverse=True):
        wanted += [(timeline, span) for span in sorted(inventory.segments[timeline].spans(), reverse=True)[:1000]]
    return wanted


def header_of(path: str) -> walfile.SegmentHeader | None:
    """Return the header of a segment's file, None when it has none."""
    try:
        return walfile.read_header(codec.read_head(path, walfile.HEADER_SIZE))
    except (CellarmanError, OSError):
        return None
