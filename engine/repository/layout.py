"""Every path of one server's part of the repository.

The tree is Barman's: base/, meta/, wals/, incoming/, streaming/, errors/ below <barman_home>/<server>/, lock files
in the lock directory. Our own data is in .cellarman/ and meta/<ID>-cellarman.json. Paths are plain strings; light:
the WAL client loads this module.
"""

from __future__ import annotations

import os

from engine.postgres import segment


class Layout:
    """The resolved directories of one server, and where each thing lies in them."""

    __slots__ = (
        "base",
        "by_hand",
        "by_itself",
        "errors",
        "home",
        "incoming",
        "locks",
        "meta",
        "name",
        "own",
        "streaming",
        "wals",
        "xlogdb_directory",
    )

    def __init__(
        self,
        name: str,
        home: str,
        *,
        base: str = "",
        wals: str = "",
        incoming: str = "",
        streaming: str = "",
        errors: str = "",
        xlogdb_directory: str = "",
        locks: str = "",
    ) -> None:
        """`home` is the server's backup_directory; empty arguments mean Barman's default below it."""
        self.name = name
        self.home = home
        self.base = base or os.path.join(home, "base")
        self.meta = os.path.join(home, "meta")
        self.wals = wals or os.path.join(home, "wals")
        self.incoming = incoming or os.path.join(home, "incoming")
        self.streaming = streaming or os.path.join(home, "streaming")
        self.errors = errors or os.path.join(home, "errors")
        self.xlogdb_directory = xlogdb_directory or self.wals
        self.locks = locks or os.path.dirname(home)
        self.own = os.path.join(home, ".cellarman")
        self.by_itself = os.path.join(self.own, "maintained-by-itself")
        """Its time is that of the last pass of maintenance that nobody began by hand."""
        self.by_hand = os.path.join(self.own, "maintained-by-hand")

    def directories(self) -> list[str]:
        """Return the directories that a server's repository needs, in the order to make them."""
        return [
            self.home,
            self.base,
            self.meta,
            self.wals,
            self.incoming,
            self.streaming,
            self.errors,
            self.xlogdb_directory,
            self.own,
        ]

    def backup(self, backup_id: str) -> str:
        return os.path.join(self.base, backup_id)

    def data(self, backup_id: str) -> str:
        return os.path.join(self.base, backup_id, "data")

    def tablespace(self, backup_id: str, oid: int) -> str:
        return os.path.join(self.base, backup_id, str(oid))

    def backup_info(self, backup_id: str) -> str:
        return os.path.join(self.meta, f"{backup_id}-backup.info")

    def old_backup_info(self, backup_id: str) -> str:
        """Where Barman before 3.13.2 kept it."""
        return os.path.join(self.base, backup_id, "backup.info")

    def annotation(self, backup_id: str, key: str) -> str:
        return os.path.join(self.meta, f"{backup_id}-{key}")

    def old_annotation(self, backup_id: str, key: str) -> str:
        """Where Barman before 3.13.3 kept it."""
        return os.path.join(self.base, backup_id, "annotations", key)

    def own_facts(self, backup_id: str) -> str:
        """Our own facts about a backup, beside Barman's."""
        return os.path.join(self.meta, f"{backup_id}-cellarman.json")

    def wal(self, name: str) -> str:
        """Return the place of an archived WAL file: histories at the root, the rest by the first 16 digits."""
        if segment.kind_of(name) == segment.HISTORY:
            return os.path.join(self.wals, name)
        return os.path.join(self.wals, name[:16], name)

    def places(self, name: str) -> tuple[str, str, str]:
        """Return where a WAL file may lie: in the archive, or in a queue."""
        return self.wal(name), os.path.join(self.incoming, name), os.path.join(self.streaming, name)

    @property
    def xlogdb(self) -> str:
        return os.path.join(self.xlogdb_directory, f"{self.name}-xlog.db")

    @property
    def old_xlogdb(self) -> str:
        """Its name before Barman 3.13."""
        return os.path.join(self.wals, "xlog.db")

    @property
    def identity(self) -> str:
        return os.path.join(self.home, "identity.json")

    @property
    def index(self) -> str:
        """The derived index of commit times."""
        return os.path.join(self.own, "wal.sqlite")

    def lock(self, what: str) -> str:
        """Return Barman's lock file; `what` is cron, backup, archive-wal, receive-wal, xlogdb or a backup's id."""
        return os.path.join(self.locks, f".{self.name}-{what}.lock")
