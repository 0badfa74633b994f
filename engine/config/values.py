"""The configuration as frozen values; where each was said is in `Config.sources`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from engine.commands import cellarman
from engine.config import places
from engine.errors import Advice, NotFound
from engine.host.endpoint import Endpoint
from engine.repository.layout import Layout

BackupMethod = Literal["postgres", "rsync", "local-rsync"]
Compressor = Literal["none", "gzip", "lz4", "zstd"]
ReuseBackup = Literal["off", "copy", "link"]
NetworkCompression = Literal["none", "auto", "zstd", "lz4", "zlib"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value was said: a file and line, an environment variable, a flag, or the built-in default."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


DEFAULT = Source("built-in default")


@dataclass(frozen=True, slots=True)
class Server:
    """One PostgreSQL server to back up; keys are Barman's where Barman has one."""

    name: str
    barman_home: str
    description: str = ""
    active: bool = True
    conninfo: str = ""
    streaming_conninfo: str = ""
    standby_conninfo: tuple[str, ...] = ()
    """Standbys whose pg_wal is searched for what the archive lacks."""
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
    """Kilobytes a second of a backup; 0 is unlimited."""
    restore_bandwidth_limit: int = 0
    """Kilobytes a second of a restore to another host; 0 is unlimited, whatever a backup's limit is."""
    tablespace_bandwidth_limit: tuple[tuple[str, int], ...] = ()
    """(tablespace, kilobytes a second) where they differ; of a backup by rsync."""
    reuse_backup: ReuseBackup = "off"
    """What a backup by rsync does with files that the one before has unchanged: hard links, copies, or nothing."""
    network_compression: NetworkCompression = "auto"
    """Of rsync over ssh, backups and restores; auto is the quickest that both sides have, zlib aside."""
    basebackup_retry_times: int = 5
    """How often a transfer of a backup by rsync is taken up again after a lost link."""
    basebackup_retry_sleep: int = 2
    """Seconds before the first of these; each next one waits twice as long, a minute at most."""
    immediate_checkpoint: bool = False
    retention_policy: str = ""
    """REDUNDANCY n, or RECOVERY WINDOW OF n DAYS|WEEKS|MONTHS; empty keeps all."""
    minimum_redundancy: int = 0
    last_backup_maximum_age: str = ""
    """How old the last good backup may be, such as "1 DAY"; empty: not checked."""
    last_backup_minimum_size: int = 0
    """Bytes that the last good backup must have at least; 0: not checked."""
    last_wal_maximum_age: str = ""
    """How old the newest archived WAL may be, such as "1 HOUR"; empty: not checked."""
    max_incoming_wals_queue: int = 0
    """Files that may wait in incoming/ or streaming/; 0: not checked."""
    parallel_jobs: int = 2
    path_prefix: str = ""
    protected: bool = False
    check_timeout: int = 30
    """Seconds that connecting or one check may take."""
    lock_timeout: int = 60
    """Seconds to wait for a lock that another process holds."""
    wal_timeout: int = 600
    """Seconds that a backup waits for the WAL it needs."""
    wal_verify_budget: int = 5
    """Seconds of a maintenance pass that go into reading archived WAL whole; 0: none."""
    wal_verify_interval: str = "1 WEEK"
    """How long after one reading of the whole archive has begun the next one begins."""
    backup_directory: str = ""
    basebackups_directory: str = ""
    wals_directory: str = ""
    incoming_wals_directory: str = ""
    streaming_wals_directory: str = ""
    errors_directory: str = ""
    xlogdb_directory: str = ""
    barman_lock_directory: str = ""
    backup_host: str = ""
    """This host as the server's host reaches it by SSH, [user@]host[:port]; empty: this account and host name."""
    ssh: Endpoint | None = None
    """How to reach the server's host, for rsync and remote restore."""
    origin: str = ""
    """The absolute path of the file that its table is in; "" when it was not read from one."""

    @property
    def named(self) -> str:
        """The file to name in command lines of ours about it, as `Config.named`."""
        return places.named([self.origin], os.environ)

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
class Problem:
    """Something wrong in the configuration, where it stands, and what to do about it."""

    source: Source
    what: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.source}: {self.what}"


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
    warnings: tuple[Problem, ...] = ()
    """What can be worked with but should not stay so."""

    @property
    def alone(self) -> str:
        """The one file that was read, absolute; "" when there were several."""
        return os.path.abspath(self.files[0]) if len(self.files) == 1 else ""

    @property
    def named(self) -> str:
        """The file to name in command lines of ours; "" when they find the configuration by themselves."""
        return places.named(self.files, os.environ)

    def server(self, name: str) -> Server:
        """Return a server by name; NotFound names the nearest and all there are."""
        if name in self.servers:
            return self.servers[name]
        if not self.servers:
            raise NotFound(
                f'no server "{name}"',
                "the configuration has no server at all",
                f"add a table [servers.{name}] to {self.files[-1] if self.files else 'cellarman.toml'}",
            )
        near = nearest(name, self.servers)
        hint = f'nearest: "{near}"; ' if near else ""
        raise NotFound(
            f'no server "{name}"',
            f"{hint}servers: {', '.join(self.servers)}",
            Advice(cellarman("config", "show"), " lists them"),
        )


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Return the word that was probably meant, or None."""
    import difflib

    return next(iter(difflib.get_close_matches(word, list(words), 1, 0.6)), None)
