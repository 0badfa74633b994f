"""backup.info: one file, one frozen value, and back again byte for byte.

Format (catalog of Barman 2.x to 3.20): UTF-8, one `key=value` a line, keys in alphabetical order, `None` for null;
`backup_name` and `snapshots_info` are left out when null. Reading is lenient (CRLF, comments, spaces, missing and
unknown keys, naive times); writing keeps every key and every spelling that was found and did not change.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Literal, NamedTuple

from engine.errors import CANCELLED, CellarmanError
from engine.postgres import segment
from engine.postgres.lsn import Lsn

Status = Literal["EMPTY", "STARTED", "WAITING_FOR_WALS", "DONE", "SYNCING", "FAILED"]
STATUSES = frozenset(("EMPTY", "STARTED", "WAITING_FOR_WALS", "DONE", "SYNCING", "FAILED"))
DEFAULT_SEGMENT_SIZE = 16 << 20
_LINE_END = re.compile(r"\r\n|\n|\r")


class BackupInfoError(CellarmanError):
    """A backup.info that cannot be understood; names the line."""


class Tablespace(NamedTuple):
    """A tablespace other than the two of PGDATA: name, oid, and where it was on the server."""

    name: str
    oid: int
    location: str


@dataclass(frozen=True, slots=True)
class BackupInfo:
    """What the catalogue says about one backup."""

    id: str
    server_name: str | None = None
    status: Status = "EMPTY"
    mode: str | None = "postgres"
    """`postgres` for pg_basebackup, `rsync-concurrent` for file copies; None in files of old that do not say."""
    backup_name: str | None = None
    begin_time: datetime | None = None
    end_time: datetime | None = None
    begin_xlog: Lsn | None = None
    end_xlog: Lsn | None = None
    begin_wal: str | None = None
    end_wal: str | None = None
    begin_offset: int | None = None
    end_offset: int | None = None
    timeline: int | None = None
    version: int | None = None
    """server_version_num, such as 150020."""
    systemid: int | None = None
    xlog_segment_size: int = DEFAULT_SEGMENT_SIZE
    compression: str | None = None
    """gzip, lz4, zstd or none: the data is tar. None: the data is plain."""
    encryption: str | None = None
    size: int | None = None
    """Bytes of all files below base/<ID>."""
    deduplicated_size: int | None = None
    """Bytes of those that have no other hard link."""
    cluster_size: int | None = None
    pgdata: str | None = None
    tablespaces: tuple[Tablespace, ...] = ()
    config_file: str | None = None
    hba_file: str | None = None
    ident_file: str | None = None
    included_files: tuple[str, ...] = ()
    data_checksums: str | None = None
    summarize_wal: str | None = None
    backup_label: str | None = None
    parent_backup_id: str | None = None
    children_backup_ids: tuple[str, ...] = ()
    error: str | None = None
    copy_stats: Mapping[str, Any] | None = None
    snapshots_info: Mapping[str, Any] | None = None
    keep: Literal["full", "standalone"] | None = None
    """From the annotation, not from backup.info."""
    deleting: bool = False
    """A deletion has begun: the backup is as good as gone. From the annotation."""
    raw: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Every key as it was found, so that a rewrite keeps what it does not change."""

    @property
    def cancelled(self) -> bool:
        """Whether the operator stopped it before it was whole."""
        return self.status == "FAILED" and self.error == CANCELLED

    @property
    def usable(self) -> bool:
        """Whether the backup is whole, has its WAL, and is not going away."""
        return (
            self.status == "DONE"
            and not self.deleting
            and self.begin_wal is not None
            and self.end_wal is not None
            and self.end_time is not None
        )

    @property
    def is_tar(self) -> bool:
        """Whether data/ holds base.tar and <oid>.tar instead of a plain PGDATA."""
        return self.compression is not None

    @property
    def is_incremental(self) -> bool:
        return self.parent_backup_id is not None

    @property
    def major(self) -> int | None:
        """PostgreSQL's major version, such as 15."""
        return None if self.version is None else self.version // 10000

    @property
    def method(self) -> str:
        """How it was taken, in the words of the configuration: postgres, rsync, or the mode as it stands."""
        mode = self.mode or "postgres"
        return "rsync" if mode.startswith("rsync") else mode

    def began(self, lsn: Lsn, timeline: int) -> BackupInfo:
        """Return the backup with its start position filled in."""
        size = self.xlog_segment_size
        return replace(
            self,
            begin_xlog=lsn,
            begin_wal=segment.segment_name(timeline, segment.segment_of(lsn, size), size),
            begin_offset=lsn % size,
            timeline=timeline,
        )

    def ended(self, lsn: Lsn, timeline: int) -> BackupInfo:
        """Return the backup with its end filled in; an end on a segment's border lies in the segment before it.

        >>> info = BackupInfo("20260101T000000").ended(Lsn.parse("0/6000000"), 1)
        >>> info.end_wal, info.end_offset
        ('000000010000000000000005', 0)
        """
        size = self.xlog_segment_size
        return replace(
            self,
            end_xlog=lsn,
            end_wal=segment.segment_name(timeline, segment.segment_before(lsn, size), size),
            end_offset=lsn % size,
        )


