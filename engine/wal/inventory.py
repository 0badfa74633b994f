"""Every name in the archive and its queues, sorted into classes; no segment is opened.

A directory that has not changed since it was listed is not listed again: what was found in it is kept in
.cellarman/wal-names.json, derived, and thrown away when it cannot be read.
"""

from __future__ import annotations

import json
import os
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from engine.errors import CellarmanError
from engine.postgres import segment
from engine.postgres.timeline import Switch, parse_history
from engine.repository import files
from engine.repository.layout import Layout
from engine.wal import codec, inspection
from engine.wal.gaps import Key
from engine.wal.runs import Runs, Span, spans_of

_TEMPORARY = (".tmp", ".part")
_MOST_WITHIN = 0x1000
"""Segments that a log can have at most: of 1 MiB."""
_SETTLED_NS = 2_000_000_000
"""A directory changed less than this before it was listed may change again under the same mtime."""
_CACHE_VERSION = 1
_BIGGEST_CACHE = 256 << 20
_NUMBERS = {f"{n:08X}": n for n in range(_MOST_WITHIN)}
_ENDINGS = tuple(_NUMBERS)


@dataclass(frozen=True, slots=True)
class Listing:
    """One directory of wals/: the runs of its segments' last eight digits, and the names that are no segment's."""

    mtime_ns: int
    spans: tuple[Span, ...]
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Names:
    """What lies in wals/ by name, whatever the segment size is."""

    directories: Mapping[str, Listing]
    root: tuple[str, ...] = ()
    """Names in wals/ itself that are no directory of segments."""
    unreadable: tuple[tuple[str, str], ...] = ()
    """(directory, reason)"""


@dataclass(frozen=True, slots=True)
class Inventory:
    """The names with one segment size."""

    segment_size: int
    segments: Mapping[int, Runs] = field(default_factory=dict)
    """Of wals/, and the whole ones in the queues."""
    archived: int = 0
    """Files of wals/ that xlog.db should have a line for."""
    partials: Mapping[Key, str] = field(default_factory=dict)
    encoded: Mapping[Key, str] = field(default_factory=dict)
    """Segments only under a name with a codec's suffix, with their paths."""
    unfinished: Mapping[Key, str] = field(default_factory=dict)
    """Segments only in a queue, and not whole, with their paths."""
    doubled: tuple[tuple[str, str], ...] = ()
    """(name, path of the second encoding)"""
    oversized: tuple[str, ...] = ()
    """Names that cannot exist with this segment size."""
    foreign: tuple[str, ...] = ()


def list_names(layout: Layout, *, keep: bool = True) -> Names:
    """List wals/, only the directories that have changed; `keep` writes down what was found for the next time."""
    known = _read_cache(layout)
    found: dict[str, Listing] = {}
    root: list[str] = []
    bad: list[tuple[str, str]] = []
    fresh = False
    try:
        names = os.listdir(layout.wals)
    except FileNotFoundError:
        return Names({})
    except OSError as error:
        raise CellarmanError(
            f"the WAL archive cannot be read: {layout.wals}", str(error), "make it readable for this account"
        ) from error
    now = time.time_ns()
    for name in names:
        if len(name) != 16 or segment.kind_of(name + "00000000") != segment.SEGMENT:
            root.append(name)
            continue
        path = f"{layout.wals}/{name}"
        try:
            mtime_ns = os.stat(path).st_mtime_ns
            before = known.get(name)
            if before is not None and before.mtime_ns == mtime_ns:
                found[name] = before
                continue
            # One that changed just now may change again within the same tick of the clock: it is not kept.
            found[name] = _list(name, os.listdir(path), mtime_ns if now - mtime_ns > _SETTLED_NS else 0)
            fresh = fresh or bool(found[name].mtime_ns)
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            root.append(name)
        except OSError as error:
            bad.append((path, error.strerror or str(error)))
    settled = {name: listing for name, listing in found.items() if listing.mtime_ns}
    if keep and (fresh or settled.keys() != known.keys()):
        _write_cache(layout, settled)
    return Names(found, tuple(root), tuple(bad))


def _list(directory: str, names: list[str], mtime_ns: int) -> Listing:
    """Sort one directory's names: the quick way when they are one run of its segments, as nearly always."""
    ordered = sorted(names)
    first = _NUMBERS.get(ordered[0][16:], -1) if ordered else -1
    if first >= 0 and "/".join(ordered) == directory + f"/{directory}".join(_ENDINGS[first : first + len(ordered)]):
        return Listing(mtime_ns, ((first, first + len(ordered) - 1),))
    own: list[int] = []
    others: list[str] = []
    for name in ordered:
        number = _NUMBERS.get(name[16:])
        if number is not None and len(name) == 24 and name.startswith(directory):
            own.append(number)
        else:
            others.append(name)
    return Listing(mtime_ns, tuple(spans_of(own)), tuple(others))


