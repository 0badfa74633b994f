"""`cellarman aftermath`: prove that what is written today can be read back from the archive alone."""

from __future__ import annotations

import argparse
import os
import textwrap
from datetime import datetime
from typing import Any

from engine.aftermath import loop
from engine.cli import following, output
from engine.config import Config
from engine.job import spec as spec_
from engine.job.state import JobState
from engine.setup import lanes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("server", metavar="SERVER")
    backup = parser.add_mutually_exclusive_group()
    backup.add_argument("--backup", action="store_true", default=None, help="take a backup first, however large")
    backup.add_argument(
        "--no-backup", dest="backup", action="store_false", help="prove the last good backup (as for large clusters)"
    )
    parser.add_argument("--sandbox", default="", metavar="DIR", help="where the copy is made (default: /var/tmp)")
    parser.add_argument("--patience", type=float, default=120.0, metavar="SECONDS", help="for each WAL lane (120)")
    parser.add_argument("--detach", action="store_true", help="print the job's id and leave")


def run(args: argparse.Namespace, config: Config) -> int:
    """Return 0 when all went well, 1 when the marker came back and something else failed, 4 when it did not."""
    sandbox = os.path.abspath(args.sandbox) if args.sandbox else ""
    server = config.server(args.server)
    loop.refuse(server)  # before there is a journal: root's own would be in the way of the repository's owner
    order = {"take_backup": args.backup, "sandbox": sandbox, "patience": args.patience}
    spec = spec_.make(config, "aftermath", server.name, **order)
    if args.detach:
        return following.start(config, spec, detach=True, as_json=args.json)

    def show(job: JobState) -> None:
        report = job.result.get("report")
        if report:
            output.json_out(report) if args.json else _print(report)

    return following.report(config, spec, show)


def _print(report: dict[str, Any]) -> None:
    began = output.when(datetime.fromisoformat(report["began"]))
    print(f"{report['server']}: {'proven' if report['proven'] else 'NOT proven'}, {began}")
    width = max(len(step["name"]) for step in report["steps"])
    for step in report["steps"]:
        lines = step["detail"].splitlines() or [""]
        took = f"{step['seconds']:7.2f} s"
        print(f"  {step['status']:<4}  {step['name']:<{width}}  {took}  {output.printable(lines[0])}".rstrip())
        for line in lines[1:]:
            print(f"{'':{width + 21}}{output.printable(line)}")
    print()
    print("\n".join(textwrap.wrap(f"{lanes.QUESTION} {report['answer']}", 100)))
