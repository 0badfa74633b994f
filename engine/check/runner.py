"""Runs every check of a server, in the order in which a reader needs the answers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from engine.check import access, filesystem, pace, postgres, programs, repository, ssh, wal
from engine.check import facts as facts_
from engine.check.facts import Facts
from engine.check.result import CheckResult
from engine.config import Config, Server

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
    return judge(facts_.gather(config, server, now))


def judge(facts: Facts) -> list[CheckResult]:
    """Return the results of every check on what is known."""
    return [check(facts) for check in CHECKS]
