"""tmux, when this terminal is one of its panes."""

from __future__ import annotations

import subprocess

PATIENCE = 3.0
"""Seconds that tmux may take."""


def load_buffer(text: str) -> str:
    """Put `text` into tmux's paste buffer and, through tmux, into the terminal's clipboard; return why not, or ""."""
    try:
        done = subprocess.run(
            ["tmux", "load-buffer", "-w", "-"], input=text.encode(), capture_output=True, timeout=PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode:
        return done.stderr.decode(errors="replace").strip() or f"tmux ended with {done.returncode}"
    return ""
