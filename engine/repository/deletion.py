"""Deleting a backup: what would go, why it may not, and doing it so that a crash at any point can be finished.

Order: the mark meta/<ID>-delete_this (from here on every reader takes the backup for gone) → its files → the WAL that
no other backup needs, its index lines first → the parent's list of children → the next backup's sizes → backup.info →
our facts → the mark. The mark outlives backup.info, so a half-deleted backup is never listed as good, and running it
again begins anew and ends the same.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from engine.commands import cellarman
from engine.errors import Advice, CellarmanError, NotFound, Refused, one_a_line
from engine.event import Reporter, Silent
from engine.faults import step
from engine.oserrors import advice
from engine.postgres import segment, timeline
from engine.postgres.timeline import Lineage
from engine.repository import annotations as marks
from engine.repository import files, locks, repository, walneeds, xlogdb
from engine.repository.backupinfo import BackupInfo
from engine.repository.layout import Layout
from engine.repository.repository import Catalogue

STEPS = (
    "delete.marked",
    "delete.data-begun",
    "delete.data-removed",
    "delete.index-rewritten",
    "delete.wal-begun",
    "delete.wal-removed",
    "delete.keep-removed",
    "delete.parent-updated",
    "delete.next-resized",
    "delete.info-removed",
    "delete.facts-removed",
    "delete.mark-removed",
)
"""Where a test may kill a deletion, in order."""


_WAIT = Advice("wait until it has ended: ", cellarman("jobs"))


class Refusal(NamedTuple):
    """Why a deletion will not be done, in a word for programs and a sentence for people, and what to do about it."""

    kind: str
    reason: str
    fix: str | Advice = ""


@dataclass(frozen=True, slots=True)
class Deletion:
    """What deleting one backup means. Nothing is done when there are refusals."""

    id: str
    info: BackupInfo | None
    """None when its backup.info cannot be read or is already gone."""
    resumed: bool
    """An earlier deletion of it was interrupted and is to be finished."""
    files: int
    bytes: int
    """What its own files free: those with other hard links free nothing."""
    wal: tuple[str, ...]
    """Names of the archived WAL files that only this backup needs, in order."""
    wal_bytes: int
    notes: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    @property
    def freed_bytes(self) -> int:
        return self.bytes + self.wal_bytes


class _Target(NamedTuple):
    """The backup to delete among the others."""

    id: str
    info: BackupInfo | None
    resumed: bool
    catalogue: Catalogue

    @property
    def others(self) -> list[BackupInfo]:
        """The backups that remain: not this one, and none that is being deleted."""
        return [info for info in self.catalogue.backups if info.id != self.id and not info.deleting]


def plan_deletion(layout: Layout, backup_id: str, *, minimum_redundancy: int = 0) -> Deletion:
    """Tell what deleting a backup would free and what forbids it; touches nothing.

    Raises NotFound when nothing in the repository has this id.
    """
    target = _target(layout, backup_id)
    return _plan(layout, target, [*_in_use(layout, target), *_refusals(layout, target, minimum_redundancy)])


def delete(
    layout: Layout, backup_id: str, *, minimum_redundancy: int = 0, wait: float = 60, report: Reporter | None = None
) -> Deletion:
    """Delete a backup and the WAL that only it needs, or finish an earlier deletion of it; return what went.

    Raises Refused when something forbids it, Busy when a lock is not free within `wait` seconds, and NotFound.
    """
    say = report or Silent()
    what = f"delete backup {backup_id} of server {layout.name}"
    _target(layout, backup_id)
    with (
        locks.hold(layout.lock("backup"), wait=wait, what=what),
        locks.hold(layout.lock(backup_id), wait=wait, what=what),
    ):
        target = _target(layout, backup_id)
        refusals = _refusals(layout, target, minimum_redundancy)
        if refusals:
            raise refused(layout, backup_id, refusals)
        plan = _plan(layout, target, [])
        say.backup(backup_id)
        try:
            _mark(layout, target)
            say.phase("delete", f"{plan.files} files")
            _remove_data(layout, target)
            say.phase("delete", f"{len(plan.wal)} WAL files")
            _remove_wal(layout, target, wait)
            _remove_entry(layout, target)
        except OSError as error:
            raise _stopped(layout, backup_id, error) from error
    return plan


def _stopped(layout: Layout, backup_id: str, error: OSError) -> CellarmanError:
    """Say how far a deletion came that the disk stopped."""
    if not marks.is_deleting(layout, backup_id):
        return CellarmanError(
            f"backup {backup_id} of server {layout.name} is not deleted",
            str(error),
            f"nothing was removed and it is as good as before; {advice(error.errno, str(error.filename or ''))}",
        )
    return CellarmanError(
        f"the deletion of backup {backup_id} of server {layout.name} stopped half-way",
        str(error),
        "it is no longer listed as good; finish it with the same command",
    )


def refused(layout: Layout, backup_id: str, refusals: list[Refusal]) -> Refused:
    """Return the error that says why a backup is not deleted."""
    return Refused(
        f"backup {backup_id} of server {layout.name} is not deleted",
        "\n".join(refusal.reason for refusal in refusals),
        one_a_line(refusal.fix for refusal in refusals),
    )


def unfinished(layout: Layout) -> list[str]:
    """Return the ids of the backups whose deletion has begun and not ended, oldest first."""
    ending = f"-{marks.DELETE_THIS}"
    try:
        names = os.listdir(layout.meta)
    except FileNotFoundError:
        names = []
    found = {name[: -len(ending)] for name in names if name.endswith(ending) and not name.startswith(".")}
    return sorted(found | {info.id for info in repository.backups(layout) if info.deleting})


def _target(layout: Layout, backup_id: str) -> _Target:
    found = repository.catalogue(layout)
    info = found.get(backup_id)
    marked = "/" not in backup_id and marks.is_deleting(layout, backup_id)
    if info is None and not marked and all(broken.id != backup_id for broken in found.unreadable):
        fix = Advice("look at them: ", cellarman("backups", layout.name))
        raise NotFound(f"no backup {backup_id} for server {layout.name}", "", fix)
    return _Target(backup_id, info, marked, found)


# What forbids it


def _in_use(layout: Layout, target: _Target) -> Iterator[Refusal]:
    """Say who works on this backup now, or on the server's backups."""
    held = locks.holder(layout.lock(target.id), shared=True)
    if held is not None:
        yield Refusal("in_use", f"{held} works on backup {target.id}", _WAIT)
    held = locks.holder(layout.lock("backup"))
    if held is not None:
        own = target.info is not None and target.info.status in ("EMPTY", "STARTED")
        doing = "this backup is being taken" if own else f"a backup or a deletion of server {layout.name} is running"
        yield Refusal("running", f"{doing}: {held}", _WAIT)


