"""Waiting for what comes by itself: the one place where tests look again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(
    truth: Callable[[], Any], what: str = "it", seconds: float = 30.0, *, seen: Callable[[], object] | None = None
) -> Any:
    """Return what `truth` returns once that is true; fail after `seconds`, with what `seen` returns then."""
    deadline = time.monotonic() + seconds
    while not (value := truth()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}" + (f"\n{seen()}" if seen is not None else ""))
        time.sleep(0.02)
    return value
