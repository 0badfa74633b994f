"""Making the files of an incremental backup whole: each block from the newest backup of the chain that has it."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import BinaryIO

from engine.postgres.increment import HEAD, Head, IncrementError, Run, blocks, read_head, read_numbers, runs

_BUFFER = 256 * 1024


def size(path: str, page: int, most: int) -> int:
    """Return the bytes of the file that an increment stands for, at most `most` blocks; raises OSError, and
    IncrementError."""
    with open(path, "rb") as file:
        count = blocks(*_increment(file, page))
    if count > most:
        why = f"it stands for {count} blocks, and no file of this cluster has more than {most}"
        raise IncrementError(f"{path} is damaged", why, "restore another backup")
    return count * page


def combined(layers: Sequence[str], page: int) -> Iterator[memoryview]:
    """Yield a file's bytes from increments, newest first, and the whole file behind them; each piece is to be used
    before the next. Raises OSError, and IncrementError naming the file that is damaged."""
    with ExitStack() as opened:
        *increments, whole = [opened.enter_context(open(path, "rb", buffering=0)) for path in layers]
        known = [_increment(file, page) for file in increments]
        sources = [*increments, whole]
        for run in runs(known, os.fstat(whole.fileno()).st_size // page, page):
            yield from _pieces(sources, run, page)


def _increment(file: BinaryIO, page: int) -> tuple[Head, array[int]]:
    try:
        head = read_head(file.read(HEAD.size), os.fstat(file.fileno()).st_size, page)
        return head, read_numbers(file.read(4 * head.count), head)
    except IncrementError as error:
        raise IncrementError(f"{file.name} is damaged", error.why, "restore another backup") from None


def _pieces(sources: Sequence[BinaryIO], run: Run, page: int) -> Iterator[memoryview]:
    left, at = run.blocks * page, run.at
    view = memoryview(bytearray(min(_BUFFER, left)))
    while left:
        part = view[: min(left, _BUFFER)]
        count = len(part) if run.layer is None else os.preadv(sources[run.layer].fileno(), [part], at)
        if not count:
            assert run.layer is not None
            raise IncrementError(f"{sources[run.layer].name} is damaged", "it ends too early", "restore another backup")
        yield part[:count]
        left, at = left - count, at + count
