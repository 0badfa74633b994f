"""Amounts as people read them."""

from __future__ import annotations

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def counted(count: int, noun: str, many: str = "") -> str:
    """Return a count with its noun.

    >>> counted(1, "bad page"), counted(3, "bad page"), counted(2, "entry", "entries")
    ('1 bad page', '3 bad pages', '2 entries')
    """
    return f"{count} {noun if count == 1 else many or noun + 's'}"


def size(count: int) -> str:
    """Return bytes in powers of 1024.

    >>> size(0), size(1536), size(16 * 1024**2)
    ('0 B', '1.5 KiB', '16 MiB')
    """
    value, unit = float(count), 0
    while abs(value) >= 1024 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} {UNITS[unit]}" if unit == 0 or value == int(value) else f"{value:.1f} {UNITS[unit]}"
