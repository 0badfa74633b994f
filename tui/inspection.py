"""What one server's WAL looks like, found out in threads of its own: the loop never waits for a disk or a server.

A room asks and is told by a message; the latest question of a kind wins. The first answer about a server is from the
disk alone; the next one has the running server's word too, as soon as that has answered or failed to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from textual.message import Message
from textual.message_pump import MessagePump

from tui.snapshot import utc_now

if TYPE_CHECKING:
    from engine.config import Config
    from engine.recovery.moments import Around, Moments
    from engine.recovery.strands import Strand
    from engine.wal.chart import Chart
    from engine.wal.family import Branch
    from engine.wal.findings import Dossier
    from engine.wal.index import SegmentRow
    from engine.wal.judgement.values import Finding

PAUSE = 2.0
"""Seconds at least between two looks at one server."""
ASK_AGAIN = 30.0
"""Seconds until a server that did not answer is asked again."""
MOST_BEATS = 4000


@dataclass(frozen=True, slots=True)
class Inspection:
    """One server's WAL, as far as it is known."""

    server: str
    findings: tuple[Finding, ...] = ()
    """Worst first."""
    unknown: tuple[str, ...] = ()
    branches: tuple[Branch, ...] = ()
    strands: tuple[Strand, ...] = ()
    timelines: tuple[int, ...] = ()
    """Those that can be charted, the one that matters first."""
    chart: Chart | None = None
    """Of the timeline that was asked for."""
    asked: bool = False
    """The running server's word is in it, or it was asked and did not answer."""
    trouble: str = ""
    """Why nothing can be said."""


class Inspected(Message):
    """A server's WAL was looked at."""

    def __init__(self, inspection: Inspection) -> None:
        super().__init__()
        self.inspection = inspection

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, Inspected)


@dataclass(frozen=True, slots=True)
class MomentAsked:
    """What are the transactions around a moment?"""

    server: str
    at: datetime


@dataclass(frozen=True, slots=True)
class BeatsAsked:
    """When did transactions end in a period?"""

    server: str
    begin: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class RowsAsked:
    """What does the index know of some segments of a timeline's lineage?"""

    server: str
    timeline: int
    first: int
    last: int


Question = MomentAsked | BeatsAsked | RowsAsked


class Answered(Message):
    """A question has its answer: `Around` or None, moments, or `{number: SegmentRow}`."""

    def __init__(self, question: Question, answer: Around | tuple[datetime, ...] | dict[int, SegmentRow] | None):
        super().__init__()
        self.question = question
        self.answer = answer


@dataclass
class _Known:
    """What is kept of the server that was looked at last."""

    server: str
    mark: Hashable
    dossier: Dossier
    inspection: Inspection
    charts: dict[int, Chart]
    looked: float
    took: float
    moments: Moments | None = None


