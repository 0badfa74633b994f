"""What each step of the restore wizard shows."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from engine import trail
from engine.errors import CellarmanError
from engine.recovery.spoken import UTC
from engine.recovery.target import EndOfArchive
from tui import moments, wording
from tui.format import Line, calm_span, day_and_time, plain, size
from tui.screens.restore_chosen import AUTO, OWN, PICKED, STEPS
from tui.screens.restore_reckoning import Reckoning
from tui.snapshot import Snapshot
from tui.widgets.axis import axis, closely, scale
from tui.widgets.lines import Lines
from tui.widgets.table import Column, Row, Table

if TYPE_CHECKING:
    from engine.status import ServerStatus


class Steps(Reckoning):
    """The restore as it is painted."""

    def paint(self, snapshot: Snapshot) -> None:
        self.query_one("#steps", Lines).show([self._steps()])
        self._show_moments()
        getattr(self, f"_paint_{STEPS[self._step]}")(snapshot)

    def _steps(self) -> Line:
        spans: list[tuple[str, str]] = []
        for place, word in enumerate(("from", "to when", "to where", "confirm")):
            if place == self._step:
                spans.append((f"{self.glyphs.hand} {word}", "hand!"))
            elif place < self._step:
                spans.append((f"{self.glyphs.ok} {word}", "good"))
            else:
                spans.append((f"{self.glyphs.waiting} {word}", "faint"))
            spans.append(("    ", "text"))
        return (*spans, (plain(self._said_so_far()), "quiet"))

    def _said_so_far(self) -> str:
        if self._step < 2:
            return ""
        if self._plan is not None:
            return moments.target_words(self._plan.order.target)
        return ""

    def _paint_from(self, snapshot: Snapshot) -> None:
        lines: list[Line] = [
            (
                ("From which backup?", "strong"),
                ("  Left to itself, Cellarman takes the newest one that ended before the moment.", "quiet"),
            )
        ]
        self.query_one("#from-said", Lines).show(lines)
        server = snapshot.server(self._server_name)
        rows = [Row(AUTO, ((("choose for me", "strong"),), *[()] * 5))]
        for info in server.backups if server else ():
            if info.status == "DONE" and info.end_time is not None:
                age = calm_span((snapshot.minute - info.end_time).total_seconds())
                rows.append(
                    Row(
                        info.id,
                        (
                            ((info.id, "text"),),
                            ((wording.type_of(info), "quiet"),),
                            ((day_and_time(info.end_time), "text"),),
                            ((age, "quiet"),),
                            ((size(info.size) if info.size else "", "text"),),
                            ((plain(info.backup_name or ""), "hand"),),
                        ),
                    )
                )
        self.query_one("#bases", Table).show(rows)

    def _columns(self) -> tuple[Column, ...]:
        ago = Column("", align="right", yields=1, name="ago")
        return (
            Column("TO", limit=46),
            Column(f"TIME ({self._zone})", name="time"),
            ago,
            Column("", yields=2, name="id"),
        )

    def _show_moments(self) -> None:
        now = self.app.now()
        rows = [Row(OWN, ((("a moment that you type", "text"),), *self._own_cells()))]
        if self._picked is not None:
            when = moments.short(self._picked.at, self._zone, now) if self._picked.at else ""
            rows.append(Row(PICKED, (((self._picked.words, "strong"),), ((when, "text"),), (), ())))
        for key, ready in self._ready.items():
            when = moments.short(ready.at, self._zone, now) if ready.at else ""
            past = moments.ago(ready.at, now) if ready.at else ""
            which = f"transaction {ready.xid}" if ready.xid is not None else str(ready.lsn or "")
            role = "faint" if not ready.reachable else "strong" if ready.kind == "drop" else "text"
            sign = () if ready.reachable else ((f"{self.glyphs.critical} ", "bad"),)
            cells = (
                (*sign, (moments.ready_words(ready), role)),
                ((when, "text" if ready.reachable else "faint"),),
                ((past, "quiet") if ready.reachable else ("out of reach", "bad"),),
                ((which, "quiet"),),
            )
            rows.append(Row(key, cells))
        self._moments.show(rows, self._columns())

    def _own_cells(self) -> tuple[Line, Line, Line]:
        text = plain(self._text)
        return (((text, "strong"),) if text else (("t types it", "quiet"),)), (), ()

    def _paint_when(self, snapshot: Snapshot) -> None:
        server = snapshot.server(self._server_name)
        lines: list[Line] = []
        if server is not None and self.app.size.height >= 30 and server.windows:
            lines = self._axis(server, snapshot.minute)
        self.query_one("#axis", Lines).show(lines)
        self.query_one("#verdict", Lines).show(self._verdict())

    def _axis(self, server: ServerStatus, now: datetime) -> list[Line]:
        """Return the axis with the chosen moment on it, as far as its time is known."""
        stretches, marks, width = wording.stretches(server), wording.marks(server), self.app.size.width - 4
        at = self._at()
        if at is None:
            return axis(stretches, marks, now, width, self.glyphs, not server.open_end)
        seen = scale(stretches, marks, now, width)
        return closely(seen, at, now, stretches, marks, (), self.glyphs, not server.open_end)

    def _meaning(self) -> Line:
        """Return what the chosen moment is, above whether it can be reached."""
        try:
            target = self._target()
        except CellarmanError:
            return ()
        said = moments.target_words(target)
        at = getattr(target, "at", None)
        if isinstance(at, datetime):
            here = "" if self._zone == UTC else f" = {moments.clock(at, self._zone)}"
            said = f"{said}{here}, {moments.ago(at, self.app.now())}"
        on_line = "" if self._timeline == "latest" else f", on timeline {self._timeline}"
        from_this = "" if self._backup == AUTO else f", from backup {self._backup}"
        return (f"{'to':<10}", "quiet"), (f"{said}{on_line}{from_this}", "strong")

    def _verdict(self) -> list[Line]:
        meaning = self._meaning()
        lead = [meaning] if meaning else []
        if self._error is not None:
            return [*lead, *moments.error_lines(self._error, self.glyphs, self.app.config.named)]
        if self._plan is None:
            waits = "reckoning whether it can be reached" + ("" if self._ready else "; reading the WAL archive")
            return [*lead, ((f"{self.glyphs.running} {waits}", "moving"),)]
        return [*lead, *moments.verdict(self._plan, self._zone, self.app.now(), self.glyphs, self.app.config.named)]

    def _paint_where(self, snapshot: Snapshot) -> None:
        said: list[Line] = [
            (
                ("Where should the restored copy go?", "strong"),
                (f"  {plain(self._server_name)} itself is not touched.", "quiet"),
            )
        ]
        self.query_one("#where-said", Lines).show(said)
        if self._error is not None:
            lines = moments.error_lines(self._error, self.glyphs, self.app.config.named)
        elif self._plan is None:
            where = f" on {plain(self._on)}" if self._on else ""
            lines = [((f"{self.glyphs.running} looking at the directory{where}", "moving"),)]
        elif not self._plan.reachable:
            lines = moments.verdict(self._plan, self._zone, self.app.now(), self.glyphs, self.app.config.named)
        else:
            lines = moments.place(self._plan, self.glyphs, self.app.config.named)
            about = moments.took(self._plan, snapshot.jobs)
            lines += moments.facts([("takes", f"{about}; then it replays", "text")]) if about else []
            lines.append(())
            meaning = moments.ENDINGS[self._plan.order.action][1]
            if isinstance(self._plan.order.target, EndOfArchive):
                meaning = "it replays all there is and opens for writing, on a timeline of its own"
            lines += moments.facts([("at last", meaning, "quiet")])
        self.query_one("#place", Lines).show(lines)

    def _paint_confirm(self, snapshot: Snapshot) -> None:
        told = self.query_one("#told", Lines)
        if self._error is not None:
            told.show(moments.error_lines(self._error, self.glyphs, self.app.config.named))
            return
        if self._plan is None:
            told.show([((f"{self.glyphs.running} reckoning once more", "moving"),)])
            return
        plan = self._plan
        about = moments.took(plan, snapshot.jobs)
        lines: list[Line] = [moments.doing(plan, trail.account()), (), *moments.steps(plan), ()]
        if plan.refusals or not plan.reachable:
            lines = [*moments.place(plan, self.glyphs, self.app.config.named)] if plan.reachable else self._verdict()
        else:
            lines += moments.facts([("copying", about, "text")]) if about else []
            lines += [
                (("Nothing of the server is touched. To undo: stop the copy, remove its directory.", "text"),),
                (),
            ]
            lines += [*moments.warnings(plan, self.glyphs), ()] if plan.warnings else []
            lines += [tuple(moments.order_words(plan.order, self.app.config.named))]
        told.show(lines)
