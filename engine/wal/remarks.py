"""Findings about the files themselves: names that are none, encodings, conflicts, and lines that xlog.db lacks."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

from engine.commands import cellarman, wal_push
from engine.errors import CellarmanError
from engine.postgres import segment, walfile
from engine.remedy import NOTHING, run, words
from engine.repository import xlogdb
from engine.repository.files import at_once
from engine.repository.layout import Layout
from engine.wal import codec
from engine.wal.inventory import Inventory, Names, listed
from engine.wal.judgement.values import Finding

_SHOWN = 20
_CHUNK = 1 << 20
_KEPT = re.compile(r"([0-9A-F]{24})\.[^/]*\.duplicate")
_COMPARED = 5


def of_names(
    layout: Layout,
    names: Names,
    inventory: Inventory,
    differ: Sequence[int] | set[int],
    server: str,
    *,
    glance: bool = False,
) -> list[Finding]:
    """Return what is to be said about names alone; at a glance, what no file has to be read for."""
    quick = [
        *_unreadable(names),
        *_unfinished(inventory, server),
        *(_history_copies(timeline) for timeline in sorted(differ)),
    ]
    if glance:
        return quick
    return [
        *quick,
        *_foreign(layout, inventory),
        *_doubled(layout, inventory),
        *_conflicts(layout, server, inventory.segment_size),
        *_stale_catalogue(layout, names, inventory, server),
    ]


def wrong_size(inventory: Inventory, server: str) -> Finding:
    """Return that the archive's names do not fit the segment size that had to be assumed."""
    first = inventory.oversized[0]
    return Finding(
        "wrong_segment_size",
        "critical",
        "unknown",
        int(first[:8], 16),
        first,
        inventory.oversized[-1],
        len(inventory.oversized),
        why=f"{first} cannot exist with segments of {inventory.segment_size >> 20} MiB, and no segment, backup or "
        "server tells the right size",
        fix=run(cellarman("wal", "gaps", server), before="make the segments readable, or start the server, then: "),
    )


def _unreadable(names: Names) -> Iterator[Finding]:
    for path, reason in names.unreadable:
        directory = os.path.basename(path)
        yield Finding(
            "unknown",
            "warning",
            "unknown",
            int(directory[:8], 16),
            why=f"{path} cannot be read: {reason}; whether its segments are there is not known",
            fix=words(f"make it readable for this account: chmod -R u+rX {shlex.quote(path)}"),
        )


def _unfinished(inventory: Inventory, server: str) -> Iterator[Finding]:
    """Yield the segments that lie in a queue and are not whole: recovery cannot get through them, nor end at them."""
    for (timeline, number), path in sorted(inventory.unfinished.items())[:_SHOWN]:
        name = segment.segment_name(timeline, number, inventory.segment_size)
        yield Finding(
            "unfinished",
            "warning",
            None,
            timeline,
            name,
            name,
            1,
            why=f"{path} is not whole: a restore that comes to it ends there in an error",
            fix=run(
                wal_push(f"pg_wal/{name}", server),
                before="push it again from the server: ",
                after=f"; if it is lost, remove {path}",
            ),
        )


def _foreign(layout: Layout, inventory: Inventory) -> Iterator[Finding]:
    for name in inventory.foreign[:_SHOWN]:
        yield Finding(
            "foreign_file",
            "note",
            None,
            None,
            name,
            name,
            1,
            why="not the name of a WAL file: nothing asks for it",
        )
    if len(inventory.foreign) > _SHOWN:
        rest = inventory.foreign[_SHOWN:]
        yield Finding("foreign_file", "note", None, None, rest[0], rest[-1], len(rest), why="and so many more")


def _doubled(layout: Layout, inventory: Inventory) -> Iterator[Finding]:
    for position, (name, path) in enumerate(inventory.doubled):
        same = _same(layout.wal(name), path) if position < _SHOWN else None
        why = "one segment under two names"
        if same is not None:
            why += ", with the same content" if same else ", with different content"
        yield Finding(
            "duplicate" if same is not False else "conflict",
            "note" if same is not False else "warning",
            None,
            int(name[:8], 16),
            name,
            name,
            1,
            why=why,
            fix=words(f"rm {shlex.quote(path)}") if same else NOTHING,
        )


def _same(one: str, other: str) -> bool | None:
    """Tell whether two files have the same plain content; None when one of them cannot be read."""
    try:
        return codec.read_segment(one) == codec.read_segment(other)
    except (CellarmanError, OSError):
        return None


def _history_copies(timeline: int) -> Finding:
    name = f"{timeline:08X}.history"
    return Finding(
        "history_conflict",
        "warning",
        None,
        timeline,
        name,
        name,
        1,
        why="the copies in the archive and in its queues differ",
        fix=words("two servers may have been promoted to this timeline: each needs an archive of its own"),
    )


