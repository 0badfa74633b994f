"""`cellarman wal switch` and `cellarman wal restore-point`: marks in the WAL that the server is told to make."""

from __future__ import annotations

import argparse

from engine.actions import Actions
from engine.cli import output
from engine.commands import cellarman
from engine.config import Config, Server


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="to find the moment by: restore --to-name NAME")
    parser.add_argument("--switch", action="store_true", help="end the segment too, so that it is archived at once")


def restore_point(args: argparse.Namespace, config: Config, server: Server) -> int:
    """Make a named restore point and say where it is."""
    made = Actions(config, say=output.warn).restore_point(server.name, args.name, switch=args.switch)
    if args.json:
        document = {"server": server.name, "name": made.name, "lsn": str(made.lsn), "switched": made.switched}
        output.json_out(document)
    else:
        switch_now = cellarman("wal", "switch", server.name).line(config.named)
        when = "soon" if made.switched else f"once its WAL segment is full ({switch_now} ends it now)"
        print(f"restore point {output.printable(made.name)} is at {made.lsn}; it can be restored to {when}")
    return 0


def switch(args: argparse.Namespace, config: Config, server: Server) -> int:
    """End the current segment and say up to where it goes."""
    end = Actions(config, say=output.warn).switch_wal(server.name)
    if args.json:
        output.json_out({"server": server.name, "end_lsn": str(end)})
    else:
        print(f"the segment ended at {end}; it is archived as soon as it has arrived")
    return 0