@dataclass
class Inspector:
    """The threads. `broke` is told of a defect in one of them."""

    config: Config
    broke: Callable[[BaseException], None]
    now: Callable[[], datetime] = utc_now
    _lock: threading.Condition = field(default_factory=threading.Condition)
    _wanted: tuple[str, int, Hashable, MessagePump] | None = None
    _questions: dict[type, tuple[Question, MessagePump]] = field(default_factory=dict)
    _known: _Known | None = None
    _refused: dict[str, float] = field(default_factory=dict)
    """When a server last did not answer."""
    _started: bool = False
    _stopped: bool = False

    def look(self, server: str, timeline: int, mark: Hashable, to: MessagePump) -> Inspection | None:
        """Have a server's WAL looked at and `to` told, with the chart of a timeline (0: the one that matters); returns
        what is known at once. Looked at anew only when `mark` is another than the last time."""
        with self._lock:
            known = self._known if self._known is not None and self._known.server == server else None
            self._wanted = (server, timeline, mark, to)
            self._begin()
            self._lock.notify_all()
        return known.inspection if known else None

    def ask(self, question: Question, to: MessagePump) -> None:
        """Have a question answered; a later one of its kind takes its place."""
        with self._lock:
            self._questions[type(question)] = (question, to)
            self._begin()
            self._lock.notify_all()

    def forget(self) -> None:
        """Look at everything anew the next time, the server included."""
        with self._lock:
            self._refused.clear()
            if self._known is not None:
                self._known.mark, self._known.looked = object(), 0.0

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            self._lock.notify_all()

    def _begin(self) -> None:
        if not self._started:
            self._started = True
            for work, name in ((self._surveys, "inspector"), (self._lookups, "inspector-lookups")):
                threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True).start()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # the thread's edge: what breaks here is reported by the app, never lost
            self.broke(error)

    def _surveys(self) -> None:
        while True:
            with self._lock:
                while self._wanted is None and not self._stopped:
                    self._lock.wait()
                if self._stopped or self._wanted is None:
                    return
                server, timeline, mark, to = self._wanted
                known = self._known if self._known is not None and self._known.server == server else None
                fresh = known is None or known.mark != mark
                due = known.looked + max(PAUSE, 10 * known.took) if known and fresh else 0.0
                left = due - time.monotonic()
                if left > 0:
                    self._lock.wait(left)
                    continue
                self._wanted = None
            if known is not None and not fresh:
                self._tell(known, timeline, to)
                continue
            self._survey(server, timeline, mark, to, known)

    def _survey(self, server: str, timeline: int, mark: Hashable, to: MessagePump, known: _Known | None) -> None:
        from engine.errors import CellarmanError

        settings = self.config.servers[server]
        asks = bool(settings.conninfo) and time.monotonic() - self._refused.get(server, -ASK_AGAIN) >= ASK_AGAIN
        try:
            if known is None:
                known = self._gathered(server, mark, ask=False)
                self._tell(replace(known, mark=object()) if asks else known, timeline, to)
            if asks:
                known = self._gathered(server, mark, ask=True)
                if not known.dossier.cases or known.dossier.cases[0].live is None:
                    self._refused[server] = time.monotonic()
                self._tell(known, timeline, to)
            elif known.mark != mark:
                self._tell(self._gathered(server, mark, ask=False), timeline, to)
        except (CellarmanError, OSError) as error:
            to.post_message(Inspected(Inspection(server, trouble=str(error))))

    def _gathered(self, server: str, mark: Hashable, *, ask: bool) -> _Known:
        from engine.event import Silent
        from engine.recovery.strands import strands
        from engine.wal.chart import charted
        from engine.wal.family import tree
        from engine.wal.findings import gather
        from engine.wal.judgement.judge import in_order, judge

        began = time.monotonic()
        settings = self.config.servers[server]
        # Nothing is written and no lock is taken: a console that hangs on a stalled terminal holds nobody up.
        made = gather(settings, now=self.now(), ask_server=ask, read_only=True, selected=(), told=Silent())
        found = in_order([*made.remarks, *(finding for case in made.cases for finding in judge(case))])
        case = made.cases[0] if made.cases else None
        inspection = Inspection(
            server,
            tuple(found),
            made.unknown,
            tuple(tree(case)) if case else (),
            strands(settings.layout, case) if case else (),
            tuple(line.timeline for line in charted(case)) if case else (),
            asked=ask or not settings.conninfo,
        )
        ended = time.monotonic()
        return _Known(server, mark, made, inspection, {}, ended, ended - began)

    def _tell(self, known: _Known, timeline: int, to: MessagePump) -> None:
        """Keep what is known, with the chart of a timeline, and tell the room that asked."""
        from engine.wal.chart import chart, charted

        inspection = known.inspection
        wanted = timeline if timeline in inspection.timelines else next(iter(inspection.timelines), 0)
        if wanted and wanted not in known.charts:
            case = known.dossier.cases[0]
            line = next(line for line in charted(case) if line.timeline == wanted)
            known.charts = {wanted: chart(case, line)}
        known.inspection = replace(inspection, chart=known.charts.get(wanted))
        with self._lock:
            known.moments = None
            self._known = known
            self._lock.notify_all()
        to.post_message(Inspected(known.inspection))

    def _lookups(self) -> None:
        while True:
            with self._lock:
                ready = [kind for kind, (asked, _) in self._questions.items() if self._about(asked) is not None]
                while not ready and not self._stopped:
                    self._lock.wait()
                    ready = [kind for kind, (asked, _) in self._questions.items() if self._about(asked) is not None]
                if self._stopped:
                    return
                question, to = self._questions.pop(ready[0])
                known = self._about(question)
            assert known is not None
            to.post_message(Answered(question, self._answer(known, question)))

    def _about(self, question: Question) -> _Known | None:
        known = self._known
        return known if known is not None and known.server == question.server else None

    def _answer(self, known: _Known, question: Question) -> Any:
        from engine.errors import CellarmanError

        try:
            if isinstance(question, RowsAsked):
                return self._rows(known, question)
            moments = self._moments(known)
            if moments is None:
                return None if isinstance(question, MomentAsked) else ()
            if isinstance(question, MomentAsked):
                return moments.around(question.at)
            return moments.beats(question.begin, question.end, MOST_BEATS)
        except (CellarmanError, OSError):
            return {} if isinstance(question, RowsAsked) else None if isinstance(question, MomentAsked) else ()

    def _moments(self, known: _Known) -> Moments | None:
        from engine.recovery.moments import Moments
        from engine.wal.chart import charted
        from engine.wal.inspection import known_system

        if known.moments is None and known.dossier.cases:
            case = known.dossier.cases[0]
            line = next(iter(charted(case)), None)
            if line is None or not len(line.good):
                return None
            layout = self.config.servers[known.server].layout
            pieces = tuple(line.pieces(line.good[0], line.good[-1]))
            known.moments = Moments(layout, case.archive, pieces, known_system(layout))
        return known.moments

    def _rows(self, known: _Known, question: RowsAsked) -> dict[int, SegmentRow]:
        from engine.wal import index

        chart = known.charts.get(question.timeline)
        layout = self.config.servers[known.server].layout
        found: dict[int, SegmentRow] = {}
        for timeline, first, last in chart.pieces if chart else ():
            begin, end = max(first, question.first), min(last, question.last)
            if begin <= end:
                found.update((row.number, row) for row in index.rows(layout, timeline, begin, end))
        return found
