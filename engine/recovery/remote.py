"""Doing what a plan says on another host: the files by rsync or tar, WAL staged, pg_control last, all of it synced.

The order is that of a restore on this host (`engine.recovery.restore`), and so is the promise: a directory that is not
whole has the marker in it and no pg_control. A link that is lost is tried again; rsync goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from engine import amounts
from engine.commands import cellarman
from engine.config import Server
from engine.errors import Advice, Busy, CellarmanError, Refused
from engine.event import Reporter
from engine.faults import step
from engine.host import pipe, problems, rsync
from engine.host.machine import Machine, machine, must
from engine.host.pipe import paced
from engine.host.problems import LINK, HostError
from engine.postgres.controlfile import ControlFile, read_control
from engine.recovery import farside, sending, source, staging
from engine.recovery.copying import Meter
from engine.recovery.extraction import pieces
from engine.recovery.furnish import furnish
from engine.recovery.link import Link
from engine.recovery.packing import packed
from engine.recovery.place import MARKER
from engine.recovery.plan import Plan
from engine.recovery.sending import LAST
from engine.repository import locks, repository

_OCCUPIED, _RUNS = 46, 47

_LATE = """late() { # directory: end what a lost link left writing there, which may still get what the network held back
    [ -n "$1" ] || return 0
    for p in /proc/[0-9]*; do
        { read -r program <"$p/comm"; } 2>/dev/null || continue
        case $program in tar|rsync) ;; *) continue ;; esac
        [ "$(readlink -- "$p/cwd" 2>/dev/null)" = "$1" ] || continue
        n=${p#/proc/}; i=0
        kill -9 "$n" 2>/dev/null
        while alive "$n" && [ $i -lt 10 ]; do sleep 1; i=$((i + 1)); done
    done
}
"""
UNPACK = 'cd -- "$1" && exec tar -xf -'
"""Where tar works is to be seen from its begin; by itself it goes there with its first file."""
_BEGIN = (
    farside.ALIVE
    + _LATE
    + f"""
umask 077
mode=$1 dest=$2; shift
for d in "$@"; do [ -d "$d" ] || printf '%s\\0' "$d"; done
mkdir -p -- "$dest" && chmod 700 -- "$dest" || exit 1
if [ $mode = new ]; then
    for f in "$dest"/* "$dest"/.[!.]* "$dest"/..?*; do
        if [ -e "$f" ] || [ -L "$f" ]; then echo "${{f##*/}}" >&2; exit {_OCCUPIED}; fi
    done
fi
if [ -f "$dest/postmaster.pid" ]; then
    n=$(head -n 1 -- "$dest/postmaster.pid" | tr -cd 0-9)
    if [ -n "$n" ] && alive "$n"; then echo "process $n" >&2; exit {_RUNS}; fi