def _refusals(layout: Layout, target: _Target, minimum_redundancy: int) -> list[Refusal]:
    kept = marks.keep(layout, target.id)
    found = []
    if kept is not None:
        release = Advice("if it may go, release it: ", cellarman("keep", layout.name, target.id, "--release"))
        found.append(Refusal("keep", f"it is kept ({kept})", release))
    if target.resumed:
        return found
    found += _needed_by_children(layout, target)
    if target.info is not None and target.info.usable:
        found += _last_of_its_kind(layout, target, target.info, minimum_redundancy)
    return found


def _needed_by_children(layout: Layout, target: _Target) -> Iterator[Refusal]:
    listed = target.info.children_backup_ids if target.info else ()
    children = sorted(o.id for o in target.others if o.parent_backup_id == target.id or o.id in listed)
    if children:
        yield Refusal(
            "children",
            f"the incremental backup {children[-1]} rests on it"
            if len(children) == 1
            else f"{len(children)} incremental backups rest on it: {', '.join(children)}",
            Advice("delete those first: ", cellarman("delete", layout.name, children[-1])),
        )


def _last_of_its_kind(layout: Layout, target: _Target, info: BackupInfo, minimum_redundancy: int) -> Iterator[Refusal]:
    another = Advice("take another one first: ", cellarman("backup", layout.name))
    others = [other for other in target.others if other.usable]
    if not others:
        yield Refusal("last_usable", "it is the last usable backup of the server", another)
        return
    full = sum(not other.is_incremental for other in others)
    if not info.is_incremental and full < minimum_redundancy:
        yield Refusal(
            "minimum_redundancy",
            f"{full} usable full backups would be left, and minimum_redundancy = {minimum_redundancy}",
            another,
        )
    alone = _only_way_to_the_present(layout, info, others)
    if alone is not None:
        yield Refusal(
            "last_of_timeline", f"timeline {alone}, where WAL arrives now, can be reached from no other backup", another
        )


