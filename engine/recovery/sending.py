"""The files of a plain backup on their way to another host: the small ones by one rsync, the big ones by several.

A link that is lost is tried again; rsync goes on where it was.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial

from engine.config import Server
from engine.event import Lane, Reporter
from engine.host import rsync
from engine.host.local import ThisHost
from engine.host.machine import Machine
from engine.host.problems import HostError
from engine.host.rsync import Tick, Transfer
from engine.host.together import Together, meanwhile
from engine.recovery import source, staging
from engine.recovery.copying import Item
from engine.recovery.link import Link
from engine.recovery.place import MARKER
from engine.recovery.plan import Plan
from engine.repository import repository

LAST = source.CONTROL + ".cellarman"
"""pg_control under the name that no server looks for, until the rest is on disk."""
_BIG = 16 << 20
"""Bytes above which a file is sent beside others: of smaller ones a connection has many under way by itself."""
_EARLY = 1.0
"""Seconds between two orders to put on disk what has come."""


def transfers(server: Server, plan: Plan, content: source.Source) -> list[Transfer]:
    """Return the rsync runs that would make the directories what the backup holds, one after the other."""
    assert plan.info is not None and plan.endpoint is not None
    odd = [f"/{_literal(path)}" for path in content.odd]
    out = [f"/{name}" for name in (*sorted(source.LEFT_OUT), LAST, MARKER, staging.INSIDE)]
    out += [f"/pg_tblspc/{space.oid}" for space in plan.placed]
    base = Transfer(
        repository.data_directory(server.layout, plan.info.id),
        plan.order.destination,
        plan.endpoint,
        "destination",
        exclude=(*out, *odd),
        checksum=plan.order.checksum,
        delete=plan.delta or plan.leftover is not None,
        bandwidth_limit=server.restore_bandwidth_limit,
    )
    spaces = [
        replace(base, source=server.layout.tablespace(plan.info.id, space.oid), destination=space.directory, exclude=())
        for space in plan.placed
    ]
    return [base, *spaces]


def send(server: Server, plan: Plan, content: source.Source, far: Machine, report: Reporter) -> None:
    """Do the transfers; raises what the first one that failed for good raised, when all others have stopped."""
    compress = _compressor(server, far, report)
    whole = [replace(transfer, compress=compress) for transfer in transfers(server, plan, content)]
    big = [item for item in content.items if item.size > _BIG]
    work = _Sending(report, content.bytes)
    with _written_early(far, [transfer.destination for transfer in whole]):
        work.run([_Stream([replace(transfer, largest=_BIG) for transfer in whole])])
        shares = _shares(big, server.parallel_jobs)
        work.run([_Stream(list(_listed(whole, share)), sum(item.size for item in share)) for share in shares])


def _compressor(server: Server, far: Machine, report: Reporter) -> str:
    """Return what the transfers are compressed with, "" for nothing: a restore is not refused for want of it."""
    try:
        found = rsync.compressor(server.network_compression, rsync.version(ThisHost()), rsync.version(far))
    except HostError:  # the link is lost; the transfers try again, and say so
        return ""
    if found is None:
        report.note(f"not compressed on the way: not both rsyncs have {server.network_compression}", "warn")
    return found or ""


def _shares(items: Iterable[Item], count: int) -> list[list[Item]]:
    """Share files out to at most `count` lists of about equal size, the biggest first.

    >>> sizes = [Item(str(size), "", size) for size in (9, 5, 4, 3)]
    >>> [[item.size for item in share] for share in _shares(sizes, 2)]
    [[9, 3], [5, 4]]
    """
    shares: list[list[Item]] = [[] for _ in range(count)]
    lightest = [(0, at) for at in range(count)]
    for item in sorted(items, key=lambda item: item.size, reverse=True):
        size, at = lightest[0]
        heapq.heapreplace(lightest, (size + item.size, at))
        shares[at].append(item)
    return [share for share in shares if share]


def _listed(whole: Sequence[Transfer], items: Sequence[Item]) -> Iterator[Transfer]:
    """Yield the transfers that send just these files; their directories are there."""
    for transfer in whole:
        below = os.path.join(transfer.source, "")
        names = [os.fsencode(item.source[len(below) :]) for item in items if item.source.startswith(below)]
        if names:
            yield replace(transfer, files=names, exclude=(), delete=False)


@dataclass
class _Stream:
    """Transfers that are done one after the other, and how far they are."""

    transfers: Sequence[Transfer]
    coming: int = 0
    """Bytes of all of them, where there are others beside it."""
    done: int = 0
    """Bytes of those that are finished."""
    tick: Tick = field(default_factory=lambda: Tick(0, 0, ""))
    """Of the one at work."""

    @property
    def moved(self) -> int:
        return self.done + self.tick.done_bytes


class _Sending:
    """What was sent so far, by all streams."""

    def __init__(self, report: Reporter, total: int) -> None:
        self._report, self._total = report, total
        self._before = 0
        self._together = Together()

    def run(self, streams: Sequence[_Stream]) -> None:
        """Do all streams at once; they share the bandwidth."""
        self._together.run([partial(self._go, each, len(streams)) for each in streams], partial(self._tell, streams))
        self._before += sum(stream.moved for stream in streams)

    def _tell(self, streams: Sequence[_Stream]) -> None:
        lanes = [Lane(each.tick.name, min(each.moved, each.coming), each.coming) for each in streams if each.tick.name]
        moved = self._before + sum(stream.moved for stream in streams)
        self._report.progress(min(moved, self._total), self._total, lanes=tuple(lanes) if len(streams) > 1 else ())

    def _go(self, stream: _Stream, share: int) -> None:
        stop = self._together.stop
        link = Link(self._report, stop)

        def tick(now: Tick) -> None:
            link.goes_on(now.name)
            stream.tick = now

        for transfer in stream.transfers:
            limit = transfer.bandwidth_limit
            shared = replace(transfer, bandwidth_limit=max(1, limit // share) if limit else 0)
            moved = link.run(partial(rsync.move, shared, tick, stop=stop))
            stream.done, stream.tick = stream.done + moved.sent_bytes, Tick(0, 0, "")


def _written_early(far: Machine, places: Sequence[str]) -> AbstractContextManager[None]:
    """Have the far side put on disk what comes, while it comes, so that the sync at the end finds little to do.

    Only an order to begin: what it cannot do, that sync says.
    """

    def write() -> bool:
        try:
            return far.run(["sync", "-f", "--", *places], timeout=3600).status == 0
        except HostError:  # the link is lost; the transfers say so
            return True

    return meanwhile(_EARLY, write, patience=_EARLY)


def _literal(path: str) -> str:
    r"""Return a path as an rsync pattern that matches it alone; a backslash is one only beside a wildcard.

    >>> print(_literal("a[1]"), _literal("a\\b"))
    a\[1] a\b
    """
    return re.sub(r"([*?\[\\])", r"\\\1", path) if re.search(r"[*?\[]", path) else path
