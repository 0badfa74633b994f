"""The report on one server's WAL: archive, catalogue, index and running server put before the rules."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from engine.amounts import counted
from engine.commands import cellarman
from engine.config import Server
from engine.errors import Advice, CellarmanError, Refused
from engine.event import Reporter, Silent
from engine.postgres import segment, walfile
from engine.postgres.backuplabel import LabelError, parse_label
from engine.postgres.clock import pg_time
from engine.repository import identity, repository
from engine.repository.backupinfo import BackupInfo
from engine.repository.chain import Chains
from engine.repository.layout import Layout
from engine.repository.repository import Catalogue
from engine.wal import accepted, codec, index, receiver, remarks, standbys
from engine.wal import live as live_
from engine.wal.consistent import Consistent, consistent
from engine.wal.copies import refused_in
from engine.wal.gaps import Archive, Key, NoLineage, core_range, resolve, without_contradicted
from engine.wal.inventory import Inventory, Names, histories, list_names, listed, take
from engine.wal.judgement.judge import in_order, judge
from engine.wal.judgement.values import Base, Case, Finding, Partial, Report
from engine.wal.live import Live
from engine.wal.runs import Runs, Span, spans_of
from engine.wal.scrutiny import (
    MOST_LOOKED_AT,
    READING_SECONDS,
    Scrutiny,
    begins_of,
    examine,
    header_of,
    matter,
    unindexed_in,
)

_INDEX_BUDGET = 20.0
"""Seconds that bringing the index up to date may take."""
_PROVING = 10.0
"""Seconds of it that may go into verifying every record of what is new."""
_INDEXED_HERE = 2048
"""More new segments than this are left to maintenance: the report does not wait for them."""
_GLANCE = 0.2
"""Seconds for reading files where there is no time."""
_ASSUMED_SIZE = 16 << 20
_HEADERS_TRIED = 8
_PARTIALS_READ = 8
_ALIEN = re.compile(r"alien: it belongs to the system (\d+)")


@dataclass(frozen=True, slots=True)
class Dossier:
    """A server's cases, one an incarnation, the present one first, and what was found while they were made."""

    cases: tuple[Case, ...]
    remarks: tuple[Finding, ...]
    unknown: tuple[str, ...]


def report(
    server: Server,
    *,
    now: datetime | None = None,
    ask_server: bool = True,
    read_only: bool = False,
    selected: Sequence[int] = (),
    told: Reporter | None = None,
) -> Report:
    """Judge a server's WAL. Raises Refused when a selected timeline cannot be followed, CellarmanError when the
    archive itself cannot be read."""
    made = gather(
        server,
        now=now or datetime.now(timezone.utc),
        ask_server=ask_server,
        read_only=read_only,
        selected=selected,
        told=told or Silent(),
    )
    for timeline in selected:
        _check_selected(made.cases, timeline)
    found = [*made.remarks, *(finding for case in made.cases for finding in judge(case))]
    return Report(server.name, tuple(in_order(found)), made.unknown)


def at_a_glance(
    server: Server, now: datetime, catalogue: Catalogue | None = None
) -> tuple[Archive, tuple[Finding, ...]]:
    """Judge a server's WAL by what the disk tells in a moment; changes nothing, asks nobody.

    `catalogue` is the server's, if it was read already. Returns the present archive too. Raises CellarmanError when the
    archive itself cannot be read.
    """
    made = gather(
        server,
        now=now,
        ask_server=False,
        read_only=True,
        selected=(),
        told=Silent(),
        glance=True,
        catalogue=catalogue,
    )
    found = [*made.remarks, *(each for case in made.cases for each in judge(case))]
    return made.cases[0].archive if made.cases else Archive(_ASSUMED_SIZE), tuple(in_order(found))


