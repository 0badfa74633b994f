"""The verdict on one incarnation of a server's WAL: every rule applied to one case."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.remedy import NOTHING
from engine.wal.judgement import fixes
from engine.wal.judgement.backups import backup_findings, orphans
from engine.wal.judgement.branches import branch_findings
from engine.wal.judgement.coverage import Line, lines
from engine.wal.judgement.matter import hole_findings, kind_of, minimal_findings
from engine.wal.judgement.states import Whereabouts
from engine.wal.judgement.supply import supply_findings
from engine.wal.judgement.values import RANK, Case, Finding
from engine.wal.runs import spans_of


def judge(case: Case) -> list[Finding]:
    """Return all findings about a case, worst first."""
    interest = lines(case)
    states = Whereabouts(case)
    found = [
        *hole_findings(case, interest, states),
        *minimal_findings(case, interest),
        *backup_findings(case, interest, states),
        *branch_findings(case, interest),
        *supply_findings(case, interest),
        *orphans(case, interest),
    ]
    found += _elsewhere(case, interest, found)
    return in_order(found)


def in_order(found: Sequence[Finding]) -> list[Finding]:
    """Return findings worst first, then by place."""
    return sorted(found, key=lambda f: (RANK[f.severity], f.timeline or 0, f.first or "", f.kind))


def _elsewhere(case: Case, interest: Sequence[Line], found: Sequence[Finding]) -> Iterator[Finding]:
    """Yield the files that satisfy nothing and lie where no recovery goes."""
    archive = case.archive
    said = {(f.timeline, f.first) for f in found if f.kind in ("alien", "misplaced", "invalid", "corrupt")}
    by_kind: dict[tuple[str, int], list[int]] = {}
    for (timeline, number), reason in archive.invalid.items():
        if (timeline, archive.name(timeline, number)) not in said:
            by_kind.setdefault((kind_of(reason), timeline), []).append(number)
    for (kind, timeline), numbers in sorted(by_kind.items()):
        for first, last in spans_of(sorted(numbers)):
            needed = any(line.primary and _asks_for(line, timeline, first) for line in interest)
            yield Finding(
                kind,
                "warning" if needed and case.bases else "note",
                None,
                timeline,
                archive.name(timeline, first),
                archive.name(timeline, last),
                last - first + 1,
                why=archive.invalid[(timeline, first)],
                fix=fixes.after_looking(case, NOTHING) if needed else NOTHING,
            )


def _asks_for(line: Line, timeline: int, number: int) -> bool:
    """Tell whether recovery along a lineage could ask for a segment."""
    return any(
        s.timeline == timeline and s.first <= number and (s.last is None or number <= s.last) for s in line.stretches
    )
