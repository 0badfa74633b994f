"""The windows of a real server: catalogue, archive and index put before the pure rules."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace

from engine.config import Server
from engine.errors import CellarmanError
from engine.recovery.candidates import Miss
from engine.recovery.evidence import InvalidSegment, WalFacts
from engine.recovery.stock import bases, restorable, sound, system_id
from engine.recovery.window import Window, windows
from engine.repository import repository
from engine.wal import index
from engine.wal.gaps import Archive, Key, run_end

_INDEX_BUDGET = 20.0
"""Seconds that bringing the index up to date may take."""
_PROVING = 10.0
"""Seconds of it that may go into verifying every record of what is new."""


def reachable_windows(server: Server, *, read_only: bool = False) -> tuple[list[Window], list[Miss]]:
    """Return the windows of a server's backups, newest first, and the backups that have none."""
    infos = [info for info in repository.catalogue(server.layout).backups if restorable(info)]
    if not infos:
        return [], []
    if not read_only:
        try:
            index.catch_up(server.layout, budget=_INDEX_BUDGET, prove=_PROVING)
        except (CellarmanError, OSError, sqlite3.Error):
            pass  # what the index lacks is read from the segments
    size = infos[0].xlog_segment_size
    system = system_id(server.layout, infos)
    archive = sound(server.layout, infos, system, keep=not read_only)
    starts = bases(server.layout, [info for info in infos if info.xlog_segment_size == size], system)
    while True:
        try:
            facts = WalFacts(server.layout, archive, system)
            facts.renew(_ends(archive))
            return windows(starts, archive, facts)
        except InvalidSegment as invalid:
            archive = replace(archive, invalid={**archive.invalid, invalid.key: invalid.reason})


def _ends(archive: Archive) -> Iterator[Key]:
    """Yield the segments behind which the next one lacks or is bad: what valid data they hold bounds a window."""
    for timeline, numbers in archive.segments.items():
        at = 0
        while at < len(numbers):
            last = run_end(numbers, numbers[at])
            yield timeline, last
            at += last - numbers[at] + 1
    yield from ((timeline, number - 1) for timeline, number in archive.invalid)
