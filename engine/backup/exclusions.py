"""What of a running cluster is not copied, or means nothing in a copy.

As Barman leaves it out, and as PostgreSQL's documentation of the low-level backup API and basebackup.c have it. Pure.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

_EMPTIED = (
    "pg_wal",
    "pg_xlog",
    "log",
    "pg_log",
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
)
"""Directories that are kept, without their content."""
_FILES = (
    "backup_label",
    "backup_manifest",
    "current_logfiles.tmp",
    "postgresql.auto.conf.tmp",
    "postmaster.opts",
    "postmaster.pid",
    "recovery.conf",
    "recovery.signal",
    "standby.signal",
    "tablespace_map",
)
"""Files at the top of the data directory."""
_ANYWHERE = ("pg_internal.init*", "pgsql_tmp*")
CONTROL = b"global/pg_control"
"""Copied last and alone."""
_TEMPORARY_RELATION = re.compile(rb"(?:^|/)t\d+_\d+(?:_(?:fsm|vm|init))?(?:\.\d+)?$")


def of_data(pgdata: str, tablespaces: Iterable[str], kept: Iterable[str]) -> tuple[str, ...]:
    """Return rsync's patterns for the data directory, the first that matches counts.

    `tablespaces` are the locations of those with a directory of their own, `kept` the names in pg_tblspc of those
    inside the data directory.

    >>> of_data("/d", ["/d/inside", "/elsewhere"], ["16999"])[-3:]
    ('+ /pg_tblspc/16999/', '/pg_tblspc/*', '/inside')
    """
    inside = [posixpath.relpath(place, pgdata) for place in tablespaces if place.startswith(f"{pgdata}/")]
    return (
        *(f"/{name}/*" for name in _EMPTIED),
        *(f"/{name}" for name in _FILES),
        *_ANYWHERE,
        *(f"+ /pg_tblspc/{name}/" for name in kept),
        "/pg_tblspc/*",
        *(f"/{_literal(path)}" for path in inside),
    )


def of_tablespace(major: int) -> tuple[str, ...]:
    """Return rsync's patterns for a tablespace's directory: only this major version's part of it is copied."""
    return (*_ANYWHERE, f"+ /PG_{major}_*/", "/*")


def is_temporary(path: bytes) -> bool:
    """Tell whether a path is a temporary relation's file, which nobody needs.

    >>> is_temporary(b"base/5/t3_16390"), is_temporary(b"base/5/16390"), is_temporary(b"t3_x")
    (True, False, False)
    """
    return _TEMPORARY_RELATION.search(path) is not None


def _literal(path: str) -> str:
    return re.sub(r"([*?\[\\])", r"\\\1", path)
