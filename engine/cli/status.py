"""`cellarman status`: how one server stands, why, and what to do now."""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import datetime, timezone

from engine.cli import output
from engine.cli.servers import facts
from engine.commands import cellarman
from engine.config import Config
from engine.status import ServerStatus, statuses


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("server", metavar="SERVER")


def run(args: argparse.Namespace, config: Config) -> int:
    server = config.server(args.server)
    now = datetime.now(timezone.utc)
    alone = replace(config, servers={server.name: replace(server, active=True)})
    status = statuses(alone, now)[0]
    if args.json:
        output.json_out(facts(status, now, config.named))
    else:
        print("\n".join(lines(status, now, config.named)))
    return 1 if status.health == "critical" else 0


def lines(status: ServerStatus, now: datetime, config_file: str) -> list[str]:
    """Return the status for people: the verdict, what it rests on, what is wrong and what mends it."""
    rows = [f"{status.name}: {status.health}", f"  {_reach(status, config_file)}"]
    last = status.last_backup
    if last is not None and last.end_time is not None:
        age = output.duration((now - last.end_time).total_seconds())
        rows.append(f"  last good backup {last.id}, {output.size(last.size)}, ended {age} ago")
    exposure = status.exposure(now)
    if exposure is not None:
        rows.append(f"  exposed: {output.duration(exposure.total_seconds())} of commits are not in the archive")
    for job in status.jobs:
        look = cellarman("job", "follow", job.id).line(config_file)
        rows.append(f"  running: {job.kind} {job.id}, {job.phase or 'starting'}: {look}")
    for finding in status.findings:
        rows.append(f"{finding.severity}: {finding.what}")
        if finding.why:
            rows.append(f"  why: {finding.why}")
        if finding.fix:
            rows.append(f"  now: {finding.fix.text(config_file)}")
    return [output.printable(row) for row in rows]


def _reach(status: ServerStatus, config_file: str) -> str:
    if status.recoverable_from is None:
        return "cannot be restored"
    end = output.when(status.recoverable_to)
    if not status.open_end:
        return f"cannot be restored past {end}"
    before = (
        ""
        if status.unbroken_from == status.recoverable_from
        else f"; before that, with breaks: {cellarman('windows', status.name).line(config_file)}"
    )
    return f"can be restored to any moment from {output.when(status.unbroken_from)} to {end}{before}"