def parse(text: str, backup_id: str) -> BackupInfo:
    """Return the backup that a backup.info of any age describes.

    Raises BackupInfoError, naming the line, for text that is none.
    """
    raw: dict[str, str] = {}
    values: dict[str, Any] = {}
    for number, line in enumerate(_LINE_END.split(text), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        key, value = key.rstrip(), value.lstrip()
        if not equals or not key:
            raise _bad(backup_id, number, line, "expected key=value")
        raw[key] = value
        kind = _KINDS.get(key)
        if kind is not None:
            try:
                values[key] = kind.null if value == "None" else kind.read(value)
            except (ValueError, SyntaxError, TypeError, RecursionError, OverflowError) as error:
                raise _bad(backup_id, number, line, str(error)) from error
    values.setdefault("mode", None)
    if not raw:
        raise BackupInfoError(f"the backup.info of {backup_id} is empty", "a crash or a full disk may have cut it off")
    if "status" not in raw:
        why = "it has no line for status; a crash or a full disk may have cut it off"
        raise BackupInfoError(f"the backup.info of {backup_id} is not whole", why, "correct the file")
    return BackupInfo(id=backup_id, raw=raw, **values)


def render(info: BackupInfo) -> str:
    """Return the text of the backup's backup.info; what was read and not changed keeps its spelling.

    A key of Barman 3 that is null and was not found is left out, so that older readers are not locked out.
    Raises BackupInfoError for a value that cannot stand on one line.
    """
    lines = dict(info.raw)
    for key, kind in _KINDS.items():
        value = getattr(info, key)
        null = value is None or value == ()
        if key in info.raw:
            if _same(kind, info.raw[key], value):
                continue
            if null and key in _DROPPED_WHEN_NULL:
                del lines[key]
                continue
        elif (null and kind.optional) or (info.raw and value == kind.null):
            continue
        lines[key] = "None" if null else kind.write(value)
        if "\n" in lines[key] or "\r" in lines[key]:
            raise BackupInfoError(f"cannot write the backup.info of {info.id}", f"{key} has a line break: {value!r}")
    return "".join(f"{key}={lines[key]}\n" for key in sorted(lines))


class _Kind(NamedTuple):
    """How one key is read and written."""

    read: Callable[[str], Any]
    write: Callable[[Any], str] = str
    null: Any = None
    """What `None`, or no such key, means."""
    optional: bool = False
    """Younger than Barman 2.x: not written when it is null."""


def _same(kind: _Kind, found: str, value: Any) -> bool:
    """Tell whether what was found still says `value`."""
    return bool(value == kind.null if found == "None" else kind.read(found) == value)


def _bad(backup_id: str, number: int, line: str, why: str) -> BackupInfoError:
    return BackupInfoError(
        f"cannot read the backup.info of {backup_id}", f"line {number}: {why} in {line[:200]!r}", "correct the file"
    )


def _text(value: str) -> str:
    return value


def _one_line(value: str) -> str:
    return " ".join(value.split())


def _status(value: str) -> str:
    if value not in STATUSES:
        raise ValueError("not a status that a backup can have")
    return value


def _wal(value: str) -> str:
    if segment.kind_of(value) != segment.SEGMENT:
        raise ValueError("not a WAL segment's name")
    return value


def _number(value: str) -> int:
    if not value.isascii() or not value.isdigit():
        raise ValueError("not a number")
    return int(value)


def _segment_size(value: str) -> int:
    size = _number(value)
    if not segment.valid_segment_size(size):
        raise ValueError("not a WAL segment size (a power of 2 from 1 MiB to 1 GiB)")
    return size


def _time(value: str) -> datetime:
    """Read a time as Barman prints it, or as older ones did; without a zone it is this host's local time.

    >>> _time("2026-11-22 09:46:47+05:30").isoformat(), _time("2026-11-22 09:46:47.5 UTC").isoformat()
    ('2026-11-22T04:16:47+00:00', '2026-11-22T09:46:47.500000+00:00')
    """
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        moment = _odd_time(value)
    return moment.astimezone(timezone.utc)


_ISO = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,6})\d*)?\s*(?:(Z|UTC|GMT)|([+-]\d\d):?(\d\d)?)?")


