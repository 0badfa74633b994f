"""`cellarman setup`: everything a server needs by its configuration, ready to paste, and what of it is missing."""

from __future__ import annotations

import argparse
import textwrap
from dataclasses import asdict
from datetime import datetime, timezone

from engine.check import facts as facts_
from engine.cli import output
from engine.config import Config
from engine.setup import lanes
from engine.setup.piece import Piece
from engine.setup.pieces import needed

_COMMENT = {"sh": "#", "text": "#", "sql": "--"}
_WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("server", metavar="SERVER")
    parser.add_argument("--missing", action="store_true", help="only what is missing, or cannot be told")


def run(args: argparse.Namespace, config: Config) -> int:
    server = config.server(args.server)
    facts = facts_.gather(config, server, datetime.now(timezone.utc))
    pieces = needed(facts, config)
    shown = [piece for piece in pieces if not args.missing or piece.state in ("missing", "unknown")]
    if args.json:
        output.json_out({"server": server.name, "pieces": [asdict(piece) for piece in shown]})
        return 0
    counts = {state: sum(piece.state == state for piece in pieces) for state in ("missing", "unknown")}
    unknown = f", {counts['unknown']} not known" if counts["unknown"] else ""
    print(f"# setup of {server.name}: {counts['missing']} missing{unknown}, of {len(pieces)}")
    for piece in shown:
        _print(piece)
    if not args.missing:
        print()
        _comment("#", f"{lanes.QUESTION} {lanes.answer(facts)}")
    return 0


def _print(piece: Piece) -> None:
    mark = _COMMENT[piece.language]
    print()
    print(f"{mark} [{piece.state}] {output.printable(piece.name)}: {output.printable(piece.where)}")
    for line in piece.note.splitlines():
        _comment(f"{mark}  ", line)
    for line in piece.text.splitlines():
        print(output.printable(line))


def _comment(mark: str, text: str) -> None:
    """Print text as comments, wrapped."""
    for line in textwrap.wrap(output.one_line(text), _WIDTH, break_long_words=False, break_on_hyphens=False):
        print(f"{mark} {line}")
