"""Getting back what the archive lacks: from wherever a copy is, verified whole, and archived as any other segment.

A .partial is never made a segment here: where one is all that is left, the command that does it is said.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

from engine.commands import wal_push
from engine.config import Server
from engine.errors import CellarmanError
from engine.event import SILENT, Reporter
from engine.postgres import walfile
from engine.remedy import push_copy
from engine.repository.files import write_all
from engine.wal import archive as archive_
from engine.wal import codec, condemned, contentcheck, index
from engine.wal.audit import must_be_there
from engine.wal.contentcheck import Content, Ending
from engine.wal.copies import Copies, Copy
from engine.wal.findings import gather
from engine.wal.gaps import Key
from engine.wal.inspection import known_system
from engine.wal.judgement.coverage import Line, holes, lines
from engine.wal.judgement.states import FUTURE, PENDING, RECEIVING, WRITING, Whereabouts
from engine.wal.judgement.values import Case
from engine.wal.temporary import new_temporary, remove_stale

State = Literal["fetched", "would_fetch", "kept", "pending", "partial_only", "lost", "failed"]
_MOST = 100_000
"""Segments that one run looks for."""
_INDEX_BUDGET = 20.0
_STALE = 3600.0


@dataclass(frozen=True, slots=True)
class Healed:
    """What became of a segment, or of a run of them, that lacked or was bad."""

    state: State
    first: str
    last: str
    count: int = 1
    source: str = ""
    """Where it was found."""
    why: str = ""
    fix: str = ""

    @property
    def open(self) -> bool:
        """Whether it still lacks, and will not come by itself."""
        return self.state in ("partial_only", "lost", "failed")


def heal(
    server: Server, *, dry_run: bool = False, read_only: bool = False, report: Reporter = SILENT
) -> tuple[list[Healed], tuple[str, ...]]:
    """Look for every segment that lacks or is bad, and archive what is found; also returns what is not known.

    With `dry_run` copies are read and verified, and nothing is archived; `read_only` needs that.
    """
    must_be_there(server.layout)
    report.phase("look", "where copies may be")
    made = gather(
        server, now=datetime.now(timezone.utc), ask_server=True, read_only=read_only, selected=(), told=report
    )
    if not made.cases:
        return [], made.unknown
    case = made.cases[0]
    lacking = wanted(case)
    if lacking:
        report.phase("fetch", "1 segment that lacks or is bad" if len(lacking) == 1 else f"{len(lacking)} segments")
    with Copies(server, case) as copies:
        healer = Healer(server, case, copies, dry_run)
        found = list(_joined(_one_by_one(healer, lacking, case.archive.segment_size, report)))
    if any(each.state == "fetched" for each in found):
        index.catch_up(server.layout, budget=_INDEX_BUDGET, report=report)
    return found, made.unknown


def _one_by_one(
    healer: Healer, lacking: Sequence[tuple[Key, str]], segment_size: int, report: Reporter
) -> Iterator[Healed]:
    """Heal one after the other, and tell of each as soon as that is done."""
    total = len(lacking)
    for done, (key, state) in enumerate(lacking, 1):
        each = healer.heal(key, state)
        report.progress(done * segment_size, total * segment_size, done, total)
        if each.state == "fetched":
            report.note(f"{each.first} is archived, from {each.source}")
        elif each.open:
            report.note(f"{each.first} still lacks: {each.why}", "warn")
        yield each


def wanted(case: Case) -> list[tuple[Key, str]]:
    """Return what lacks or is bad, by timeline and number, each with its state."""
    states = Whereabouts(case)
    found: dict[Key, str] = dict.fromkeys(case.archive.invalid, "")
    for line in lines(case):
        for key, state in _lacking(case, line, states):
            if state not in (FUTURE, WRITING, RECEIVING):
                found[key] = state
            if len(found) >= _MOST:
                return sorted(found.items())
    return sorted(found.items())


def _lacking(case: Case, line: Line, states: Whereabouts) -> Iterator[tuple[Key, str]]:
    for first, last in holes(line, case.archive.segment_size):
        following = next(line.good.within(last + 1, None), (None,))[0]
        for timeline, begin, end in line.pieces(first, last):
            for state, at, to in states.split(timeline, begin, end, following):
                yield from (((timeline, number), state) for number in range(at, to + 1))


class Healer:
    """Finds, verifies and archives one segment after the other."""

    def __init__(self, server: Server, case: Case, copies: Copies, dry_run: bool) -> None:
        self._server, self._case, self._copies, self._dry_run = server, case, copies, dry_run
        self._layout = server.layout
        known = known_system(server.layout)
        self._systems = () if known is None else (known,)
        self._newest: tuple[str, Ending] | None = None
        """The segment that was read last as the one before another, and how it ends."""
        if not dry_run:
            os.makedirs(self._layout.own, mode=0o750, exist_ok=True)
            remove_stale(self._layout.own, _STALE)

    def heal(self, key: Key, state: str) -> Healed:
        """Find one segment and archive it."""
        name = self._case.archive.name(*key)
        if state == PENDING:
            return Healed("pending", name, name, why="the server has it and will send it by itself")
        tried: list[tuple[str, CellarmanError]] = []
        if not self._copies.certainly_nowhere(key, name):
            for copy in self._copies.of(key, name):
                try:
                    plain, ending = self._verified(key, name, copy)
                    return self._take(key, name, copy, plain, ending)
                except CellarmanError as error:
                    tried.append((copy.where, error))
                except OSError as error:
                    tried.append((copy.where, CellarmanError(f"it cannot be read: {error.strerror or error}")))
        return self._not_found(key, name, tried)

    def _take(self, key: Key, name: str, copy: Copy, plain: bytes, ending: Ending) -> Healed:
        """Archive a copy that was found good, in the place of one that is bad."""
        bad = self._why_archived_is_bad(key, name)
        if bad is not None and not bad:
            return Healed("kept", name, name, why="the archived file reads good now")
        if self._dry_run:
            return Healed("would_fetch", name, name, source=copy.where, why=bad or "")
        if bad:
            condemned.condemn(self._layout, name, condemned.identity(os.stat(self._layout.wal(name))), bad)
        temporary, descriptor = new_temporary(self._layout.own, self._layout.name, name)
        try:
            write_all(descriptor, plain)
            archive_.store(
                self._layout,
                temporary,
                name,
                compression=self._server.compression,
                level=self._server.compression_level,
                wait=self._server.lock_timeout,
            )
        finally:
            os.unlink(temporary)
            os.close(descriptor)
        condemned.absolve(self._layout, name)
        self._newest = (name, ending)
        return Healed("fetched", name, name, source=copy.where, why=bad or "")

    def _verified(self, key: Key, name: str, copy: Copy) -> tuple[bytes, Ending]:
        """Return a copy's content, and how it ends; raises CellarmanError when it is not the whole, good segment."""
        plain = copy.read()
        content = self._check(name, plain, self._before(name, plain))
        if content.problem or content.ending is None:
            raise CellarmanError(content.problem or content.short or "it is not whole")
        after = self._after(key)
        following = self._archived(after) if after else None
        if after and following and not self._check(after, following, None).problem:
            problem = self._check(after, following, (name, content.ending)).problem
            if problem:
                raise CellarmanError(f"the next segment in the archive, {after}, speaks against it: {problem}")
        return plain, content.ending

    def _check(self, name: str, plain: bytes, before: tuple[str, Ending] | None) -> Content:
        return contentcheck.check(
            name, plain, systems=self._systems, histories=self._case.archive.histories, before=before
        )

    def _before(self, name: str, plain: bytes) -> tuple[str, Ending] | None:
        try:
            before = contentcheck.predecessor(name, walfile.read_header(plain), self._case.archive.histories)
        except (walfile.WalFormatError, ValueError):
            return None
        if before is None or self._newest is None or self._newest[0] != before:
            data = self._archived(before) if before else None
            if before is None or data is None:
                return None
            content = self._check(before, data, None)
            if content.ending is None or condemned.reason(self._layout, before):
                return None
            self._newest = (before, content.ending)
        return self._newest

    def _after(self, key: Key) -> str | None:
        """Return the archived segment that goes on from this one, on its timeline or on one that left it there."""
        timeline, number = key
        found = self._case.archive
        size = found.segment_size
        children = [
            child
            for child, switches in found.histories.items()
            if switches[-1].timeline == timeline and switches[-1].lsn == (number + 1) * size
        ]
        following = ((each, number + 1) for each in (timeline, *sorted(children)))
        return next((found.name(*each) for each in following if found.good(*each)), None)

    def _archived(self, name: str) -> bytes | None:
        try:
            return codec.read_segment(self._layout.wal(name))
        except (CellarmanError, OSError):
            return None

    def _why_archived_is_bad(self, key: Key, name: str) -> str | None:
        """Return what is wrong with the archived file, "" when nothing is, None when there is none."""
        if not os.path.lexists(self._layout.wal(name)):
            return None
        known = condemned.reason(self._layout, name)
        if known:
            return known
        try:
            plain = codec.read_segment(self._layout.wal(name))
        except codec.Unreadable as error:
            return "" if error.fix else error.why or error.what
        content = self._check(name, plain, self._before(name, plain))
        return content.problem or (content.short if self._after(key) else "") or ""

    def _not_found(self, key: Key, name: str, tried: list[tuple[str, CellarmanError]]) -> Healed:
        """Say why a segment stays away, and what can still be done for it by hand."""
        live, partial = self._case.live, self._case.partials.get(key)
        push = wal_push(f"pg_wal/{name}", self._server.name).line(self._server.named)
        by_hand = f"in the data directory of the server, or of a standby: {push}"
        reasons = [f"{where}: {' '.join(str(error).split())}" for where, error in tried]
        fixes = [error.now(self._server.named) for _, error in tried if error.fix]
        if self._copies.unreachable is not None:
            reasons.append(str(self._copies.unreachable))
        if partial is not None and partial.whole:
            reasons.append(f"{partial.path} is whole, and is not made a segment unasked")
            fix = push_copy(partial.path, name, self._server.name).text(self._server.named)
            return Healed("partial_only", name, name, source=partial.path, why="; ".join(reasons), fix=fix)
        if partial is not None:
            reach = f", its valid data ends at {partial.end}" if partial.end else ""
            reasons.append(f"only a part of it is there{reach}: {partial.path}")
        elif live is None:
            reasons.append("neither the queues nor errors/ have it, and the server could not be asked")
        elif not tried:
            also = f", nor that of {len(self._case.standbys)} standbys" if self._case.standbys else ""
            reasons.append(f"neither the server's pg_wal{also}, nor the queues, nor errors/ have it")
        state: State = "partial_only" if partial is not None else "failed" if tried else "lost"
        source = partial.path if partial is not None else ""
        return Healed(state, name, name, source=source, why="; ".join(reasons), fix="\nor ".join((*fixes, by_hand)))


def _joined(found: Iterator[Healed]) -> Iterator[Healed]:
    """Yield what was found, with neighbours of the same fate as one."""
    run: Healed | None = None
    for each in found:
        if run is not None and _same(run, each):
            run = Healed(run.state, run.first, each.last, run.count + 1, run.source, run.why, run.fix)
            continue
        if run is not None:
            yield run
        run = each
    if run is not None:
        yield run


def _same(run: Healed, each: Healed) -> bool:
    return (
        run.state == each.state in ("pending", "lost", "failed")
        and run.why == each.why
        and run.first[:8] == each.first[:8]
    )
