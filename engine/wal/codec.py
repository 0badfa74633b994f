"""Compression of archived WAL: told by content, written one file at a time, read back strictly and bounded.

Names are Barman's, as in the fourth column of xlog.db. Every codec that is written here carries a checksum of the
plain content, so a flipped bit in the archive is an error at reading and never reaches PostgreSQL. Light: the WAL
client loads this; each compressor is imported when it is first used.
"""

from __future__ import annotations

import errno
import os
import sys

from engine.errors import CellarmanError
from engine.repository.files import at_once, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from mmap import mmap
    from typing import Any, Protocol

    class Compressor(Protocol):
        """Takes plain bytes and gives compressed ones, as zlib's compressobj does."""

        def compress(self, data: bytes | memoryview, /) -> bytes: ...

        def flush(self) -> bytes: ...


CHUNK = 1 << 20
"""Bytes read at once: large enough for the codecs, small enough to stay in the processor's cache."""
_PIECE = 1 << 18
_FED = 1 << 16
"""Compressed bytes that a decompressor is given at once where its output is not wanted in one piece."""
_RUN = 1
"""The type of a zstd block that is one byte repeated."""
LARGEST_PLAIN = 1 << 30
"""PostgreSQL's largest segment; nothing in a WAL archive is bigger."""
SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".snappy", ".lzma", ".zstd")
"""Of names that other tools give to compressed segments."""
LARGE = 64 << 20
"""Bytes from which on content is mapped, where that may be, instead of held in memory."""
SMALL_FILE = 1 << 20
"""Bound for history and backup label files, which are a few hundred bytes."""
WRITABLE = ("none", "gzip", "lz4", "zstd")

_HEAD = 8192
"""Bytes of a file's beginning that its name and owner can be told by."""
_MAGICS = (
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x1f\x8b\x08", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\xff\x06\x00\x00sNaPpY", "snappy"),
    (b"-----BEGIN PGP MESSAGE", "pgp"),
)
_DEFAULT_ZSTD_LEVEL = 1
"""On WAL, level 1 is the densest of the fast ones: level 3 takes nearly twice as long and saves next to nothing."""
_WAL_ZSTD = {"window_log": 18, "hash_log": 13, "min_match": 6}
"""With these it stays in the processor's caches: a twelfth faster, a hundredth larger."""


class Unreadable(CellarmanError):
    """Bytes that cannot be decompressed: damaged, too large, or made by a program that we lack."""


def sniff(first: bytes) -> str:
    """Return the codec that a file's first 16 bytes or more show; "none" for plain content.

    >>> sniff(bytes.fromhex("28b52ffd") + bytes(12)), sniff(bytes.fromhex("18d10700") + bytes(12))
    ('zstd', 'none')
    """
    for magic, name in _MAGICS:
        if first.startswith(magic):
            return name
    return "pgp" if _openpgp(first) else "none"


def checks_itself(first: bytes) -> bool:
    """Tell whether a file that begins so carries a checksum of its plain content, which reading it compares.

    >>> checks_itself(compress(b"x", "zstd")), checks_itself(bytes.fromhex("18d10700") + bytes(12))
    (True, False)
    """
    codec = sniff(first[:32])
    if codec in ("zstd", "lz4"):
        return len(first) > 4 and bool(first[4] & 0x04)  # RFC 8878 3.1.1.1.1, and the frame format of LZ4
    if codec == "xz":
        return len(first) > 7 and bool(first[7] & 0x0F)
    return codec in ("gzip", "bzip2")


def _openpgp(first: bytes) -> bool:
    """Tell whether a session key packet of RFC 4880 begins here, as in every file that gpg encrypts."""
    if len(first) < 4:
        return False
    if first[0] in (0x84, 0x8C, 0xC1, 0xC3):
        return first[2] in (3, 4)
    return first[0] == 0x85 and first[3] == 3


def compressor(codec: str, level: int | None, size: int, threads: int = 0) -> Compressor | None:
    """Return a new compressor for exactly `size` plain bytes, None for codec "none".

    `threads` above 0 lets zstd work on that many cores. Raises CellarmanError for a codec that is not written here.
    """
    if codec == "none":
        return None
    if codec == "zstd":
        zstd = _zstd()
        number, finer = (_DEFAULT_ZSTD_LEVEL, _WAL_ZSTD) if level is None else (level, {})
        parameters = zstd.ZstdCompressionParameters.from_level(
            number, **finer, threads=threads, write_checksum=True, write_content_size=True
        )
        made: Compressor = zstd.ZstdCompressor(compression_params=parameters).compressobj(size=size)
        return made
    if codec == "gzip":
        import zlib

        return zlib.compressobj(-1 if level is None else level, zlib.DEFLATED, 31)
    if codec == "lz4":
        return _Lz4(level, size)
    raise CellarmanError(
        f"cannot compress WAL with {codec}",
        "it is not one of " + ", ".join(WRITABLE),
        'set compression = "zstd" for this server',
    )


