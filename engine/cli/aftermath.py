"""`cellarman aftermath`: prove that what is written today can be read back from the archive alone."""

from __future__ import annotations

import argparse
import signal
import textwrap
from types import FrameType

from engine.aftermath.loop import Loop
from engine.aftermath.report import Report
from engine.cli import output
from engine.cli.narration import Lines
from engine.config import Config
from engine.errors import CellarmanError
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


def run(args: argparse.Namespace, config: Config) -> int:
    """Return 0 when all went well, 1 when the marker came back and something else failed, 4 when it did not."""
    signal.signal(signal.SIGTERM, _interrupt)
    loop = Loop(config, config.server(args.server), Lines(), args.backup, args.sandbox, args.patience)
    report = loop.run()
    output.json_out(report.to_json()) if args.json else _print(report)
    if not report.proven:
        return CellarmanError.exit_code
    return 0 if report.good else 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Take SIGTERM as Ctrl-C, so that the sandbox is removed."""
    raise KeyboardInterrupt


def _print(report: Report) -> None:
    print(f"{report.server}: {'proven' if report.proven else 'NOT proven'}, {output.when(report.began)}")
    width = max(len(step.name) for step in report.steps)
    for step in report.steps:
        lines = step.detail.splitlines() or [""]
        print(f"  {step.status:<4}  {step.name:<{width}}  {step.seconds:7.2f} s  {output.printable(lines[0])}".rstrip())
        for line in lines[1:]:
            print(f"{'':{width + 21}}{output.printable(line)}")
    print()
    print("\n".join(textwrap.wrap(f"{lanes.QUESTION} {report.answer}", 100)))
