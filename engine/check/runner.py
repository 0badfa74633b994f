"""Runs every check of a server, in the order in which a reader needs the answers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from engine.check import facts as facts_
from engine.check import postgres, programs, repository, wal
from engine.check.facts import Facts
from engine.check.result import CheckResult
from engine.config import Config, Server

Check = Callable[[Facts], CheckResult]

CHECKS: tuple[Check, ...] = (
    repository.configuration,
    postgres.connection,
    postgres.version,
    postgres.privileges,
    postgres.streaming,
    postgres.wal_level,
    postgres.wal_senders,
    postgres.system_id,
    postgres.clock,
    wal.lanes,
    wal.archive_mode,
    wal.archive_command,
    wal.archiving,
    wal.slot,
    wal.receiver,
    programs.pg_basebackup,
    programs.pg_receivewal,
    programs.pg_verifybackup,
    programs.compression,
    repository.directories,
    repository.space,
    repository.queues,
    repository.refused,
    repository.wal_age,
    repository.maintenance,
    repository.retention,
    repository.catalogue,
    repository.unfinished,
    repository.failed,
    repository.redundancy,
    repository.last_backup,
)


def run(config: Config, server: Server, now: datetime) -> list[CheckResult]:
    """Run every check; takes a few seconds, three times the server's check_timeout when everything hangs."""
    return judge(facts_.gather(config, server, now))


def judge(facts: Facts) -> list[CheckResult]:
    """Return the results of every check on what is known."""
    return [check(facts) for check in CHECKS]