def _check_selected(cases: Sequence[Case], timeline: int) -> None:
    """Refuse a timeline that recovery could not be told to follow."""
    archive = cases[0].archive if cases else Archive(_ASSUMED_SIZE)
    wanted = resolve(str(timeline), timeline if timeline == 1 else 0, 0, archive)
    if isinstance(wanted, NoLineage) and wanted.kind != "backup_off_branch":
        raise Refused(
            f"timeline {timeline} cannot be followed",
            f"{wanted.why} (it would say: recovery target timeline {timeline} does not exist)",
            Advice(cellarman("wal", "timelines", cases[0].server if cases else "SERVER"), " lists those there are"),
        )


def gather(
    server: Server,
    *,
    now: datetime,
    ask_server: bool,
    read_only: bool,
    selected: Sequence[int],
    told: Reporter,
    glance: bool = False,
    catalogue: Catalogue | None = None,
) -> Dossier:
    """Collect everything that the rules ask for. `glance` keeps it to a moment: of what is new or changed only a little
    is read, and nothing that is worth no more than a note is looked for. `catalogue` is the server's, if known."""
    layout = server.layout
    unknown: list[str] = []
    catalogue = catalogue or repository.catalogue(layout)
    unknown += [f"backup {bad.id} cannot be read: {bad.reason}" for bad in catalogue.unreadable]
    infos = _infos(layout, catalogue)
    # The server is asked first: what it archives after that is found on disk, and is not taken for lost.
    live = _ask(server, unknown) if ask_server else None
    names = list_names(layout, keep=not read_only)
    good, bad, differ = histories(layout, names.root)
    system = _system(layout, infos, live, unknown)
    holding, untold = standbys.look(server, system) if ask_server else ((), [])
    unknown += untold
    size, told_by = _segment_size(layout, names, infos, live, system)
    inventory = take(layout, names, size)
    found = remarks.of_names(layout, names, inventory, differ, server.name, glance=glance)
    if inventory.oversized and told_by == "assumed":
        wrong = remarks.wrong_size(inventory, server.name)
        unknown.append("nothing more can be judged before the segment size is known")
        return Dossier((), (*found, wrong), tuple(unknown))
    if not read_only and 0 < unindexed_in(layout, names, size)[0] <= _INDEXED_HERE:
        _catch_up(layout, told, unknown)
    first = matter([(info.begin_wal, info.end_wal) for info in infos], inventory)
    seconds = _GLANCE if glance else READING_SECONDS
    scrutiny = examine(layout, names, inventory, first, system, good, begins=begins_of(infos), seconds=seconds)
    _say_unchecked(scrutiny, names, server, unknown)
    unknown += say_unproven(server)
    gaps = _accepted(layout, unknown)
    archive = Archive(size, inventory.segments, good, {}, bad, index.minimal(layout))
    cases = _incarnations(layout, archive, inventory, scrutiny, infos, system)
    cases = [replace(case, server=server.name, now=now, accepted=gaps) for case in cases]
    cases[0] = _present(server, cases[0], inventory, live, selected, layout)
    unasked = _unasked(server, cases[0], live, holding)
    cases[0] = replace(cases[0], unseen=_unseen(names, size), standbys=holding, unasked=unasked)
    if live is None and ask_server:
        unknown.append("what the server wrote, archived and still holds: it could not be asked")
    return Dossier(tuple(cases), tuple(found), tuple(unknown))


def _unasked(server: Server, case: Case, live: Live | None, holding: Sequence[standbys.Standby]) -> bool:
    """Tell whether the server, or a standby, may hold more than is known. A server of another system holds nothing."""
    silent = bool(server.conninfo) and (live is None or (case.live is not None and case.live.pg_wal is None))
    return silent or len(holding) < len(server.standby_conninfo) or any(each.pg_wal is None for each in holding)


def _catch_up(layout: Layout, told: Reporter, unknown: list[str]) -> None:
    try:
        index.catch_up(layout, budget=_INDEX_BUDGET, report=told, prove=_PROVING)
    except (CellarmanError, OSError, sqlite3.Error) as error:
        unknown.append(f"the index of the archive could not be brought up to date: {error}")


