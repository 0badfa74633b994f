"""What of a backup has to be copied: plain trees, alone or in a chain, or tar files; where each goes, and its bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.commands import cellarman
from engine.errors import Advice, CellarmanError, Refused, UsageError
from engine.postgres.controlfile import ControlFile, read_control
from engine.postgres.increment import PREFIX, IncrementError
from engine.postgres.manifest import read_manifest
from engine.recovery import combining
from engine.recovery.copying import Item, Tree, plan_tree
from engine.recovery.destination import Placed
from engine.recovery.extraction import TarFile, tar_files
from engine.repository import repository
from engine.repository.backupinfo import BackupInfo
from engine.repository.chain import Chains
from engine.repository.layout import Layout

CONTROL = os.path.join("global", "pg_control")
LEFT_OUT = frozenset(
    {
        CONTROL,
        "backup.info",
        "postmaster.opts",
        "postmaster.pid",
        "recovery.conf",
        "recovery.signal",
        "standby.signal",
        "tablespace_map",
    }
)
"""Not copied with the rest: pg_control comes last, we link tablespaces, nothing else decides what starts."""


@dataclass(frozen=True, slots=True)
class Source:
    """A backup's content, as it will lie at the destination."""

    directories: tuple[str, ...]
    """To be made, parents first."""
    items: tuple[Item, ...] = ()
    tars: tuple[tuple[TarFile, str], ...] = ()
    """Each with the directory that it is extracted into."""
    odd: tuple[str, ...] = ()
    """Links and special files, which are not restored."""
    bytes: int = 0
    """Bytes on disk afterwards."""
    spaces: Mapping[int, int] | None = None
    """Of these, bytes by tablespace oid."""
    beneath: tuple[str, ...] = ()
    """The ids of the backups that it rests on, newest first."""

    @property
    def is_copied(self) -> bool:
        """Whether its files are copied as they are."""
        return not self.tars and not self.beneath

    @property
    def read_bytes(self) -> int:
        """Bytes that have to be read."""
        return sum(item.size for item in self.items) + sum(tar.size for tar, _ in self.tars)


def placed_tablespaces(info: BackupInfo, mapping: Mapping[str, str]) -> tuple[Placed, ...]:
    """Return where each tablespace goes: where it was, or where `mapping` (by name or oid) says.

    Raises UsageError for a tablespace that the backup does not have.
    """
    names = {name for space in info.tablespaces for name in (space.name, str(space.oid))}
    for name in mapping:
        if name not in names:
            have = ", ".join(space.name for space in info.tablespaces) or "none"
            raise UsageError(f"backup {info.id} has no tablespace {name!r}", f"it has {have}", "leave it out")
    return tuple(
        Placed(
            space.name,
            space.oid,
            space.location,
            os.path.abspath(mapping.get(space.name) or mapping.get(str(space.oid)) or space.location),
        )
        for space in info.tablespaces
        if os.path.isabs(space.location)  # in-place tablespaces lie in the data directory itself
    )


def control_file(layout: Layout, info: BackupInfo) -> ControlFile | None:
    """Return the backup's pg_control; None for tar, where it comes last in the stream."""
    path = os.path.join(repository.data_directory(layout, info.id), CONTROL)
    if info.is_tar:
        return None
    try:
        with open(path, "rb") as file:
            return read_control(file.read())
    except (OSError, CellarmanError) as error:
        raise Refused(
            f"backup {info.id} has no usable pg_control", f"{path}: {error}", "restore another backup"
        ) from error


def must_be_of(info: BackupInfo, control: ControlFile) -> None:
    """Raise CellarmanError when a pg_control is not of the system that backup.info names."""
    if info.systemid is not None and control.system_id != info.systemid:
        raise CellarmanError(
            f"the files of backup {info.id} are of another system",
            f"pg_control says {control.system_id}, backup.info {info.systemid}",
            "restore another backup",
        )


def look(layout: Layout, info: BackupInfo, destination: str, placed: Sequence[Placed]) -> Source:
    """Return what has to be copied; raises Refused when the backup's files are not there or cannot be read here."""
    data = repository.data_directory(layout, info.id)
    try:
        return (
            _tars(data, info, destination, placed) if info.is_tar else _trees(layout, info, data, destination, placed)
        )
    except (OSError, IncrementError) as error:
        verify = Advice(cellarman("verify", layout.name, info.id))
        raise Refused(f"the files of backup {info.id} cannot be read", str(error), verify) from error


