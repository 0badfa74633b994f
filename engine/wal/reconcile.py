"""Put right what a crash left in the archive: dot-files that nobody writes any more, and files without a line.

Only directories that changed since the last time are looked at, so that a pass over a million segments costs the stat
of a few thousand directories.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import Any

from engine.postgres import segment
from engine.repository import locks, xlogdb
from engine.repository.files import at_once, replace
from engine.repository.layout import Layout
from engine.wal import codec
from engine.wal.temporary import remove_stale

_YOUNG = 60.0
"""Seconds that a dot-file is left alone: its maker may not have locked it yet."""
_UNSETTLED_NS = 2_000_000_000
"""A directory that changed this recently may change again within one tick of the file system's clock."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What was put right: dot-files removed, names that got their line."""

    removed: int
    added: tuple[str, ...]


def reconcile(layout: Layout, *, wait: float, young: float = _YOUNG) -> Reconciled:
    """Remove stale dot-files and give every archived file its line; raises Busy after `wait` seconds."""
    removed = sum(remove_stale(directory, young) for directory in (layout.wals, layout.incoming))
    memory = os.path.join(layout.own, "reconciled.json")
    with locks.hold(layout.lock("xlogdb"), wait=wait, what=f"check the WAL index of {layout.name}"):
        before = _remembered(memory)
        directories = _directories(layout)
        names = _unchecked(layout, before, directories)
        added = tuple(xlogdb.lacking(layout, names))
        if added:
            _add(layout, added)
        now = _state(layout, directories)
        if now != before:
            os.makedirs(layout.own, exist_ok=True)
            replace(memory, json.dumps(now).encode())
    return Reconciled(removed, added)


def _directories(layout: Layout) -> dict[str, int]:
    """Return the directories of the archive below wals/ ("" is wals/ itself) and when each last changed (mtime, ns)."""
    try:
        found = {"": os.stat(layout.wals).st_mtime_ns}
        for entry in os.scandir(layout.wals):
            if len(entry.name) == 16 and segment.kind_of(entry.name + "00000000") == segment.SEGMENT and entry.is_dir():
                found[entry.name] = entry.stat().st_mtime_ns
    except FileNotFoundError:
        return {}
    return found


def _unchecked(layout: Layout, before: dict[str, Any], directories: dict[str, int]) -> list[str]:
    """Return the names of archived files whose line may be missing."""
    known = before.get("directories", {}) if _index_grew(layout, before) else {}
    names: list[str] = []
    for directory, changed in directories.items():
        if known.get(directory) == changed:
            continue
        for name in os.listdir(os.path.join(layout.wals, directory)):
            kind = segment.kind_of(name)
            if kind in (segment.SEGMENT, segment.BACKUP_HISTORY, segment.HISTORY) and layout.wal(name) == os.path.join(
                layout.wals, *([directory] if directory else []), name
            ):
                names.append(name)
    return sorted(names)


def _index_grew(layout: Layout, before: dict[str, Any]) -> bool:
    """Tell whether the index is the one looked at before, with lines at most added; one that shrank is not trusted."""
    now = _index(layout)
    then = before.get("index")
    return bool(then and now[0] == then[0] and now[1] >= then[1])


def _index(layout: Layout) -> list[int]:
    try:
        facts = os.stat(layout.xlogdb)
    except FileNotFoundError:
        return [0, 0]
    return [facts.st_ino, facts.st_size]


def _add(layout: Layout, names: tuple[str, ...]) -> None:
    """Add lines for files that have none, in the order of names that Barman's readers count on."""
    lines = {line.name: line for line in xlogdb.read(layout).lines}
    for name in names:
        lines[name] = xlogdb.line_of(layout.wal(name), codec.sniff)
    xlogdb.rewrite(layout, [lines[name] for name in sorted(lines)])


def _remembered(path: str) -> dict[str, Any]:
    """Return what the last pass saw; nothing when that cannot be read, so that everything is looked at."""
    try:
        with open(path, encoding="utf-8", opener=at_once) as file:
            document = json.load(file)
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _state(layout: Layout, directories: dict[str, int]) -> dict[str, Any]:
    settled = time.time_ns() - _UNSETTLED_NS
    return {
        "index": _index(layout),
        "directories": {name: changed for name, changed in directories.items() if changed < settled},
    }
