"""`cellarman keep`: protect a backup from retention and deletion, or end that."""

from __future__ import annotations

import argparse

from engine import permission
from engine.cli import output
from engine.config import Config
from engine.errors import CellarmanError, Refused
from engine.repository import annotations as marks
from engine.repository import locks, repository
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
    server = config.server(args.server)
    permission.require("keep", server.name, read_only=config.read_only, protected=server.protected)
    layout = server.layout
    info = repository.find(layout, args.backup)
    with locks.hold(layout.lock(info.id), wait=server.lock_timeout, what=f"mark backup {info.id}"):
        if args.how is not None:
            _must_be_keepable(server.name, repository.load(layout, info.id))
        try:
            if args.how is None:
                marks.release(layout, info.id)
            else:
                marks.set_keep(layout, info.id, args.how)
        except OSError as error:
            raise CellarmanError(f"backup {info.id} of server {server.name} is not marked", str(error)) from error
    if args.json:
        output.json_out({"server": server.name, "backup": info.id, "keep": args.how})
    else:
        print(_said(info, args.how))
    return 0


def _must_be_keepable(server: str, info: BackupInfo) -> None:
    """Raise Refused for a backup that keeping would not make useful, as Barman does."""
    if info.deleting:
        why = "its deletion has begun"
    elif not info.usable:
        why = f"its status is {info.status.lower()}: only a backup that is done can be kept"
    elif info.is_incremental:
        why = (
            f"it is incremental: keep the full backup that it rests on instead ({info.parent_backup_id} is its parent)"
        )
    else:
        return
    raise Refused(
        f"backup {info.id} of server {server} is not kept", why, f"choose another: cellarman backups {server}"
    )


def _said(info: BackupInfo, how: str | None) -> str:
    if how is None:
        return f"backup {info.id} is not kept any more" if info.keep else f"backup {info.id} was not kept"
    what = "with all WAL since its begin" if how == "full" else "with the WAL from its begin to its end"
    return f"backup {info.id} is kept, {what}"
