"""`cellarman restore`: plan a recovery, and do it as a job."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, TextIO

from engine import trail
from engine.amounts import counted
from engine.cli import following, output
from engine.commands import cellarman
from engine.config import Config
from engine.errors import Advice, Refused, UsageError
from engine.job import spec as spec_
from engine.permission import require
from engine.recovery import planfile
from engine.recovery.plan import Order, Plan
from engine.recovery.planner import PROVING, PROVING_QUICKLY, make_plan
from engine.recovery.target import EndOfArchive, parse_target

_REFUSED = Refused.exit_code
_SAID_BY_A_PLAN = {
    "--to-time": "to_time",
    "--to-lsn": "to_lsn",
    "--to-xid": "to_xid",
    "--to-name": "to_name",
    "--to-immediate": "to_immediate",
    "--exclusive": "exclusive",
    "--action": "action",
    "--tablespace": "tablespace",
    "--start": "start",
    "--port": "port",
    "--on": "on",
    "--delta": "delta",
    "--checksum": "checksum",
}
"""Options that the order of a plan file leaves no room for, with the names of their values."""
_SHOWN = 20
"""Lines of a delta that are shown; removals first."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("server", metavar="SERVER", nargs="?", help="whose backup; that server itself is not touched")
    parser.add_argument("backup", metavar="BACKUP", nargs="?", help="an id, a name, latest, oldest, or auto")
    parser.add_argument(
        "destination", metavar="DEST", nargs="?", help="the new data directory: empty, or not there yet"
    )
    parser.add_argument(
        "--plan-file", metavar="FILE", help="do what was planned and saved in the console; all of the order is in it"
    )
    target = parser.add_argument_group("the moment (none: the end of the archive)")
    target.add_argument(
        "--to-time", metavar="TIME", help="'2026-11-23 14:05:00+01:00', …Z, a zone's name, '2 hours ago'"
    )
    target.add_argument("--to-lsn", metavar="LSN", help="a place in the WAL: 0/5000028")
    target.add_argument("--to-xid", metavar="XID", help="the end of a transaction")
    target.add_argument("--to-name", metavar="NAME", help="a restore point")
    target.add_argument("--to-immediate", action="store_true", help="the end of the backup")
    target.add_argument("--exclusive", action="store_true", help="stop before the target, not after it")
    parser.add_argument(
        "--timeline", default="latest", metavar="latest|current|N", help="the one to follow; current: the backup's own"
    )
    parser.add_argument("--action", choices=("pause", "promote", "shutdown"), help="at the target (default: pause)")
    parser.add_argument(
        "--tablespace", action="append", default=[], metavar="NAME=DIR", help="where this one goes; may be repeated"
    )
    parser.add_argument("--plan", action="store_true", help="print the plan and touch nothing")
    parser.add_argument("--start", action="store_true", help="start PostgreSQL there and report how it ends")
    parser.add_argument("--port", type=int, help="for --start: this port")
    parser.add_argument("--on", metavar="HOST", help="restore on another host, by SSH: [user@]host[:port]")
    parser.add_argument("--delta", action="store_true", help="--on: change the stopped data directory that is there")
    parser.add_argument("--checksum", action="store_true", help="--delta: compare contents, not sizes and times")
    parser.add_argument("--detach", action="store_true", help="print the job's id and leave")
    parser.add_argument("--yes", metavar="DEST", help="agree to it without being asked: the destination again")