def _only_way_to_the_present(layout: Layout, info: BackupInfo, others: list[BackupInfo]) -> int | None:
    """Return the timeline whose WAL arrived last if this backup reaches it and none of the others does."""
    newest = _newest_segments(layout)
    if not newest:
        return None
    live = max(newest, key=lambda timeline: (_mtime(newest[timeline]), timeline))
    lineages = _lineages(layout)
    own = _need(info)
    if own is None or not own.reaches(live, lineages):
        return None
    rest = [need for need in map(_need, others) if need is not None]
    return None if any(need.reaches(live, lineages) for need in rest) else live


def _newest_segments(layout: Layout) -> dict[int, str]:
    """Return the path of the last archived segment of each timeline."""
    newest: dict[int, str] = {}
    for directory in reversed(xlogdb.directories(layout)):
        if int(directory[:8], 16) in newest:
            continue
        found = [pair for pair in xlogdb.archived_in(layout, directory) if segment.kind_of(pair[0]) == segment.SEGMENT]
        if found:
            newest[int(directory[:8], 16)] = max(found)[1]
    return newest


def _mtime(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except FileNotFoundError:
        return 0.0


# What would go


def _plan(layout: Layout, target: _Target, refusals: list[Refusal]) -> Deletion:
    try:
        sizes = repository.sizes(layout, target.id)
    except FileNotFoundError:
        sizes = repository.Sizes(0, 0, 0)
    wal, notes = _wal_to_free(layout, target)
    return Deletion(
        target.id,
        target.info,
        target.resumed,
        sizes.files,
        sizes.deduplicated,
        tuple(name for name, _ in wal),
        sum(_size(path) for _, path in wal),
        tuple(notes),
        tuple(refusals),
    )


def _wal_to_free(
    layout: Layout, target: _Target, indexed: Iterable[str] = ()
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return (name, path) of the WAL that goes with the backup, in order, and what is to be said about it.

    What lies on disk counts; names that only the index has join it through `indexed`.
    """
    broken = [entry.id for entry in target.catalogue.unreadable if entry.id != target.id]
    if broken:
        return [], [f"no WAL is freed: backup {broken[0]} cannot be read, so what it needs is not known"]
    if target.info is None:
        return [], ["no WAL is freed: what WAL the backup has is not known"]
    try:
        gone = walneeds.span_of(target.info)
        needs = [need for need in map(walneeds.need_of, target.others) if need is not None]
    except ValueError as error:
        return [], [f"no WAL is freed: {error}"]
    if gone is None:
        return [], []
    paths = {name: layout.wal(name) for name in indexed}
    paths.update(xlogdb.archived(layout))
    names = sorted(walneeds.unneeded(paths, gone, needs, _lineages(layout)))
    if not names and all(need.last is not None for need in needs):
        return [], ["no WAL is freed: no other backup is left that would use the WAL since its begin"]
    return [(name, paths[name]) for name in names], []


def _need(info: BackupInfo) -> walneeds.Need | None:
    try:
        return walneeds.need_of(info)
    except ValueError:
        return None


def _lineages(layout: Layout) -> dict[int, Lineage | None]:
    """Return the lineage of each timeline that has a history file; None for a file that cannot be understood."""
    found: dict[int, Lineage | None] = {1: Lineage.of(1)}
    try:
        names = os.listdir(layout.wals)
    except FileNotFoundError:
        return found
    for name in names:
        if segment.kind_of(name) == segment.HISTORY:
            number = int(name[:8], 16)
            try:
                with open(os.path.join(layout.wals, name), encoding="ascii", opener=files.at_once) as file:
                    found[number] = Lineage.of(number, timeline.parse_history(number, file.read()))
            except (OSError, ValueError):
                found[number] = None
    return found


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


# Doing it


def _mark(layout: Layout, target: _Target) -> None:
    """Say that it is going, where no step below removes the mark before its time."""
    if target.info is not None and not os.path.exists(layout.backup_info(target.id)):
        repository.save(layout, target.info)
    marks.set_deleting(layout, target.id)
    step("delete.marked")


def _remove_data(layout: Layout, target: _Target) -> None:
    _remove_tree(layout.backup(target.id))
    if os.path.isdir(layout.base):
        files.sync_directory(layout.base)
    step("delete.data-removed")


def _remove_tree(top: str) -> None:
    """Remove a directory and all below it, following no link; what is already gone is fine."""
    if os.path.islink(top):
        raise NotADirectoryError(f"{top} is a link; a backup's directory is not")
    try:
        with os.scandir(top) as entries:
            found = list(entries)
    except FileNotFoundError:
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            _remove_tree(entry.path)
        else:
            files.remove(entry.path)
            step("delete.data-begun")
    try:
        os.rmdir(top)
    except FileNotFoundError:
        pass


def _remove_wal(layout: Layout, target: _Target, wait: float) -> None:
    """Free the WAL that nobody needs: index lines first, so that the index never names a file that is gone.

    The index is locked for one directory's files at a time: archiving goes on meanwhile.
    """

    def lock() -> locks.Lock:
        what = f"free the WAL of backup {target.id} of server {layout.name}"
        return locks.hold(layout.lock("xlogdb"), wait=wait, what=what)

    with lock():
        index = xlogdb.read(layout)
        wal, _ = _wal_to_free(layout, target, [line.name for line in index.lines])
        names = {name for name, _ in wal}
        _drop_lines(layout, names, index)
        step("delete.index-rewritten")
    for directory, members in itertools.groupby(wal, key=lambda pair: os.path.dirname(pair[1])):
        with lock():
            for _, path in members:
                files.remove(path)
                step("delete.wal-begun")
            _sync_or_remove(directory)
    if wal:
        with lock():
            _drop_lines(layout, names, xlogdb.read(layout))  # one that was sent again meanwhile
            files.sync_directory(layout.wals)
    step("delete.wal-removed")


def _drop_lines(layout: Layout, names: set[str], index: xlogdb.Index) -> None:
    rest = [line for line in index.lines if line.name not in names]
    if len(rest) < len(index.lines):
        xlogdb.rewrite(layout, rest)


def _sync_or_remove(directory: str) -> None:
    """Remove a directory that has become empty, else make its removals durable."""
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        pass
    except OSError:
        files.sync_directory(directory)


def _remove_entry(layout: Layout, target: _Target) -> None:
    """Take the backup out of the catalogue, the mark last."""
    marks.release(layout, target.id)
    step("delete.keep-removed")
    _forget_child(layout, target)
    step("delete.parent-updated")
    _resize_next(layout, target)
    step("delete.next-resized")
    files.remove(layout.backup_info(target.id))
    files.sync_directory(layout.meta)
    step("delete.info-removed")
    files.remove(layout.own_facts(target.id))
    step("delete.facts-removed")
    marks.unset_deleting(layout, target.id)
    step("delete.mark-removed")


def _forget_child(layout: Layout, target: _Target) -> None:
    """Take the backup off the list of children of whoever has it there."""
    for other in target.others:
        if target.id in other.children_backup_ids:
            rest = tuple(child for child in other.children_backup_ids if child != target.id)
            repository.save(layout, replace(other, children_backup_ids=rest))


def _resize_next(layout: Layout, target: _Target) -> None:
    """Count anew the next backup of files, whose hard links into this one are its own now."""
    if target.info is None or target.info.method != "rsync":
        return
    newer = [other for other in target.others if other.id > target.id and other.method == "rsync" and other.usable]
    if newer:
        heir = min(newer, key=lambda other: other.id)
        unshared = repository.sizes(layout, heir.id).deduplicated
        if unshared != heir.deduplicated_size:
            repository.save(layout, replace(heir, deduplicated_size=unshared))
