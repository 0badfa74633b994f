"""What is to be known beside the steps of a restore. Pure: what can be reached in, lines out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from engine.amounts import counted
from engine.commands import cellarman
from engine.recovery.candidates import lost_history
from engine.recovery.plan import Order
from engine.recovery.reached import Reached
from engine.recovery.target import TimeTarget
from engine.remedy import push_copy
from engine.wal import contentcheck
from engine.wal.gaps import history_holes, newest_from

_BACKWARD = 1_000_000
"""Microseconds by which a commit may be earlier than the one before it: processes take the time before they write."""


def of(
    order: Order, reached: Reached, *, odd: Sequence[str] = (), partial: str = "", config_file: str = ""
) -> Iterator[str]:
    """Yield what is to be known of a restore whose target can be reached.

    `odd` are files of the backup that cannot be restored; `partial` is the path of the segment behind the archive's
    last one, where it was received in part; `config_file` is named in the commands.
    """
    yield from reached.choice.notes
    yield from _branches(reached)
    yield from _histories(reached)
    yield from _foreign(reached)
    yield from (f"{t:08X}.history is missing: latest stops below timeline {t}" for t in history_holes(reached.archive))
    yield from _unread(order, reached, config_file)
    yield from _clock(order, reached)
    if odd:
        yield f"links and special files are not restored: {', '.join(odd[:5])}"
    yield from _locked(order, reached)
    yield (
        "archiving is off in the restored cluster, and so are subscriptions: set archive_mode, archive_command and"
        " max_logical_replication_workers before it goes into service"
    )
    if partial:
        yield _received(order, partial, config_file)


def _branches(reached: Reached) -> Iterator[str]:
    """Yield the timelines that are not followed."""
    followed = {span.timeline for span in reached.choice.run.lineage.spans}
    for timeline, switches in sorted(reached.archive.histories.items()):
        if timeline not in followed:
            yield (
                f"timeline {timeline} left timeline {switches[-1].timeline} at {switches[-1].lsn} and is not followed; "
                f"--timeline {timeline} follows it"
            )


def _histories(reached: Reached) -> Iterator[str]:
    """Yield what histories that are bad or lost do to the recovery's end."""
    run = reached.choice.run
    if run.reach.end_kind == "bad_history":
        yield (
            f"{run.reach.reason}: until that file is mended, or out of the archive, recovery stops at the target and"
            " perhaps cannot open for writing"
        )
    bad, timeline = reached.archive.bad_histories, run.lineage.timeline
    for number in sorted(n for n in bad if run.base.timeline <= n < timeline):
        yield f"{bad[number]}; recovery along timeline {timeline} does not need that file"
    lost = lost_history(run.lineage, reached.archive)
    if lost:
        yield f"{lost}: until that file is back, recovery stops at the target and cannot open for writing"
        yield from _perhaps_dead(reached)


def _perhaps_dead(reached: Reached) -> Iterator[str]:
    """Yield that what is replayed may be a branch which was left, where a timeline that lost its history began before
    the target."""
    archive, timeline = reached.archive, reached.choice.run.lineage.timeline
    lost = newest_from(archive, timeline) + 1
    first = archive.segments[lost][0]
    if reached.choice.stop_segment >= first:
        yield (
            f"timeline {lost} began in or before {archive.name(lost, first)}: what timeline {timeline} has from there"
            " on may be a branch that was left"
        )


def _foreign(reached: Reached) -> Iterator[str]:
    """Yield that the last segment that is replayed may be of another history than the one behind it."""
    run, archive, stop = reached.choice.run, reached.archive, reached.choice.stop_segment
    if contentcheck.CONTINUES in run.reach.reason and run.reach.missing_first == stop + 1:
        last = archive.name(run.lineage.canonical(stop, archive.segment_size), stop)
        yield (
            f"{archive.name(run.reach.timeline, stop + 1)} does not go on from {last}: one of them is of"
            f" another history, and if that is {last}, so are the last transactions that are replayed"
        )


def _unread(order: Order, reached: Reached, config_file: str) -> Iterator[str]:
    """Yield how much of the WAL was not looked into."""
    facts = reached.facts
    if facts.headers_only:
        yield f"of {facts.headers_only} WAL segments only the header was read"
    if facts.unproven:
        prove = cellarman("wal", "reindex", order.server).line(config_file)
        yield (
            f"the records of {counted(facts.unproven, 'WAL segment')} have not been verified yet, and"
            f" damage in them would end the restore: maintenance does it, or {prove}"
        )


def _clock(order: Order, reached: Reached) -> Iterator[str]:
    before, after = reached.choice.kept, reached.choice.dropped
    if isinstance(order.target, TimeTarget) and before and after and before.time - after.time > _BACKWARD:
        yield "the server's clock went backward near the target: commits are not in the order of their times"


def _locked(order: Order, reached: Reached) -> Iterator[str]:
    """Yield that the lock of what the next transaction drops is still held at the target."""
    after = reached.choice.dropped
    if after and order.locks_readers(after):
        yield (
            f"transaction {after.xid} drops or empties a table: while paused just before its end, reading that table "
            "waits for its lock; --start stops after the last commit that stays, --action promote ends the lock"
        )


def _received(order: Order, partial: str, config_file: str) -> str:
    """Return how the last commits are had that lie in a segment which was received in part."""
    name = os.path.basename(partial).removesuffix(".partial")
    take_in = push_copy(partial, name, order.server).text(config_file)
    return (
        f"what was received of {name} comes after this end; if the server is lost for good, take it in, and plan again:"
        f" {take_in} && {cellarman('wal', 'ingest', order.server).line(config_file)}"
    )
