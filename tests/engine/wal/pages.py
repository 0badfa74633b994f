"""Segments of 1 MiB made by hand: one record fills each, with its checksum. For rules that need no PostgreSQL."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import google_crc32c

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
    noise = random.Random(f"{number} {seed} {system}").randbytes(4096)
    if header_size == SIZE:
        return filled(number, timeline, system=system, noise=noise)[:size]
    header = struct.pack("<HHIQI4xQII", MAGIC_15, 0x2, timeline, number * header_size, 0, system, header_size, 8192)
    return (header + noise * (size // len(noise) + 1))[:size]


def filled(
    number: int, timeline: int, *, system: int = SYSTEM, size: int = SIZE, magic: int = MAGIC_15, noise: bytes = b""
) -> bytes:
    """Return a segment of whole pages, each continuing one long record that ends with the segment; its data is
    `noise` again and again, or zeros."""
    total = size - 40 - (size // 8192 - 1) * 24
    before = number - 1  # where the record of the segment before begins, if that is filled likewise
    record = struct.pack("<IIQBBH", total, 0, before * size + 40 if number else 0, 0, 10, 0)
    body = (noise * (total // len(noise) + 1))[: total - 24] if noise else bytes(total - 24)
    checksum = google_crc32c.extend(google_crc32c.value(body), record)
    stream = memoryview(record + struct.pack("<I", checksum) + body)
    parts = [
        struct.pack("<HHIQI4xQII", magic, 0x2, timeline, number * size, 0, system, size, 8192),
        stream[: 8192 - 40],
    ]
    done = 8192 - 40
    for at in range(8192, size, 8192):
        parts += [struct.pack("<HHIQI4x", magic, 0x1, timeline, number * size + at, total - done)]
        parts += [stream[done : done + 8192 - 24]]
        done += 8192 - 24
    return b"".join(parts)


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