def compress(data: bytes, codec: str, level: int | None = None) -> bytes:
    """Return `data` compressed as one frame with a checksum of its content."""
    made = compressor(codec, level, len(data))
    return data if made is None else made.compress(data) + made.flush()


def copy(source: int, sink: int, codec: str, level: int | None, size: int, threads: int = 0) -> tuple[int, int]:
    """Write the rest of file descriptor `source` to `sink`, compressed; return (bytes read, bytes written).

    `size` is how many bytes there are. Raises CellarmanError when the source turns out longer or shorter.
    """
    made = compressor(codec, level, size, threads)
    buffer = memoryview(bytearray(min(CHUNK, max(size, 1))))
    read = written = 0
    while count := os.readv(source, [buffer]):
        read += count
        if read > size:
            break
        piece = buffer[:count]
        written += write_all(sink, piece if made is None else made.compress(piece))
    if read != size:
        raise CellarmanError("a WAL file changed while it was read", f"it had {size} bytes, then {read} or more")
    return read, written + (write_all(sink, made.flush()) if made is not None else 0)


def decompress(data: bytes, limit: int = LARGEST_PLAIN) -> bytes:
    """Return the plain content of `data`, whatever it is compressed with.

    Raises Unreadable when it is damaged, cut short, longer than `limit` plain bytes, or of a codec that we cannot read.
    """
    codec = sniff(data[:32])
    if codec == "none":
        plain = data
    elif codec == "zstd":
        plain = _unzstd(data, limit)
    else:
        plain = _inflate(codec, data, limit)
    if len(plain) > limit:
        raise _too_large(limit)
    return plain


def read_stored(path: str, limit: int = LARGEST_PLAIN) -> bytes:
    """Return a WAL file's bytes as they are stored, at most one more than `limit`; raises OSError."""
    with open(path, "rb", buffering=0, opener=at_once) as file:
        # Room for what there is, and no more: the pages of a far larger piece of memory cost more than the reading.
        return file.read(min(os.fstat(file.fileno()).st_size, limit) + 1)


def map_stored(path: str, limit: int = LARGEST_PLAIN) -> bytes | mmap:
    """Return what `read_stored` does, a large file mapped: who cuts it meanwhile ends this process by SIGBUS."""
    with open(path, "rb", buffering=0, opener=at_once) as file:
        size = min(os.fstat(file.fileno()).st_size, limit + 1)
        return file.read(size + 1) if size <= LARGE else map_file(file.fileno(), size)


def map_segment(path: str, directory: str, limit: int = LARGEST_PLAIN) -> bytes | mmap | None:
    """Return what `read_segment` does, mapped; where it is compressed, as `map_nameless` does in `directory`."""
    stored = map_stored(path, limit)
    if sniff(stored[:32]) == "none":
        return stored
    return map_nameless(directory, lambda sink: pour(stored, sink, limit)[1])


def map_nameless(directory: str, fill: Callable[[int], int]) -> bytes | mmap | None:
    """Return what `fill` writes to a file without a name in `directory`, mapped; None when there is no room for it.

    `fill` takes the file's descriptor, and returns how many bytes it wrote; what it raises for any other reason than
    a want of room is raised.
    """
    try:
        sink = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        size = fill(sink)
        return map_file(sink, size) if size else b""
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return None
        raise
    finally:
        os.close(sink)


def stored_apart(descriptor: int, size: int, room: str) -> bytes | mmap:
    """Return an open file's first `size` bytes; what is large is copied to a file without a name in the directory
    `room`, and mapped: mapping the file itself, a disk that cannot be read would end this process."""
    copied = map_nameless(room, lambda sink: _copy(descriptor, sink, size)) if size > LARGE else None
    return os.pread(descriptor, size, 0) if copied is None else copied


def plain_apart(stored: bytes | mmap, limit: int, room: str) -> bytes:
    """Return the plain content, of at most `limit` bytes, mapped as `stored_apart` does where that is large; raises as
    `decompress` does."""
    if sniff(stored[:32]) == "none" and len(stored) <= limit:
        return stored  # type: ignore[return-value]
    mapped = map_nameless(room, lambda sink: pour(stored, sink, limit)[1]) if limit > LARGE else None
    return decompress(bytes(stored), limit) if mapped is None else mapped  # type: ignore[return-value]