def run(args: argparse.Namespace, config: Config) -> int:
    now = datetime.now(timezone.utc)
    order, planned = _saved(args, config) if args.plan_file is not None else (_order(args, config, now), None)
    server = config.server(order.server)
    if not args.plan:
        require("restore", server.name, read_only=config.read_only)
        if args.yes is not None and _directory(args.yes, order.on or None) != order.destination:
            why = f"{args.yes} is not {order.destination}"
            raise UsageError("--yes names another directory", why, Advice(order.command()))
    proving = PROVING if args.plan else PROVING_QUICKLY
    plan = make_plan(
        server, order, now=now, read_only=config.read_only, proving=proving, state_directory=config.state_directory
    )
    if args.plan:
        output.json_out(plan.to_json(config.named)) if args.json else _print(plan, config.named)
        _changed(plan, planned)
        return _REFUSED if plan.refused else 0
    if plan.refused is not None:
        if args.json:
            output.json_out(plan.to_json(config.named))
        _write_down(config, plan, plan.refused)
        raise plan.refused
    if not args.json:
        _print(plan, config.named, sys.stderr)
    assert plan.info is not None
    agreed = {"backup": plan.info.id, "timeline": plan.timeline}
    spec = spec_.make(config, "restore", server.name, **order.to_arguments(), planned=planned or agreed)
    return following.start(config, spec, detach=args.detach, as_json=args.json)


def _write_down(config: Config, plan: Plan, refused: Refused) -> None:
    """Write a restore that is refused before it is a job into the trail."""
    order = plan.order
    facts = {"subject": order.destination, "command": order.command().line(config.named), "detail": str(refused)}
    problem = trail.write(config.state_directory, trail.entry("restore", order.server, "refused", **facts))
    if problem:
        output.warn(f"this action is not written down in the trail: {problem}")


def _saved(args: argparse.Namespace, config: Config) -> tuple[Order, Mapping[str, Any] | None]:
    """Return the order of a plan file, and the backup and timeline that it was agreed to mean, if it says so."""
    given = [word for word in (args.server, args.backup, args.destination) if word is not None]
    given += [option for option, value in _SAID_BY_A_PLAN.items() if getattr(args, value) not in (None, False, [])]
    given += ["--timeline"] if args.timeline != "latest" else []
    if given:
        raise UsageError(
            "a plan file holds the whole order", f"{given[0]} says something beside it", "give --plan-file alone"
        )
    saved = planfile.load(args.plan_file, config_file=config.alone)
    return saved.order, saved.planned or None


def _changed(plan: Plan, planned: Mapping[str, Any] | None) -> None:
    """Say when a plan is not the one that was agreed to: the restore would be refused."""
    now = {"backup": plan.info.id if plan.info else None, "timeline": plan.timeline}
    if planned and plan.refused is None and {key: planned.get(key) for key in now} != now:
        output.warn(
            f"it was agreed to for backup {planned.get('backup')} on timeline {planned.get('timeline')}, it is backup "
            f"{now['backup']} on timeline {now['timeline']} now: the restore is refused while [planned] says otherwise"
        )


def _order(args: argparse.Namespace, config: Config, now: datetime) -> Order:
    if args.server is None or args.backup is None or args.destination is None:
        raise UsageError(
            "SERVER, BACKUP and DEST are needed",
            "or a plan that was saved in the console",
            Advice(
                cellarman("restore", "SERVER", "auto", "DEST"), ", or ", cellarman("restore", "--plan-file", "FILE")
            ),
        )
    target = parse_target(
        time=args.to_time,
        lsn=args.to_lsn,
        xid=args.to_xid,
        name=args.to_name,
        immediate=args.to_immediate,
        exclusive=args.exclusive,
        now=now,
    )
    if isinstance(target, EndOfArchive) and args.action in ("pause", "shutdown"):
        raise UsageError(
            f"--action {args.action} needs a target",
            "without one PostgreSQL replays everything and opens",
            Advice(
                "leave it out, or name the last moment with --to-lsn; this shows it: ",
                cellarman("windows", args.server),
            ),
        )
    if not args.destination:
        raise UsageError("no destination", "the directory's name is empty", "name a directory that is to be made")
    if (args.delta and not args.on) or (args.checksum and not args.delta):
        said, needs = ("--delta", "--on HOST") if args.delta else ("--checksum", "--delta")
        raise UsageError(f"{said} needs {needs}", "", f"add {needs}, or leave {said} out")
    if args.port is not None and not 1 <= args.port <= 65535:
        raise UsageError(f"not a port: {args.port}", "", "a number from 1 to 65535")
    return Order(
        server=args.server,
        destination=_directory(args.destination, args.on),
        backup=args.backup,
        target=target,
        timeline=_timeline(args.timeline),
        action=args.action or "pause",
        tablespaces=dict(_tablespace(text, args.on) for text in args.tablespace),
        start=args.start,
        port=args.port,
        config_file=config.alone,
        on=args.on or "",
        delta=args.delta,
        checksum=args.checksum,
    )


