"""Segments of 1 MiB made by hand: a true header, a body that compresses. For rules that need no PostgreSQL."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

from engine.postgres import segment
from engine.repository import repository
from engine.repository.layout import Layout

SIZE = 1 << 20
SYSTEM = 7710929279087522286
OTHER_SYSTEM = 7710931118259821496
MAGIC_15 = 0xD110
HISTORY_2 = "1\t0/580000\tno recovery target specified\n"
"""Timeline 2 left timeline 1 in segment 5."""


def name(number: int, timeline: int = 1) -> str:
    return segment.segment_name(timeline, number, SIZE)


def content(
    number: int, *, seed: int = 0, system: int = SYSTEM, timeline: int = 1, size: int = SIZE, header_size: int = SIZE
) -> bytes:
    """Return a segment's bytes; other seeds give other content under the same header."""
    header = struct.pack("<HHIQI4xQII", MAGIC_15, 0x7, timeline, number * header_size, 0, system, header_size, 8192)
    noise = random.Random(f"{number} {seed} {system}").randbytes(4096)
    return (header + noise * (size // len(noise) + 1))[:size]


def make_layout(root: Path) -> Layout:
    made = Layout("main", str(root / "home" / "main"))
    repository.prepare(made)
    return made


def put(directory: str | Path, number: int, *, timeline: int = 1, **kind: int) -> str:
    """Write a segment into a directory under its own name, and return its path."""
    path = os.path.join(str(directory), name(number, timeline))
    Path(path).write_bytes(content(number, timeline=timeline, **kind))
    return path


def temporaries(layout: Layout) -> list[str]:
    return [entry for entry in os.listdir(layout.wals) if entry.startswith(".")]