def _has_ended(info: BackupInfo) -> bool:
    known = info.end_time is not None and info.begin_wal is not None and info.end_wal is not None
    return info.status in ("DONE", "WAITING_FOR_WALS") and not info.deleting and known


def _ask(server: Server, unknown: list[str]) -> Live | None:
    """Ask the running server; that it does not answer is said, and is no error."""
    if not server.conninfo:
        return None
    known = (name for name in listed(server.layout.wals) if segment.kind_of(name) == segment.HISTORY)
    try:
        found = live_.look(server, [int(name[:8], 16) for name in known])
    except CellarmanError as error:
        unknown.append(" ".join(str(error).split()))
        return None
    unknown += found.unknown
    return found


def _infos(layout: Layout, catalogue: Catalogue) -> list[BackupInfo]:
    """Return the backups that have ended, but for incremental ones that what they rest on is missing from."""
    chains = Chains(layout)
    ended = [info for info in catalogue.backups if _has_ended(info)]
    return [info for info in ended if not info.is_incremental or not chains.lacking(info)]


def _system(layout: Layout, infos: Sequence[BackupInfo], live: Live | None, unknown: list[str]) -> int | None:
    """Return the system whose WAL this archive takes now: the repository's, or the newest backup's, or the server's."""
    try:
        known = identity.system_id(layout)
    except CellarmanError as error:
        unknown.append(" ".join(str(error).split()))
        known = None
    if known is None:
        known = next((info.systemid for info in infos if info.systemid is not None), None)
    if known is None:
        return live.system_id if live is not None else None
    if live is not None and live.system_id != known:
        unknown.append(
            f"the server that answers is another system, {live.system_id}; the archive's is {known}: "
            "its word about WAL was not used"
        )
    return known


def _segment_size(
    layout: Layout, names: Names, infos: Sequence[BackupInfo], live: Live | None, system: int | None
) -> tuple[int, str]:
    """Return the segment size of the present incarnation, and who says so: header, backup, server or assumed."""
    tried = 0
    for directory in sorted(names.directories, key=lambda name: (name[:8], name), reverse=True):
        for first, last in reversed(names.directories[directory].spans):
            for number in (last, first):
                header = header_of(f"{layout.wals}/{directory}/{directory}{number:08X}")
                tried += 1
                if header is not None and system in (None, header.system_id):
                    return header.segment_size, "header"
        if tried >= _HEADERS_TRIED:
            break
    if live is not None and system in (None, live.system_id):
        return live.segment_size, "server"
    if infos:
        return infos[0].xlog_segment_size, "backup"
    return _ASSUMED_SIZE, "assumed"


def _unseen(names: Names, size: int) -> dict[int, Runs]:
    """Return the segments that directories which cannot be read would hold."""
    per_log = 0x1_0000_0000 // size
    spans: dict[int, list[Span]] = {}
    for path, _ in names.unreadable:
        directory = os.path.basename(path)
        first = int(directory[8:], 16) * per_log
        spans.setdefault(int(directory[:8], 16), []).append((first, first + per_log - 1))
    return {timeline: Runs(own) for timeline, own in spans.items()}


def _say_unchecked(scrutiny: Scrutiny, names: Names, server: Server, unknown: list[str]) -> None:
    total = sum(last - first + 1 for each in names.directories.values() for first, last in each.spans)
    if scrutiny.unchecked > 0:
        unknown.append(
            f"{scrutiny.unchecked} of {total} segments have not been looked into yet: maintenance does it, or "
            f"{cellarman('wal', 'reindex', server.name).line(server.named)}"
        )
    if scrutiny.changed:
        unknown.append(f"{scrutiny.changed} segments changed after they were indexed and have not been read again yet")
    if scrutiny.looked_at >= MOST_LOOKED_AT and scrutiny.looked_at < total - scrutiny.unchecked:
        unknown.append(
            f"whether files changed in place after they were indexed was looked at for {scrutiny.looked_at} of {total}"
        )


