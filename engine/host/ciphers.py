"""The cheapest of the ciphers that ssh would offer anyway: of a large copy over a quick network it is half the work."""

from __future__ import annotations

import subprocess
from functools import lru_cache

from engine.host import openssh
from engine.host.endpoint import Endpoint

_CHEAP = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
"""Where the processor has instructions for AES; elsewhere ssh's own order is the better one."""


@lru_cache(64)
def cheapest(endpoint: Endpoint) -> tuple[str, ...]:
    """Return the options that put a cheap cipher first, of those that ssh's configuration allows; () for no change."""
    if not _has_aes():
        return ()
    try:
        done = subprocess.run(
            [*openssh.command(endpoint), "-G", openssh.destination(endpoint)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()  # the connection itself will say what is wrong
    offered = next((line[8:] for line in done.stdout.decode().splitlines() if line.startswith("ciphers ")), "")
    order = reordered(offered)
    return ("-o", f"Ciphers={order}") if order != offered else ()


def reordered(offered: str) -> str:
    """Return a list of ciphers with the cheap ones of it first.

    >>> reordered("chacha20-poly1305@openssh.com,aes128-ctr,aes128-gcm@openssh.com")
    'aes128-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr'
    """
    names = offered.split(",")
    return ",".join([*(name for name in _CHEAP if name in names), *(name for name in names if name not in _CHEAP)])


def _has_aes() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return any(line.lower().startswith(("flags", "features")) and " aes" in line for line in file)
    except OSError:
        return False
