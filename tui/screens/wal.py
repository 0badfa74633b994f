"""The tab with a server's WAL archive: a map, a list or the gaps; for each gap its cause, its cost and its repair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical

from engine import amounts
from tui.format import Line, counted, plain, size
from tui.inspection import Answered, RowsAsked
from tui.screens.server_pane import Pane
from tui.screens.wal_gaps import COLUMNS, about, gap_row, key_of, no_gap, shown
from tui.screens.wal_segments import backups_on, commits, logs, span_of, told
from tui.snapshot import Snapshot
from tui.widgets.frame import Rule
from tui.widgets.lines import Lines
from tui.widgets.table import Table
from tui.widgets.walmap import WORDS, OverChart, SegmentList, SegmentMap, legend, sign, worst_of

if TYPE_CHECKING:
    from textual.timer import Timer

    from engine.status import ServerStatus
    from engine.wal.chart import Chart
    from engine.wal.index import SegmentRow
    from engine.wal.judgement.values import Finding
    from tui.inspection import Inspection
    from tui.screens.prompting import Movable

Form = Literal["map", "list", "gaps"]
FORMS: tuple[Form, ...] = ("map", "list", "gaps")
QUIET = 0.1
"""Seconds that the cursor rests before the index is asked about what is under it."""
_SUMMED = 512
"""Segments of one cell whose commits are added up."""


class Wal(Pane):
    """The WAL archive of one server."""

    NAME = "wal"
    WORDS: ClassVar[dict[str, str]] = {"copy": "copy name"}

    def __init__(self) -> None:
        super().__init__()
        self.form: Form = "map"
        self._rows: Mapping[int, SegmentRow] = {}
        self._asked: RowsAsked | None = None
        self._timer: Timer | None = None
        self._placed = False
        """Whether the cursor was put on the first gap."""

    def compose(self) -> ComposeResult:
        yield Lines(id="wal-head")
        with Vertical(id="wal-forms"):
            yield SegmentMap(self.glyphs, id="wal-map")
            yield SegmentList(self.glyphs, id="wal-list")
            yield Table(COLUMNS, id="wal-gaps", glyphs=self.glyphs)
        yield Rule(self.glyphs.rule)
        yield Lines(id="wal-detail", wrapped=True, fixed=True)
        yield Lines(id="wal-legend")

    def on_mount(self) -> None:
        self._show_form()

    @property
    def mapped(self) -> SegmentMap:
        return self.query_one("#wal-map", SegmentMap)

    @property
    def listed(self) -> SegmentList:
        return self.query_one("#wal-list", SegmentList)

    @property
    def gaps(self) -> Table:
        return self.query_one("#wal-gaps", Table)

    @property
    def over(self) -> OverChart:
        """The map, or the list when that is shown."""
        return self.listed if self.form == "list" else self.mapped

    @property
    def chart(self) -> Chart | None:
        inspection = self.room.inspection
        return inspection.chart if inspection else None

    def moving(self) -> Movable | None:
        return self.gaps if self.form == "gaps" else self.over

    def _show_form(self) -> None:
        for form, widget in (("map", self.mapped), ("list", self.listed), ("gaps", self.gaps)):
            widget.display = form == self.form

    def paint(self, snapshot: Snapshot, server: ServerStatus) -> None:
        inspection = self.room.inspection
        chart = inspection.chart if inspection else None
        marks = backups_on(chart, server) if chart else {}
        for widget in (self.mapped, self.listed):
            widget.show(chart, marks)
        if chart is not None and chart.states and not self._placed:
            self._placed = True
            self.mapped.cursor = self.listed.cursor = chart.gaps[0] if len(chart.gaps) else chart.last
        self.gaps.show([gap_row(finding, self.glyphs) for finding in shown(inspection)])
        self._paint_head(inspection)
        self._paint_detail()
        there = chart.states if chart and self.form != "gaps" else b""
        self.query_one("#wal-legend", Lines).show([self._legend(there, marks)] if there else [])

    def _legend(self, states: bytes, marks: Mapping[int, bool]) -> Line:
        glyphs = self.glyphs
        full: Line = ((glyphs.full, "hand"), (" full   ", "quiet")) if any(marks.values()) else ()
        incremental: Line = ()
        if not all(marks.values()):
            incremental = ((glyphs.incremental, "hand"), (" incremental", "quiet"))
        return (*legend(states, glyphs), *full, *incremental)

    def _paint_head(self, inspection: Inspection | None) -> None:
        forms = tuple(
            span for form in FORMS for span in ((form, "strong" if form == self.form else "faint"), ("  ", "text"))
        )
        chart = inspection.chart if inspection else None
        line: Line = (("  ", "text"), *forms)
        if chart is not None and chart.states:
            line = (("  ", "text"), (f"timeline {chart.timeline}", "strong"), ("   ", "text"), *forms)
            facts = f" {counted(len(chart.states), 'segment')} of {amounts.size(chart.segment_size)}"
            if self.form == "map" and self.mapped.level is not None:
                cell = 1 << self.mapped.level
                row = self.mapped.per_row / self.mapped.per_log
                facts += f"   a cell is {cell:,}"
                facts += f"   a row is {logs(row)}" if self.app.size.width >= 100 else ""
            line = (*line, (facts, "quiet"))
            if inspection is not None and not inspection.asked:
                line = (*line, (f"   asking the server{self.glyphs.ellipsis}", "moving"))
        self.query_one("#wal-head", Lines).show([self.query_one("#wal-head", Lines).cut(line, self.app.size.width)])

    def _paint_detail(self) -> None:
        self.query_one("#wal-detail", Lines).show(self._detail())

    def _detail(self) -> Sequence[Line]:
        inspection, chart = self.room.inspection, self.chart
        if inspection is None:
            return [(("Reading the archive.", "quiet"),)]
        if inspection.trouble:
            return [((plain(inspection.trouble), "soon"),)]
        if self.form == "gaps":
            finding = self._finding()
            if finding is not None:
                return about(finding, "", inspection, self.app.config.named)
            return no_gap(inspection)
        if chart is None or not chart.states:
            return [
                (("No WAL has been archived yet.", "strong"),),
                (("It comes with archive_command, or is streamed once maintenance runs.", "text"),),
            ]
        number = self.over.cursor
        gap = chart.gap_at(number)
        if gap is None and self.form == "map":
            gap = self._gap_in(self.mapped.span())
        if gap is None:
            return self._about_segments(chart, number)
        place, (first, last) = gap
        head = f"gap {place + 1:,} of {chart.gaps.runs:,}"
        finding = self._finding()
        if finding is None:
            flags = chart.state(first)
            glyph, role = sign(flags, self.glyphs)
            return [
                (
                    (f"{head}   ", "strong"),
                    (f"{glyph} {WORDS[worst_of(flags)]}   ", role),
                    (span_of(chart, first, last), "text"),
                )
            ]
        return about(finding, head, inspection, self.app.config.named)

    def _gap_in(self, span: tuple[int, int]) -> tuple[int, tuple[int, int]] | None:
        chart = self.chart
        place = chart.gaps.beside(span[0] - 1, after=True) if chart else None
        if chart is None or place is None or chart.gaps.span(place)[0] > span[1]:
            return None
        return place, chart.gaps.span(place)

    def _about_segments(self, chart: Chart, number: int) -> list[Line]:
        first, last = self.mapped.span() if self.form == "map" else (number, number)
        flags = 0
        for state in set(chart.states[first - chart.first : last - chart.first + 1]):
            flags |= state
        glyph, role = sign(flags, self.glyphs)
        head: Line = ((f"{glyph} {WORDS[worst_of(flags)]}   ", role), (span_of(chart, first, last), "text"))
        lines: list[Line] = [head, (("begins at    ", "quiet"), (str(chart.start(first)), "text"))]
        rows = [self._rows[n] for n in range(first, min(last, first + _SUMMED) + 1) if n in self._rows]
        if rows:
            lines.append((("commits      ", "quiet"), (commits(rows), "text")))
            stored = sum(row.size for row in rows)
            lines.append((("stored       ", "quiet"), (size(stored), "text")))
        backups = self._needing(first, last)
        if backups:
            lines.append((("backups      ", "quiet"), (f"begin here: {', '.join(backups)}", "hand")))
        return lines

    def _needing(self, first: int, last: int) -> list[str]:
        server, chart = self.room.server, self.chart
        if server is None or chart is None:
            return []
        size_ = chart.segment_size
        return [i.id for i in server.backups if i.begin_xlog is not None and first <= i.begin_xlog // size_ <= last]

    def inspected(self, inspection: Inspection) -> None:
        self._rows, self._asked = {}, None
        chart = inspection.chart
        if chart is not None and self.over.chart is not None and chart.timeline != self.over.chart.timeline:
            self._placed = False
            self.mapped.level = None

    def answered(self, answer: Answered) -> None:
        if isinstance(answer.question, RowsAsked) and isinstance(answer.answer, dict):
            self._rows = answer.answer
            narrow = self.app.size.width < 100
            self.listed.tell({number: told(row, narrow=narrow) for number, row in answer.answer.items()})
            if self.room.pane is self:
                self._paint_detail()

    @on(OverChart.Moved)
    @on(SegmentList.Shown)
    def _moved(self) -> None:
        if self._timer is None:
            self._timer = self.set_timer(QUIET, self._ask)
        if self.room.inspection is not None and self.room.pane is self:
            self._paint_detail()
            self.room.offer_keys()

    def _ask(self) -> None:
        self._timer = None
        chart, inspection = self.chart, self.room.inspection
        if chart is None or inspection is None or not chart.states:
            return
        first, last = self.listed.in_view() if self.form == "list" else self.mapped.span()
        wanted = RowsAsked(inspection.server, chart.timeline, first, min(last, first + _SUMMED))
        if wanted != self._asked:
            self._asked = wanted
            self.room.ask(wanted)

    @on(Table.Moved)
    def _row_moved(self) -> None:
        self._paint_detail()
        self.room.offer_keys()

    @on(Table.Opened)
    def _opened(self) -> None:
        self.room.action_command("server.open")

    def _finding(self) -> Finding | None:
        """Return the finding about the gap under the cursor, the worst one when there are more."""
        inspection, chart = self.room.inspection, self.chart
        if inspection is None:
            return None
        if self.form == "gaps":
            return next((f for f in shown(inspection) if key_of(f) == self.gaps.key), None)
        if chart is None or not chart.states:
            return None
        gap = chart.gap_at(self.over.cursor) or (self._gap_in(self.mapped.span()) if self.form == "map" else None)
        if gap is None:
            return None
        at = self.over.cursor if chart.gap_at(self.over.cursor) else gap[1][0]
        name = chart.name(at)
        about_it = [f for f in inspection.findings if f.first and f.last and f.first <= name <= f.last]
        return next((f for f in about_it if f.breaks), about_it[0] if about_it else None)

    def refuse_form(self) -> str:
        return "" if self.room.inspection else "The archive is being read."

    def do_form(self) -> None:
        if self.form == "map":
            self.listed.cursor = self.mapped.cursor
        elif self.form == "list":
            self.mapped.cursor = self.listed.cursor
        self._turn(FORMS[(FORMS.index(self.form) + 1) % len(FORMS)])

    def _turn(self, form: Form) -> None:
        self.form = form
        self._show_form()
        self.room.repaint()
        self._moved()

    def refuse_open(self) -> str:
        if self.form == "gaps":
            finding, chart = self._finding(), self.chart
            if finding is None:
                return "There is no gap."
            if finding.first is None or chart is None or chart.number(finding.first) is None:
                return "It is about no segment of this timeline."
            return ""
        return "" if self.chart and self.chart.states else "There is no WAL yet."

    def do_open(self) -> None:
        """From the gaps to the place on the map, from the map to the list, and back."""
        finding, chart = self._finding(), self.chart
        if self.form == "gaps" and finding is not None and finding.first is not None and chart is not None:
            number = chart.number(finding.first)
            if number is not None:
                self.mapped.cursor = self.listed.cursor = number
            self._turn("map")
        elif self.form == "map":
            self.listed.cursor = self.mapped.cursor
            self._turn("list")
        else:
            self.mapped.cursor = self.listed.cursor
            self._turn("map")

    def refuse_left(self) -> str:
        return "" if self.form == "map" and self.chart and self.chart.states else "Only the map has cells."

    refuse_right = refuse_left

    def do_left(self) -> None:
        self.mapped.along(-1)

    def do_right(self) -> None:
        self.mapped.along(1)

    def refuse_closer(self) -> str:
        if self.form != "map":
            return "Only the map can be zoomed."
        return "" if self.mapped.can_zoom(-1) else "A cell is one segment already."

    def do_closer(self) -> None:
        self._zoom(-1)

    def refuse_wider(self) -> str:
        if self.form != "map":
            return "Only the map can be zoomed."
        return "" if self.mapped.can_zoom(1) else "All of it is in one row."

    def do_wider(self) -> None:
        self._zoom(1)

    def _zoom(self, by: int) -> None:
        self.mapped.zoom(by)
        self._paint_head(self.room.inspection)
        self._moved()

    def _gap_beside(self, *, after: bool) -> int | None:
        """Return the number at which the next gap begins, or the one before."""
        chart = self.chart
        if chart is None:
            return None
        at = self.over.cursor
        here = chart.gap_at(at)
        if here is None and self.form == "map":
            here = self._gap_in(self.mapped.span())
        if here is not None:
            place: int | None = here[0] + (1 if after else -1)
            place = place if place is not None and 0 <= place < chart.gaps.runs else None
        else:
            place = chart.gaps.beside(at, after=after)
        return None if place is None else chart.gaps.span(place)[0]

    def refuse_next(self) -> str:
        if self.form == "gaps" or (self.chart and self.chart.gaps.runs):
            return ""
        return "There is no gap."

    refuse_previous = refuse_next

    def do_next(self) -> None:
        self._jump(after=True)

    def do_previous(self) -> None:
        self._jump(after=False)

    def _jump(self, *, after: bool) -> None:
        if self.form == "gaps":
            self.gaps.move(1 if after else -1)
            return
        number = self._gap_beside(after=after)
        if number is None:
            self.room.say("There is no gap after this." if after else "There is no gap before this.")
        else:
            self.over.go(number)

    def refuse_turn(self) -> str:
        inspection = self.room.inspection
        return "" if inspection and len(inspection.timelines) > 1 else "There is only one timeline."

    def do_turn(self) -> None:
        inspection, chart = self.room.inspection, self.chart
        if inspection is None or chart is None:
            return
        known = inspection.timelines
        here = known.index(chart.timeline) if chart.timeline in known else -1
        self.room.turn_to(known[(here + 1) % len(known)])

    def refuse_copy(self) -> str:
        return "" if self._named() else "There is nothing to copy."

    def _named(self) -> str:
        finding, chart = self._finding(), self.chart
        if finding is not None and finding.first and finding.last and finding.first != finding.last:
            return f"{finding.first}..{finding.last}"
        if finding is not None and finding.first:
            return finding.first
        return chart.name(self.over.cursor) if chart and chart.states and self.form != "gaps" else ""

    def do_copy(self) -> None:
        self.room.copy(self._named(), self._named())

    def refuse_accept(self) -> str:
        finding = self._finding()
        if finding is None or not finding.breaks:
            return "Put the cursor on a gap first: n finds the next one."
        return "It is accepted already." if finding.state == "accepted" else ""

    def do_accept(self) -> None:
        from tui.screens.wal_accept import Accept

        finding = self._finding()
        if finding is not None:
            self.app.push_screen(Accept(self.room, finding))
