"""`cellarman keep`: protect a backup from retention and deletion, or end that."""

from __future__ import annotations

import argparse

from engine.actions import Actions
from engine.cli import output
from engine.config import Config
from engine.repository.backupinfo import BackupInfo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("server", metavar="SERVER")
    parser.add_argument("backup", metavar="BACKUP", help="an id, a name, latest or oldest")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--full", dest="how", action="store_const", const="full", help="with all WAL since its begin")
    how.add_argument(
        "--standalone", dest="how", action="store_const", const="standalone", help="with its own WAL, begin to end"
    )
    how.add_argument("--release", dest="how", action="store_const", const=None, help="do not keep it any more")


def run(args: argparse.Namespace, config: Config) -> int:
    info = Actions(config, say=output.warn).keep(args.server, args.backup, args.how)
    if args.json:
        output.json_out({"server": args.server, "backup": info.id, "keep": args.how})
    else:
        print(_said(info, args.how))
    return 0


def _said(info: BackupInfo, how: str | None) -> str:
    if how is None:
        return f"backup {info.id} is not kept any more" if info.keep else f"backup {info.id} was not kept"
    what = "with all WAL since its begin" if how == "full" else "with the WAL from its begin to its end"
    return f"backup {info.id} is kept, {what}"