def _trees(layout: Layout, info: BackupInfo, data: str, destination: str, placed: Sequence[Placed]) -> Source:
    leave_out = LEFT_OUT | {os.path.join("pg_tblspc", str(space.oid)) for space in placed}
    older = Chains(layout).of(info)[1:]
    control = control_file(layout, info) if older else None
    below = [layout.data(one.id) for one in older]
    directories, items, odd = _combined(plan_tree(data, destination, leave_out=leave_out), data, below, control)
    spaces: dict[int, int] = {}
    for space in placed:
        stored, *below = [layout.tablespace(one.id, space.oid) for one in (info, *older)]
        made, more, strange = _combined(plan_tree(stored, space.directory, leave_out=()), stored, below, control)
        directories += made
        items += more
        odd += [os.path.join(str(space.oid), path) for path in strange]
        spaces[space.oid] = sum(item.size for item in more)
    # Only pg_tblspc may be absent: rsync backups leave its links out.
    for needed in ("pg_wal", "pg_tblspc", "global"):
        path = os.path.join(destination, needed)
        directories += [path] if path not in directories else []
    total = sum(item.size for item in items)
    beneath = tuple(one.id for one in older)
    return Source(tuple(directories), tuple(items), (), tuple(odd), total, spaces, beneath)


def _combined(tree: Tree, root: str, older: Sequence[str], control: ControlFile | None) -> Tree:
    """Return the tree of a backup; an incremental one's, of which `control` is, combined with the `older` ones'
    directories."""
    directories, items, odd = tree
    if control is not None:
        items = [whole for item in items if (whole := _whole(item, root, older, control))]
    return directories, items, odd


def _whole(item: Item, root: str, older: Sequence[str], control: ControlFile) -> Item | None:
    """Return what an item of an incremental backup becomes, with what it rests on in the `older` ones' directories;
    None for its manifest, which lists increments."""
    path = os.path.relpath(item.source, root)
    directory, name = os.path.split(path)
    if path == "backup_manifest":
        return None
    if not name.startswith(PREFIX):
        return item
    name = name.removeprefix(PREFIX)
    beneath: list[str] = []
    for place in older:
        increment, whole = (os.path.join(place, directory, one) for one in (PREFIX + name, name))
        if os.path.exists(whole):
            made = os.path.join(os.path.dirname(item.destination), name)
            size = combining.size(item.source, control.block_size, control.relation_pages)
            return Item(item.source, made, size, (*beneath, whole), control.block_size)
        if not os.path.exists(increment):
            raise FileNotFoundError(f"{item.source} rests on {whole}, which is not there")
        beneath.append(increment)
    raise FileNotFoundError(f"{item.source} rests on no whole file: {beneath[-1]} is the oldest that there is")


def _tars(data: str, info: BackupInfo, destination: str, placed: Sequence[Placed]) -> Source:
    found, encrypted = tar_files(data)
    if encrypted or info.encryption:
        raise Refused(
            f"backup {info.id} is encrypted",
            ", ".join(encrypted) or str(info.encryption),
            "decrypt it, or restore it with Barman",
        )
    stems = {tar.stem: tar for tar in found}
    wanted = {"base": destination, **{str(space.oid): space.directory for space in placed}}
    missing = [stem for stem in wanted if stem not in stems]
    if missing:
        raise Refused(f"backup {info.id} is not whole", f"{data} has no {missing[0]}.tar", "restore another backup")
    tars = tuple((stems[stem], directory) for stem, directory in wanted.items())
    total, spaces = _plain_sizes(data, info, tars)
    return Source(tuple(wanted.values()), (), tars, (), total, spaces)


def _plain_sizes(data: str, info: BackupInfo, tars: Sequence[tuple[TarFile, str]]) -> tuple[int, dict[int, int]]:
    """Return the bytes that the tar files become, in all and by tablespace: from the manifest, else as recorded."""
    try:
        manifest = read_manifest(os.path.join(data, "backup_manifest"))
    except (CellarmanError, OSError):
        return max(info.cluster_size or 0, sum(tar.size for tar, _ in tars)), {}
    spaces: dict[int, int] = {}
    total = 0
    for file in manifest.files:
        total += file.size
        parts = file.path.split("/", 2)
        if parts[0] == "pg_tblspc" and len(parts) == 3 and parts[1].isdigit():
            spaces[int(parts[1])] = spaces.get(int(parts[1]), 0) + file.size
    return total, spaces
