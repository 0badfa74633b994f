"""What there is to recover a server from: backups that a recovery can begin with, and WAL that it can go by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.postgres.segment import parse_segment
from engine.recovery.facts import Base
from engine.repository import identity
from engine.repository.backupinfo import BackupInfo
from engine.repository.chain import Chains
from engine.repository.layout import Layout
from engine.wal import index
from engine.wal.consistent import MOST_READ, Consistent, consistent
from engine.wal.gaps import Archive, with_invalid, without_contradicted
from engine.wal.listing import scan
from engine.wal.scrutiny import begins_of, invalid_keys


def restorable(info: BackupInfo) -> bool:
    """Tell whether a backup has ended with all its files; that its WAL is there is proven apart."""
    ended = info.end_time is not None and info.begin_wal is not None and info.end_wal is not None
    return info.status in ("DONE", "WAITING_FOR_WALS") and not info.deleting and ended and info.version is not None


def system_id(layout: Layout, infos: Sequence[BackupInfo]) -> int | None:
    """Return the system whose WAL counts: the newest backup's, or else the repository's; `infos` are newest first."""
    newest = next((info.systemid for info in infos if info.systemid is not None), None)
    return newest if newest is not None else identity.system_id(layout)


def bases(layout: Layout, infos: Sequence[BackupInfo], system: int | None) -> list[Base]:
    """Return backups as starts of a recovery, newest (by where they end) first."""
    if any(info.end_time is None or info.version is None for info in infos):
        raise AssertionError("only backups that have ended are asked for")
    spans = consistent(layout, infos, most_read=MOST_READ)
    chains = Chains(layout)
    found = [_base(layout, info, spans[info.id], system, chains) for info in infos]
    return sorted(found, key=lambda base: (base.ended, base.id), reverse=True)


def _base(layout: Layout, info: BackupInfo, span: Consistent, system: int | None, chains: Chains) -> Base:
    assert info.end_time is not None
    unusable = span.lacking
    if info.snapshots_info:
        unusable = f"backup {info.id} is a disk snapshot, which its provider restores"
    elif system is not None and info.systemid is not None and info.systemid != system:
        unusable = f"backup {info.id} is of another system, {info.systemid}; the archive's is {system}"
    else:
        unusable = chains.lacking(info) or unusable
    standalone = info.keep == "standalone"
    return Base(
        info.id,
        span.timeline,
        span.start,
        span.stop,
        info.end_time,
        standalone,
        unusable,
        span.exact,
        span.stop_timeline,
    )


def sound(layout: Layout, infos: Sequence[BackupInfo], system: int | None, *, keep: bool) -> Archive:
    """Return the archive with what in it satisfies nothing: by the index, by the audit, or as it is read now."""
    size = infos[0].xlog_segment_size
    own = [info for info in infos if info.xlog_segment_size == size]
    begins = frozenset(parse_segment(name, size) for name in begins_of(own))
    archive = replace(scan(layout, size), minimal=index.minimal(layout), begins=begins)
    return without_contradicted(with_invalid(archive, invalid_keys(layout, size, own, system, keep=keep)))
