"""`cellarman jobs`: running and past work, newest first."""

from __future__ import annotations

import argparse

from engine.cli import output
from engine.config import Config
from engine.job import follow
from engine.job import state as state_


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", metavar="SERVER", help="only this server's")


def run(args: argparse.Namespace, config: Config) -> int:
    jobs = follow.jobs(config.state_directory)
    if args.server:
        name = config.server(args.server).name
        jobs = [job for job in jobs if job.server == name]
    if args.json:
        output.json_out({"jobs": [state_.to_json(job) for job in jobs]})
        return 0
    rows = [
        (job.id, job.kind, job.server, job.status, job.phase or "-", job.backup or "-", output.when(job.started),
         output.when(job.ended), job.reason.splitlines()[0] if job.reason else "")
        for job in jobs
    ]  # fmt: skip
    if rows:
        output.table(rows, ("id", "kind", "server", "status", "phase", "backup", "started", "ended", "reason"))
    else:
        print("no job yet")
    return 0
