"""Marks on a backup: `keep` (never expires) and `delete_this` (its deletion has begun, so it is as good as gone).

Barman 3.13.3 and newer have them as meta/<ID>-<key>, older ones as base/<ID>/annotations/<key>; both are read, and
what is written goes to meta/. Contents carry no newline.
"""

from __future__ import annotations

import errno
import os
from typing import Literal

from engine.repository.files import at_once, remove, replace, sync_directory
from engine.repository.layout import Layout

Keep = Literal["full", "standalone"]
KEEP = "keep"
DELETE_THIS = "delete_this"


def keep(layout: Layout, backup_id: str) -> Keep | None:
    """Return how a backup is kept; a mark that cannot be understood protects as `full` does."""
    content = _read(layout, backup_id, KEEP)
    if content is None:
        return None
    return "standalone" if content == "standalone" else "full"


def set_keep(layout: Layout, backup_id: str, how: Keep) -> None:
    """Keep a backup until it is released: `full` with all WAL since, `standalone` with begin to end only."""
    replace(layout.annotation(backup_id, KEEP), how.encode())


def release(layout: Layout, backup_id: str) -> bool:
    """Take the keep mark away; tell whether there was one."""
    return _remove(layout, backup_id, KEEP)


def is_deleting(layout: Layout, backup_id: str) -> bool:
    """Tell whether a deletion of this backup has begun."""
    return _read(layout, backup_id, DELETE_THIS) is not None


def set_deleting(layout: Layout, backup_id: str) -> None:
    """Say that this backup's deletion has begun: from here on readers take it for gone.

    On a full file system, where a deletion is what makes room, the mark is an empty file: its name says it too.
    """
    path = layout.annotation(backup_id, DELETE_THIS)
    try:
        replace(path, b"delete")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640))
        sync_directory(os.path.dirname(path))


def unset_deleting(layout: Layout, backup_id: str) -> bool:
    """Remove the mark of a deletion that is over; tell whether there was one."""
    return _remove(layout, backup_id, DELETE_THIS)


def _read(layout: Layout, backup_id: str, key: str) -> str | None:
    for path in (layout.annotation(backup_id, key), layout.old_annotation(backup_id, key)):
        try:
            with open(path, "rb", opener=at_once) as file:
                return file.read(64).decode("utf-8", "replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            continue
    return None


def _remove(layout: Layout, backup_id: str, key: str) -> bool:
    found = False
    for path in (layout.annotation(backup_id, key), layout.old_annotation(backup_id, key)):
        try:
            if remove(path):
                found = True
                sync_directory(os.path.dirname(path))
        except NotADirectoryError:
            continue
    return found
