"""`cellarman.toml` as frozen values, each knowing the file and line that it came from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from engine.repository.layout import Layout

BackupMethod = Literal["postgres", "rsync", "local-rsync"]
Compressor = Literal["none", "gzip", "lz4", "zstd"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value was said: a file and line, an environment variable, a flag, or the built-in default."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


DEFAULT = Source("built-in default")


@dataclass(frozen=True, slots=True)
class Ssh:
    """How to reach the server's host, for rsync and remote restore."""

    host: str = ""
    user: str = ""
    port: int = 22
    identity_file: str = ""
    known_hosts: str = ""


@dataclass(frozen=True, slots=True)
class Server:
    """One PostgreSQL server to back up; keys are Barman's where Barman has one."""

    name: str
    barman_home: str
    description: str = ""
    active: bool = True
    conninfo: str = ""
    streaming_conninfo: str = ""
    backup_method: BackupMethod = "postgres"
    archiver: bool = False
    """WAL files arrive in incoming/ or by cellarman-wal push."""
    streaming_archiver: bool = False
    """pg_receivewal writes into streaming/."""
    streaming_archiver_name: str = "cellarman_receive_wal"
    slot_name: str = ""
    create_slot: Literal["auto", "manual"] = "auto"
    compression: Compressor = "zstd"
    """Of archived WAL."""
    compression_level: int | None = None
    backup_compression: Compressor = "none"
    """Of a postgres backup; anything but none makes tar files."""
    backup_compression_format: Literal["tar", "plain"] = "tar"
    backup_compression_location: Literal["client", "server"] = "server"
    backup_compression_level: int | None = None
    backup_compression_workers: int | None = None
    bandwidth_limit: int = 0
    """Kilobytes a second; 0 is unlimited."""
    immediate_checkpoint: bool = False
    retention_policy: str = ""
    """REDUNDANCY n, or RECOVERY WINDOW OF n DAYS|WEEKS|MONTHS; empty keeps all."""
    minimum_redundancy: int = 0
    last_backup_maximum_age: str = ""
    parallel_jobs: int = 2
    path_prefix: str = ""
    protected: bool = False
    check_timeout: int = 30
    """Seconds that connecting or one check may take."""
    lock_timeout: int = 60
    """Seconds to wait for a lock that another process holds."""
    wal_timeout: int = 600
    """Seconds that a backup waits for the WAL it needs."""
    backup_directory: str = ""
    basebackups_directory: str = ""
    wals_directory: str = ""
    incoming_wals_directory: str = ""
    streaming_wals_directory: str = ""
    errors_directory: str = ""
    xlogdb_directory: str = ""
    barman_lock_directory: str = ""
    ssh: Ssh | None = None

    @property
    def layout(self) -> Layout:
        """The server's resolved directories."""
        return Layout(
            self.name,
            self.backup_directory or os.path.join(self.barman_home, self.name),
            base=self.basebackups_directory,
            wals=self.wals_directory,
            incoming=self.incoming_wals_directory,
            streaming=self.streaming_wals_directory,
            errors=self.errors_directory,
            xlogdb_directory=self.xlogdb_directory,
            locks=self.barman_lock_directory or self.barman_home,
        )


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration, as read."""

    barman_home: str
    state_directory: str
    """Jobs, logs and console state: whatever is not the repository's."""
    servers: Mapping[str, Server]
    files: tuple[str, ...] = ()
    """The files that were read, in order."""
    sources: Mapping[tuple[str, str], Source] = field(default_factory=dict)
    """(server or "" for the global part, key) to where its value was said."""
    read_only: bool = False