def _odd_time(value: str) -> datetime:
    found = _ISO.fullmatch(value)
    if found is None:
        return datetime.strptime(value, "%a %b %d %H:%M:%S %Y")
    day, clock, fraction, utc, hours, minutes = found.groups()
    zone = "+00:00" if utc else f"{hours}:{minutes or '00'}" if hours else ""
    return datetime.fromisoformat(f"{day} {clock}.{(fraction or '0').ljust(6, '0')}{zone}")


def _literal(kind: type) -> Callable[[str], Any]:
    def read(value: str) -> Any:
        found = ast.literal_eval(value)
        if not isinstance(found, kind):
            raise ValueError(f"expected a Python {kind.__name__}")
        return found

    return read


def _label(value: str) -> str:
    """Read a backup label; Barman's passive nodes write it with its repr taken twice."""
    text = ast.literal_eval(value)
    while isinstance(text, str) and text[:1] in ("'", '"') and text[-1:] == text[:1] and len(text) > 1:
        text = ast.literal_eval(text)
    if not isinstance(text, str):
        raise ValueError("expected a quoted text")
    return text


def _tablespaces(value: str) -> tuple[Tablespace, ...]:
    return tuple(Tablespace(str(name), int(oid), str(place)) for name, oid, place in ast.literal_eval(value))


def _write_tablespaces(value: tuple[Tablespace, ...]) -> str:
    return repr([tuple(tablespace) for tablespace in value])


def _files(value: str) -> tuple[str, ...]:
    return tuple(str(name) for name in _literal(list)(value))


def _ids(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


_DROPPED_WHEN_NULL = frozenset(("backup_name", "snapshots_info"))
"""Barman itself leaves these out when they are null."""

_KINDS: dict[str, _Kind] = {
    "backup_label": _Kind(_label, repr),
    "backup_name": _Kind(_text, optional=True),
    "begin_offset": _Kind(_number),
    "begin_time": _Kind(_time),
    "begin_wal": _Kind(_wal),
    "begin_xlog": _Kind(Lsn.parse),
    "children_backup_ids": _Kind(_ids, ",".join, (), optional=True),
    "cluster_size": _Kind(_number, optional=True),
    "compression": _Kind(_text, optional=True),
    "config_file": _Kind(_text),
    "copy_stats": _Kind(_literal(dict), repr),
    "data_checksums": _Kind(_text, optional=True),
    "deduplicated_size": _Kind(_number),
    "encryption": _Kind(_text, optional=True),
    "end_offset": _Kind(_number),
    "end_time": _Kind(_time),
    "end_wal": _Kind(_wal),
    "end_xlog": _Kind(Lsn.parse),
    "error": _Kind(_text, _one_line),
    "hba_file": _Kind(_text),
    "ident_file": _Kind(_text),
    "included_files": _Kind(_files, lambda names: repr(list(names)), ()),
    "mode": _Kind(_text),
    "parent_backup_id": _Kind(_text, optional=True),
    "pgdata": _Kind(_text),
    "server_name": _Kind(_text),
    "size": _Kind(_number),
    "snapshots_info": _Kind(_literal(dict), repr, optional=True),
    "status": _Kind(_status),
    "summarize_wal": _Kind(_text, optional=True),
    "systemid": _Kind(_number, optional=True),
    "tablespaces": _Kind(_tablespaces, _write_tablespaces, ()),
    "timeline": _Kind(_number),
    "version": _Kind(_number),
    "xlog_segment_size": _Kind(_segment_size, null=DEFAULT_SEGMENT_SIZE),
}
