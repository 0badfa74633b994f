"""The catalogue of one server: list, find, add. Readers take no lock and survive whatever lies in a file.

Backups are found by meta/<ID>-backup.info and, as Barman before 3.13.2 had it, base/<ID>/backup.info; the first wins
and is what is written. Newest first means by id, descending, as everywhere in Barman.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from engine.commands import cellarman
from engine.errors import Advice, CellarmanError, NotFound, UsageError
from engine.postgres import segment
from engine.repository import annotations as marks
from engine.repository import backupinfo, files, locks
from engine.repository.backupinfo import BackupInfo, BackupInfoError
from engine.repository.layout import Layout

ID_FORMAT = "%Y%m%dT%H%M%S"
_ID = re.compile(r"\d{8}T\d{6}")
_INFO = "-backup.info"
_BIGGEST_INFO = 1 << 20
_MOST_SEGMENTS = 1 << 20

SHORTCUTS: Mapping[str, Callable[[BackupInfo], bool]] = {
    "latest": lambda info: info.usable,
    "last": lambda info: info.usable,
    "latest-full": lambda info: info.usable and not info.is_incremental,
    "last-full": lambda info: info.usable and not info.is_incremental,
    "last-failed": lambda info: info.status == "FAILED",
    "oldest": lambda info: info.usable,
    "first": lambda info: info.usable,
}
RESERVED_NAMES = frozenset((*SHORTCUTS, "auto", "none"))


class BadPage(NamedTuple):
    """A page whose checksum did not match when a backup was taken, on the server too."""

    file: str
    """As in the backup's manifest."""
    block: int
    """In its fork, over all segments."""
    relation: str = ""
    """DATABASE: SCHEMA.NAME; "" when the server did not know."""

    def __str__(self) -> str:
        return f"{self.file}, block {self.block}" + (f", of {self.relation}" if self.relation else "")


class Unreadable(NamedTuple):
    """A catalogue entry that cannot be understood, and why."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything that the repository says about one server's backups."""

    backups: tuple[BackupInfo, ...]
    """Newest first, those being deleted included (`deleting`)."""
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def usable(self) -> tuple[BackupInfo, ...]:
        """The backups that can be restored, newest first."""
        return tuple(info for info in self.backups if info.usable)

    def get(self, backup_id: str) -> BackupInfo | None:
        return next((info for info in self.backups if info.id == backup_id), None)


class Sizes(NamedTuple):
    """Bytes and number of the files below base/<ID>; `deduplicated` leaves out files with other hard links."""

    size: int
    deduplicated: int
    files: int


def prepare(layout: Layout) -> None:
    """Make the server's directories that are missing."""
    for path in [*layout.directories(), layout.locks]:
        try:
            os.makedirs(path, mode=0o755, exist_ok=True)
        except OSError as error:
            raise CellarmanError(
                f"cannot make the directory {path}",
                str(error),
                f"make it as an account that may, and give it to uid {os.getuid()}",
            ) from error


def is_backup_id(text: str) -> bool:
    """Tell whether `text` looks like a backup's id.

    >>> is_backup_id("20261122T094440"), is_backup_id("latest")
    (True, False)
    """
    return _ID.fullmatch(text) is not None


def catalogue(layout: Layout) -> Catalogue:
    """Read every backup of the server; what cannot be read is returned beside the rest."""
    backups: list[BackupInfo] = []
    unreadable: list[Unreadable] = []
    for backup_id in sorted(_ids(layout), reverse=True):
        try:
            backups.append(load(layout, backup_id))
        except CellarmanError as error:
            unreadable.append(Unreadable(backup_id, error.why or error.what))
    return Catalogue(tuple(backups), tuple(unreadable))


def backups(layout: Layout) -> list[BackupInfo]:
    """Return the readable backups, newest first."""
    return list(catalogue(layout).backups)


