"""`cellarman wal gaps`: what the archive lacks, what that costs, and what mends it."""

from __future__ import annotations

import argparse
import sys

from engine.actions import Actions
from engine.cli import output
from engine.commands import cellarman
from engine.config import Config, Server
from engine.errors import Advice, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engine.wal.judgement.values import Finding, Report


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--timeline", metavar="N", type=_timeline, action="append", default=[], help="judge it, too")
    parser.add_argument("--offline", action="store_true", help="judge by the disk alone: do not ask the server")
    parser.add_argument("--all", action="store_true", help="print notes, too")
    parser.add_argument("--accept", metavar="FIRST..LAST", help="bear this gap: it alarms no more, and still bounds")
    parser.add_argument("--reason", metavar="TEXT", help="why it is borne; needed with --accept")
    parser.add_argument("--withdraw", metavar="FIRST..LAST", help="take an acceptance back")


def _timeline(text: str) -> int:
    try:
        number = int(text, 16 if text.lower().startswith("0x") else 10)
    except ValueError:
        number = 0
    if not 0 < number <= 0xFFFF_FFFF:
        raise argparse.ArgumentTypeError(f"{text!r} is not a timeline")
    return number


def run(args: argparse.Namespace, config: Config, server: Server) -> int:
    """Print the report; 1 when something in it is critical."""
    if (args.accept is None) != (args.reason is None) or (args.reason is not None and not args.reason.strip()):
        raise UsageError(
            "a gap is accepted with its reason",
            "--accept and --reason belong together",
            Advice(cellarman("wal", "gaps", server.name, "--accept", "FIRST..LAST", "--reason", "WHY")),
        )
    actions = Actions(config, say=output.warn)
    if args.withdraw:
        with actions.acting("accept", server, args.withdraw, "wal", "gaps", server.name, "--withdraw", args.withdraw):
            actions.require("accept", server)
            _withdraw(server, args.withdraw)
    found = _report(args, config, server)
    if args.accept:
        _accept(actions, server, found, args.accept, args.reason)
        found = _report(args, config, server)
    if args.json:
        output.json_out(found.to_json(config.named))
    else:
        _show(found, notes=args.all, config_file=config.named)
    return 1 if found.status == "critical" else 0


def _report(args: argparse.Namespace, config: Config, server: Server) -> Report:
    from engine.wal.findings import report
    from engine.wal.receiver import LogReporter

    return report(
        server,
        ask_server=not args.offline,
        read_only=config.read_only,
        selected=args.timeline,
        told=LogReporter() if sys.stderr.isatty() else None,
    )


def _accept(actions: Actions, server: Server, found: Report, text: str, reason: str) -> None:
    """Write an acceptance down; refused for a range in which nothing lacks."""
    from engine.wal import accepted

    first, last = accepted.parse_range(text)
    if not any(_overlaps(finding, first, last) for finding in found.findings):
        raise UsageError(
            f"nothing is missing from {first} to {last}",
            "only a gap that is there can be accepted",
            Advice(cellarman("wal", "gaps", server.name), " lists them"),
        )
    actions.accept_gap(server.name, first, last, reason)
    print(f"accepted: {first} to {last}", file=sys.stderr)


def _overlaps(finding: Finding, first: str, last: str) -> bool:
    if not finding.breaks or finding.first is None or finding.last is None:
        return False
    return finding.first <= last and finding.last >= first


def _withdraw(server: Server, text: str) -> None:
    from engine.wal import accepted

    first, last = accepted.parse_range(text)
    if not accepted.withdraw(server.layout, first, last):
        known = ", ".join(f"{gap.first}..{gap.last}" for gap in accepted.read(server.layout)) or "none"
        look = Advice(cellarman("wal", "gaps", server.name))
        raise UsageError(f"{text} was not accepted", f"accepted gaps: {known}", look)
    print(f"withdrawn: {first} to {last}", file=sys.stderr)


def _show(found: Report, *, notes: bool, config_file: str) -> None:
    shown = [f for f in found.findings if notes or f.severity != "note" or f.state == "accepted"]
    hidden = len(found.findings) - len(shown)
    more = f" ({hidden} notes: --all prints them)" if hidden else ""
    print(f"{found.server}: {found.status}{more}")
    for finding in shown:
        print()
        print(f"{finding.severity}: {output.printable(_headline(finding))}")
        for label, text in _details(finding, config_file):
            print(f"  {label:<8} {output.printable(text)}")
    for sentence in found.unknown:
        print(f"unknown: {output.printable(sentence)}", file=sys.stderr)


def _headline(finding: Finding) -> str:
    kind = finding.kind.replace("_", " ")
    state = f" ({finding.state.replace('_', ' ')})" if finding.state and finding.state != finding.kind else ""
    if finding.first is None:
        return f"{kind}{state}"
    if finding.first == finding.last:
        return f"{kind}{state} {finding.first}"
    return f"{kind}{state} {finding.first} to {finding.last}, {finding.count} files"


def _details(finding: Finding, config_file: str) -> list[tuple[str, str]]:
    rows = [("why", finding.why)] if finding.why else []
    if finding.lost_from is not None:
        until = output.when(finding.lost_to) if finding.lost_to is not None else "now"
        rows.append(("lost", f"times after {output.when(finding.lost_from)} until {until}"))
    if finding.affected_backups:
        rows.append(("backups", ", ".join(finding.affected_backups)))
    if finding.fix:
        rows.append(("now", finding.fix.text(config_file)))
    return rows
