"""A block-level incremental backup and what it rests on: each backup of the chain is needed to restore the newest."""

from __future__ import annotations

import os

from engine.errors import CellarmanError, Refused
from engine.postgres.backuplabel import BackupLabel, parse_label
from engine.repository import files, repository
from engine.repository.backupinfo import BackupInfo
from engine.repository.layout import Layout

_BIGGEST_LABEL = 1 << 20


class Chains:
    """The chains of one server's backups; each link is looked at once, so that many backups may share them."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._parents: dict[str, BackupInfo | str] = {}
        """By the id of the child; where it cannot be combined with its parent, why not."""

    def of(self, info: BackupInfo) -> tuple[BackupInfo, ...]:
        """Return a backup and those that it rests on, newest first, the last one a full backup.

        Raises Refused when one of them is not there, not whole, or not the one that the next was taken against.
        """
        found = {info.id: info}
        last = info
        while last.parent_backup_id is not None:
            parent = self._parent(last, last.parent_backup_id)
            if isinstance(parent, str) or parent.id in found:
                raise Refused(
                    f"backup {info.id} is incremental and cannot be combined with what it rests on",
                    parent if isinstance(parent, str) else f"backup {parent.id} rests on itself",
                    "restore another backup",
                )
            found[parent.id] = last = parent
        return tuple(found.values())

    def lacking(self, info: BackupInfo) -> str:
        """Return what of the files is not there that restoring a finished backup takes, "" when nothing is known to be;
        what a disk snapshot takes its provider knows."""
        if info.snapshots_info:
            return ""
        if gone := _gone(self._layout, info):
            return gone
        try:
            self.of(info)
        except Refused as refused:
            return f"{refused.what}: {refused.why}"
        return ""

    def _parent(self, child: BackupInfo, name: str) -> BackupInfo | str:
        if child.id not in self._parents:
            try:
                parent = repository.load(self._layout, name)
                label = parse_label(_text(os.path.join(self._layout.data(child.id), "backup_label")))
            except (CellarmanError, OSError) as error:
                self._parents[child.id] = f"backup {child.id} rests on {name}: {error}"
            else:
                why = _useless(self._layout, child) or _useless(self._layout, parent) or _apart(child, parent, label)
                self._parents[child.id] = why or parent
        return self._parents[child.id]


def _useless(layout: Layout, one: BackupInfo) -> str:
    """Return why a backup cannot be combined with others, "" when it can."""
    if one.deleting or one.status not in ("DONE", "WAITING_FOR_WALS"):
        return f"backup {one.id} " + ("is being deleted" if one.deleting else f"is {one.status.lower()}")
    if one.is_tar or one.encryption:
        return f"backup {one.id} is tar files or encrypted, which are not combined"
    return _gone(layout, one)


def _gone(layout: Layout, one: BackupInfo) -> str:
    data = repository.data_directory(layout, one.id)
    return "" if os.path.isdir(data) else f"the files of backup {one.id} are gone: there is no {data}"


def _apart(child: BackupInfo, parent: BackupInfo, label: BackupLabel) -> str:
    """Return why a backup is not the one that another was taken against, "" when it is."""
    if child.systemid != parent.systemid:
        return f"backup {child.id} is of system {child.systemid}, and {parent.id}, which it rests on, of another"
    if (label.incremental_from, label.incremental_from_timeline) != (parent.begin_xlog, parent.timeline):
        return (
            f"backup {child.id} was taken against one that began at {label.incremental_from} on timeline "
            f"{label.incremental_from_timeline}, and {parent.id} began at {parent.begin_xlog} on {parent.timeline}"
        )
    return ""


def _text(path: str) -> str:
    with open(path, "rb", opener=files.at_once) as file:
        return file.read(_BIGGEST_LABEL).decode(errors="replace")