def take(layout: Layout, names: Names, size: int) -> Inventory:
    """Return what the names mean with segments of `size` bytes, the queues included."""
    per_log = 0x1_0000_0000 // size
    spans: dict[int, list[Span]] = {}
    oversized: list[str] = []
    partials: dict[Key, str] = {}
    unfinished: dict[Key, str] = {}
    coded: list[tuple[Key, str]] = []
    foreign = [name for name in names.root if _odd_at_root(name)]
    count = sum(1 for name in names.root if segment.kind_of(name) == segment.HISTORY)
    for directory, listing in names.directories.items():
        timeline, base = int(directory[:8], 16), int(directory[8:], 16) * per_log
        for first, last in listing.spans:
            if first < per_log:
                spans.setdefault(timeline, []).append((base + first, base + min(last, per_log - 1)))
            if last >= per_log:
                oversized += (f"{directory}{number:08X}" for number in range(max(first, per_log), last + 1))
            count += last - first + 1
        for name in listing.others:
            path = f"{layout.wals}/{directory}/{name}"
            kind = segment.kind_of(name)
            if kind == segment.BACKUP_HISTORY:
                count += 1
            elif kind == segment.PARTIAL and _fits(name, per_log):
                partials[segment.parse_segment(name, size)] = path
            elif _encoded(name) and _fits(name, per_log):
                coded.append((segment.parse_segment(name[:24], size), path))
            elif not name.startswith(".") and not name.endswith(_TEMPORARY):
                foreign.append(f"{directory}/{name}")
    for queue in (layout.incoming, layout.streaming):
        _queued(queue, size, spans, partials, unfinished)
    segments = {timeline: Runs(own) for timeline, own in spans.items()}
    twice = [(key, path) for key, path in coded if key[1] in segments.get(key[0], ())]
    return Inventory(
        size,
        segments,
        count,
        {key: path for key, path in partials.items() if key[1] not in segments.get(key[0], ())},
        {key: path for key, path in coded if key[1] not in segments.get(key[0], ())},
        {key: path for key, path in unfinished.items() if key[1] not in segments.get(key[0], ())},
        tuple((segment.segment_name(*key, size), path) for key, path in twice),
        tuple(sorted(oversized)),
        tuple(sorted(foreign)),
    )


def _odd_at_root(name: str) -> bool:
    known = name.startswith(".") or name.endswith(("xlog.db", *_TEMPORARY)) or name == "lost+found"
    return not known and segment.kind_of(name) != segment.HISTORY


def _fits(name: str, per_log: int) -> bool:
    return int(name[16:24], 16) < per_log


def _encoded(name: str) -> bool:
    return len(name) > 24 and name[24:] in codec.SUFFIXES and segment.kind_of(name[:24]) == segment.SEGMENT


def _queued(
    directory: str, size: int, spans: dict[int, list[Span]], partials: dict[Key, str], unfinished: dict[Key, str]
) -> None:
    """Add what a queue holds: its segments of full size, its .partial files, and segments that are not whole."""
    for name in listed(directory):
        kind = segment.kind_of(name)
        if kind not in (segment.SEGMENT, segment.PARTIAL) or not _fits(name, 0x1_0000_0000 // size):
            continue
        timeline, number = segment.parse_segment(name, size)
        path = f"{directory}/{name}"
        if kind == segment.PARTIAL:
            partials[(timeline, number)] = path
            continue
        if inspection.may_be_whole(path, size):
            spans.setdefault(timeline, []).append((number, number))
        else:
            unfinished[(timeline, number)] = path


def listed(directory: str) -> list[str]:
    """Return the names in a directory, sorted; [] when there is none or it cannot be read."""
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def histories(layout: Layout, root: Iterable[str]) -> tuple[dict[int, tuple[Switch, ...]], dict[int, str], set[int]]:
    """Return the timeline histories of the archive and its queues, why others cannot be used, and those whose copies
    differ."""
    good: dict[int, tuple[Switch, ...]] = {}
    bad: dict[int, str] = {}
    differ: set[int] = set()
    places = [(layout.streaming, listed(layout.streaming)), (layout.incoming, listed(layout.incoming))]
    for directory, names in (*places, (layout.wals, list(root))):
        for name in names:
            if segment.kind_of(name) != segment.HISTORY:
                continue
            timeline = int(name[:8], 16)
            try:
                plain = codec.read_segment(os.path.join(directory, name), codec.SMALL_FILE)
                switches = parse_history(timeline, plain.decode("utf-8", "replace"))
            except FileNotFoundError:
                continue
            except (CellarmanError, ValueError, OSError) as error:
                bad[timeline] = f"{name} cannot be read: {error}"
                if directory == layout.wals:
                    good.pop(timeline, None)  # what recovery would be given
                continue
            if timeline in good and [s[:2] for s in good[timeline]] != [s[:2] for s in switches]:
                differ.add(timeline)
            good[timeline] = switches
            bad.pop(timeline, None)
    return good, bad, differ


def before(numbers: Runs, number: int) -> int | None:
    """Return the last of `numbers` that is below `number`."""
    at = bisect_left(numbers, number)
    return numbers[at - 1] if at else None


def _cache_path(layout: Layout) -> str:
    return os.path.join(layout.own, "wal-names.json")


def _read_cache(layout: Layout) -> dict[str, Listing]:
    try:
        with open(_cache_path(layout), "rb") as file:
            document = json.loads(file.read(_BIGGEST_CACHE))
        if document["version"] != _CACHE_VERSION or document["wals"] != layout.wals:
            return {}
        return {
            name: Listing(mtime_ns, tuple((first, last) for first, last in spans), tuple(others))
            for name, (mtime_ns, spans, others) in document["directories"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write_cache(layout: Layout, found: Mapping[str, Listing]) -> None:
    """Keep what was listed; that it cannot be written costs time, and nothing else."""
    rows = {name: (each.mtime_ns, each.spans, each.others) for name, each in found.items()}
    document = {"version": _CACHE_VERSION, "wals": layout.wals, "directories": rows}
    try:
        os.makedirs(layout.own, mode=0o750, exist_ok=True)
        files.replace(
            _cache_path(layout),
            json.dumps(document, separators=(",", ":")).encode(),
            temporary=f"{_cache_path(layout)}.{os.getpid()}.tmp",
        )
    except OSError:
        return
