"""A block-level incremental backup and what it rests on: each backup of the chain is needed to restore the newest."""

from __future__ import annotations

import os

from engine.errors import CellarmanError, Refused
from engine.postgres.backuplabel import parse_label
from engine.repository import files, repository
from engine.repository.backupinfo import BackupInfo
from engine.repository.layout import Layout

_BIGGEST_LABEL = 1 << 20


def chain(layout: Layout, info: BackupInfo) -> tuple[BackupInfo, ...]:
    """Return a backup and those that it rests on, newest first, the last one a full backup.

    Raises Refused when one of them is not there, not whole, or not the one that the next was taken against.
    """
    found = [info]
    while (parent := found[-1].parent_backup_id) is not None:
        if parent in (one.id for one in found):
            raise _refused(info, f"backup {parent} rests on itself")
        found.append(_parent(layout, info, found[-1], parent))
    return tuple(found)


def _parent(layout: Layout, info: BackupInfo, child: BackupInfo, name: str) -> BackupInfo:
    try:
        parent = repository.load(layout, name)
        label = parse_label(_text(os.path.join(layout.data(child.id), "backup_label")))
    except (CellarmanError, OSError) as error:
        raise _refused(info, f"backup {child.id} rests on {name}: {error}") from error
    if why := _useless(layout, info, child) or _useless(layout, info, parent):
        raise _refused(info, why)
    if (label.incremental_from, label.incremental_from_timeline) != (parent.begin_xlog, parent.timeline):
        begun = f"{label.incremental_from} on timeline {label.incremental_from_timeline}"
        raise _refused(
            info,
            f"backup {child.id} was taken against a backup that began at {begun}, and {parent.id} began at "
            f"{parent.begin_xlog} on timeline {parent.timeline}",
        )
    return parent


def _useless(layout: Layout, info: BackupInfo, one: BackupInfo) -> str:
    """Return why a backup of a chain cannot be combined with the others, "" when it can."""
    if one.deleting or one.status not in ("DONE", "WAITING_FOR_WALS"):
        return f"backup {one.id} " + ("is being deleted" if one.deleting else f"is {one.status.lower()}")
    if one.is_tar or one.encryption:
        return f"backup {one.id} is tar files or encrypted, which are not combined"
    if one.systemid != info.systemid:
        return f"backup {one.id} is of another system, {one.systemid}"
    if not os.path.isdir(layout.data(one.id)):
        return f"the files of backup {one.id} are gone: there is no {layout.data(one.id)}"
    return ""


def _refused(info: BackupInfo, why: str) -> Refused:
    return Refused(
        f"backup {info.id} is incremental and cannot be combined with what it rests on", why, "restore another backup"
    )


def _text(path: str) -> str:
    with open(path, "rb", opener=files.at_once) as file:
        return file.read(_BIGGEST_LABEL).decode(errors="replace")
