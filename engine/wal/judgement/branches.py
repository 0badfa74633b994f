"""Findings about timelines: histories that are missing or contradict each other, and branches that were left."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from engine.commands import wal_push
from engine.postgres.segment import segment_of
from engine.postgres.timeline import Switch
from engine.remedy import run, words
from engine.wal.gaps import history_holes
from engine.wal.judgement import fixes
from engine.wal.judgement.coverage import Line
from engine.wal.judgement.values import Case, Finding, Severity


def branch_findings(case: Case, lines: Sequence[Line]) -> Iterator[Finding]:
    """Yield what is to be said about the timelines of a case."""
    yield from _missing(case)
    yield from _unreadable(case)
    yield from _holes(case)
    yield from _conflicts(case)
    yield from _dead_tails(case, lines)


def _name(timeline: int) -> str:
    return f"{timeline:08X}.history"


def _missing(case: Case) -> Iterator[Finding]:
    archive = case.archive
    seen = {t for t, numbers in archive.segments.items() if len(numbers)} | {base.timeline for base in case.bases}
    for timeline in sorted(seen):
        if timeline <= 1 or timeline in archive.histories or timeline in archive.bad_histories:
            continue
        own = [base.id for base in case.bases if base.timeline == timeline]
        severity: Severity = "warning" if own or not case.bases or case.past else "critical"
        held = case.live is not None and timeline in case.live.histories
        push = wal_push(f"pg_wal/{_name(timeline)}", case.server)
        fix = run(push, before="on the server, in its data directory: ")
        yield Finding(
            "history_missing",
            severity,
            None,
            timeline,
            _name(timeline),
            _name(timeline),
            1,
            tuple(own),
            why="recovery cannot enter this timeline from the one before it, nor be told to follow it",
            fix=fix if held or case.live is None else fixes.new_backup(case),
        )


def _unreadable(case: Case) -> Iterator[Finding]:
    for timeline, reason in sorted(case.archive.bad_histories.items()):
        yield Finding(
            "history_missing",
            "critical" if not any(base.timeline == timeline for base in case.bases) else "warning",
            "invalid",
            timeline,
            _name(timeline),
            _name(timeline),
            1,
            why=reason,
            fix=words(f"put the server's own copy in its place: pg_wal/{_name(timeline)}"),
        )


def _holes(case: Case) -> Iterator[Finding]:
    archive = case.archive
    used = {t for t, numbers in archive.segments.items() if len(numbers)}
    for timeline in history_holes(archive):
        above = min(t for t in archive.histories if t > timeline)
        below = [base.id for base in case.bases if base.timeline < timeline]
        if not below and (case.bases or min(used, default=timeline) >= timeline):
            continue  # nobody comes from below
        ahead = [base for base in case.bases if base.timeline >= above]
        yield Finding(
            "history_hole",
            "warning" if ahead or not case.bases else "critical",
            None,
            timeline,
            _name(timeline),
            _name(timeline),
            1,
            tuple(below),
            why=f"latest stops below timeline {timeline} although {_name(above)} is there; a server promoted then "
            f"would call itself {timeline}" + (", whose WAL is in the archive" if timeline in used else " again"),
            fix=run(
                wal_push(f"pg_wal/{_name(timeline)}", case.server),
                before=f"push {_name(timeline)} from the server or a standby: ",
                after=f"; until then name the timeline: --timeline {max(archive.histories)}",
            ),
        )


def _conflicts(case: Case) -> Iterator[Finding]:
    """Yield histories that contradict their parent's, or the server's own copy."""
    histories = case.archive.histories
    for timeline, switches in sorted(histories.items()):
        parent = histories.get(switches[-1].timeline)
        if parent is not None and _points(switches[: len(parent)]) != _points(parent):
            yield _conflict(case, timeline, f"it does not begin as its parent's, {_name(switches[-1].timeline)}")
            continue
        own = case.live.histories.get(timeline) if case.live is not None else None
        if own is not None and _points(own) != _points(switches):
            yield _conflict(case, timeline, "the server's own copy says something else")


def _conflict(case: Case, timeline: int, why: str) -> Finding:
    return Finding(
        "history_conflict",
        "critical" if timeline == max(case.archive.histories) else "warning",
        None,
        timeline,
        _name(timeline),
        _name(timeline),
        1,
        why=why,
        fix=words(
            f"compare it with pg_wal/{_name(timeline)} of the server: two servers may have been promoted to timeline "
            f"{timeline}, and each needs an archive of its own"
        ),
    )


def _points(switches: Sequence[Switch]) -> list[tuple[int, int]]:
    return [(switch.timeline, int(switch.lsn)) for switch in switches]


def _dead_tails(case: Case, lines: Sequence[Line]) -> Iterator[Finding]:
    """Yield the segments of a timeline beyond the point where the lineage that is followed left it."""
    archive, size = case.archive, case.archive.segment_size
    said: set[int] = set()
    for line in sorted(lines, key=lambda line: (not line.primary, -line.timeline)):
        if not line.primary:
            continue
        for span in line.lineage.spans[:-1]:
            timeline = int(span.timeline)
            numbers = archive.segments.get(timeline, ())
            if timeline in said or span.end is None or not len(numbers):
                continue
            dead = segment_of(span.end, size)
            if numbers[-1] < dead:
                continue
            said.add(timeline)
            at = bisect_left(numbers, dead)
            yield Finding(
                "dead_tail",
                "note",
                None,
                timeline,
                archive.name(timeline, numbers[at]),
                archive.name(timeline, numbers[-1]),
                len(numbers) - at,
                why=f"timeline {line.timeline} left timeline {timeline} at {span.end}: what follows there is neither "
                "gap nor coverage",
            )
