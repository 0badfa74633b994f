"""What a restored cluster is told: recovery settings, the command that fetches WAL, and what must not be inherited.

Source: PostgreSQL's recovery parameters (src/backend/utils/misc/guc_tables.c, the chapter "Recovery Target") and the
quoting rules of its configuration files (guc-file.l).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from engine.postgres.clock import pg_literal
from engine.postgres.controlfile import ControlFile
from engine.postgres.quoting import shell_word
from engine.recovery.target import EndOfArchive, Immediate, LsnTarget, NameTarget, Target, TimeTarget, XidTarget

Action = Literal["pause", "promote", "shutdown"]

BANNER = "# Written by cellarman: recovery, and what this copy must not share with the server it came from."
TARGETS = (
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
)
_SAFE = {
    "archive_mode": "off",
    "archive_command": "",
    "archive_cleanup_command": "",
    "recovery_end_command": "",
    "primary_conninfo": "",
    "primary_slot_name": "",
    "synchronous_standby_names": "",
    "recovery_min_apply_delay": "0",
}
"""A copy must never archive into the real server's repository, follow it, or wait for its standbys."""
_OUTSIDE = (
    "data_directory",
    "config_file",
    "hba_file",
    "ident_file",
    "external_pid_file",
    "log_directory",
    "stats_temp_directory",
)
"""Settings that would make the copy use the real server's files."""
_SETTING = re.compile(r"\s*(?P<key>[A-Za-z_][A-Za-z0-9_.]*)\s*(=|\s)\s*(?P<value>'(?:[^']|'')*'|[^#\s]*)")


def quoted(value: str) -> str:
    """Return a value as a PostgreSQL configuration file reads it.

    >>> print(quoted("it's"))
    'it''s'
    """
    if "\n" in value or "\r" in value or "\0" in value:
        raise ValueError(f"a setting cannot hold a line break: {value!r}")
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def render(settings: Mapping[str, str]) -> str:
    """Return settings as lines of a configuration file."""
    return "".join(f"{key} = {quoted(value)}\n" for key, value in settings.items())


def restore_command(program: str, server: str, config_file: str) -> str:
    """Return the shell command by which PostgreSQL fetches WAL: words quoted, percent signs doubled for PostgreSQL.

    >>> print(restore_command("/opt/my tools/cellarman-wal", "main", "/etc/100%.toml"))
    '/opt/my tools/cellarman-wal' get %f "%p" --server main --config /etc/100%%.toml
    """
    config = f" --config {shell_word(config_file)}" if config_file else ""
    return f'{shell_word(program)} get %f "%p" --server {shell_word(server)}{config}'


def recovery_settings(
    target: Target, *, timeline: str, action: Action, command: str, major: int, stop_before_hole: bool = False
) -> dict[str, str]:
    """Return every recovery setting, those that are not used set to nothing so that none is inherited.

    `timeline` is current or a number. `stop_before_hole` keeps PostgreSQL from reading ahead into missing WAL.
    """
    settings = {
        "restore_command": command,
        "recovery_target_timeline": timeline,
        "recovery_target_inclusive": "on" if getattr(target, "inclusive", True) else "off",
        "recovery_target_action": "promote" if isinstance(target, EndOfArchive) else action,
        "hot_standby": "on",
        **safe_settings(major),
    }
    if stop_before_hole and major >= 15:
        settings["recovery_prefetch"] = "off"
    wanted = _target_setting(target)
    # In this order: to PostgreSQL even an empty target that comes after the real one is a second target.
    settings.update({name: "" for name in TARGETS if name not in wanted})
    return {**settings, **wanted}


def _target_setting(target: Target) -> dict[str, str]:
    match target:
        case TimeTarget(at):
            return {"recovery_target_time": pg_literal(at)}
        case LsnTarget(lsn):
            return {"recovery_target_lsn": str(lsn)}
        case XidTarget(xid):
            return {"recovery_target_xid": str(xid)}
        case NameTarget(name):
            return {"recovery_target_name": name}
        case Immediate():
            return {"recovery_target": "immediate"}
        case EndOfArchive():
            return {}