def load(layout: Layout, backup_id: str) -> BackupInfo:
    """Read one backup by its exact id, with its annotations.

    Raises NotFound when neither place has it and BackupInfoError when it cannot be understood.
    """
    for path in (layout.backup_info(backup_id), layout.old_backup_info(backup_id)):
        try:
            with open(path, "rb", opener=files.at_once) as file:
                data = file.read(_BIGGEST_INFO + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise BackupInfoError(f"cannot read {path}", str(error)) from error
        if len(data) > _BIGGEST_INFO:
            raise BackupInfoError(f"cannot read {path}", f"it is bigger than {_BIGGEST_INFO} bytes")
        try:
            info = backupinfo.parse(data.decode(), backup_id)
        except UnicodeDecodeError as error:
            raise BackupInfoError(f"cannot read {path}", f"not UTF-8 text: {error}", "correct the file") from error
        return replace(
            info,
            keep=marks.keep(layout, backup_id),
            deleting=marks.is_deleting(layout, backup_id),
        )
    if os.path.isdir(layout.backup(backup_id)):
        raise BackupInfoError(f"{layout.backup(backup_id)} has no backup.info", "no backup.info describes it")
    raise NotFound(f"no backup {backup_id} for server {layout.name}")


def find(layout: Layout, ref: str) -> BackupInfo:
    """Return the backup that `ref` means: an id, a name, or latest, oldest, last-failed, latest-full.

    Of several with one name it is the newest that is usable, else the newest that may become so.

    Raises NotFound, with the nearest ones, and BackupInfoError when the entry is there and cannot be read.
    """
    return choose(layout, catalogue(layout), ref)


def choose(layout: Layout, found: Catalogue, ref: str) -> BackupInfo:
    """As `find`, from a catalogue that is already read."""
    exact = found.get(ref)
    if exact is not None:
        return exact
    for broken in found.unreadable:
        if broken.id == ref:
            raise BackupInfoError(
                f"backup {ref} of server {layout.name} cannot be read",
                broken.reason,
                f"correct {layout.backup_info(ref)}",
            )
    shortcut = SHORTCUTS.get(ref.lower())
    matches = list(filter(shortcut, found.backups)) if shortcut else _named(found, ref)
    if not matches:
        raise _not_found(layout, ref, found)
    return matches[-1] if ref.lower() in ("oldest", "first") else matches[0]


def _named(found: Catalogue, name: str) -> list[BackupInfo]:
    """Return the backups with this name, the one that it means first: one that came to nothing gives its name up."""
    named = [info for info in found.backups if info.backup_name == name]
    return sorted(named, key=lambda info: (not info.usable, _lost(info)))


def _lost(info: BackupInfo) -> bool:
    """Tell whether a backup will not become usable any more."""
    return info.deleting or info.status == "FAILED"


def abandoned(layout: Layout, info: BackupInfo) -> bool:
    """Tell whether a backup counts as under way though nobody takes it any more: the server's backup lock is free."""
    if info.status not in ("EMPTY", "STARTED") or info.deleting:
        return False
    try:
        if locks.holder(layout.lock("backup")) is not None:
            return False
        return load(layout, info.id).status in ("EMPTY", "STARTED")  # it may have ended since `info` was read
    except CellarmanError:
        return False  # an account that may not look at the lock cannot tell


def check_name(layout: Layout, name: str) -> None:
    """Raise UsageError unless a new backup may carry `name`: one that failed or goes away does not hold its own."""
    if is_backup_id(name) or name.lower() in RESERVED_NAMES:
        why = "ids and words such as latest mean something already"
        raise UsageError(f"a backup cannot be named {name!r}", why, "choose another name")
    if not name.strip() or name != name.strip() or not name.isprintable():
        raise UsageError(f"a backup cannot be named {name!r}", "a name is printable and has no space at its ends")
    holders = (info for info in _named(catalogue(layout), name) if not (_lost(info) or abandoned(layout, info)))
    taken = next(holders, None)
    if taken is not None:
        raise UsageError(f"the name {name!r} is taken", f"backup {taken.id} has it", "choose another name")


def new_id(layout: Layout, now: datetime) -> str:
    """Return an id for a backup that begins `now`: this host's local time, as Barman has it, and later than any other.

    The caller holds the server's backup lock. A clock that was set back does not break the order.
    """
    wanted = now.astimezone().strftime(ID_FORMAT)
    known = [name for name in _ids(layout) if is_backup_id(name)]
    newest = max(known, default="")
    if wanted > newest:
        return wanted
    return (datetime.strptime(newest, ID_FORMAT) + timedelta(seconds=1)).strftime(ID_FORMAT)


def save(layout: Layout, info: BackupInfo) -> None:
    """Write the backup's backup.info into meta/: synced, renamed into place, directory synced."""
    path = layout.backup_info(info.id)
    data = backupinfo.render(info).encode()
    try:
        files.replace(path, data, mode=0o644, temporary=f"{path}.tmp", fault="backup-info.temporary-written")
    except OSError as error:
        raise _not_written(path, error) from error


def data_directory(layout: Layout, backup_id: str) -> str:
    """Return where a backup's data is; catalogues of Barman 1 call it pgdata."""
    old = os.path.join(layout.backup(backup_id), "pgdata")
    return old if os.path.isdir(old) else layout.data(backup_id)


def sizes(layout: Layout, backup_id: str) -> Sizes:
    """Add up the files below base/<ID>, links not followed."""
    size = unshared = count = 0
    for entry in _regular_files(layout.backup(backup_id)):
        facts = entry.stat(follow_symlinks=False)
        size += facts.st_size
        count += 1
        if facts.st_nlink == 1:
            unshared += facts.st_size
    return Sizes(size, unshared, count)


def required_wal(info: BackupInfo) -> list[str]:
    """Return the names of the WAL segments from the backup's begin to its end, without which it cannot be used.

    Raises BackupInfoError when the two do not make a range.
    """
    if info.begin_wal is None or info.end_wal is None:
        return []
    size = info.xlog_segment_size
    try:
        timeline, first = segment.parse_segment(info.begin_wal, size)
        last_timeline, last = segment.parse_segment(info.end_wal, size)
    except ValueError as error:
        raise BackupInfoError(f"the WAL range of backup {info.id} cannot be", str(error)) from error
    if timeline != last_timeline or not 0 <= last - first < _MOST_SEGMENTS:
        raise BackupInfoError(f"the WAL range of backup {info.id} cannot be", f"{info.begin_wal} to {info.end_wal}")
    return [segment.segment_name(timeline, number, size) for number in range(first, last + 1)]


def facts(layout: Layout, backup_id: str) -> dict[str, Any]:
    """Return our own facts about a backup; {} when there are none or they cannot be read (they are not needed)."""
    import json

    try:
        with open(layout.own_facts(backup_id), encoding="utf-8", opener=files.at_once) as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def bad_pages(own: Mapping[str, Any]) -> tuple[BadPage, ...] | None:
    """Return the bad pages of a backup from our own facts about it; None where its pages were not looked at."""
    if "checked_pages" not in own:
        return None
    try:
        found = [(page["file"], page["block"], page.get("relation", "")) for page in own["bad_pages"]]
        return tuple(BadPage(str(file), int(block), str(relation)) for file, block, relation in found)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def save_facts(layout: Layout, backup_id: str, document: Mapping[str, Any]) -> None:
    """Write our own facts about a backup, replacing those there were."""
    import json

    path = layout.own_facts(backup_id)
    try:
        files.replace(path, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: str, error: OSError) -> CellarmanError:
    return CellarmanError(
        f"cannot write {path}",
        str(error),
        f"see that {os.path.dirname(path)} is there, has free space and belongs to the account that runs this",
    )


def _ids(layout: Layout) -> set[str]:
    """Return the id of everything that is or pretends to be a backup."""
    found = {name[: -len(_INFO)] for name in _names(layout.meta) if name.endswith(_INFO) and not name.startswith(".")}
    try:
        with os.scandir(layout.base) as entries:
            found.update(entry.name for entry in entries if _is_backup_directory(entry))
    except FileNotFoundError:
        pass
    found.discard("")
    return found


def _is_backup_directory(entry: os.DirEntry[str]) -> bool:
    """Tell a backup's directory from what else may lie in base/, such as lost+found."""
    if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
        return False
    return is_backup_id(entry.name) or os.path.exists(os.path.join(entry.path, "backup.info"))


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CellarmanError(f"cannot list {directory}", str(error)) from error


def _regular_files(top: str) -> Iterator[os.DirEntry[str]]:
    pending = [top]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield entry


def _not_found(layout: Layout, ref: str, found: Catalogue) -> NotFound:
    if not found.backups:
        return NotFound(
            f"no backup {ref!r} for server {layout.name}",
            "the server has no backup yet",
            Advice("take one: ", cellarman("backup", layout.name)),
        )
    if ref.lower() in SHORTCUTS:
        return NotFound(
            f"no backup {ref!r} for server {layout.name}",
            f"none of its {len(found.backups)} backups is one",
            Advice("look at them: ", cellarman("backups", layout.name)),
        )
    known = [info.id for info in found.backups] + [info.backup_name for info in found.backups if info.backup_name]
    near = difflib.get_close_matches(ref, known, n=3)
    return NotFound(
        f"no backup {ref!r} for server {layout.name}",
        f"the nearest are {', '.join(near)}" if near else "no id and no name is like it",
        Advice("look at them: ", cellarman("backups", layout.name)),
    )
