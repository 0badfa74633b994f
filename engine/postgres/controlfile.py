"""`global/pg_control`: what a data directory is, and how far it got.

Source: ControlFileData and CheckPoint in PostgreSQL's src/include/catalog/pg_control.h; the offsets below are those
of PostgreSQL 12 to 18 on a machine with 8-byte alignment, little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import datetime

import google_crc32c

from engine.errors import CellarmanError
from engine.postgres.clock import unix_time
from engine.postgres.lsn import Lsn

SIZE = 8192
"""Bytes of the file; all but the first 300 or so are zero."""

_CRC_AT = {1201: 288, 1300: 288, 1700: 288, 1800: 292}
"""Where the CRC-32C stands, by pg_control version; it covers all bytes before it."""
_STATES = (
    "starting up",
    "shut down",
    "shut down in recovery",
    "shutting down",
    "in crash recovery",
    "in archive recovery",
    "in production",
)
_WAL_LEVELS = ("minimal", "replica", "logical")

_HEAD = struct.Struct("<QIIi4xqQ")  # system id, version, catalog, state, time, checkPoint
_CHECKPOINT = struct.Struct("<QII?7xQ")  # redo, ThisTimeLineID, PrevTimeLineID, fullPageWrites, nextXid
_CHECKPOINT_AT = 40
_CHECKPOINT_TIME_AT = 104
_RECOVERY = struct.Struct("<QI4xQQ?3x")  # minRecoveryPoint and its TLI, backupStartPoint, backupEndPoint, …Required
_RECOVERY_AT = 136
_SETTINGS = struct.Struct("<i?3xiiiii?3x")
_SETTINGS_AT = 172
_SHAPE = struct.Struct("<IIII")  # blcksz, relseg_size, xlog_blcksz, xlog_seg_size
_SHAPE_AT = 216
_CHECKSUM_AT = 252


class ControlFileError(CellarmanError):
    """A pg_control that cannot be used."""


@dataclass(frozen=True, slots=True)
class ControlFile:
    """The parts of pg_control that backup and recovery ask for."""

    system_id: int
    version: int
    """Of the file's format: 1300 is PostgreSQL 13 to 16."""
    catalog: int
    state: str
    """In pg_controldata's words, such as `in production`."""
    modified: datetime
    checkpoint_lsn: Lsn
    redo_lsn: Lsn
    timeline: int
    previous_timeline: int
    next_xid: int
    """With the epoch in its upper half."""
    checkpoint_time: datetime
    min_recovery_lsn: Lsn
    min_recovery_timeline: int
    backup_start_lsn: Lsn
    backup_end_lsn: Lsn
    backup_end_required: bool
    wal_level: str
    wal_log_hints: bool
    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_xacts: int
    max_locks_per_xact: int
    track_commit_timestamp: bool
    block_size: int
    relation_pages: int
    """Pages of a relation's file; what is over goes to the next."""
    wal_block_size: int
    segment_size: int
    """Bytes of a WAL segment."""
    data_checksums: bool


def read_control(data: bytes) -> ControlFile:
    """Return what the bytes of a pg_control say; raises ControlFileError when they are short, foreign or damaged."""
    if len(data) < 296:
        raise ControlFileError("pg_control cannot be read", f"it has {len(data)} bytes, {SIZE} were expected")
    system_id, version, catalog, state, modified, checkpoint = _HEAD.unpack_from(data, 0)
    crc_at = _CRC_AT.get(version)
    if crc_at is None:
        known = ", ".join(str(number) for number in _CRC_AT)
        raise ControlFileError("pg_control cannot be read", f"its format is version {version}; known are {known}")
    if google_crc32c.value(data[:crc_at]) != int.from_bytes(data[crc_at : crc_at + 4], "little"):
        raise ControlFileError("pg_control is damaged", "its checksum does not match its content")
    redo, timeline, previous, _, next_xid = _CHECKPOINT.unpack_from(data, _CHECKPOINT_AT)
    (checkpoint_time,) = struct.unpack_from("<q", data, _CHECKPOINT_TIME_AT)
    min_recovery, min_timeline, backup_start, backup_end, end_required = _RECOVERY.unpack_from(data, _RECOVERY_AT)
    level, hints, connections, workers, senders, prepared, locks, commit_times = _SETTINGS.unpack_from(
        data, _SETTINGS_AT
    )
    block, relation, wal_block, segment = _SHAPE.unpack_from(data, _SHAPE_AT)
    return ControlFile(
        system_id=system_id,
        version=version,
        catalog=catalog,
        state=_STATES[state] if 0 <= state < len(_STATES) else f"unknown ({state})",
        modified=unix_time(modified),
        checkpoint_lsn=Lsn(checkpoint),
        redo_lsn=Lsn(redo),
        timeline=timeline,
        previous_timeline=previous,
        next_xid=next_xid,
        checkpoint_time=unix_time(checkpoint_time),
        min_recovery_lsn=Lsn(min_recovery),
        min_recovery_timeline=min_timeline,
        backup_start_lsn=Lsn(backup_start),
        backup_end_lsn=Lsn(backup_end),
        backup_end_required=end_required,
        wal_level=_WAL_LEVELS[level] if 0 <= level < len(_WAL_LEVELS) else f"unknown ({level})",
        wal_log_hints=hints,
        max_connections=connections,
        max_worker_processes=workers,
        max_wal_senders=senders,
        max_prepared_xacts=prepared,
        max_locks_per_xact=locks,
        track_commit_timestamp=commit_times,
        block_size=block,
        relation_pages=relation,
        wal_block_size=wal_block,
        segment_size=segment,
        data_checksums=bool(int.from_bytes(data[_CHECKSUM_AT : _CHECKSUM_AT + 4], "little")),
    )