fi
[ $mode = new ] || for d in "$@"; do late "$(cd -- "$d" 2>/dev/null && pwd -P)"; done
cat >"$dest/{MARKER}.new" && mv -f -- "$dest/{MARKER}.new" "$dest/{MARKER}" || exit 1
sync -- "$dest/{MARKER}" "$dest" 2>/dev/null || sync
cd -- "$dest" || exit 1
rm -f -- {source.CONTROL} {LAST} {" ".join(sorted(source.LEFT_OUT))} || exit 1
for f in pg_tblspc/*; do [ ! -L "$f" ] || rm -f -- "$f" || exit 1; done
sync -- global "$dest" 2>/dev/null || sync
shift
for d in "$@"; do mkdir -p -- "$d" && chmod 700 -- "$d" || exit 1; done
"""
)
"""$1 new, leftover or delta; $2 the data directory, then tablespaces'; the marker is the input. Prints what is new."""
_CLEAR = f"""
keep=$1; shift
for d in "$@"; do
    [ -d "$d" ] || continue
    find "$d" -mindepth 1 -maxdepth 1 ! -name {MARKER} -exec rm -rf -- {{}} + || exit 1
    [ $keep = yes ] || rm -f -- "$d/{MARKER}" || exit 1
done
"""
_WIPE = (
    farside.ALIVE
    + _LATE
    + """
for d in "$@"; do late "$(cd -- "$d" 2>/dev/null && pwd -P)"; done
set -- yes "$@"
"""
    + _CLEAR
)
"""$@ the directories, which are emptied for another try; what a lost link left writing there is ended first."""
_REMOVE_EMPTY = 'for d in "$@"; do [ ! -d "$d" ] || rmdir -- "$d"; done'
_SYNC = 'for d in "$@"; do chmod 700 -- "$d"; sync -f -- "$d" 2>/dev/null || sync || exit 1; done'
_FINISH = f"""
cd -- "$1" || exit 1
[ ! -e {LAST} ] || mv -f -- {LAST} {source.CONTROL} || exit 1
[ -e {source.CONTROL} ] && {{ sync -- {source.CONTROL} global 2>/dev/null || sync; }} || exit 1
rm -f -- {MARKER} && {{ sync -- . 2>/dev/null || sync; }}
"""
"""$1 the data directory; it can be done again."""


def restore(server: Server, plan: Plan, report: Reporter) -> None:
    """Make the data directory and the tablespaces on the plan's host; raises what stopped it.

    A new directory that could not be finished is removed again. After a lost link it stays, marked and without
    pg_control, for the next try to go on with, and so does an existing one that was being changed (a delta).
    """
    assert plan.endpoint is not None and plan.info is not None
    repository.load(server.layout, plan.info.id)  # under the lock: it has not been deleted since the plan was made
    content = source.look(server.layout, plan.info, plan.order.destination, plan.placed)
    with machine(plan.endpoint) as far, _alone(server, plan), _making(plan, far, report):
        _bring(server, plan, content, far, report)
        step("remote.copied")
        link = Link(report)
        control = link.run(partial(_control, server, plan, far))
        facts = repository.facts(server.layout, plan.info.id)
        for line in link.run(partial(furnish, plan, control, facts.get("restore_settings", {}), far)):
            report.note(line)
        link.run(partial(staging.stage, server, plan, far, report))
        step("remote.staged")
        what = f"what was written could not be put on disk on {far.name}"
        link.run(partial(_sync, plan, far, report, what))
        step("remote.synced")
        finish = ["sh", "-c", _FINISH, "sh", plan.order.destination]
        link.run(partial(must, far, finish, what, timeout=600))
        step("remote.complete")


def _sync(plan: Plan, far: Machine, report: Reporter, what: str) -> None:
    report.phase("sync", f"on {far.name}")
    must(far, ["sh", "-c", _SYNC, "sh", *plan.roots, plan.staging], what, timeout=3600)


def changes(server: Server, plan: Plan) -> tuple[int, list[str]]:
    """Return what a delta would send, in bytes, and rsync's itemised lines of all that it would change and remove."""
    assert plan.info is not None
    size = 0
    lines: list[str] = []
    content = source.look(server.layout, plan.info, plan.order.destination, plan.placed)
    for transfer in sending.transfers(server, plan, content):
        moved = rsync.move(replace(transfer, dry_run=True), lambda tick: None)
        size += moved.sent_bytes
        lines += moved.changed
    return size, lines


@contextmanager
def _alone(server: Server, plan: Plan) -> Iterator[None]:
    """Let no second restore from this repository go to the same place at the same time."""
    where = f"{plan.endpoint}\0{plan.order.destination}".encode(errors="surrogateescape")
    name = f"restore-{hashlib.sha256(where).hexdigest()[:12]}"
    what = f"restore into {plan.order.destination} on {plan.endpoint}"
    try:
        lock = locks.hold(server.layout.lock(name), what=what, reads=True)
    except Busy as error:
        raise Busy(f"another {what} is running", error.why, Advice(cellarman("jobs"))) from error
    with lock:
        yield


@contextmanager
def _making(plan: Plan, far: Machine, report: Reporter) -> Iterator[None]:
    """Make the directories and the marker that says they are not whole; when something goes wrong, clean up."""
    destination = plan.order.destination
    roots = plan.roots
    left = plan.leftover.directories if plan.leftover else ()
    mode = "leftover" if plan.leftover else "delta" if plan.delta else "new"
    document = json.dumps({"backup": plan.info.id if plan.info else "", "directories": sorted({*roots[1:], *left})})
    done = far.run(["sh", "-c", _BEGIN, "sh", mode, *roots], stdin=document.encode(), timeout=120)
    if done.status == _OCCUPIED:
        why = f"it holds {done.words}"
        raise Refused(f"{destination} on {far.name} is not empty any more", why, "choose another directory")
    if done.status == _RUNS:
        fix = "stop it, or choose another directory"
        raise Refused(f"{destination} on {far.name} is a running server's data directory", done.words, fix)
    new = [os.fsdecode(path) for path in done.out.split(b"\0") if path]
    try:
        if done.status != 0:
            raise problems.failed(
                far.name, "sh", f"{destination} could not be made on {far.name}", done.status, done.words
            )
        abandoned = [path for path in left if path not in roots]
        if abandoned or (plan.leftover and not plan.goes_on):
            report.note(f"removing what an interrupted restore left in {destination} on {far.name}")
            must(far, ["sh", "-c", _CLEAR, "sh", "yes", *roots, *abandoned], "it could not be removed", timeout=3600)
        step("remote.begun")
        yield
    except BaseException as error:
        if plan.delta:
            report.note(f"{destination} on {far.name} is half changed and cannot start: run the restore again", "warn")
        elif isinstance(error, HostError) and error.kind in LINK:
            report.note(_kept(plan, far), "warn")
        else:
            _remove(plan, far, report, roots, new)
        raise


def _kept(plan: Plan, far: Machine) -> str:
    """Say what becomes of a new directory after a lost link, which may be back by now: it is not removed."""
    again = "goes on with it" if plan.goes_on else "begins it anew"
    where = f"{plan.order.destination} on {far.name}"
    return f"what was restored stays in {where}, which cannot start; the same restore {again}"


def _remove(plan: Plan, far: Machine, report: Reporter, roots: Sequence[str], new: Sequence[str]) -> None:
    """Remove what was made; what cannot be reached any more stays as it is: it cannot start."""
    destination = plan.order.destination
    report.note(f"removing what was restored so far on {far.name}", "warn")
    try:
        must(far, ["rm", "-rf", "--", plan.staging], "it could not be removed", timeout=3600)
        must(far, ["sh", "-c", _CLEAR, "sh", "no", *reversed(roots)], "it could not be removed", timeout=3600)
        must(far, ["sh", "-c", _REMOVE_EMPTY, "sh", *reversed(new)], "it could not be removed")
    except CellarmanError as error:
        left = f"what was restored stays in {destination} on {far.name}, which cannot start; the next restore there"
        report.note(f"{left} removes it or goes on with it: {error}", "warn")


def _bring(server: Server, plan: Plan, content: source.Source, far: Machine, report: Reporter) -> None:
    """Send the backup's files."""
    report.phase("copy", f"to {plan.order.destination} on {plan.endpoint}")
    assert plan.endpoint is not None
    if limit := server.restore_bandwidth_limit:
        report.note(f"the copy is held to {amounts.size(limit << 10)} a second by restore_bandwidth_limit")
    if not content.is_copied:
        _unpack_all(plan, content, far, report, limit)
        return
    sending.send(server, plan, content, far, report)


def _unpack_all(plan: Plan, content: source.Source, far: Machine, report: Reporter, limit: int) -> None:
    """Send what tar unpacks there, `limit` kilobytes a second.

    After a lost link all begins anew: what the network still holds may reach the tar at its end later, which is ended
    before, and what it made is removed.
    """
    roots = plan.roots
    link, tries = Link(report), 0

    def unpack() -> None:
        nonlocal tries
        tries += 1
        if tries > 1:
            must(far, ["sh", "-c", _WIPE, "sh", *roots], "what a lost link left could not be removed", timeout=3600)
            link.goes_on()
        meter = Meter(report, content.read_bytes)
        for directory, chunks in _streams(plan, content, meter):
            assert plan.endpoint is not None and plan.info is not None
            what = f"backup {plan.info.id} could not be extracted into {directory} on {plan.endpoint}"
            pipe.feed(plan.endpoint, ["sh", "-c", UNPACK, "sh", directory], paced(chunks, limit), what)
        meter.finish()

    link.run(unpack)


def _streams(plan: Plan, content: source.Source, meter: Meter) -> Iterator[tuple[str, Iterator[bytes | memoryview]]]:
    """Yield each directory with the tar stream that is unpacked in it."""

    def rename(name: str) -> str:
        return LAST if name == source.CONTROL else name

    def skip(name: str) -> bool:
        return name in source.LEFT_OUT and name != source.CONTROL

    for tar, directory in content.tars:
        yield directory, pieces(tar, meter, skip=skip, rename=rename)
    if not content.tars:
        for root in (plan.order.destination, *(space.directory for space in plan.placed)):
            directories = [path for path in content.directories if path.startswith(f"{root}/")]
            items = [item for item in content.items if item.destination.startswith(f"{root}/")]
            yield root, packed(root, directories, items, meter)


def _control(server: Server, plan: Plan, far: Machine) -> ControlFile:
    """Put pg_control in place under its temporary name, and return it; it is the right system's."""
    info = plan.info
    assert info is not None
    path = os.path.join(plan.order.destination, LAST)
    if info.is_tar:
        try:
            data = far.read(path)
        except FileNotFoundError as error:
            raise CellarmanError(
                f"backup {info.id} holds no {source.CONTROL}", str(error), "restore another backup"
            ) from error
    else:
        with open(os.path.join(repository.data_directory(server.layout, info.id), source.CONTROL), "rb") as file:
            data = file.read()
        must(far, ["mkdir", "-p", "--", os.path.dirname(path)], f"{path} cannot be written on {far.name}")
        far.write(path, data)
    control = read_control(data)
    source.must_be_of(info, control)
    return control
