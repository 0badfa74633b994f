"""`cellarman check`: everything that must be true of a server, and how to mend what is not."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from engine.check import result, runner
from engine.check.result import CheckResult
from engine.cli import output
from engine.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("server", metavar="SERVER|all", help="a server, or all of them")


def run(args: argparse.Namespace, config: Config) -> int:
    servers = list(config.servers.values()) if args.server == "all" else [config.server(args.server)]
    reports = [(server.name, runner.run(config, server, datetime.now(timezone.utc))) for server in servers]
    if args.json:
        documents = [_document(name, results) for name, results in reports]
        output.json_out(documents[0] if args.server != "all" else {"servers": documents})
    else:
        for number, (name, results) in enumerate(reports):
            if number:
                print()
            _print(name, results)
    return int(any(result.worst(results) == "fail" for _, results in reports))


def _document(name: str, results: list[CheckResult]) -> dict[str, Any]:
    return {"server": name, "status": result.worst(results), "checks": [asdict(check) for check in results]}


def _print(name: str, results: list[CheckResult]) -> None:
    print(f"{name}: {result.worst(results)}")
    width = max(len(check.name) for check in results)
    indent = " " * (width + 10)
    for check in results:
        lines = [output.printable(line.strip()) for line in check.detail.splitlines()] or [""]
        print(f"  {check.status:<4}  {check.name:<{width}}  {lines[0]}".rstrip())
        for line in lines[1:]:
            print(f"{indent}{line}")
        for number, line in enumerate(check.fix.splitlines()):
            print(f"{indent}{'     ' if number else 'now: '}{output.printable(line)}")
