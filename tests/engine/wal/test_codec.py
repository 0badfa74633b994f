"""Compression by content: read back exactly or refused, whatever wrote it, bounded, and without heavy imports."""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
import sys
import tracemalloc
from pathlib import Path

import lz4.frame
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import CellarmanError
from engine.wal import codec

PLAIN = b"a WAL segment is mostly like itself, " * 60_000
OTHERS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lz4": lz4.frame.compress,
    "zstd": zstandard.ZstdCompressor(write_content_size=False).compress,
}


@pytest.mark.parametrize("name", codec.WRITABLE)
@given(data=st.binary(max_size=3000))
@settings(max_examples=25, deadline=None)
def test_what_is_written_is_read_back(name: str, data: bytes) -> None:
    packed = codec.compress(data, name)
    if name != "none":
        assert codec.sniff(packed) == name
        assert codec.decompress(packed) == data


@pytest.mark.parametrize("name", OTHERS)
def test_what_other_programs_write_is_read(name: str, tmp_path: Path) -> None:
    packed = OTHERS[name](PLAIN)
    assert codec.sniff(packed) == name
    assert codec.decompress(packed, len(PLAIN)) == PLAIN
    path = tmp_path / "file"
    path.write_bytes(packed)
    assert codec.read_segment(str(path), len(PLAIN)) == PLAIN
    assert codec.read_head(str(path), 5000) == PLAIN[:5000]


@pytest.mark.parametrize("name", ["gzip", "lz4", "zstd"])
def test_every_cut_and_every_flipped_bit_is_noticed(name: str) -> None:
    packed = codec.compress(PLAIN, name)
    for cut in range(1, len(packed), max(1, len(packed) // 40)):
        with pytest.raises(codec.Unreadable):
            codec.decompress(packed[:-cut] if packed[:-cut][:4] == packed[:4] else packed[:4])
    for at in range(0, len(packed), max(1, len(packed) // 40)):
        damaged = bytearray(packed)
        damaged[at] ^= 0x10
        try:
            assert codec.sniff(bytes(damaged)) == "none" or codec.decompress(bytes(damaged)) == PLAIN
        except codec.Unreadable:
            continue


@pytest.mark.parametrize("tail", [b"\0", b"garbage", bytes(8192)])
@pytest.mark.parametrize("name", ["gzip", "lz4", "zstd"])
def test_what_was_appended_is_noticed_in_either_way_of_reading(name: str, tail: bytes, tmp_path: Path) -> None:
    packed = codec.compress(PLAIN, name) + tail
    with pytest.raises(codec.Unreadable):
        codec.decompress(packed)
    with open(tmp_path / "plain", "wb") as file, pytest.raises(codec.Unreadable):
        codec.pour(packed, file.fileno())


@pytest.mark.parametrize("name", OTHERS)
def test_the_plain_size_is_bounded(name: str) -> None:
    with pytest.raises(codec.Unreadable, match="more than 1000 bytes"):
        codec.decompress(OTHERS[name](PLAIN), 1000)


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz", "lz4"])
def test_a_large_segment_is_never_held_whole_while_it_is_delivered(name: str, tmp_path: Path) -> None:
    size = 48 << 20
    packed = OTHERS[name](PLAIN + bytes(size)) + OTHERS[name](PLAIN)
    with open(tmp_path / "plain", "wb") as file:
        tracemalloc.start()
        head, written = codec.pour(packed, file.fileno())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 16 << 20 and head == (PLAIN + bytes(8192))[:8192]
    assert (tmp_path / "plain").read_bytes() == PLAIN + bytes(size) + PLAIN and written == size + 2 * len(PLAIN)
    with open(tmp_path / "cut", "wb") as file, pytest.raises(codec.Unreadable, match="damaged"):
        codec.pour(packed[:-3], file.fileno())


def test_concatenated_gzip_members_are_one_file() -> None:
    assert codec.decompress(gzip.compress(b"one") + gzip.compress(b"two")) == b"onetwo"


@pytest.mark.parametrize(
    ("first", "name"),
    [
        (b"\xff\x06\x00\x00sNaPpY" + bytes(20), "snappy"),
        (b"\x85\x02\x0c\x03" + bytes(20), "pgp"),
        (b"-----BEGIN PGP MESSAGE-----\n", "pgp"),
    ],
)
def test_what_cannot_be_read_says_so_and_what_to_do(first: bytes, name: str) -> None:
    assert codec.sniff(first) == name
    with pytest.raises(codec.Unreadable) as caught:
        codec.decompress(first)
    assert name in str(caught.value)
    assert "barman get-wal" in caught.value.fix


@pytest.mark.parametrize("magic", ["93d0", "10d1", "16d1", "18d1", "21d1"])
def test_a_plain_segment_of_any_version_is_plain(magic: str) -> None:
    assert codec.sniff(bytes.fromhex(magic) + b"\x07\x00" + bytes(28)) == "none"


def test_an_unknown_codec_is_refused_by_name() -> None:
    with pytest.raises(CellarmanError, match="bzip2"):
        codec.compress(b"x", "bzip2")


def test_zstd_frames_carry_size_and_checksum() -> None:
    facts = zstandard.get_frame_parameters(codec.compress(PLAIN, "zstd"))
    assert facts.content_size == len(PLAIN)
    assert facts.has_checksum


def test_zstd_is_loaded_without_its_package() -> None:
    program = (
        "import sys; from engine.wal import codec; codec.compress(b'x', 'zstd');"
        "print([m for m in ('typing', 're', 'platform', 'zstandard') if m in sys.modules]);"
        "import zstandard; assert zstandard.decompress(codec.compress(b'x', 'zstd')) == b'x'"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
