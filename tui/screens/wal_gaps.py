"""The gaps of a WAL archive, and whatever else is wrong in it: a row each, and cause, effect and repair."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tui.format import Line, Span, counted, exactly, plain, size, utc
from tui.glyphs import Glyphs
from tui.screens.wal_segments import names_of
from tui.widgets.table import Column, Row

if TYPE_CHECKING:
    from engine.wal.judgement.values import Finding
    from tui.inspection import Inspection

_MOST_GAPS = 2000
SEVERITY = {"critical": "bad", "warning": "soon", "note": "quiet"}
COLUMNS = (
    Column("STATE"),
    Column("WHAT"),
    Column("FROM"),
    Column("TO", yields=3),
    Column("FILES", align="right"),
    Column("BACKUPS", align="right", yields=2),
    Column("LOST SINCE (UTC)", yields=1),
)

CAUSES = {
    "lost": "it is in no queue, and no server that was asked has it any more",
    "lost_but_recoverable": "it never arrived; a copy of it is left elsewhere",
    "partial_only": "only the part of it that had been received is left",
    "delayed": "it should have come by now",
}
"""Why a segment is missing, by its state; what a finding says of such a one is what that means."""


def shown(inspection: Inspection | None) -> list[Finding]:
    """Return what the list of gaps shows: what is wrong, and what was accepted."""
    found = inspection.findings if inspection else ()
    return [f for f in found if f.severity != "note" or f.state == "accepted" or f.breaks][:_MOST_GAPS]


def about(finding: Finding, head: str, inspection: Inspection, named: str) -> list[Line]:
    """Return cause, effect and repair of a finding."""
    role = SEVERITY[finding.severity]
    state = (finding.state or finding.kind).replace("_", " ")
    kind = finding.kind.replace("_", " ")
    what = state if kind in (state, "hole") else f"{kind}, {state}"
    title: list[Span] = [(f"{head}   ", "strong")] if head else []
    title.append((f"{what}   ", f"{role}!" if role == "bad" else role))
    if finding.first is not None:
        title.append((names_of(finding.first, finding.last or finding.first), "strong"))
    if finding.count and inspection.chart is not None and finding.breaks:
        total = size(finding.count * inspection.chart.segment_size)
        title.append((f"   {counted(finding.count, 'segment')}, {total}", "quiet"))
    lines: list[Line] = [tuple(title)]
    cause = CAUSES.get(finding.state or "", "") if finding.breaks else ""
    if cause:
        lines.append((("cause        ", "quiet"), (cause, "text")))
    if finding.why:
        lines.append((("effect       " if cause else "cause        ", "quiet"), (plain(finding.why), "text")))
    lines += _effect(finding, "" if cause and finding.why else "effect")
    lines += _repair(finding, named)
    return lines


def _repair(finding: Finding, named: str) -> list[Line]:
    """Return what to press, and the command where there is another one than those keys run."""
    keys: list[Span] = []
    bearable = finding.breaks and finding.state != "accepted"
    backup: list[Span] = (
        [("b", "hand!"), (" takes a new backup   ", "text")]
        if any(command.does("backup") for command in finding.fix.commands)
        else []
    )
    look: list[Span] = [("f", "hand!"), (" looks for it   ", "text")] if bearable else []
    keys += [*backup, *look] if finding.fix.begins("backup") else [*look, *backup]
    if bearable:
        keys += [("A", "hand!"), (" accepts it", "text")]
    lines: list[Line] = [(("repair       ", "quiet"), *keys)] if keys else []
    of_keys = (("backup",), ("wal", "gaps"), *((("wal", "fetch-missing"),) if bearable else ()))
    if finding.fix and not any(finding.fix.begins(*verb) for verb in of_keys):
        label = "             " if keys else "repair       "
        lines.append(((label, "quiet"), (plain(finding.fix.text(named)), "moving")))
    return lines


def _effect(finding: Finding, label: str) -> list[Line]:
    backups = len(finding.affected_backups)
    if finding.lost_from is not None and finding.lost_to is not None:
        said: Line = (
            ("what was committed from ", "text"),
            (exactly(finding.lost_from), "bad!"),
            (" to ", "text"),
            (exactly(finding.lost_to), "bad!"),
            (" cannot be restored", "text"),
        )
    elif finding.lost_from is not None:
        who = f"{counted(backups, 'backup')} cannot go past " if backups else "there is no way past "
        said = ((who, "text"), (exactly(finding.lost_from), "bad!"))
    elif backups:
        said = ((f"{counted(backups, 'backup')} cannot get past it", "text"),)
    else:
        return []
    names = ", ".join(finding.affected_backups[:3]) + (f" and {backups - 3} more" if backups > 3 else "")
    return [((f"{label:<13}", "quiet"), *said, (f"   {plain(names)}" if backups else "", "quiet"))]


def no_gap(inspection: Inspection) -> list[Line]:
    lines: list[Line] = [(("There is no gap.", "good"),)]
    return lines + [(("not known    ", "quiet"), (plain(sentence), "quiet")) for sentence in inspection.unknown[:3]]


def key_of(finding: Finding) -> str:
    return (
        f"{finding.kind} {finding.timeline} {finding.first} {finding.last} {finding.why if not finding.first else ''}"
    )


def gap_row(finding: Finding, glyphs: Glyphs) -> Row:
    role = SEVERITY[finding.severity]
    mark = {"critical": glyphs.critical, "warning": glyphs.warning}.get(finding.severity, glyphs.dot)
    lost = f"{utc(finding.lost_from):%m-%d %H:%M:%S}" if finding.lost_from else ""
    return Row(
        key_of(finding),
        (
            ((f"{mark} {(finding.state or finding.severity).replace('_', ' ')}", role),),
            ((finding.kind.replace("_", " "), "text"),),
            ((plain(finding.first or ""), "strong"),),
            (((plain(finding.last) if finding.last != finding.first else "") or "", "quiet"),),
            ((f"{finding.count:,}" if finding.count else "", "text"),),
            ((str(len(finding.affected_backups) or ""), "text"),),
            ((lost, "bad"),),
        ),
    )