def _conflicts(layout: Layout, server: str, size: int) -> Iterator[Finding]:
    """Yield the segments of which two contents were archived, and which of them continues the one before."""
    kept = [(match[1], name) for name in listed(layout.errors) if (match := _KEPT.fullmatch(name))]
    for position, (name, file) in enumerate(kept):
        path = os.path.join(layout.errors, file)
        fits = _continuing(layout, name, path, size) if position < _COMPARED else ""
        yield Finding(
            "conflict",
            "warning",
            None,
            int(name[:8], 16),
            name,
            name,
            1,
            why=f"another content was archived under this name and is kept in {path}{fits}",
            fix=words(
                "two servers archive here under one name: give each a [servers.NAME] of its own, then remove the file"
            ),
        )


def _continuing(layout: Layout, name: str, other: str, size: int) -> str:
    """Say which of two contents goes on where the segment before ends."""
    try:
        timeline, number = segment.parse_segment(name, size)
        before = layout.wal(segment.segment_name(timeline, number - 1, size))
        data = codec.read_segment(before)
        carry = walfile.walk(data, walfile.read_header(data)).carry
        lacks = carry.missing if carry else 0
        sizes = [walfile.read_header(codec.read_head(path, 40)).rem_len for path in (layout.wal(name), other)]
    except (CellarmanError, OSError, ValueError):
        return "; which of them goes on from the segment before is not known"
    fit = [rest == lacks for rest in sizes]
    if fit == [True, True]:
        return "; both go on from the segment before"
    if fit == [False, False]:
        return "; neither goes on from the segment before"
    return f"; {'the archived one' if fit[0] else 'the kept one'} goes on from the segment before, the other does not"


def _stale_catalogue(layout: Layout, names: Names, inventory: Inventory, server: str) -> Iterator[Finding]:
    """Yield that xlog.db and the files are not of one mind: counted first, compared by name only where that differs."""
    path = next((p for p in (layout.xlogdb, layout.old_xlogdb) if os.path.exists(p)), None)
    try:
        lines = _count_lines(path) if path else 0
        if lines == inventory.archived:
            return
        without, gone = _compared(layout, path, names) if path and lines else (_all(names, inventory), [])
    except OSError:
        return
    for what, found in (("has no line in xlog.db", without), ("has a line in xlog.db and is gone", gone)):
        own = [name for name in found if len(name) == 24]
        if found:
            count = inventory.archived if not lines else len(found)
            yield Finding(
                "catalogue_stale",
                "note",
                None,
                int(own[0][:8], 16) if own else None,
                found[0],
                found[-1],
                count,
                why=f"{'it' if count == 1 else f'each of {count} files'} {what}: no gap, the files decide",
                fix=run(cellarman("cron"), after=f"; Barman's own: barman rebuild-xlogdb {server}"),
            )


def _count_lines(path: str) -> int:
    count, last = 0, b"\n"
    with open(path, "rb", buffering=0, opener=at_once) as file:
        while chunk := file.read(_CHUNK):
            count += chunk.count(b"\n")
            last = chunk
    return count + (not last.endswith(b"\n"))


def _all(names: Names, inventory: Inventory) -> list[str]:
    """Return the first and the last segment of the archive."""
    directories = sorted(name for name, listing in names.directories.items() if listing.spans)
    if not directories:
        return []
    first, last = directories[0], directories[-1]
    begin, end = names.directories[first].spans[0][0], names.directories[last].spans[-1][1]
    return [f"{first}{begin:08X}", f"{last}{end:08X}"]


def _compared(layout: Layout, path: str, names: Names) -> tuple[list[str], list[str]]:
    """Return the files without a line, and the lines without a file, by the directories whose numbers differ."""
    lines: Counter[str] = Counter()
    with open(path, encoding="ascii", errors="replace", opener=at_once) as file:
        lines.update(line[:16] for line in file)
    differ = {name for name in {*lines, *names.directories} if lines[name] != _files_in(names, name)}
    lined: set[str] = set()
    with open(path, encoding="ascii", errors="replace", opener=at_once) as file:
        lined.update(line.split(None, 1)[0] for line in file if line[:16] in differ and line.strip())
    present = {name for name in names.root if segment.kind_of(name) == segment.HISTORY}
    for directory in differ:
        present.update(n for n, _ in xlogdb.archived_in(layout, directory) if not n.endswith(".partial"))
    return sorted(present - lined), sorted(lined - present)


def _files_in(names: Names, directory: str) -> int:
    listing = names.directories.get(directory)
    if listing is None:
        return 0
    others = sum(1 for name in listing.others if segment.kind_of(name) == segment.BACKUP_HISTORY)
    return others + sum(last - first + 1 for first, last in listing.spans)
