"""`cellarman wal verify`: read the archive whole, bit by bit as time allows, and say what is bad."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import time
from datetime import datetime, timezone
from typing import Any

from engine import permission
from engine.cli import output
from engine.cli.narration import Lines
from engine.commands import cellarman
from engine.config import Config, Server
from engine.event import Lane

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engine.wal.audit import Outcome

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DRAWN_EVERY, _SAID_EVERY = 0.25, 60.0
"""Seconds between two showings of the progress, on a terminal and elsewhere."""
_SHOWN = 1000
"""Bad segments that are printed; JSON has all of them."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--budget",
        metavar="TIME",
        type=budget,
        help="stop after so long, as 90s, 10m or 2h; the next run goes on (default: until all is read)",
    )


def budget(text: str) -> float:
    """Return a length of time in seconds.

    >>> budget("10m"), budget("90")
    (600.0, 90.0)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|s|m|h|d)", text.strip())
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a length of time: write 90s, 10m or 2h")
    return float(match[1]) * _UNITS[match[2]]


def run(args: argparse.Namespace, config: Config, server: Server) -> int:
    """Read on and print what is bad; 1 when something is, or could not be judged."""
    permission.require("verify", server.name, read_only=config.read_only)
    from engine.wal.audit import audit

    told = Progress()
    try:
        outcome = audit(server.layout, budget=args.budget, report=told)
    except KeyboardInterrupt:
        told.clear()
        again = cellarman("wal", "verify", server.name).line(config.named)
        print(f"interrupted; it goes on where it was with: {again}", file=sys.stderr)
        return 130
    told.clear()
    if args.json:
        output.json_out(document(server.name, outcome))
    else:
        _show(server.name, outcome, config.named)
    return 1 if outcome.bad or outcome.unknown else 0


def document(server: str, outcome: Outcome) -> dict[str, Any]:
    """Return the outcome as JSON has it."""
    now = outcome.round
    return {
        "server": server,
        "status": "critical" if outcome.bad else "warning" if outcome.unknown else "ok",
        "read": outcome.read,
        "read_bytes": outcome.bytes,
        "round": {
            "started": _moment(now.started),
            "ended": _moment(now.ended),
            "read": now.read,
            "left": now.left,
        },
        "bad": [
            {"name": each.name, "problem": each.problem, "since": _moment(each.since), "size_bytes": each.size}
            for each in outcome.bad
        ],
        "unknown": [{"name": name, "why": why} for name, why in outcome.unknown],
    }


def _show(server: str, outcome: Outcome, config_file: str) -> None:
    now = outcome.round
    total = now.read + now.left
    print(f"{outcome.read} segments read, {output.size(outcome.bytes)}; {len(outcome.bad)} bad")
    began = output.when(_moment(now.started))
    if now.ended is None:
        print(f"{now.read} of {total} since {began}: {cellarman('wal', 'verify', server).line(config_file)} goes on")
    else:
        print(f"all {total} read since {began}")
    if outcome.bad:
        print()
        rows = [(each.name, output.when(_moment(each.since)), each.problem) for each in outcome.bad[:_SHOWN]]
        output.table(rows, ("segment", "found", "problem"))
        if len(outcome.bad) > _SHOWN:
            print(f"and {len(outcome.bad) - _SHOWN} more: --json has them all")
        gaps, fetch = cellarman("wal", "gaps", server), cellarman("wal", "fetch-missing", server)
        print(f"what that costs: {gaps.line(config_file)}", file=sys.stderr)
        print(f"what can be had again: {fetch.line(config_file)}", file=sys.stderr)
    for name, why in outcome.unknown:
        print(f"unknown: {name}: {output.printable(why)}", file=sys.stderr)


def _moment(nanoseconds: int | None) -> datetime | None:
    return None if nanoseconds is None else datetime.fromtimestamp(nanoseconds / 1e9, timezone.utc)


class Progress(Lines):
    """Tells on standard error: a line that changes on a terminal, one a minute elsewhere."""

    def __init__(self) -> None:
        self._tty = sys.stderr.isatty()
        self._began = self._said = time.monotonic()
        self._drawn = False

    def progress(
        self,
        done_bytes: int,
        total_bytes: int | None = None,
        files_done: int | None = None,
        files_total: int | None = None,
        lanes: tuple[Lane, ...] = (),
    ) -> None:
        now = time.monotonic()
        if now - self._said < (_DRAWN_EVERY if self._tty else _SAID_EVERY):
            return
        self._said = now
        rate = output.size(int(done_bytes / max(now - self._began, 0.001)))
        text = f"{files_done} of {files_total} segments  {output.size(done_bytes)}  {rate}/s"
        if not self._tty:
            self._say(text)
            return
        sys.stderr.write(f"\r  {text}"[: shutil.get_terminal_size().columns] + "\x1b[K")
        sys.stderr.flush()
        self._drawn = True

    def clear(self) -> None:
        """Leave the terminal on a line of its own."""
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False
