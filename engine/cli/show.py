"""`cellarman show`: everything known about one backup."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from typing import Any

from engine.amounts import counted
from engine.cli import backups, output
from engine.cli.output import size, when
from engine.config import Config, Server
from engine.repository import repository
from engine.repository.backupinfo import BackupInfo, BackupInfoError
from engine.repository.layout import Layout
from engine.repository.retention import Verdict

_NAMED = 20
"""Bad pages that get a line of their own."""


@dataclass(frozen=True, slots=True)
class Wal:
    """The WAL that a backup needs to be consistent, as it lies in the archive."""

    first: str | None
    last: str | None
    count: int
    bytes: int
    missing: tuple[str, ...]
    problem: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("server", metavar="SERVER")
    parser.add_argument("backup", metavar="BACKUP", help="an id, a name, latest or oldest")


def run(args: argparse.Namespace, config: Config) -> int:
    server = config.server(args.server)
    layout = server.layout
    found = repository.catalogue(layout)
    info = repository.choose(layout, found, args.backup)
    verdict = backups.judge(server, found).get(info.id)
    wal = wal_of(layout, info)
    own = repository.facts(layout, info.id)
    if args.json:
        output.json_out(_document(server, info, verdict, wal, own))
        return 0
    for title, rows in _sections(server, info, verdict, wal, own):
        print(title)
        for line in output.table_lines([(f"  {name}", value) for name, value in rows if value not in (None, "")]):
            print(line)
    return 0


def wal_of(layout: Layout, info: BackupInfo) -> Wal:
    """Look which of the segments from the backup's begin to its end are in the archive."""
    try:
        names = repository.required_wal(info)
    except BackupInfoError as error:
        return Wal(info.begin_wal, info.end_wal, 0, 0, (), error.why)
    total = 0
    missing = []
    for name in names:
        try:
            total += os.stat(layout.wal(name)).st_size
        except FileNotFoundError:
            missing.append(name)
    return Wal(info.begin_wal, info.end_wal, len(names), total, tuple(missing))


def _document(
    server: Server, info: BackupInfo, verdict: Verdict | None, wal: Wal, own: dict[str, Any]
) -> dict[str, Any]:
    return {
        "server": server.name,
        **backups.facts(server, info, verdict),
        "retention_reason": verdict.reason if verdict else None,
        "deduplicated_bytes": info.deduplicated_size,
        "cluster_bytes": info.cluster_size,
        "system_id": None if info.systemid is None else str(info.systemid),
        "segment_size_bytes": info.xlog_segment_size,
        "tar": info.is_tar,
        "encryption": info.encryption,
        "data_checksums": info.data_checksums,
        "summarize_wal": info.summarize_wal,
        "pgdata": info.pgdata,
        "config_file": info.config_file,
        "hba_file": info.hba_file,
        "ident_file": info.ident_file,
        "tablespaces": [tablespace._asdict() for tablespace in info.tablespaces],
        "children": list(info.children_backup_ids),
        "backup_label": info.backup_label,
        "directory": server.layout.backup(info.id),
        "wal": {
            "first": wal.first,
            "last": wal.last,
            "count": wal.count,
            "size_bytes": wal.bytes,
            "missing": list(wal.missing),
            "problem": wal.problem or None,
        },
        "cellarman": own,
    }


Rows = list[tuple[str, object]]


def _sections(
    server: Server, info: BackupInfo, verdict: Verdict | None, wal: Wal, own: dict[str, Any]
) -> list[tuple[str, Rows]]:
    sections: list[tuple[str, Rows]] = [
        (f"Backup {info.id} of server {server.name}", _about(server, info, verdict, own)),
        ("Position", _position(info)),
        ("WAL that it needs", _wal_rows(wal)),
        ("Data", _data(server, info)),
        ("PostgreSQL", _postgres(info)),
    ]
    if info.tablespaces:
        sections.append(("Tablespaces", [(t.name, f"{t.location} (oid {t.oid})") for t in info.tablespaces]))
    if bad := repository.bad_pages(own):
        sections.append(("Bad pages, on the server too when this backup was taken", _bad_pages(bad)))
    if rest := sorted(own.keys() - {"bad_pages"}):
        sections.append(("Cellarman's own facts", [(key, _plain(key, own[key])) for key in rest]))
    return sections


