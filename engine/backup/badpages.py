"""Pages whose checksum does not match: read once more where they came from, and named."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping

from engine.backup.arrival import BadPage
from engine.backup.inventory import Root
from engine.errors import CellarmanError
from engine.host import calls
from engine.host.endpoint import Endpoint
from engine.host.local import ThisHost
from engine.postgres import connection
from engine.postgres.pagechecksum import PageCheck
from engine.repository.repository import BadPage as Page

MOST = 100
"""Pages that are looked at one by one; more than that need no names."""
_PATH = re.compile(r"(?:base/(?P<database>\d+)|global|pg_tblspc/(?P<space>\d+)/PG_[^/]+/(?P<other>\d+))/(?P<node>\d+)")
_GLOBAL = 1664
"""The oid of pg_global."""


def confirm(
    found: Iterable[BadPage], roots: Mapping[int, Root], far: Endpoint | None, is_bad: Callable[[bytes, int], bool],
    page: int, segment_pages: int,
) -> list[Page]:  # fmt: skip
    """Return those pages that are bad in the copy and, read again, where they came from; a page that was being written
    while it was read is not one of them, since the WAL holds it whole.

    `is_bad` says so of a page's bytes and number; `page` is in bytes. What cannot be read again counts as bad.
    """
    pages = sorted(set(found))
    if not pages:
        return []
    certain: list[Page] = []
    host = calls.host(far)
    for bad in pages:
        root, path = roots[bad.root], os.fsdecode(bad.path)
        offset = bad.block % segment_pages
        if not is_bad(_local(os.path.join(root.destination, path), offset, page), bad.block):
            continue
        if len(certain) < MOST:
            again = _again(host, posixpath.join(root.source, path), offset, page)
            if again and not is_bad(again, bad.block):
                continue
        certain.append(Page(os.fsdecode(root.prefix + bad.path), bad.block))
    return certain


def _local(place: str, number: int, page: int) -> bytes:
    try:
        with open(place, "rb") as file:
            file.seek(number * page)
            return file.read(page)
    except OSError:
        return b""


def _again(host: calls.Calls | ThisHost, path: str, number: int, page: int) -> bytes:
    done = host.run(["dd", f"if={path}", f"bs={page}", f"skip={number}", "count=1"])
    return done.out if done.status == 0 and len(done.out) == page else b""


def judge(before: int, page: int) -> Callable[[bytes, int], bool]:
    """Return what says whether a page is bad: whole, with an LSN before `before`, and its checksum does not match."""

    def is_bad(data: bytes, number: int) -> bool:
        wrong: list[int] = []
        check = PageCheck(before, lambda _, block: wrong.append(block), page)
        check.add(b"", data, number)
        check.flush()
        return bool(wrong)

    return is_bad


def name(pages: Iterable[Page], conninfo: str, timeout: int) -> list[Page]:
    """Return the pages with the names of their relations, as far as the server knows and tells them."""
    named: dict[str, str] = {}
    found: list[Page] = []
    for page in pages:
        if page.file not in named:
            try:
                named[page.file] = _relation(page.file, conninfo, timeout)
            except CellarmanError:
                named[page.file] = ""
        found.append(Page(page.file, page.block, named[page.file]))
    return found


def _relation(path: str, conninfo: str, timeout: int) -> str:
    parts = _PATH.match(path)
    if parts is None:
        return ""
    space = int(parts["space"] or 0) if not path.startswith("global/") else _GLOBAL
    database = parts["database"] or parts["other"]
    if database is not None:
        with connection.connect(conninfo, timeout=timeout, statement_timeout=timeout) as conn, conn.cursor() as cursor:
            cursor.execute("SELECT datname::text FROM pg_database WHERE oid = %s", (int(database),))
            row = cursor.fetchone()
        if row is None:
            return ""
        conninfo = connection.with_options(conninfo, dbname=row[0])
    with connection.connect(conninfo, timeout=timeout, statement_timeout=timeout) as conn, conn.cursor() as cursor:
        cursor.execute(
            "SELECT current_database(), n.nspname::text, c.relname::text FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = pg_filenode_relation(%s, %s)",
            (space, int(parts["node"])),
        )
        row = cursor.fetchone()
    return "" if row is None else f"{row[0]}: {row[1]}.{row[2]}"
