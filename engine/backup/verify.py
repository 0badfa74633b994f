"""Reading every byte of a backup against its manifest, and the WAL that it needs."""

from __future__ import annotations

import os
import re
import select
import subprocess
from dataclasses import dataclass
from typing import Any, NamedTuple

from engine.amounts import counted
from engine.backup import contents
from engine.backup.contents import Finding, Reading
from engine.commands import cellarman
from engine.config import Config, Server
from engine.errors import Advice, CellarmanError, Refused
from engine.event import SILENT, Reporter
from engine.host import local
from engine.postgres import programs, recordruns, walfile
from engine.postgres.recordcheck import RecordCheck
from engine.postgres.recordruns import Runs
from engine.postgres.walfile import Carry, SegmentFacts, SegmentHeader
from engine.repository import locks, repository
from engine.repository.backupinfo import BackupInfo
from engine.repository.chain import Chains
from engine.repository.layout import Layout
from engine.wal import codec

__all__ = ["Finding", "Verdict", "verify", "work"]

_PROGRESS = re.compile(rb"\s*(\d+)/(\d+) kB \(\d+%\) verified")
_QUOTED = re.compile(r'"([^"]+)"')


@dataclass(frozen=True, slots=True)
class Verdict:
    """What reading the whole backup said."""

    backup: str
    findings: tuple[Finding, ...]
    files: int
    """How many files of the backup were read; pg_verifybackup does not tell, and reads what the manifest lists."""
    bytes: int
    wal: int
    """How many WAL segments were read."""
    method: str
    """Who read the files: pg_verifybackup or cellarman."""

    @property
    def good(self) -> bool:
        return not self.findings


def verify(server: Server, info: BackupInfo, report: Reporter = SILENT) -> Verdict:
    """Read all of the backup; holds its lock meanwhile, so that nobody deletes it.

    Raises Refused for a backup that never ended or is being deleted, Busy when its lock is held.
    """
    layout = server.layout
    if info.status not in ("DONE", "WAITING_FOR_WALS") or info.deleting:
        state = "it is being deleted" if info.deleting else f"it is {info.status}"
        look = Advice(cellarman("backups", server.name))
        raise Refused(f"backup {info.id} of {server.name} cannot be verified", state, look)
    with locks.hold(layout.lock(info.id), wait=server.lock_timeout, what=f"verify backup {info.id}", reads=True):
        report.backup(info.id)
        reading = _reading(layout, info, report)
        method = _read_files(server, info, reading, report)
        for older in _beneath(layout, info, reading):
            below = _reading(layout, older, report)
            with locks.hold(
                layout.lock(older.id), wait=server.lock_timeout, what=f"verify backup {info.id}", reads=True
            ):
                _read_files(server, older, below, report)
            reading.add(below, older.id)
        wal = _read_wal(layout, info, reading, report)
    return Verdict(info.id, tuple(reading.findings), reading.files, reading.bytes, wal, method)


def _reading(layout: Layout, info: BackupInfo, report: Reporter) -> Reading:
    total = info.size or repository.sizes(layout, info.id).size
    return Reading(lambda done, files: report.progress(done, None if info.is_tar else max(total, done), files))


def _beneath(layout: Layout, info: BackupInfo, reading: Reading) -> tuple[BackupInfo, ...]:
    """Return the backups that an incremental one cannot be restored without."""
    try:
        return Chains(layout).of(info)[1:]
    except Refused as broken:
        reading.find("backup.info", broken.why)
        return ()


def _read_files(server: Server, info: BackupInfo, reading: Reading, report: Reporter) -> str:
    layout = server.layout
    program = _program(server, info)
    method = "pg_verifybackup" if program else "cellarman"
    report.phase("files", f"read by {method}")
    if not os.path.exists(os.path.join(layout.data(info.id), contents.MANIFEST)):
        reading.find(contents.MANIFEST, "is missing: the files have no checksums to be read against")
        return method
    try:
        if program:
            _pg_verifybackup(program, layout.data(info.id), reading, report)
            reading.files = _listed(os.path.join(layout.data(info.id), contents.MANIFEST))
        else:
            contents.read(layout, info, reading)
    except CellarmanError as error:
        reading.find(contents.MANIFEST, str(error))
    return method


def _program(server: Server, info: BackupInfo) -> str:
    """Return pg_verifybackup of the backup's own version for a plain backup whose links lead to its tablespaces; ""
    for what we read better by ourselves."""
    layout = server.layout
    if info.is_tar or info.method != "postgres" or info.major is None:
        return ""
    if not all(_leads_there(layout, info, tablespace.oid) for tablespace in info.tablespaces):
        return ""
    try:
        return programs.find("pg_verifybackup", server.path_prefix, info.major).path
    except CellarmanError:
        return ""


def _leads_there(layout: Layout, info: BackupInfo, oid: int) -> bool:
    """Tell whether a tablespace's link leads to its directory here; not so in a catalogue that was moved."""
    link = os.path.join(layout.data(info.id), "pg_tblspc", str(oid))
    if not os.path.islink(link):
        return os.path.isdir(link)
    try:
        return os.path.samefile(link, layout.tablespace(info.id, oid))
    except FileNotFoundError:
        return False


