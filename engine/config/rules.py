"""What must hold between the values of a server, and between servers. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Protocol

from engine.config.keys import LEVELS
from engine.config.values import Problem, Server, Source
from engine.postgres import dsn

Sources = Mapping[tuple[str, str], Source]


class FileFacts(Protocol):
    """Who may read a configuration file."""

    @property
    def mode(self) -> int: ...

    @property
    def owner(self) -> int: ...


def judge(
    servers: Mapping[str, Server], sources: Sources, begins: Mapping[str, Source]
) -> tuple[list[Problem], list[Problem]]:
    """Return what makes the configuration unusable, and what should not stay so."""
    problems: list[Problem] = []
    warnings: list[Problem] = []
    for server in servers.values():
        problems += _contradictions(server, sources)
        warnings += _omissions(server, sources)
    problems += _shared_places(servers, sources, begins)
    return problems, warnings


def _contradictions(server: Server, sources: Sources) -> Iterator[Problem]:
    def at(key: str) -> Source:
        return sources[server.name, key]

    if server.streaming_archiver and not server.slot_name:
        yield Problem(
            at("streaming_archiver"),
            f"streaming_archiver of {server.name} needs a slot_name, or PostgreSQL may remove WAL unreceived",
            'add: slot_name = "cellarman"',
        )
    for key, compressor in (("compression", server.compression), ("backup_compression", server.backup_compression)):
        level = getattr(server, f"{key}_level")
        if level is not None and compressor == "none":
            yield Problem(at(f"{key}_level"), f"{key}_level without {key}", f'add: {key} = "zstd"')
        elif level is not None and not LEVELS[compressor][0] <= level <= LEVELS[compressor][1]:
            low, high = LEVELS[compressor]
            yield Problem(at(f"{key}_level"), f"{key}_level = {level}: {compressor} takes {low} to {high}")
    if server.backup_compression_workers and server.backup_compression != "zstd":
        yield Problem(at("backup_compression_workers"), "backup_compression_workers: only zstd has workers")
    if server.backup_compression != "none" and server.backup_method != "postgres":
        yield Problem(
            at("backup_compression"),
            f'backup_compression with backup_method = "{server.backup_method}": only pg_basebackup compresses',
            'remove it, or: backup_method = "postgres"',
        )
    yield from _of_other_methods(server, sources)
    if server.backup_method == "rsync" and not (server.ssh and server.ssh.host):
        yield Problem(
            at("backup_method"),
            f'backup_method = "rsync" of {server.name} needs a host to reach by ssh',
            f"add [servers.{server.name}.ssh] with host and user",
        )


_OF_RSYNC = {
    "reuse_backup": "pg_basebackup copies everything",
    "tablespace_bandwidth_limit": "pg_basebackup has one limit for all",
}


def _of_other_methods(server: Server, sources: Sources) -> Iterator[Problem]:
    """Yield keys that the server's method has no use for (Barman refuses the same)."""
    nothing = {"reuse_backup": "off", "tablespace_bandwidth_limit": ()}
    for key, why in _OF_RSYNC.items():
        if server.backup_method == "postgres" and getattr(server, key) != nothing[key]:
            yield Problem(
                sources[server.name, key],
                f'{key} with backup_method = "postgres": {why}',
                'remove it, or: backup_method = "rsync"',
            )


def _omissions(server: Server, sources: Sources) -> Iterator[Problem]:
    begin = sources[server.name, "name"]
    if server.active and not server.conninfo:
        fix = 'add: conninfo = "host=… user=… dbname=postgres"; or active = false'
        yield Problem(begin, f"{server.name} has no conninfo: it cannot be backed up", fix)
    if server.active and not (server.archiver or server.streaming_archiver):
        fix = 'add: archiver = true, or streaming_archiver = true and slot_name = "cellarman"'
        yield Problem(begin, f"no WAL reaches {server.name}'s archive: no backup of it can be restored", fix)
    words = server.retention_policy.upper().split()
    if words[:1] == ["REDUNDANCY"] and int(words[1]) < server.minimum_redundancy:
        yield Problem(
            sources[server.name, "retention_policy"],
            f"{server.retention_policy} is less than minimum_redundancy = {server.minimum_redundancy}, which wins",
            f'retention_policy = "REDUNDANCY {server.minimum_redundancy}"',
        )
    for key, conninfo in _conninfos(server):
        if dsn.has_password(conninfo):
            yield Problem(
                sources[server.name, key],
                f"a password stands in {key} of {server.name}",
                f"move it to ~/.pgpass: {_pgpass_line(conninfo)}",
            )


def _conninfos(server: Server) -> Iterator[tuple[str, str]]:
    """Yield (key, connection string) of all that a server has."""
    yield "conninfo", server.conninfo
    yield "streaming_conninfo", server.streaming_conninfo
    yield from (("standby_conninfo", each) for each in server.standby_conninfo)


def _pgpass_line(text: str) -> str:
    """Return the line that ~/.pgpass needs (libpq, "The Password File"), the password itself left out."""
    said = dsn.parse(text)
    host, port, user = said.get("host", "localhost"), said.get("port", "5432"), said.get("user", "*")
    return f"echo '{host}:{port}:*:{user}:PASSWORD' >> ~/.pgpass; chmod 0600 ~/.pgpass"


_PLACE_KEYS = {
    "backup_directory": "home",
    "basebackups_directory": "base",
    "wals_directory": "wals",
    "incoming_wals_directory": "incoming",
    "streaming_wals_directory": "streaming",
    "errors_directory": "errors",
}


def _shared_places(servers: Mapping[str, Server], sources: Sources, begins: Mapping[str, Source]) -> Iterator[Problem]:
    """Two purposes must never share a directory: each would take the other's files for its own."""
    taken: dict[str, tuple[str, str]] = {}
    homes: dict[str, str] = {}
    for server in servers.values():
        home = server.layout.home
        for other, name in homes.items():
            if other != home and os.path.commonpath([home, other]) in (home, other):
                yield Problem(
                    begins[server.name], f"the directory of {server.name} ({home}) and of {name} ({other}) overlap"
                )
        homes[home] = server.name
        for key, attribute in _PLACE_KEYS.items():
            path = getattr(server.layout, attribute)
            if path in taken:
                who, whose = taken[path]
                source = sources[server.name, key]
                place = source if source.line else begins[server.name]
                yield Problem(
                    place,
                    f"{key} of {server.name} is {path}, which is {whose} of {who} already",
                    f"give {server.name} a directory of its own",
                )
            taken.setdefault(path, (server.name, key))


def secrets(servers: Mapping[str, Server], sources: Sources, files: Mapping[str, FileFacts]) -> list[Problem]:
    """Return files with a password in them that others may read; libpq's rule for key files: 0600, or root's 0640."""
    problems: dict[str, Problem] = {}
    for server in servers.values():
        for key, conninfo in _conninfos(server):
            source = sources[server.name, key]
            facts = files.get(source.file)
            if facts is None or not dsn.has_password(conninfo):
                continue
            allowed = 0o640 if facts.owner == 0 else 0o600
            if facts.mode & 0o777 & ~allowed:
                problems[source.file] = problems.get(source.file) or Problem(
                    source,
                    f"{key} of {server.name} has a password; others may read the file (mode {facts.mode & 0o777:04o})",
                    f"move the password to ~/.pgpass, or: chmod {allowed:04o} {source.file}",
                )
    return list(problems.values())
