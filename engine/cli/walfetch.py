"""`cellarman wal fetch-missing`: have again what the archive lacks, from wherever a copy is left."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from engine.actions import Actions
from engine.cli import output
from engine.cli.narration import Lines
from engine.config import Config, Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engine.wal.healing import Healed

_WORDS = {
    "fetched": "archived",
    "would_fetch": "can be had",
    "kept": "good after all",
    "pending": "on its way",
    "partial_only": "only a .partial",
    "lost": "nowhere",
    "failed": "not had",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="look for copies and verify them; archive nothing")


def run(args: argparse.Namespace, config: Config, server: Server) -> int:
    """Look for what lacks; 1 when something still lacks that will not come by itself."""
    if args.dry_run:
        from engine.wal.healing import heal

        found, unknown = heal(server, dry_run=True, read_only=config.read_only, report=Lines())
    else:
        found, unknown = Actions(config, say=output.warn).fetch_missing(server.name, report=Lines())
    if args.json:
        output.json_out(document(server.name, found, unknown, dry_run=args.dry_run))
    else:
        _show(found)
        for sentence in unknown:
            print(f"unknown: {output.printable(sentence)}", file=sys.stderr)
    return 1 if any(each.open for each in found) else 0


def document(server: str, found: Sequence[Healed], unknown: Sequence[str], *, dry_run: bool) -> dict[str, Any]:
    """Return what was found as JSON has it."""
    return {
        "server": server,
        "dry_run": dry_run,
        "fetched": sum(each.count for each in found if each.state == "fetched"),
        "left": sum(each.count for each in found if each.open),
        "segments": [
            {
                "state": each.state,
                "first": each.first,
                "last": each.last,
                "count": each.count,
                "source": each.source or None,
                "why": each.why,
                "fix": each.fix,
            }
            for each in found
        ],
        "unknown": list(unknown),
    }


def _show(found: Sequence[Healed]) -> None:
    if not found:
        print("nothing lacks")
        return
    for each in found:
        names = each.first if each.count == 1 else f"{each.first} to {each.last}, {each.count} segments"
        print(f"{_WORDS[each.state]}: {names}" + (f" from {output.printable(each.source)}" if each.source else ""))
        label = "was" if each.state in ("fetched", "would_fetch") else "why"
        rows = [(label, each.why)] + [("now", line) for line in each.fix.splitlines()]
        for word, text in rows:
            if text:
                print(f"  {word:<4} {output.printable(text)}")
