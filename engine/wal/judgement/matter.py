"""What a hole costs: which backups, which times, and how bad that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from engine.postgres.lsn import Lsn
from engine.remedy import NOTHING
from engine.wal.accepted import Accepted
from engine.wal.gaps import core_range
from engine.wal.judgement import fixes
from engine.wal.judgement.coverage import Line, holes
from engine.wal.judgement.states import DELAYED, LOST, ON_ITS_WAY, PENDING, UNKNOWN, Whereabouts
from engine.wal.judgement.values import RANK, Base, Case, Finding, Severity
from engine.wal.runs import Span

ACCEPTED = "accepted"
_MOST_HOLES = 1000
"""On one lineage; beyond that only the first and the last ones are judged."""
HOLE, HAZARD, IRRELEVANT, MINIMAL = "hole", "branch_hazard", "irrelevant", "wal_level_minimal"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a whole hole means for recovery on its lineage."""

    severity: Severity
    affected: tuple[str, ...]
    irrelevant: bool = False
    lost_from: datetime | None = None
    lost_to: datetime | None = None
    why: str = ""


def hole_findings(case: Case, lines: Sequence[Line], states: Whereabouts) -> list[Finding]:
    """Return the findings about everything that lacks on the lineages of interest; one a range, state and kind."""
    found: dict[tuple[str, str | None, str | None], Finding] = {}
    for line in lines:
        every = holes(line, case.archive.segment_size)
        if len(every) > _MOST_HOLES:
            found[("hole", str(line.timeline), None)] = _too_many(case, line, every)
            every = every[: _MOST_HOLES // 2] + every[-_MOST_HOLES // 2 :]
        for hole in every:
            for finding in _of_hole(case, line, hole, states):
                key = (finding.kind, finding.first, finding.last)
                found[key] = _worse(found[key], finding) if key in found else finding
    return list(found.values())


def _too_many(case: Case, line: Line, every: Sequence[Span]) -> Finding:
    """Return the finding about all holes of a lineage that has too many to judge each by itself."""
    first, last = every[0][0], every[-1][1]
    return Finding(
        HOLE,
        "warning",
        UNKNOWN,
        line.timeline,
        case.archive.name(line.canonical(first), first),
        case.archive.name(line.canonical(last), last),
        sum(b - a + 1 for a, b in every),
        why=f"{len(every)} holes, too many to judge each: only the first and the last ones are",
    )


def _worse(one: Finding, other: Finding) -> Finding:
    bad, mild = (one, other) if RANK[one.severity] <= RANK[other.severity] else (other, one)
    return replace(bad, affected_backups=tuple(dict.fromkeys((*bad.affected_backups, *mild.affected_backups))))


def _of_hole(case: Case, line: Line, hole: Span, states: Whereabouts) -> Iterator[Finding]:
    following = next(line.good.within(hole[1] + 1, None), (None,))[0]
    pieces = [
        (timeline, state, first, last)
        for timeline, begin, end in line.pieces(*hole)
        for state, first, last in states.split(timeline, begin, end, _following(line, timeline, end, following))
    ]
    gone = [piece for piece in pieces if piece[1] not in ON_ITS_WAY]
    if gone:
        cost = _cost(case, line, hole)
    for timeline, state, first, last in pieces:
        if state == PENDING:
            yield _pending(case, timeline, first, last)
        elif state not in ON_ITS_WAY and (state != UNKNOWN or case.live is not None or _unseen(case, timeline, first)):
            for begin, end, gap in _by_acceptance(case, timeline, first, last):
                yield from _gone(case, line, cost, timeline, state, begin, end, gap)


def _following(line: Line, timeline: int, end: int, good: int | None) -> int | None:
    """Return the segment that tells that WAL went on behind `end`: the first good one, or where the next timeline of
    the lineage began."""
    return end + 1 if good is None and timeline != line.timeline else good


def _by_acceptance(case: Case, timeline: int, first: int, last: int) -> Iterator[tuple[int, int, Accepted | None]]:
    """Yield a range cut at the borders of the accepted gaps."""
    at = first
    known = [
        (numbers, gap)
        for gap in case.accepted
        if gap.timeline == timeline
        if (numbers := gap.numbers(case.archive.segment_size)) is not None
    ]
    for (begin, end), gap in sorted(known, key=lambda pair: pair[0]):
        begin, end = max(begin, at), min(end, last)
        if begin > end:
            continue
        if begin > at:
            yield at, begin - 1, None
        yield begin, end, gap
        at = end + 1
    if at <= last:
        yield at, last, None


def _gone(
    case: Case, line: Line, cost: Cost, timeline: int, state: str, first: int, last: int, gap: Accepted | None
) -> Iterator[Finding]:
    archive = case.archive
    hazard = _hazard(case, line, timeline, first)
    for kind, begin, end, reason in _kinds(case, timeline, first, last):
        severity: Severity = cost.severity
        where, why = state, reason or cost.why
        fix = fixes.of_missing(case, timeline, begin, end, state, critical=severity == "critical")
        if kind == HOLE and cost.irrelevant:
            kind = IRRELEVANT
        elif kind == HOLE and hazard:
            kind, severity = HAZARD, "critical"
            why = f"PostgreSQL would replay the dead branch of timeline {hazard} from here on, and say nothing"
        if cost.irrelevant:
            severity, fix = "note", NOTHING
        elif gap is not None:
            where, severity, fix = ACCEPTED, "note", NOTHING
            why = f"accepted {gap.at:%Y-%m-%d}{f' by {gap.by}' if gap.by else ''}: {gap.reason}"
        elif state == DELAYED and severity != "note" and kind == HOLE:
            severity, why = "note", "pushers that work side by side may still bring it"
        elif _unseen(case, timeline, begin):
            severity, why = "warning", "its directory cannot be read: whether it is there is not known"
        elif state == UNKNOWN and severity != "note":
            severity, why = "note", "whether it is lost or has not come yet is not known"
        elif state == LOST and case.unasked and (timeline, begin) not in case.kept:
            where, why = UNKNOWN, f"{why}; {_holder(case)} may still have it"
        yield Finding(
            kind,
            severity,
            where,
            timeline,
            archive.name(timeline, begin),
            archive.name(timeline, end),
            end - begin + 1,
            cost.affected,
            None if cost.irrelevant else cost.lost_from,
            None if cost.irrelevant else cost.lost_to,
            why,
            fix,
        )


def _holder(case: Case) -> str:
    """Return who was not heard about what its pg_wal holds."""
    held = case.live is not None and case.live.pg_wal is not None
    return "a standby" if held else "the server"


def _unseen(case: Case, timeline: int, number: int) -> bool:
    return number in case.unseen.get(timeline, ())


def _kinds(case: Case, timeline: int, first: int, last: int) -> Iterator[tuple[str, int, int, str]]:
    """Yield (kind, first, last, reason) of a range, cut where files are there that satisfy nothing."""
    at = first
    for number in sorted(n for t, n in case.archive.invalid if t == timeline and first <= n <= last):
        if number > at:
            yield HOLE, at, number - 1, ""
        reason = case.archive.invalid[(timeline, number)]
        yield kind_of(reason), number, number, reason
        at = number + 1
    if at <= last:
        yield HOLE, at, last, ""


def kind_of(reason: str) -> str:
    """Return the kind of finding that a reason for not being usable makes.

    >>> kind_of("misplaced: it holds the WAL of 000000010000000000000005"), kind_of("wrong size: 8388608 bytes")
    ('misplaced', 'invalid')
    """
    for word in ("alien", "misplaced"):
        if reason.startswith(f"{word}:"):
            return word
    if any(word in reason.lower() for word in ("checksum", "corrupt", "crc", "damaged", "does not continue")):
        return "corrupt"
    return "invalid"


def _hazard(case: Case, line: Line, timeline: int, first: int) -> int | None:
    """Return the timeline whose dead branch PostgreSQL would fall back to at a range's first segment, or None.

    It does so for the segment in which a timeline began, and never to a timeline older than the one that it reads.
    """
    archive, at = case.archive, None
    for position, stretch in enumerate(line.stretches):
        if stretch.timeline == timeline:
            if position == 0 or first != stretch.first:
                return None
            at = line.stretches[position - 1].timeline
    if at is None:
        return None
    older = (t for t in line.lineage.candidates(first, archive.segment_size) if at <= t < timeline)
    return next((t for t in older if archive.good(t, first)), None)


def _cost(case: Case, line: Line, hole: Span) -> Cost:
    """Return what a hole costs the backups of a lineage."""
    size = case.archive.segment_size
    cores = {base.id: core_range(base.start, base.stop, size) for base in line.bases}
    usable = [base for base in line.bases if line.usable(base, size)]
    killed = [
        base
        for base in line.bases
        if base not in usable and cores[base.id][0] <= hole[1] and cores[base.id][1] >= hole[0]
    ]
    continued = [base for base in usable if not base.standalone]
    before = [base for base in continued if line.reaches(cores[base.id][0]) == hole[0] - 1]
    after = next((base for base in usable if cores[base.id][0] > hole[1]), None)
    affected = tuple(base.id for base in (*killed, *before))
    earlier = [base for base in continued if cores[base.id][1] < hole[0]]
    if not case.bases:
        return Cost("warning", (), why="no backup: nothing can be recovered yet")
    if not killed and not earlier:
        return Cost("note", (), irrelevant=True, why="no backup needs it")
    if not before:
        return Cost("warning", affected, why=_killing(killed) or "recovery does not come so far")
    lost_from = _last_commit(case, line, hole[0] - 1) or max(base.ended for base in before)
    if after is not None:
        why = f"{_killing(killed)}times after it are reached from backup {after.id}"
        return Cost("warning", affected, False, lost_from, max(after.ended, lost_from), why)
    why = _killing(killed) + "nothing after it can be recovered until a new backup ends"
    return Cost("critical" if line.primary else "warning", affected, False, lost_from, None, why)


def minimal_findings(case: Case, lines: Sequence[Line]) -> list[Finding]:
    """Return where WAL goes on with wal_level = minimal: a backup that began before is not replayed past that."""
    found: dict[tuple[int, int], Finding] = {}
    for line in sorted(lines, key=lambda line: line.primary):
        for (timeline, number), lsn in sorted(case.archive.minimal.items()):
            if line.lineage.contains(timeline, lsn) and line.canonical(number) == timeline:
                known = _minimal(case, line, timeline, number, lsn)
                if known is not None:
                    found[timeline, number] = known
    return list(found.values())


def _minimal(case: Case, line: Line, timeline: int, number: int, lsn: Lsn) -> Finding | None:
    """Return what a time with wal_level = minimal costs the backups of a lineage; None when it costs none."""
    size = case.archive.segment_size
    usable = [base for base in line.bases if line.usable(base, size)]
    begins = {base.id: core_range(base.start, base.stop, size)[0] for base in usable}
    before = [base for base in usable if begins[base.id] < number and not base.standalone]
    stopped = [base for base in before if (line.reaches(begins[base.id]) or 0) >= number]
    if not stopped:
        return None
    after = next((base for base in usable if begins[base.id] >= number), None)
    lost_from = _last_commit(case, line, number - 1) or max(base.ended for base in stopped)
    name = case.archive.name(timeline, number)
    why = f"the server ran with wal_level = minimal from {lsn} on: PostgreSQL replays no backup from before past that; "
    if after is not None:
        why += f"times after it are reached from backup {after.id}"
    else:
        why += "nothing after it can be recovered until a new backup ends"
    return Finding(
        MINIMAL,
        "note" if after is not None else "critical" if line.primary else "warning",
        None,
        timeline,
        name,
        name,
        1,
        tuple(base.id for base in stopped),
        lost_from,
        max(after.ended, lost_from) if after is not None else None,
        why,
        NOTHING if after is not None else fixes.new_backup(case),
    )


def _killing(killed: Sequence[Base]) -> str:
    return f"{', '.join(base.id for base in killed)} cannot be used; " if killed else ""


def _last_commit(case: Case, line: Line, number: int) -> datetime | None:
    """Return the time of the last commit before a hole that begins after segment `number`."""
    for stretch in reversed(line.stretches):
        if stretch.first <= number:
            last = number if stretch.last is None else min(number, stretch.last)
            found = case.evidence.last_commit(stretch.timeline, last)
            if found is not None:
                return found
    return None


def _pending(case: Case, timeline: int, first: int, last: int) -> Finding:
    """Return the finding about segments that the server has and will still send."""
    live, archive = case.live, case.archive
    assert live is not None
    names = [archive.name(timeline, number) for number in range(first, min(last, first + 100_000) + 1)]
    since = min((live.ready[name] for name in names if live.ready and name in live.ready), default=None)
    age = (case.now - since).total_seconds() if since else 0
    severity: Severity = "note"
    why = f"the server has it and will send it; the oldest waits for {int(age)} s" if since else "the server has it"
    if live.archiving and live.archiver.failing:
        severity = "warning"
        why = f"archiving fails at {live.archiver.last_failed_wal}; the oldest waits for {int(age)} s"
    if age > fixes.PENDING_WARNING:
        severity = "critical" if age > fixes.PENDING_CRITICAL else "warning"
    fix = fixes.checking(case) if severity != "note" else NOTHING
    return Finding(
        "pending",
        severity,
        PENDING,
        timeline,
        names[0],
        archive.name(timeline, last),
        last - first + 1,
        (),
        None,
        None,
        why,
        fix,
    )
