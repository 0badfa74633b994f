"""WAL file names and segment numbers, for any segment size.

A segment's name is three groups of eight upper-case hexadecimal digits: timeline, log, segment within the log;
a log is 4 GiB. Source: PostgreSQL's XLogFileName and XLogFromFileName (src/include/access/xlog_internal.h).
Light: imports nothing, so that the WAL client can use it.
"""

from __future__ import annotations

MIN_SEGMENT_SIZE = 1 << 20
MAX_SEGMENT_SIZE = 1 << 30

SEGMENT = "segment"
PARTIAL = "partial"
BACKUP_HISTORY = "backup_history"
HISTORY = "history"
FOREIGN = "foreign"

_HEX = frozenset("0123456789ABCDEF")


def kind_of(name: str) -> str:
    """Return which kind of WAL archive file a name is: SEGMENT, PARTIAL, BACKUP_HISTORY, HISTORY or FOREIGN.

    >>> [kind_of(n) for n in ("000000010000000000000005", "000000010000000000000005.partial", "00000002.history")]
    ['segment', 'partial', 'history']
    >>> kind_of("000000010000000000000005.00000028.backup"), kind_of("00000001000000000000000a")
    ('backup_history', 'foreign')
    """
    stem, _, rest = name.partition(".")
    if not _HEX.issuperset(stem):
        return FOREIGN
    if len(stem) == 24:
        if not rest:
            return SEGMENT if "." not in name else FOREIGN
        if rest == "partial":
            return PARTIAL
        if len(rest) == 15 and rest.endswith(".backup") and _HEX.issuperset(rest[:8]):
            return BACKUP_HISTORY
    if len(stem) == 8 and rest == "history":
        return HISTORY
    return FOREIGN


def valid_segment_size(size: int) -> bool:
    """Tell whether PostgreSQL can be initialised with this segment size: a power of 2 from 1 MiB to 1 GiB."""
    return MIN_SEGMENT_SIZE <= size <= MAX_SEGMENT_SIZE and size & (size - 1) == 0


def segment_name(timeline: int, number: int, size: int) -> str:
    """Return the file name of segment `number` of `timeline`.

    >>> segment_name(1, 255, 16 << 20), segment_name(1, 256, 16 << 20)
    ('0000000100000000000000FF', '000000010000000100000000')
    """
    per_log = 0x1_0000_0000 // size
    return f"{timeline:08X}{number // per_log:08X}{number % per_log:08X}"


def parse_segment(name: str, size: int) -> tuple[int, int]:
    """Return (timeline, segment number) of a segment's name, or of a .partial's or .backup's.

    Raises ValueError when the name is none of these, or cannot exist with this segment size.

    >>> parse_segment("00000001000000010000003F", 64 << 20)
    (1, 127)
    """
    if kind_of(name) not in (SEGMENT, PARTIAL, BACKUP_HISTORY):
        raise ValueError(f"not a WAL segment's name: {name!r}")
    per_log = 0x1_0000_0000 // size
    within = int(name[16:24], 16)
    if within >= per_log:
        raise ValueError(f"{name} cannot exist with segments of {size} bytes: the segment size is another one")
    return int(name[:8], 16), int(name[8:16], 16) * per_log + within


def segment_of(lsn: int, size: int) -> int:
    """Return the number of the segment that holds the byte at `lsn`."""
    return lsn // size


def segment_before(lsn: int, size: int) -> int:
    """Return the number of the segment that holds the last byte before `lsn` (an end is exclusive).

    >>> segment_before(0x6000000, 16 << 20), segment_before(0x6000001, 16 << 20)
    (5, 6)
    """
    return (lsn - 1) // size


def segment_start(number: int, size: int) -> int:
    """Return the LSN of a segment's first byte."""
    return number * size
