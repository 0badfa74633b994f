"""A place to die on purpose: tests name a step in CELLARMAN_CRASH_AT and the process is killed there. Light."""

from __future__ import annotations

import os


def step(name: str) -> None:
    """Kill this process with SIGKILL when CELLARMAN_CRASH_AT names this step; else do nothing."""
    if os.environ.get("CELLARMAN_CRASH_AT") == name:
        import signal

        os.kill(os.getpid(), signal.SIGKILL)
