"""What must be true of the file systems below the repository. Pure: facts in, result out."""

from __future__ import annotations

import shlex

from engine.check.facts import Facts, Unknown
from engine.check.repository import make_room
from engine.check.result import CheckResult, fail, ok, skip, warn

LEAST_INODES = 10_000
"""Files that must still fit: a backup of a small cluster has a thousand."""
_FORGETFUL = {"tmpfs", "ramfs", "overlay"}
_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse.s3fs", "fuse.rclone"}
_BARE = {"vfat", "exfat", "msdos"}


def kind(facts: Facts) -> CheckResult:
    name = "file system"
    if isinstance(facts.storage, Unknown):
        return skip(name, facts.storage.what)
    text = ", ".join(f"{place}: {system or 'unknown'}" for place, system in facts.storage.systems.items())
    for place, system in facts.storage.systems.items():
        if system in _BARE:
            fix = "keep the repository on ext4, xfs, btrfs or zfs"
            return fail(name, f"{place}: {system} keeps neither modes nor owners", fix)
        if system in _FORGETFUL:
            return warn(name, f"{place}: {system} is gone with this machine", "keep the repository on a disk")
        if system in _REMOTE:
            fix = f"mount it hard and sync (man nfs), and see what it does on fsync: findmnt -T {shlex.quote(place)}"
            return warn(name, f"{place}: {system} may lose what it said was written", fix)
    return ok(name, text)


def links(facts: Facts) -> CheckResult:
    """Incremental backups by rsync save space by hard links; without them every file is stored anew."""
    name = "hard links"
    if isinstance(facts.storage, Unknown):
        return skip(name, facts.storage.what)
    reason = facts.storage.links
    if reason is None:
        return skip(name, "not tried")
    if not reason:
        return ok(name, "one was made")
    detail = f"{facts.server.layout.base} takes none: {reason}"
    if facts.server.reuse_backup == "link":
        return fail(name, detail, f'in [servers.{facts.server.name}]: reuse_backup = "copy", or another file system')
    return warn(name, detail, "incremental backups by rsync need a file system with them: ext4, xfs, btrfs, zfs")


def inodes(facts: Facts) -> CheckResult:
    name = "free inodes"
    if isinstance(facts.storage, Unknown):
        return skip(name, facts.storage.what)
    if not facts.storage.inodes:
        return skip(name, "the file system does not count them")
    place, free = min(facts.storage.inodes.items(), key=lambda row: row[1])
    if free < LEAST_INODES:
        fix = f"{make_room(facts)}\nsee also: df -i {shlex.quote(place)}"
        return fail(name, f"{free} left at {place}", fix)
    return ok(name, f"{free} left at {place}")