def say_unproven(server: Server) -> list[str]:
    """Return the sentence that the records of some segments have not been verified, if that is so."""
    count = index.unproven(server.layout)
    if not count:
        return []
    many = counted(count, "segment") if count < index.UNPROVEN_COUNTED else f"{count} segments or more"
    reindex = cellarman("wal", "reindex", server.name).line(server.named)
    return [f"the records of {many} have not been verified yet: maintenance does it, or {reindex}"]


def _accepted(layout: Layout, unknown: list[str]) -> list[accepted.Accepted]:
    try:
        return accepted.read(layout)
    except CellarmanError as error:
        unknown.append(" ".join(str(error).split()))
        return []


def _incarnations(
    layout: Layout,
    archive: Archive,
    inventory: Inventory,
    scrutiny: Scrutiny,
    infos: Sequence[BackupInfo],
    system: int | None,
) -> list[Case]:
    """Return a case for each (system, segment size) that backups or segments are of, the present one first."""
    size = archive.segment_size
    owners = {(info.systemid, info.xlog_segment_size) for info in infos if info.systemid is not None}
    known_systems = {owner for owner, _ in owners}
    invalid: dict[Key, str] = {}
    others: dict[tuple[int, int], list[str]] = {}
    for name, reason in scrutiny.invalid.items():
        alien = _ALIEN.match(reason)
        if alien and int(alien[1]) in known_systems and int(alien[1]) != system:
            owner = int(alien[1])
            others.setdefault((owner, _size_of(owner, owners, size)), []).append(name)
        elif _parsed(name, size) is not None:
            invalid[segment.parse_segment(name, size)] = reason
    elsewhere = {s for _, s in owners if s != size}
    if elsewhere or inventory.oversized:
        for name, other in _other_sizes(layout, inventory, size):
            others.setdefault((system or 0, other), []).append(name)
    gone: dict[int, list[int]] = {}
    for names in others.values():
        for name in names:
            key = _parsed(name, size)
            if key is not None:
                gone.setdefault(key[0], []).append(key[1])
                invalid.pop(key, None)
    segments = {t: numbers.without(gone[t]) if t in gone else numbers for t, numbers in inventory.segments.items()}
    first = without_contradicted(replace(archive, segments=segments, invalid=invalid))
    present = [i for i in infos if i.xlog_segment_size == size and i.systemid in (None, system)]
    made = [_case(layout, first, present)]
    for identity_ in sorted({*others, *owners} - {(system or 0, size)}):
        theirs = [i for i in infos if (i.systemid or 0, i.xlog_segment_size) == identity_]
        numbers = _by_timeline(others.get(identity_, ()), identity_[1])
        past = without_contradicted(replace(archive, segment_size=identity_[1], segments=numbers))
        made.append(replace(_case(layout, past, theirs), past=True))
    return made


def _size_of(owner: int, owners: set[tuple[int, int]], otherwise: int) -> int:
    return next((size for system, size in sorted(owners, key=str) if system == owner), otherwise)


def _parsed(name: str, size: int) -> Key | None:
    try:
        return segment.parse_segment(name, size)
    except ValueError:
        return None


def _other_sizes(layout: Layout, inventory: Inventory, size: int) -> list[tuple[str, int]]:
    """Return (name, segment size) of the segments that are of another size than `size`."""
    found = dict(index.sizes(layout, size))
    for name in inventory.oversized[:1000]:
        header = header_of(layout.wal(name))
        if header is not None and header.segment_size != size:
            found[name] = header.segment_size
    return sorted(found.items())


def _by_timeline(names: Sequence[str], size: int) -> dict[int, Runs]:
    numbers: dict[int, list[int]] = {}
    for name in names:
        key = _parsed(name, size)
        if key is not None:
            numbers.setdefault(key[0], []).append(key[1])
    return {timeline: Runs(spans_of(sorted(own))) for timeline, own in numbers.items()}


