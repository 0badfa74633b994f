"""`cellarman wal fetch-missing`: have again what the archive lacks, from wherever a copy is left."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from engine.cli import following, output
from engine.cli.narration import Lines
from engine.config import Config, Server
from engine.job import fetching
from engine.job import spec as spec_
from engine.job.state import JobState

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
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="look for copies and verify them; archive nothing")
    how.add_argument("--detach", action="store_true", help="print the job's id and leave")


def run(args: argparse.Namespace, config: Config, server: Server) -> int:
    """Look for what lacks; 1 when something still lacks that will not come by itself."""
    if args.dry_run:
        from engine.wal.healing import heal

        found, unknown = heal(server, dry_run=True, read_only=config.read_only, report=Lines())
        document = fetching.document(server.name, found, unknown, dry_run=True)
        _print(document, as_json=args.json)
        return 1 if document["left"] else 0
    spec = spec_.make(config, "fetch", server.name)
    if args.detach:
        return following.start(config, spec, detach=True, as_json=args.json)

    def show(job: JobState) -> None:
        if job.status == "done":
            _print(fetching.read(job.directory), as_json=args.json)

    return following.report(config, spec, show)


def _print(document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.json_out(document)
        return
    _show(document["segments"])
    for sentence in document["unknown"]:
        print(f"unknown: {output.printable(sentence)}", file=sys.stderr)


def _show(found: list[dict[str, Any]]) -> None:
    if not found:
        print("nothing is missing")
        return
    for each in found:
        first, last, count, source = each["first"], each["last"], each["count"], each["source"]
        names = first if count == 1 else f"{first} to {last}, {count} segments"
        print(f"{_WORDS[each['state']]}: {names}" + (f" from {output.printable(source)}" if source else ""))
        label = "was" if each["state"] in ("fetched", "would_fetch") else "why"
        rows = [(label, each["why"])] + [("now", line) for line in each["fix"].splitlines()]
        for word, text in rows:
            if text:
                print(f"  {word:<4} {output.printable(text)}")