def safe_settings(major: int) -> dict[str, str]:
    """Return what keeps a copy apart from the server that it came from."""
    library = {"archive_library": ""} if major >= 15 else {}
    # A subscription names the real server's slot on the publisher: what the copy took from it, that server would lack.
    subscriptions = {"max_logical_replication_workers": "0"} if major >= 10 else {}
    # A recovery that pauses looks for this file, which is meant for a standby, and takes it away (until 15).
    trigger = {"promote_trigger_file": ""} if 12 <= major <= 15 else {}
    return {**_SAFE, **library, **subscriptions, **trigger}


def required_settings(control: ControlFile) -> dict[str, str]:
    """Return the settings that hot standby refuses to run below (recovery aborts when they are lower)."""
    return {
        "max_connections": str(control.max_connections),
        "max_worker_processes": str(control.max_worker_processes),
        "max_wal_senders": str(control.max_wal_senders),
        "max_prepared_transactions": str(control.max_prepared_xacts),
        "max_locks_per_transaction": str(control.max_locks_per_xact),
    }


def minimal_configuration(control: ControlFile, recorded: Mapping[str, str]) -> str:
    """Return a postgresql.conf for a cluster whose own one was kept outside its data directory."""
    lines = {
        **required_settings(control),
        **_sizes_for(control.segment_size),
        "hot_standby": "on",
        "listen_addresses": "localhost",
        **recorded,
    }
    return "# The backup holds no postgresql.conf (the server keeps it elsewhere): the least that starts.\n" + render(
        lines
    )


def _sizes_for(segment_size: int) -> dict[str, str]:
    """Return the WAL sizes that a cluster of large segments needs: each at least two (xlog.c, check_wal_segment_size).

    >>> _sizes_for(16 << 20), _sizes_for(64 << 20)
    ({}, {'min_wal_size': '128MB'})
    """
    least = 2 * segment_size >> 20
    defaults = {"min_wal_size": 80, "max_wal_size": 1024}
    return {key: f"{least}MB" for key, default in defaults.items() if default < least}


MINIMAL_HBA = (
    "# The backup holds no pg_hba.conf (the server keeps it elsewhere): this account alone, by its own name.\n"
    "local all all peer\n"
)


def own_settings_removed(auto_conf: str, keys: Iterable[str]) -> str:
    """Return a postgresql.auto.conf without our banner and without the settings that are about to be written."""
    gone = {key.lower() for key in keys}
    kept = [line for line in auto_conf.splitlines() if line != BANNER and setting_of(line)[0] not in gone]
    return "".join(f"{line}\n" for line in kept)


def setting_of(line: str) -> tuple[str, str]:
    """Return the lower-case name and value that a configuration line sets, or two empty texts.

    >>> setting_of("Port = 5433 # ours"), setting_of("include_dir 'conf.d'"), setting_of("# port = 1")
    (('port', '5433'), ('include_dir', 'conf.d'), ('', ''))
    """
    match = _SETTING.match(line)
    if not match:
        return "", ""
    value = match["value"]
    if value.startswith("'"):
        value = value[1:-1].replace("''", "'")
    return match["key"].lower(), value


def neutralised(text: str, present: Callable[[str], bool]) -> tuple[str, list[str]]:
    """Return a postgresql.conf whose lines that lead outside its data directory are comments, and those lines.

    Files named relatively stay. An include of a file that is not `present` would keep the copy from starting.
    """
    lines: list[str] = []
    removed: list[str] = []
    for line in text.splitlines():
        key, value = setting_of(line)
        if (key in _OUTSIDE and os.path.isabs(value)) or _lost_include(key, value, present):
            removed.append(line.strip())
            line = f"#cellarman# {line}"
        lines.append(line)
    return "".join(f"{line}\n" for line in lines), removed


def _lost_include(key: str, value: str, present: Callable[[str], bool]) -> bool:
    return key in ("include", "include_dir") and not present(value)