def _case(layout: Layout, archive: Archive, infos: Sequence[BackupInfo]) -> Case:
    spans = consistent(layout, infos, most_read=0)
    bases = tuple(_base(layout, info, spans[info.id]) for info in infos)
    now = datetime.now(timezone.utc)
    return Case("", archive, bases, now, evidence=Beside(layout, archive))


def _base(layout: Layout, info: BackupInfo, span: Consistent) -> Base:
    assert info.end_time is not None
    checkpoint = span.start
    if info.backup_label:
        try:
            checkpoint = parse_label(info.backup_label).checkpoint_lsn
        except LabelError:
            pass  # the redo point lies before the checkpoint, on the same timeline
    core = core_range(span.start, span.stop, info.xlog_segment_size)
    contained = _self_contained(layout, info, range(core[0], core[1] + 1))
    stop = (span.stop_timeline, int(span.stop)) if span.exact else None
    keep = info.keep == "standalone"
    return Base(
        info.id, span.timeline, span.start, span.stop, info.end_time, checkpoint, keep, contained, stop, span.lacking
    )


def _self_contained(layout: Layout, info: BackupInfo, numbers: range) -> bool:
    """Tell whether a backup brings its own WAL, as pg_basebackup -X stream or fetch makes it."""
    data = layout.data(info.id)
    if info.is_tar:
        return any(os.path.exists(os.path.join(data, f"pg_wal.tar{end}")) for end in ("", ".gz", ".lz4", ".zst"))
    timeline = info.timeline or int((info.begin_wal or "1")[:8], 16)
    size = info.xlog_segment_size
    return all(
        os.path.exists(os.path.join(data, "pg_wal", segment.segment_name(timeline, number, size))) for number in numbers
    )


def _present(
    server: Server, case: Case, inventory: Inventory, live: Live | None, selected: Sequence[int], layout: Layout
) -> Case:
    """Return the present incarnation's case with what only it has: a running server, queues, partials."""
    size = inventory.segment_size
    system = _case_system(layout, live)
    mine = live if live is not None and live.segment_size == inventory.segment_size and system else None
    receiving = None
    partials: dict[Key, Partial] = {}
    newest = max((k for k, path in inventory.partials.items() if path.startswith(layout.streaming)), default=None)
    if newest is not None and receiver.alive(layout) is not None:
        receiving = newest
    for key, path in sorted(inventory.partials.items(), reverse=True):
        partials[key] = _partial(path) if len(partials) < _PARTIALS_READ else Partial(path)
    return replace(
        case,
        live=mine,
        partials=partials,
        receiving=receiving,
        encoded=inventory.encoded,
        kept=frozenset(known for name in refused_in(layout) if (known := _parsed(name[:24], size)) is not None),
        slot=server.slot_name if server.streaming_archiver else "",
        selected=tuple(selected),
    )


def _case_system(layout: Layout, live: Live | None) -> bool:
    """Tell whether the server that answered is the archive's."""
    try:
        known = identity.system_id(layout)
    except CellarmanError:
        return False
    return live is not None and known in (None, live.system_id)


def _partial(path: str) -> Partial:
    """Read a .partial file for how far its valid data goes."""
    try:
        data = codec.read_segment(path)
        header = walfile.read_header(data)
        facts = walfile.walk(data, header)
    except (CellarmanError, OSError):
        return Partial(path)
    return Partial(path, facts.end_lsn, len(data) == header.segment_size and facts.complete)


class Beside:
    """`judgement.values.Evidence` of a real archive."""

    def __init__(self, layout: Layout, archive: Archive) -> None:
        self._layout, self._archive = layout, archive

    def arrived(self, timeline: int, number: int) -> datetime | None:
        name = self._archive.name(timeline, number)
        for path in (self._layout.wal(name), os.path.join(self._layout.incoming, name)):
            try:
                return datetime.fromtimestamp(os.stat(path).st_ctime, timezone.utc)
            except OSError:
                continue
        return None

    def last_commit(self, timeline: int, number: int) -> datetime | None:
        found = index.last_time(self._layout, timeline, number)
        return None if found is None else pg_time(found)
