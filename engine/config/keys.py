"""What each key of `cellarman.toml` may hold: one parser a key, from TOML's value to ours.

A parser raises ValueError with what would be right. Grammar that TOML has no type for is Barman's own
(barman(5): retention policies, time intervals, sizes with SI and binary suffixes).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from engine.errors import UsageError
from engine.host.endpoint import Endpoint
from engine.postgres import dsn

Parser = Callable[[object], Any]

_INTERVAL = re.compile(r"\s*(\d+)\s+(hour|day|week|month)s?\s*", re.IGNORECASE)
_HOURS = {"hour": 1, "day": 24, "week": 7 * 24, "month": 31 * 24}
_SIZE = re.compile(r"\s*(\d+)\s*(?:([kKMGT])(i?))?B?\s*")
_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_SLOT = re.compile(r"[a-z0-9_]{1,63}")


def interval(text: str) -> timedelta:
    """Return a length of time such as "1 DAY" or "36 HOURS"; a month is 31 days, as for Barman.

    >>> interval("2 weeks")
    datetime.timedelta(days=14)
    """
    found = _INTERVAL.fullmatch(text)
    if found is None:
        raise ValueError('a number and HOURS, DAYS, WEEKS or MONTHS, such as "1 DAY"')
    return timedelta(hours=int(found[1]) * _HOURS[found[2].lower()])


def size(text: str) -> int:
    """Return bytes from a number with an optional suffix: k M G T are powers of 1000, Ki Mi Gi Ti of 1024.

    >>> size("10Mi"), size("5 GB"), size("512")
    (10485760, 5000000000, 512)
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError('a number of bytes, or text such as "10Mi" or "500M"')
    factor: int = (1024 if found[3] else 1000) ** _POWER[(found[2] or "").upper()]
    return int(found[1]) * factor


def _said(value: object, kind: type, wanted: str) -> None:
    if type(value) is not kind:  # TOML's booleans are Python's ints
        raise ValueError(wanted)


def _text(value: object) -> str:
    _said(value, str, "text in quotes")
    assert isinstance(value, str)
    if "\n" in value or "\0" in value:
        raise ValueError("one line of text")
    return value


def _boolean(value: object) -> bool:
    _said(value, bool, "true or false, without quotes")
    return bool(value)


def _integer(low: int, high: int) -> Parser:
    wanted = f"a whole number from {low} to {high}, without quotes"

    def parse(value: object) -> int:
        _said(value, int, wanted)
        assert isinstance(value, int)
        if not low <= value <= high:
            raise ValueError(wanted)
        return value

    return parse


def _one_of(*choices: str) -> Parser:
    wanted = "one of " + ", ".join(f'"{choice}"' for choice in choices)

    def parse(value: object) -> str:
        if value not in choices:
            raise ValueError(wanted)
        return str(value)

    return parse


def _endpoint(value: object) -> str:
    """A host as ssh's configuration of another host may name it; kept as text."""
    text = _text(value)
    if text:
        try:
            Endpoint.parse(text)
        except UsageError:
            raise ValueError('a host such as "backup", "barman@backup" or "barman@backup:2222"') from None
    return text


def _ssh_name(field: str) -> Parser:
    def parse(value: object) -> str:
        text = _text(value)
        try:
            _ = Endpoint(text) if field == "host" else Endpoint("", text)
        except ValueError:
            raise ValueError("a name without blanks, not beginning with a dash") from None
        return text

    return parse


def _path(value: object) -> str:
    text = _text(value)
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise ValueError(f"a home directory that exists; nobody here is {text.partition('/')[0]}")
    if not os.path.isabs(expanded):
        raise ValueError("an absolute path, beginning with / or ~")
    return os.path.normpath(expanded)


def _search_path(value: object) -> str:
    """One directory, or several with colons between, as in PATH."""
    return os.pathsep.join(_path(part) for part in _text(value).split(os.pathsep)) if value else _text(value)


def _conninfo(value: object) -> str:
    text = _text(value)
    dsn.parse(text)
    return text


def _conninfos(value: object) -> tuple[str, ...]:
    """One connection string, or a list of them."""
    if not isinstance(value, list):
        value = [value] if value else []
    return tuple(_conninfo(each) for each in value)


def _slot(value: object) -> str:
    text = _text(value)
    if not _SLOT.fullmatch(text):
        raise ValueError("lower-case letters, digits and underscores, 63 at most (PostgreSQL's rule for slots)")
    return text


def _retention(value: object) -> str:
    from engine.repository.retention import parse_policy

    text = _text(value)
    try:
        parse_policy(text)
    except UsageError:
        raise ValueError('"REDUNDANCY 3" or "RECOVERY WINDOW OF 7 DAYS" (or WEEKS, MONTHS), from 1 on') from None
    return " ".join(text.split())


def _interval(value: object) -> str:
    text = _text(value)
    interval(text)
    return " ".join(text.split())


def _size(value: object) -> int:
    if type(value) is int and value >= 0:
        return value
    if not isinstance(value, str):
        raise ValueError('a number of bytes, or text such as "10Mi" or "500M"')
    return size(value)


