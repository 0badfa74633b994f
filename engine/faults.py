"""A place to die on purpose: tests name a step in CELLARMAN_CRASH_AT and the process is killed there."""

from __future__ import annotations

import os
import signal


def step(name: str) -> None:
    """Kill this process with SIGKILL when CELLARMAN_CRASH_AT names this step; else do nothing."""
    if os.environ.get("CELLARMAN_CRASH_AT") == name:
        os.kill(os.getpid(), signal.SIGKILL)
