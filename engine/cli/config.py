"""`cellarman config check|show`: is the configuration usable, and where does each value come from."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from engine.cli import output
from engine.config import DEFAULT, Config, InvalidConfig, Problem, Source, describe, load

Row = tuple[str, str, Any, Source]

NEEDS_CONFIG = False  # a broken one is what `config check` is for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", required=True, metavar="check|show")
    summary = "read the configuration and list every problem, each with its file and line; exit 2 with any error"
    verbs.add_parser("check", help=summary, description=summary)
    summary = "print each value with the file and line that it came from; passwords are hidden"
    show = verbs.add_parser("show", help=summary, description=summary)
    show.add_argument("server", nargs="?", metavar="SERVER", help="only this server's values")
    show.add_argument("--said", action="store_true", help="only what somebody said, not the built-in defaults")


def run(args: argparse.Namespace, _config: Config | None) -> int:
    if args.action == "check":
        return _check(args)
    config = load(args.config, read_only=args.read_only)
    if args.server:
        config.server(args.server)
    rows = [row for row in describe(config) if not args.said or row[3] is not DEFAULT]
    rows = [row for row in rows if args.server in (None, row[0])]
    if args.json:
        output.json_out(_document(config, rows))
        return 0
    _print_parts(rows)
    return 0


def _print_parts(rows: Sequence[Row]) -> None:
    shown = [(part, key, _toml(value), source) for part, key, value, source in rows]
    names = max((len(key) for _, key, _, _ in shown), default=0)
    values = min(48, max((len(value) for _, _, value, _ in shown), default=0))
    part = None
    for name, key, value, source in shown:
        if name != part:
            if part is not None:
                print()
            print(f"[servers.{name}]" if name else "[cellarman]")
            part = name
        print(f"{key:<{names}} = {value:<{values}}  # {source}")


def _document(config: Config, rows: Sequence[Row]) -> dict[str, Any]:
    values = [
        {"server": part or None, "key": key, "value": value, "source": str(source)} for part, key, value, source in rows
    ]
    return {"files": list(config.files), "values": values}


def _toml(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{output.printable(value)}"' if isinstance(value, str) else str(value)


def _check(args: argparse.Namespace) -> int:
    """Report errors and warnings; only errors make it unusable."""
    try:
        config = load(args.config, read_only=args.read_only)
    except InvalidConfig as error:
        if not args.json:
            raise
        output.json_out({"status": "fail", "files": [], "errors": [_plain(p) for p in error.problems], "warnings": []})
        return error.exit_code
    if args.json:
        output.json_out(
            {
                "status": "warn" if config.warnings else "ok",
                "files": list(config.files),
                "errors": [],
                "warnings": [_plain(p) for p in config.warnings],
            }
        )
        return 0
    for warning in config.warnings:
        print(f"warning: {warning}" + (f"\n    now: {warning.fix}" if warning.fix else ""), file=sys.stderr)
    servers = ", ".join(config.servers) or "none"
    print(f"ok: {', '.join(config.files)}; servers: {servers}")
    return 0


def _plain(problem: Problem) -> dict[str, Any]:
    return {
        "file": problem.source.file,
        "line": problem.source.line or None,
        "what": problem.what,
        "fix": problem.fix or None,
    }
