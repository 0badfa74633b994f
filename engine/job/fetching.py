"""Getting back what the archive lacks, as a job."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.config import Config, Server
from engine.event import Reporter
from engine.job import spec as spec_
from engine.repository import files

if TYPE_CHECKING:
    from engine.wal.healing import Healed

FOUND = "found.json"
"""In the job's directory: what became of each segment, apart from the result, which every list of jobs reads."""


def work(config: Config, server: Server, report: Reporter, *, job: str, **arguments: Any) -> dict[str, Any]:
    """Fetch as a job. What became of each segment is in `FOUND`, as `document` has it."""
    from engine.wal.healing import heal

    found, unknown = heal(server, report=report)
    told = document(server.name, found, unknown, dry_run=False)
    place = os.path.join(spec_.directory(config.state_directory), job, FOUND)
    files.replace(place, json.dumps(told, ensure_ascii=False).encode())
    fetched, left = told["fetched"], told["left"]
    return {"good": not left, "fetched": fetched, "left": left, "summary": summary(server.name, fetched, left)}


def read(job_directory: str) -> dict[str, Any]:
    """Return what a job that has ended found, as `document` has it; raises OSError or ValueError where that is gone."""
    with open(os.path.join(job_directory, FOUND), encoding="utf-8") as file:
        return dict(json.load(file))


def summary(server: str, fetched: int, left: int) -> str:
    """Return what came of it as a clause.

    >>> summary("main", 2, 1)
    '2 segments of main are archived; 1 is still missing'
    >>> summary("main", 0, 0)
    'nothing is missing in the archive of main'
    """
    if not fetched and not left:
        return f"nothing is missing in the archive of {server}"
    still = f"{left} {'is' if left == 1 else 'are'} still missing" if left else "nothing is missing any more"
    if not fetched:
        return f"no good copy of the missing WAL of {server} was found; {still}"
    archived = f"{fetched} segments of {server} are archived" if fetched > 1 else f"1 segment of {server} is archived"
    return f"{archived}; {still}"


def document(server: str, found: Sequence[Healed], unknown: Sequence[str], *, dry_run: bool) -> dict[str, Any]:
    """Return what was found, JSON-ready."""
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