def _bad_pages(bad: tuple[repository.BadPage, ...]) -> Rows:
    rows: Rows = [(page.file, f"block {page.block}, of {page.relation or 'an unknown relation'}") for page in bad]
    more = len(bad) - _NAMED
    return [*rows[:_NAMED], *([("", f"and {more} more: --json has them all")] if more > 0 else [])]


def _about(server: Server, info: BackupInfo, verdict: Verdict | None, own: dict[str, Any]) -> Rows:
    bad = repository.bad_pages(own)
    took = (info.end_time - info.begin_time).total_seconds() if info.end_time and info.begin_time else None
    return [
        ("name", info.backup_name),
        ("status", backups.standing(server, info) + (f", {counted(len(bad), 'bad page')}" if bad else "")),
        ("error", info.error),
        ("method", info.method),
        ("begun", when(info.begin_time) if info.begin_time else None),
        ("ended", when(info.end_time) if info.end_time else None),
        ("took", output.duration(took) if took is not None else None),
        ("keep", info.keep),
        ("retention", f"{verdict.state.replace('_', ' ')}: {verdict.reason}" if verdict else None),
        ("parent", info.parent_backup_id),
        ("children", ", ".join(info.children_backup_ids)),
    ]


def _position(info: BackupInfo) -> Rows:
    return [
        ("begin", _at(info.begin_xlog, info.begin_wal)),
        ("end", _at(info.end_xlog, info.end_wal)),
        ("timeline", info.timeline),
        ("segment size", size(info.xlog_segment_size)),
    ]


def _at(lsn: object, name: str | None) -> str | None:
    return " in ".join(str(part) for part in (lsn, name) if part is not None) or None


def _wal_rows(wal: Wal) -> Rows:
    if wal.problem:
        return [("range", wal.problem)]
    if not wal.count:
        return [("range", "not known: the backup has no begin and end")]
    here = wal.count - len(wal.missing)
    more = f" and {len(wal.missing) - 5} more" if len(wal.missing) > 5 else ""
    return [
        ("range", f"{wal.first} to {wal.last}" if wal.first != wal.last else wal.first),
        ("archived", f"{here} of {wal.count} segments, {size(wal.bytes)}"),
        ("missing", ", ".join(wal.missing[:5]) + more),
    ]


def _data(server: Server, info: BackupInfo) -> Rows:
    shared = info.deduplicated_size is not None and info.deduplicated_size != info.size
    return [
        ("directory", server.layout.backup(info.id)),
        ("format", f"tar, {info.compression}" if info.is_tar else "plain"),
        ("encryption", info.encryption),
        ("size", size(info.size) if info.size is not None else None),
        ("of its own", size(info.deduplicated_size) if shared else None),
        ("cluster was", size(info.cluster_size) if info.cluster_size is not None else None),
    ]


def _postgres(info: BackupInfo) -> Rows:
    return [
        ("version", version(info.version)),
        ("system id", info.systemid),
        ("PGDATA", info.pgdata),
        ("postgresql.conf", info.config_file),
        ("pg_hba.conf", info.hba_file),
        ("pg_ident.conf", info.ident_file),
        ("checksums", info.data_checksums),
        ("summarize_wal", info.summarize_wal),
    ]


def version(number: int | None) -> str | None:
    """Return server_version_num as PostgreSQL prints its version.

    >>> version(150020), version(90624), version(None)
    ('15.20', '9.6.24', None)
    """
    if number is None:
        return None
    if number >= 100000:
        return f"{number // 10000}.{number % 10000}"
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _plain(key: str, value: object) -> str:
    """Return a fact for people, by what its key says of it.

    >>> _plain("reused_bytes", 3 << 20), _plain("wal_seconds", 0.25), _plain("copy_seconds", 75.1)
    ('3 MiB', '0.2 s', '1 min 15 s')
    >>> _plain("settings", {"a": True, "b": ["x", "y"]}), _plain("names", [])
    ('a = yes, b = x, y', 'none')
    """
    if isinstance(value, dict):
        return ", ".join(f"{name} = {_plain(name, part)}" for name, part in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(_plain("", part) for part in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and key.endswith("_bytes"):
        return size(value)
    if isinstance(value, (int, float)) and key.endswith("_seconds"):
        return f"{value:.1f} s" if value < 60 else output.duration(value)
    return str(value)
