"""Increments: a file that is changed, cut and grown between backups comes back as it was at the last of them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.postgres.increment import HEAD, Head, IncrementError, blocks, read_head, read_numbers, runs
from engine.recovery import combining

PAGE = 512
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 11), st.integers(1, 255)),
        st.tuples(st.just("cut"), st.integers(0, 11), st.just(0)),
        st.tuples(st.just("grow"), st.integers(0, 11), st.just(0)),
    ),
    max_size=8,
)


def increment(file: list[int], changes: list[tuple[str, int, int]]) -> tuple[list[int], int, list[int]]:
    """Return what a file becomes by changes, and what the server would put into its increment: the length that it never
    fell below, and the blocks that WAL speaks of. Growing without writing leaves zeros that no WAL speaks of."""
    now, uncut, written = list(file), len(file), set()
    for what, number, value in changes:
        if what == "cut" and number < len(now):
            del now[number:]
            uncut = min(uncut, number)
            written = {block for block in written if block < number}
        elif what == "grow" and number > len(now):
            now += [0] * (number - len(now))
        elif what == "write":
            now += [0] * (number + 1 - len(now))
            now[number] = value
            written.add(number)
    cut = any(what == "cut" for what, _, _ in changes) and uncut < len(file)
    return now, min(len(now), uncut) if cut else len(now), sorted(written)


def stored(uncut: int, numbers: list[int], file: list[int]) -> bytes:
    head = HEAD.pack(0xD3AE1F0D, len(numbers), uncut) + struct.pack(f"<{len(numbers)}I", *numbers)
    if numbers:
        head += bytes(-len(head) % PAGE)
    return head + b"".join(bytes([file[number]]) * PAGE for number in numbers)


@given(st.lists(st.integers(1, 255), max_size=10), st.lists(CHANGES, min_size=1, max_size=4))
def test_a_chain_makes_the_file_of_its_last_backup(
    tmp_path_factory: pytest.TempPathFactory, first: list[int], rounds: list[list[tuple[str, int, int]]]
) -> None:
    place = tmp_path_factory.mktemp("chain")
    layers = [place / "whole"]
    layers[0].write_bytes(b"".join(bytes([block]) * PAGE for block in first))
    now = first
    for number, changes in enumerate(rounds):
        now, uncut, written = increment(now, changes)
        layers.insert(0, place / f"increment-{number}")
        layers[0].write_bytes(stored(uncut, written, now))
    made = b"".join(bytes(piece) for piece in combining.combined([str(path) for path in layers], PAGE))
    known = blocks(*_read(layers[0]))
    expected = b"".join(bytes([block]) * PAGE for block in now)[: known * PAGE]
    assert made == expected
    assert combining.size(str(layers[0]), PAGE, 100) == len(made)


def _read(path: Path) -> tuple[Head, list[int]]:
    data = path.read_bytes()
    head = read_head(data[: HEAD.size], len(data), PAGE)
    return head, list(read_numbers(data[HEAD.size :], head))


def test_neighbours_are_read_at_once() -> None:
    [run] = runs([(Head(0, 1000), [])], 1000, PAGE)
    assert (run.layer, run.at, run.blocks) == (1, 0, 1000)


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\x0d\x1f\xae\xd3",
        HEAD.pack(0xD3AE1F0E, 0, 1),
        HEAD.pack(0xD3AE1F0D, 1, 1),
        HEAD.pack(0xD3AE1F0D, 0, 1) + b"x",
        HEAD.pack(0xD3AE1F0D, 0, 0xFFFFFFFF),
    ],
    ids=["empty", "cut", "another magic", "blocks that are not there", "more than it says", "longer than any file"],
)
def test_a_damaged_increment_is_named(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "INCREMENTAL.1"
    path.write_bytes(damaged)
    with pytest.raises(IncrementError, match=r"INCREMENTAL\.1 is damaged"):
        combining.size(str(path), PAGE, 100)