def _copy(source: int, sink: int, most: int) -> int:
    """Copy a file's first bytes; return how many."""
    at = 0
    while at < most and (piece := os.pread(source, min(CHUNK, most - at), at)):
        at += write_all(sink, piece)
    return at


def map_file(descriptor: int, size: int) -> mmap:
    """Return the first `size` bytes of an open file, which the kernel may take out of memory again."""
    from mmap import ACCESS_READ, mmap

    return mmap(descriptor, size, access=ACCESS_READ)


def read_segment(path: str, limit: int = LARGEST_PLAIN) -> bytes:
    """Return the plain content of a WAL file; raises Unreadable as `decompress` does, and OSError."""
    data = read_stored(path, limit)
    try:
        return decompress(data, limit)
    except Unreadable as error:
        raise Unreadable(f"{path} cannot be read", error.why or error.what, error.fix) from None


def pour(data: bytes | mmap, sink: int, limit: int = LARGEST_PLAIN) -> tuple[bytes, int]:
    """Write the plain content of `data` to file descriptor `sink`; return its first 8192 bytes, and its size.

    In pieces that stay in the processor's cache this takes a third of the time that a segment as a whole does.
    Raises as `decompress` does, after having written what came before the damage, and OSError.
    """
    head = b""
    size = 0
    for piece in _pieces(data, limit):
        if len(head) < _HEAD:
            head += piece[: _HEAD - len(head)]
        size += write_all(sink, piece)
    return head, size


def _pieces(data: bytes | mmap, limit: int) -> Iterator[bytes | memoryview]:
    name = sniff(data[:32])
    if name == "zstd":
        yield from _unzstd_pieces(data, limit)
        return
    if name != "none":
        yield from _inflated(name, data, limit, _FED, CHUNK)
        return
    if len(data) > limit:
        raise _too_large(limit)
    plain = memoryview(data)
    for start in range(0, len(plain), CHUNK):
        yield plain[start : start + CHUNK]


def read_head(path: str, count: int = 8192) -> bytes:
    """Return the first `count` plain bytes of a WAL file, or fewer if it is shorter, reading only its beginning."""
    with open(path, "rb", buffering=0, opener=at_once) as file:
        first = file.read(max(count, 32))
        codec = sniff(first)
        if codec == "none":
            return first[:count]
        opened = _opener(codec)
        try:
            head = opened(first)
            while len(head) < count and (more := file.read(65536)):
                head += opened(more)
        except _damages() as error:
            raise Unreadable(f"{path} cannot be read", f"{codec}: {error}") from None
    return head[:count]


def _inflate(codec: str, data: bytes, limit: int) -> bytes:
    pieces = list(_inflated(codec, data, limit, len(data), limit + 1))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _inflated(codec: str, data: bytes | mmap, limit: int, fed: int, most: int) -> Iterator[bytes]:
    """Decompress frame after frame, as `cat a.gz b.gz` makes them, to the end of the data: `fed` bytes at a time, in
    pieces of at most `most`."""
    at = length = 0
    while at < len(data):
        machine = _machine(codec)
        rest = b""
        while not machine.eof:
            if not rest and getattr(machine, "needs_input", True):
                rest = data[at : at + fed]
                at += len(rest)
                if not rest:
                    raise Unreadable("compressed WAL is damaged", f"{codec}: it ends too early")
            try:
                piece = machine.decompress(rest, min(most, limit + 1 - length))
            except _damages() as error:
                raise Unreadable("compressed WAL is damaged", f"{codec}: {error}") from None
            rest = getattr(machine, "unconsumed_tail", b"")
            length += len(piece)
            if length > limit:
                raise _too_large(limit)
            if piece:
                yield piece
        at -= len(machine.unused_data or b"")


def _unzstd(data: bytes, limit: int) -> bytes:
    zstd = _zstd()
    try:
        known = zstd.frame_content_size(data)
        if known > limit:
            raise _too_large(limit)
        if known >= 0 and len(data) == _frame_size(data):
            plain: bytes = zstd.ZstdDecompressor().decompress(data, max_output_size=limit)
            return plain
    except (zstd.ZstdError, IndexError) as error:
        raise Unreadable("compressed WAL is damaged", f"zstd: {error}") from None
    return b"".join(map(bytes, _unzstd_pieces(data, limit)))