def _directory(text: str, on: str | None) -> str:
    """Return a directory's absolute path; on another host, whose home and place we do not know, it has to be one."""
    if on is None:
        return os.path.abspath(os.path.expanduser(text))
    if not text.startswith("/"):
        raise UsageError(f"not a directory on {on}: {text!r}", "", "write its whole path, from / on")
    return os.path.normpath("/" + text.lstrip("/"))


def _timeline(text: str) -> str:
    if text in ("latest", "current"):
        return text
    try:
        number = int(text, 0)
    except ValueError:
        number = 0
    if not 1 <= number <= 0xFFFFFFFF:
        raise UsageError(f"not a timeline: {text!r}", "", "latest, current or a number from 1 on")
    return str(number)


def _tablespace(text: str, on: str | None = None) -> tuple[str, str]:
    """Return a tablespace and its new directory; what is before "=/" is all name, which may have a "=" in it.

    >>> _tablespace("one=/srv/a=b"), _tablespace("a=b=/srv/c")
    (('one', '/srv/a=b'), ('a=b', '/srv/c'))
    """
    at = max(text.find("=/"), 0) or text.find("=")
    name, equals, directory = text[:at], text[at : at + 1], text[at + 1 :]
    if not (name and equals and directory):
        raise UsageError(f"not a tablespace's new place: {text!r}", "", "write --tablespace NAME=DIR")
    return name, _directory(directory, on)


def _print(plan: Plan, config_file: str, stream: TextIO | None = None) -> None:
    """Print a plan for people."""
    for line in plan_lines(plan, config_file):
        print(output.printable(line), file=stream)


def plan_lines(plan: Plan, config_file: str) -> list[str]:
    """Return a plan as lines of text; `config_file` is named in the commands."""
    order = plan.order
    lines = [f"restore of {order.server} to {order.target}" + (f" on {plan.endpoint}" if plan.endpoint else "")]
    if plan.info is not None and plan.wal is not None:
        lines += [
            f"  backup    {plan.info.id}, ended {output.when(plan.info.end_time)}, timeline {plan.info.timeline}",
            f"  timeline  {plan.timeline}",
            f"  replay    {plan.wal.first} to {plan.wal.last}: {counted(plan.wal.count, 'segment')}, "
            f"{output.size(plan.wal.bytes)}",
            f"  copy      {output.size(plan.copy_bytes)}; {output.size(plan.free_bytes)} are free",
        ]
    if plan.kept is not None:
        lines.append(f"  last kept      {plan.kept.at.isoformat(' ')}  xid {plan.kept.xid}  LSN {plan.kept.lsn}")
    if plan.dropped is not None:
        lines.append(
            f"  first dropped  {plan.dropped.at.isoformat(' ')}  xid {plan.dropped.xid}  LSN {plan.dropped.lsn}"
        )
    lines += _change_lines(plan)
    if plan.reachable:
        lines += [f"  {number}. {step}" for number, step in enumerate(plan.steps, 1)]
    lines += [f"  note: {warning}" for warning in plan.warnings]
    for refusal in plan.refusals:
        lines += [f"refused: {line}" if i == 0 else f"  {line}" for i, line in enumerate(refusal.lines(config_file))]
    return lines


def _change_lines(plan: Plan) -> list[str]:
    """Return what a delta would do to the files there."""
    changes = plan.changes
    if changes is None:
        return []
    lines = [
        f"  delta     {changes.sent} files to send, {output.size(changes.bytes)} at most; {changes.removed} to remove"
    ]
    return (
        lines
        + [f"            {line}" for line in changes.lines[:_SHOWN]]
        + ([f"            … and more: --json has {len(changes.lines)}"] if len(changes.lines) > _SHOWN else [])
    )
