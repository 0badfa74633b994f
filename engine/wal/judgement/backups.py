"""Which backups have the WAL that makes them consistent, and which WAL no backup needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.commands import cellarman
from engine.remedy import NOTHING, Remedy, run
from engine.wal.gaps import NoLineage, core_range, newest_readable, resolve
from engine.wal.judgement import fixes
from engine.wal.judgement.coverage import Line
from engine.wal.judgement.states import ON_ITS_WAY, UNKNOWN, Whereabouts
from engine.wal.judgement.values import Base, Case, Finding


def backup_findings(case: Case, lines: Sequence[Line], states: Whereabouts) -> list[Finding]:
    """Return what is wrong with backups: unusable, not usable yet, off the branch that `latest` follows."""
    size = case.archive.segment_size
    whole = {base.id for line in lines for base in line.bases if line.usable(base, size)}
    found: list[Finding] = []
    for base in case.bases:
        if base.id in whole:
            found += _standalone(case, base)
        elif base.self_contained:
            found.append(_note(base, "self_contained", "it carries its own WAL and can be restored to its end only"))
        else:
            found += _lacking(case, lines, base, states, alone=not whole)
        found += _off_branch(case, base)
    return found


def _standalone(case: Case, base: Base) -> Iterator[Finding]:
    if base.standalone:
        yield _note(base, "standalone", "kept with its own WAL: it can be restored to its end, and to nothing later")


def _note(base: Base, kind: str, why: str) -> Finding:
    return Finding(kind, "note", None, base.timeline, affected_backups=(base.id,), why=why)


def _lacking(case: Case, lines: Sequence[Line], base: Base, states: Whereabouts, *, alone: bool) -> Iterator[Finding]:
    """Yield what a backup lacks to be consistent."""
    archive, size = case.archive, case.archive.segment_size
    first, last = core_range(base.start, base.stop, size)
    if base.lacking:
        yield Finding(
            "unusable",
            "critical" if alone else "warning",
            "other_history",
            base.timeline,
            archive.name(base.timeline, first),
            archive.name(base.timeline, last),
            last - first + 1,
            (base.id,),
            why=f"PostgreSQL would refuse it: {base.lacking}",
            fix=_last_resort(case, base, alone=alone),
        )
        return
    on = [line for line in lines if base in line.bases]
    if not on:
        return
    # The lineage that lacks least is the one to follow.
    line = min(on, key=lambda line: sum(end - begin for begin, end in line.good.missing(first, last)))
    lack = [
        (state, timeline, a, b)
        for begin, end in line.good.missing(first, last)
        for timeline, at, to in line.pieces(begin, end)
        for state, a, b in states.split(timeline, at, to, next(line.good.within(end + 1, None), (None,))[0])
    ]
    state, timeline, begin, end = next((each for each in lack if each[0] not in ON_ITS_WAY), lack[0])
    names = archive.name(timeline, begin), archive.name(timeline, end)
    count = sum(b - a + 1 for _, _, a, b in lack)
    if state == UNKNOWN and begin in case.unseen.get(timeline, ()):
        why = "its WAL is in a directory that cannot be read: whether it is there is not known"
        yield Finding("unusable", "warning", state, timeline, *names, count, (base.id,), why=why)
        return
    if state in ON_ITS_WAY or state == UNKNOWN:
        why = "WAL that it needs to be consistent has not come yet"
        fix = fixes.checking(case) if state == UNKNOWN else NOTHING
        yield Finding("not_yet_usable", "warning", state, timeline, *names, count, (base.id,), why=why, fix=fix)
        return
    start_gone = lack[0][2] == first and lack[0][0] not in ON_ITS_WAY
    said = "could not locate required checkpoint record" if start_gone else "WAL ends before end of online backup"
    bad = archive.invalid.get((timeline, begin))
    why = f"PostgreSQL would refuse it: {said}" + (f" ({bad})" if bad else "")
    if not start_gone and not bad:
        why += "; without its WAL a backup is never consistent"
    last_resort = _last_resort(case, base, alone=alone)
    fix = fixes.of_a_copy(case, timeline, begin, state) or fixes.after_looking(case, last_resort)
    yield Finding(
        "unusable",
        "critical" if alone else "warning",
        "missing_start" if start_gone else "missing_stop",
        timeline,
        *names,
        count,
        (base.id,),
        why=why,
        fix=fix,
    )


def _last_resort(case: Case, base: Base, *, alone: bool) -> Remedy:
    """Return what to do about a backup that nothing mends: take another, or where there is one, delete it."""
    return fixes.new_backup(case) if alone else run(cellarman("delete", case.server, base.id))


def _off_branch(case: Case, base: Base) -> Iterator[Finding]:
    """Yield that `latest` leaves a backup's own branch before its end: PostgreSQL would refuse to follow it."""
    newest = str(newest_readable(case.archive, base.timeline))
    lineage = resolve(newest, base.timeline, base.checkpoint, case.archive, stop=base.end)
    if isinstance(lineage, NoLineage) and lineage.kind == "backup_off_branch":
        yield Finding(
            "backup_off_branch",
            "warning",
            None,
            base.timeline,
            affected_backups=(base.id,),
            why=f"{lineage.why}; it can be followed along its own timeline only",
            fix=run(cellarman("restore", case.server, base.id, "DEST", "--timeline", "current")),
        )


def orphans(case: Case, lines: Sequence[Line]) -> Iterator[Finding]:
    """Yield the WAL that no backup needs: what lies before the first one on each timeline."""
    if not case.bases:
        return
    archive, size = case.archive, case.archive.segment_size
    for timeline, numbers in sorted(archive.segments.items()):
        through = [line for line in lines if any(s.timeline == timeline for s in line.stretches)]
        bases = [base for line in through for base in line.bases]
        if not bases or not len(numbers):
            continue
        low = min(core_range(base.start, base.stop, size)[0] for base in bases)
        below = [n for n in (numbers[0], *_last_below(numbers, low)) if n < low]
        if below:
            yield Finding(
                "orphan",
                "note",
                None,
                timeline,
                archive.name(timeline, below[0]),
                archive.name(timeline, below[-1]),
                _count_below(numbers, low),
                why="no backup needs it: its space can be had back",
            )


def _last_below(numbers: Sequence[int], bound: int) -> list[int]:
    count = _count_below(numbers, bound)
    return [numbers[count - 1]] if count else []


def _count_below(numbers: Sequence[int], bound: int) -> int:
    from bisect import bisect_left

    return bisect_left(numbers, bound)
