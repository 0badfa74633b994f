"""Runs every check of a server, in the order in which a reader needs the answers."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from engine.check import access, filesystem, pace, postgres, programs, repository, ssh, wal
from engine.check import facts as facts_
from engine.check.facts import Facts
from engine.check.result import CheckResult
from engine.config import Config, Server, places

_OURS = re.compile(r"\bcellarman (?=(?:agent|backup|check|cron|delete|keep|restore|setup|show|status|verify|wal)\b)")
_PUSHES = re.compile(r"\bcellarman-wal push (?=['/])")
Check = Callable[[Facts], CheckResult]

CHECKS: tuple[Check, ...] = (
    repository.configuration,
    access.account,
    postgres.connection,
    access.passwords,
    access.host_based,
    postgres.version,
    postgres.privileges,
    postgres.streaming,
    postgres.wal_level,
    postgres.wal_senders,
    postgres.system_id,
    postgres.clock,
    ssh.login,
    ssh.way_back,
    ssh.clock,
    ssh.rsync,
    wal.lanes,
    wal.archive_mode,
    wal.archive_command,
    wal.archiving,
    pace.archive_timeout,
    pace.checkpoints,
    wal.slot,
    wal.receiver,
    programs.pg_basebackup,
    programs.pg_receivewal,
    programs.pg_verifybackup,
    programs.compression,
    repository.directories,
    filesystem.kind,
    filesystem.links,
    repository.space,
    filesystem.inodes,
    repository.queues,
    repository.refused,
    repository.wal_age,
    wal.archive,
    repository.maintenance,
    repository.retention,
    repository.catalogue,
    repository.unfinished,
    repository.failed,
    repository.redundancy,
    repository.last_backup,
    repository.pages,
)


def run(config: Config, server: Server, now: datetime) -> list[CheckResult]:
    """Run every check; takes a few seconds; when everything hangs, three times check_timeout, and 25 s with SSH."""
    results = judge(facts_.gather(config, server, now))
    named = places.named(config.files, os.environ)
    return [replace(each, fix=_with_config(each.fix, named)) for each in results] if named else results


def _with_config(fix: str, path: str) -> str:
    """Return what mends something, its commands with a configuration that they do not find by themselves.

    >>> _with_config("cellarman cron  # cellarman starts it", "/srv/a b.toml")
    "cellarman --config '/srv/a b.toml' cron  # cellarman starts it"
    """
    named = f"--config {shlex.quote(path)} "
    return _PUSHES.sub(lambda match: match[0] + named, _OURS.sub(lambda match: match[0] + named, fix))


def judge(facts: Facts) -> list[CheckResult]:
    """Return the results of every check on what is known."""
    return [check(facts) for check in CHECKS]