def _unzstd_pieces(data: bytes | mmap, limit: int) -> Iterator[memoryview]:
    """Decompress a frame, whether it states its size or not, in pieces of one buffer so that `limit` holds."""
    zstd = _zstd()
    length = 0
    buffer = memoryview(bytearray(_PIECE))
    try:
        if len(data) < _frame_size(data):
            raise Unreadable("compressed WAL is damaged", "zstd: it ends too early")
        with zstd.ZstdDecompressor().stream_reader(data) as reader:
            while count := reader.readinto(buffer):
                length += count
                if length > limit:
                    raise _too_large(limit)
                yield buffer[:count]
    except (zstd.ZstdError, IndexError) as error:
        raise Unreadable("compressed WAL is damaged", f"zstd: {error}") from None


def _frame_size(data: bytes | mmap) -> int:
    """Return the bytes that a zstd frame takes, by the headers of its blocks (RFC 8878, 3.1.1).

    The decompressor takes a frame for whole whose checksum is cut off. Raises IndexError where a header is cut.
    """
    flags = data[4]
    single, size_flag, dictionary = flags >> 5 & 1, flags >> 6, flags & 3
    at = 5 + (not single) + (0, 1, 2, 4)[dictionary] + ((1 if single else 0), 2, 4, 8)[size_flag]
    last = False
    while not last:
        block = data[at] | data[at + 1] << 8 | data[at + 2] << 16
        last = bool(block & 1)
        at += 3 + (1 if block >> 1 & 3 == _RUN else block >> 3)
    return at + (4 if flags >> 2 & 1 else 0)


def _too_large(limit: int) -> Unreadable:
    return Unreadable("compressed WAL is too large", f"it holds more than {limit} bytes")


def _machine(codec: str) -> Any:
    """Return a decompressor with `decompress(data, max_length)`, `eof` and `unused_data`."""
    if codec == "gzip":
        import zlib

        return zlib.decompressobj(31)
    if codec == "bzip2":
        import bz2

        return bz2.BZ2Decompressor()
    if codec == "xz":
        import lzma

        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=1 << 28)
    if codec == "lz4":
        import lz4.frame

        return lz4.frame.LZ4FrameDecompressor()
    raise Unreadable(
        f"WAL compressed with {codec} cannot be read",
        "it is encrypted with gpg" if codec == "pgp" else f"no {codec} decompressor is part of Cellarman",
        "read it with Barman: barman get-wal SERVER NAME",
    )


def _opener(codec: str) -> Callable[[bytes], bytes]:
    """Return a function that turns the next compressed bytes into plain ones, for reading a file's beginning."""
    if codec == "zstd":
        stream = _zstd().ZstdDecompressor().decompressobj()
        return lambda data: b"" if stream.eof else stream.decompress(data)
    machine = _machine(codec)
    return lambda data: b"" if machine.eof else machine.decompress(data)


def _damages() -> tuple[type[BaseException], ...]:
    """Return what the imported decompressors raise for damaged data."""
    found: list[type[BaseException]] = [OSError, EOFError, ValueError, RuntimeError]
    for module, name in (("zlib", "error"), ("lzma", "LZMAError"), (_ZSTD_EXTENSION, "ZstdError")):
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)


class _Lz4:
    """lz4's frame compressor, begun with its content's size at the first bytes."""

    def __init__(self, level: int | None, size: int) -> None:
        import lz4.frame

        self._frame = lz4.frame.LZ4FrameCompressor(compression_level=level or 0, content_checksum=True)
        self._size = size
        self._begun = False

    def compress(self, data: bytes | memoryview, /) -> bytes:
        start: bytes = b"" if self._begun else self._frame.begin(self._size)
        self._begun = True
        body: bytes = self._frame.compress(data)
        return start + body

    def flush(self) -> bytes:
        start: bytes = b"" if self._begun else self._frame.begin(self._size)
        end: bytes = self._frame.flush()
        return start + end


_ZSTD_EXTENSION = "zstandard.backend_c"


def _zstd() -> Any:
    """Return the zstandard library's compiled part.

    The package's `__init__` imports typing, platform and re, 10 ms that archive_command would pay for every segment;
    the extension by itself takes one. Without a compiled part the package decides.
    """
    loaded = sys.modules.get(_ZSTD_EXTENSION) or sys.modules.get("zstandard")
    if loaded is not None:
        return loaded
    from importlib.machinery import ExtensionFileLoader, ModuleSpec, PathFinder

    package = PathFinder.find_spec("zstandard")
    places = package.submodule_search_locations if package is not None else None
    found = PathFinder.find_spec("backend_c", places) if places else None
    if found is not None and found.origin is not None:
        loader = ExtensionFileLoader(_ZSTD_EXTENSION, found.origin)
        module = loader.create_module(ModuleSpec(_ZSTD_EXTENSION, loader, origin=found.origin))
        loader.exec_module(module)
        sys.modules.setdefault(_ZSTD_EXTENSION, module)
        return module
    import zstandard

    return zstandard