def _pg_verifybackup(program: str, data: str, reading: Reading, report: Reporter) -> None:
    """Run pg_verifybackup without WAL, which lies in our archive; what it finds becomes findings."""
    process = local.start_leashed(
        [program, "--no-parse-wal", "--progress", data]
        if _knows_progress(program)
        else [program, "--no-parse-wal", data],
        env={"LC_ALL": "C"},
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    with process, process.stderr as stream:
        try:
            rest = b""
            while True:
                select.select([stream], [], [], 60)
                block = os.read(stream.fileno(), 1 << 16)
                if not block:
                    break
                *lines, rest = re.split(rb"[\r\n]", rest + block)
                for line in lines:
                    _heard(line, reading, report)
            status = process.wait()
        finally:
            local.stop(process)
    if status and not reading.findings:
        reading.find(".", f"pg_verifybackup ended with status {status}")


def _listed(manifest: str) -> int:
    """Return how many files a manifest lists, one a line (backup_manifest.c)."""
    with open(manifest, "rb") as file:
        return sum(1 for line in file if line.startswith((b'{ "Path"', b'{ "Encoded-Path"')))


def _knows_progress(program: str) -> bool:
    """--progress came with 16."""
    return programs.find("pg_verifybackup", os.path.dirname(program)).major >= 16


def _heard(line: bytes, reading: Reading, report: Reporter) -> None:
    progress = _PROGRESS.match(line)
    if progress:
        reading.bytes = int(progress[1]) * 1024
        report.progress(reading.bytes, int(progress[2]) * 1024)
        return
    text = line.decode(errors="replace").strip()
    if text.startswith("pg_verifybackup: error: "):
        problem = text.removeprefix("pg_verifybackup: error: ")
        path = _QUOTED.search(problem)
        of_manifest = problem.startswith(("could not parse backup manifest", "manifest "))
        reading.find(path[1] if path and not of_manifest else contents.MANIFEST, problem)


def _read_wal(layout: Layout, info: BackupInfo, reading: Reading, report: Reporter) -> int:
    """Read every segment that the backup needs, in order; returns how many there were."""
    try:
        names = repository.required_wal(info)
    except CellarmanError as error:
        reading.find("backup.info", str(error))
        return 0
    if not names:
        reading.find("backup.info", "does not say where the backup begins and ends in the WAL (begin_wal, end_wal)")
        return 0
    report.phase("wal", " to ".join(dict.fromkeys((names[0], names[-1]))))
    size, carry, read, records = info.xlog_segment_size, None, 0, RecordCheck()
    for number, name in enumerate(names):
        report.progress(number * size, len(names) * size, number, len(names))
        segment = _segment(layout, info, name, carry)
        if isinstance(segment, str):
            carry = None
            records.lose()
            reading.find(name, segment)
            continue
        read += 1
        carry = segment.facts.carry
        valid = segment.facts.end_lsn - segment.header.address
        problem = records.segment(segment.data, segment.header, valid, segment.runs)
        problem = problem or _too_short(info, segment.facts, last=name == names[-1])
        if problem:
            reading.find(name, problem)
    report.progress(len(names) * size, len(names) * size, len(names), len(names))
    return read


class _Segment(NamedTuple):
    """A segment's plain content and what it tells."""

    data: bytes
    header: SegmentHeader
    facts: SegmentFacts
    runs: Runs | None


def _segment(layout: Layout, info: BackupInfo, name: str, carry: Carry | None) -> _Segment | str:
    """Return a segment of the archive, or why it cannot be used."""
    try:
        data = codec.read_segment(layout.wal(name), info.xlog_segment_size)
        header = walfile.read_header(data)
        problem = walfile.check_segment(name, header, system_id=info.systemid, size=len(data))
        return problem or _Segment(data, header, *recordruns.walk(data, header, carry))
    except FileNotFoundError:
        return "is not in the archive: the backup cannot be made consistent"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except CellarmanError as error:
        return str(error)


def _too_short(info: BackupInfo, facts: SegmentFacts, *, last: bool) -> str:
    """Return "" when replay can go on behind the segment, or need not, since the backup ends in it."""
    if facts.complete or (last and info.end_xlog is not None and facts.end_lsn >= info.end_xlog):
        return ""
    return f"its records end at {facts.end_lsn}: {facts.ended_by}"


def work(config: Config, server: Server, report: Reporter, *, job: str, **arguments: Any) -> dict[str, Any]:
    """Verify as a job; argument `backup`: the backup's id."""
    info = repository.find(server.layout, str(arguments["backup"]))
    verdict = verify(server, info, report)
    for finding in verdict.findings[:50]:
        report.note(f"{finding.path}: {finding.problem}", "error")
    bad = len(repository.bad_pages(repository.facts(server.layout, info.id)) or ())
    pages = f", with {counted(bad, 'bad page')} of the server's own" if bad else ""
    if bad:
        show = cellarman("show", server.name, info.id).line(config.named)
        report.note(f"it is as the server was, bad pages included: {show}", "warn")
    count = len(verdict.findings)
    outcome = "good" if verdict.good else f"NOT GOOD, {count} finding{'s' if count > 1 else ''}"
    return {
        "good": verdict.good,
        "backup": verdict.backup,
        "method": verdict.method,
        "files": verdict.files,
        "bytes": verdict.bytes,
        "wal": verdict.wal,
        "findings": [{"path": finding.path, "problem": finding.problem} for finding in verdict.findings[:1000]],
        "summary": f"backup {verdict.backup} of {server.name} is {outcome}: "
        f"{verdict.bytes / 2**20:,.1f} MiB against its manifest, {counted(verdict.wal, 'WAL segment')}{pages}",
    }