def _rate(value: object) -> int:
    """pg_basebackup's --max-rate: kilobytes a second, from 32 kB to 1 GB; 0 is unlimited."""
    wanted = 'kilobytes a second from 32 to 1048576, or text such as "20Mi"; 0 is unlimited'
    if isinstance(value, str):
        try:
            value = -(-size(value) // 1024)
        except ValueError:
            raise ValueError(wanted) from None
    if type(value) is not int or not (value == 0 or 32 <= value <= 1048576):
        raise ValueError(wanted)
    return value


def _limits(value: object) -> tuple[tuple[str, int], ...]:
    """Tablespaces' own limits, as Barman writes them: "fast:20Mi slow:512"."""
    found: dict[str, int] = {}
    for word in re.split(r"[\s,]+", _text(value).strip()):
        name, colon, limit = word.rpartition(":")
        if not word:
            continue
        if not colon or not name:
            raise ValueError('NAME:LIMIT for each tablespace, such as "fast:20Mi slow:512"')
        found[name] = _rate(int(limit) if limit.isdigit() else limit)
    return tuple(found.items())


def _network_compression(value: object) -> str:
    if isinstance(value, bool):
        return "auto" if value else "none"
    if value not in NETWORK_COMPRESSORS:
        raise ValueError("true, false, or one of " + ", ".join(f'"{name}"' for name in NETWORK_COMPRESSORS))
    return str(value)


NETWORK_COMPRESSORS = ("none", "auto", "lz4", "zstd", "zlib")
COMPRESSORS = ("none", "gzip", "lz4", "zstd")

SERVER_KEYS: Mapping[str, Parser] = {
    "description": _text,
    "active": _boolean,
    "conninfo": _conninfo,
    "streaming_conninfo": _conninfo,
    "standby_conninfo": _conninfos,
    "backup_method": _one_of("postgres", "rsync", "local-rsync"),
    "archiver": _boolean,
    "streaming_archiver": _boolean,
    "streaming_archiver_name": _text,
    "slot_name": _slot,
    "create_slot": _one_of("auto", "manual"),
    "compression": _one_of(*COMPRESSORS),
    "compression_level": _integer(0, 22),
    "backup_compression": _one_of(*COMPRESSORS),
    "backup_compression_format": _one_of("tar", "plain"),
    "backup_compression_location": _one_of("client", "server"),
    "backup_compression_level": _integer(0, 22),
    "backup_compression_workers": _integer(0, 256),
    "bandwidth_limit": _rate,
    "restore_bandwidth_limit": _rate,
    "tablespace_bandwidth_limit": _limits,
    "reuse_backup": _one_of("off", "copy", "link"),
    "network_compression": _network_compression,
    "basebackup_retry_times": _integer(0, 1000),
    "basebackup_retry_sleep": _integer(0, 3600),
    "immediate_checkpoint": _boolean,
    "retention_policy": _retention,
    "minimum_redundancy": _integer(0, 100000),
    "last_backup_maximum_age": _interval,
    "last_backup_minimum_size": _size,
    "last_wal_maximum_age": _interval,
    "max_incoming_wals_queue": _integer(0, 1000000),
    "parallel_jobs": _integer(1, 256),
    "path_prefix": _search_path,
    "protected": _boolean,
    "check_timeout": _integer(1, 3600),
    "lock_timeout": _integer(0, 86400),
    "wal_timeout": _integer(1, 604800),
    "wal_verify_budget": _integer(0, 3600),
    "wal_verify_interval": _interval,
    "backup_directory": _path,
    "basebackups_directory": _path,
    "wals_directory": _path,
    "incoming_wals_directory": _path,
    "streaming_wals_directory": _path,
    "errors_directory": _path,
    "xlogdb_directory": _path,
    "barman_lock_directory": _path,
    "backup_host": _endpoint,
    "ssh.host": _ssh_name("host"),
    "ssh.user": _ssh_name("user"),
    "ssh.port": _integer(1, 65535),
    "ssh.identity_file": _path,
    "ssh.known_hosts": _path,
    "ssh.connect_timeout": _integer(1, 3600),
}
"""Keys of [servers.NAME], and of [cellarman] as the default for all; "ssh.…" stand in the table [….ssh]."""

GLOBAL_KEYS: Mapping[str, Parser] = {"barman_home": _path, "state_directory": _path, "read_only": _boolean}
"""Keys of [cellarman] alone."""

LEVELS = {"gzip": (1, 9), "lz4": (0, 12), "zstd": (1, 22)}
"""The compression levels that each program takes: zlib's, LZ4's LZ4HC_CLEVEL_MAX, zstd's ZSTD_maxCLevel."""

_NOT_YET = "remove the line: cellarman does not use it"
BARMAN_KEYS: Mapping[str, str] = {
    "ssh_command": "say it in the table [servers.NAME.ssh]: host, user, port, identity_file",
    "barman_user": "remove the line: cellarman runs as whoever calls it",
    "configuration_files_directory": "remove the line: /etc/cellarman/conf.d/*.toml is read",
    "log_file": "remove the line: jobs keep their logs in state_directory",
    "log_level": "remove the line: jobs keep their logs in state_directory",
    "disabled": "active = false",
    "wal_retention_policy": "remove the line: WAL is kept for as long as a backup needs it",
    "retention_policy_mode": "remove the line: retention is applied by maintenance",
    "backup_options": "remove the line: backups are concurrent",
    "recovery_options": "remove the line: a restored server fetches its WAL by a restore_command of ours",
    "encryption": _NOT_YET,
    "encryption_key_id": _NOT_YET,
    "encryption_passphrase_command": _NOT_YET,
    "primary_conninfo": _NOT_YET,
    "wal_conninfo": _NOT_YET,
    "wal_streaming_conninfo": _NOT_YET,
}
"""Keys that a barman.conf may have and `cellarman.toml` has not, and what to do instead."""
