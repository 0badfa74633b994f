"""Old journals go: bounded by age and by number, never one whose worker lives."""

from __future__ import annotations

import os
import shutil
from datetime import datetime, timedelta

from engine.errors import CellarmanError
from engine.job import follow
from engine.job import spec as spec_

AGE = timedelta(days=90)
"""Journals of jobs that were created before go."""
COUNT = 1000
"""So many of the newest stay at most."""
_GOING = ".going-"


def prune(state_directory: str, now: datetime, *, age: timedelta = AGE, count: int = COUNT) -> list[str]:
    """Remove old journals and return the ids of their jobs; what cannot be removed stays for the next time."""
    jobs = follow.jobs(state_directory)
    root = spec_.directory(state_directory)
    going = [job for place, job in enumerate(jobs) if place >= count or now - job.created > age]
    gone: list[str] = []
    refused: list[str] = []
    for job in going:
        if job.status == "running" or follow.held(job.directory):
            continue
        try:
            # Renamed first: readers see a journal whole or not at all.
            os.rename(job.directory, os.path.join(root, f"{_GOING}{job.id}"))
            gone.append(job.id)
        except OSError as error:
            refused.append(f"{job.id}: {error.strerror}")
    _sweep(root)
    if refused:
        raise CellarmanError("old journals cannot be removed", "; ".join(refused[:3]), f"make {root} writable")
    return gone


def _sweep(root: str) -> None:
    """Remove what was renamed, now or by a pass that was cut short."""
    try:
        names = os.listdir(root)
    except FileNotFoundError:
        return
    for name in names:
        if name.startswith(_GOING):
            shutil.rmtree(os.path.join(root, name), ignore_errors=True)
