"""Where receiving goes on when the server has left the WAL that was received, as after its restore to a moment before.

pg_receivewal continues behind the newest file of streaming/ (FindStreamingStart in pg_receivewal.c), and the server
refuses a start that its timeline's history does not have (StartReplication in walsender.c): that would go on for ever.
So what lies beyond the fork goes to the archive, and an empty .partial makes pg_receivewal begin in the segment of the
fork, which the new timeline has from its first byte.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from engine.commands import cellarman
from engine.config import Server
from engine.errors import CellarmanError
from engine.event import Reporter
from engine.postgres import connection, segment
from engine.postgres.lsn import Lsn
from engine.postgres.timeline import Switch, parse_history
from engine.repository import identity
from engine.repository.files import remove, sync_directory
from engine.wal import archive, refusal

_UNDEFINED_FILE = "58P01"
Received = tuple[int, int, str]
"""A file of streaming/: segment number, timeline, name."""


def fork_behind(newest: Received, size: int, current: int, switches: Sequence[Switch]) -> Lsn | None:
    """Return where the history of timeline `current` left that of the newest file, when that is before the file's WAL;
    None when the server can go on from there, or nothing is known of the file's timeline.

    >>> history = parse_history(2, "1\\t0/9000288\\tbefore 2026-11-23 04:49:02")
    >>> fork_behind((11, 1, "00000001000000000000000B.partial"), 16 << 20, 2, history)
    Lsn('0/9000288')
    >>> fork_behind((9, 1, "000000010000000000000009.partial"), 16 << 20, 2, history) is None
    True
    """
    number, timeline, name = newest
    if timeline == current:
        return None
    starts = (number + (segment.kind_of(name) == segment.SEGMENT)) * size
    return next((s.lsn for s in switches if s.timeline == timeline and s.lsn < starts), None)


def step_back(server: Server, report: Reporter) -> None:
    """Set aside what of streaming/ is not the server's own past, so that pg_receivewal begins at the fork.

    The caller is the only receiver. Raises CellarmanError when the server or the archive cannot be asked.
    """
    layout = server.layout
    size = _segment_size(layout.streaming)
    found = _received(os.listdir(layout.streaming), size) if size else []
    if not found:
        return
    asked = server.streaming_conninfo or server.conninfo
    now = connection.identify_system(asked, timeout=server.check_timeout)
    if now.timeline == found[-1][1] or now.system_id != identity.system_id(layout):
        return
    text = connection.timeline_histories(asked, [now.timeline], timeout=server.check_timeout).get(now.timeline, "")
    fork = fork_behind(found[-1], size, now.timeline, parse_history(now.timeline, text)) if text else None
    if fork is None:
        return
    left = found[-1][1]
    report.note(f"the server left timeline {left} at {fork} for {now.timeline}: receiving begins there anew", "warn")
    for number, timeline, name in found:
        if timeline == left and number >= fork // size:
            _set_aside(server, name, report)
    first = os.path.join(layout.streaming, segment.segment_name(left, fork // size, size) + ".partial")
    os.close(os.open(first, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    sync_directory(layout.streaming)


def give_up_the_fork(server: Server, report: Reporter) -> bool:
    """Take away the empty file that makes receiving begin at the fork, when the server has no WAL from there any more;
    tell whether that was so. Receiving then begins where the server is."""
    streaming = server.layout.streaming
    partials = [name for name in os.listdir(streaming) if segment.kind_of(name) == segment.PARTIAL]
    if len(partials) != 1 or os.path.getsize(os.path.join(streaming, partials[0])):
        return False
    if not _is_gone(server, partials[0]):
        return False
    remove(os.path.join(streaming, partials[0]))
    sync_directory(streaming)
    take = cellarman("backup", server.name).line(server.named)
    report.note(
        f"the server has no WAL from {partials[0].removesuffix('.partial')} on any more: receiving begins where it is, "
        f"and what lies between is missing; now: {take}",
        "error",
    )
    return True


def _is_gone(server: Server, partial: str) -> bool:
    """Tell whether the server has removed the WAL that a file would begin with. It is asked for it, as its words for
    that are of its own language; their code is not."""
    asked = server.streaming_conninfo or server.conninfo
    size = _server_segment_size(server)
    if not size:
        return False
    timeline, number = segment.parse_segment(partial, size)
    try:
        connection.stream_wal(asked, timeline, Lsn(number * size), 1, timeout=server.check_timeout)
    except connection.QueryFailed as error:
        return error.sqlstate == _UNDEFINED_FILE
    except CellarmanError:
        return False
    return False


def _server_segment_size(server: Server) -> int:
    """Return the segment size that the server says, 0 when it cannot be asked."""
    try:
        with (
            connection.connect(server.conninfo, timeout=server.check_timeout) as connected,
            connected.cursor() as cursor,
        ):
            cursor.execute("SELECT pg_size_bytes(current_setting('wal_segment_size'))")
            return int((cursor.fetchone() or (0,))[0])
    except CellarmanError:
        return 0


def _set_aside(server: Server, name: str, report: Reporter) -> None:
    """Move a file from streaming/ into the archive, or with its reason into errors/ when it is none for there."""
    path = os.path.join(server.layout.streaming, name)
    try:
        archive.store(
            server.layout, path, name, compression=server.compression, level=server.compression_level,
            wait=server.lock_timeout,
        )  # fmt: skip
    except refusal.WalRefused as refused:
        kept = refusal.keep(server.layout, path, name, refused)
        report.note(f"{name} of the timeline that was left is kept: {kept}", "warn")
        return
    remove(path)


def _received(names: Iterable[str], size: int) -> list[Received]:
    """Return the segments and partial ones, the one that pg_receivewal goes on from last."""
    kinds = {name: segment.kind_of(name) for name in names}
    found = [
        (number, timeline, name)
        for name, kind in kinds.items()
        if kind in (segment.SEGMENT, segment.PARTIAL)
        for timeline, number in [segment.parse_segment(name.removesuffix(".partial"), size)]
    ]
    return sorted(found, key=lambda file: (file[0], file[1], kinds[file[2]] == segment.SEGMENT))


def _segment_size(directory: str) -> int:
    """Return how large the received segments are: pg_receivewal pads them at once; 0 when there is none."""
    sizes = [os.path.getsize(os.path.join(directory, name)) for name in os.listdir(directory)
             if segment.kind_of(name) in (segment.SEGMENT, segment.PARTIAL)]  # fmt: skip
    largest = max(sizes, default=0)
    return largest if largest >= 1 << 20 and largest & (largest - 1) == 0 else 0
