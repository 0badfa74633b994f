"""WAL staged ahead on the host that is restored to: verified, plain, with a restore_command that needs only a shell.

The exit codes are those of `engine.wal.fetch`: 0 delivered; 1 only for what the archive proves not to hold; 255, which
PostgreSQL answers with FATAL, for a hole and for every error. A shell that cannot find the script would exit with 2 or
127, so the command looks for it first.
"""

from __future__ import annotations

import os
import shlex
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from engine.commands import cellarman
from engine.config import Server
from engine.errors import Advice, CellarmanError
from engine.event import Reporter
from engine.host import pipe, scratch
from engine.host.machine import Machine, must
from engine.postgres import segment
from engine.recovery.plan import Plan
from engine.wal import fetch

BESIDE = ".cellarman-wal"
"""Appended to the data directory's name."""
INSIDE = "cellarman-wal"
"""In the data directory, where nothing can be made beside it."""
_FETCH = "fetch"
_AHEAD = 2
"""Segments that are made ready while one is sent."""

_SCRIPT = """#!/bin/sh
# The WAL that this restored server needs, staged here by cellarman. PostgreSQL calls: sh fetch %f %p
# 0: here it is. 1: the archive ended before it when this was staged. 255: it is missing, recovery must not end here.
LC_ALL=C; export LC_ALL
name=$1 path=$2 here=${0%/*}
refuse() { echo "cellarman: $*" >&2; exit 255; }
[ -d "$here/wal" ] && [ -x "$here/wal" ] || refuse "$here/wal cannot be read"
if [ -f "$here/wal/$name" ]; then
    cp -- "$here/wal/$name" "$path" || refuse "$name cannot be copied from $here/wal"
    exit 0
fi
case $name in *.history) exit 1 ;; esac
place=${name#????????}
expr "x$place" '>' "x@LAST@" >/dev/null || refuse "$name is not in $here/wal, although it was staged up to @LAST@"
@END@
"""
_OPEN = "exit 1"
_LIMITED = (
    'refuse "$name is later than what was staged for this target; the archive has more: restore to a later target"'
)


def command(staging: str) -> str:
    """Return the restore_command; percent signs are doubled for PostgreSQL.

    >>> print(command("/srv/100% pg.cellarman-wal"))
    test -r '/srv/100%% pg.cellarman-wal/fetch' || exit 255; sh '/srv/100%% pg.cellarman-wal/fetch' %f "%p"
    """
    script = _word(os.path.join(staging, _FETCH))
    return f'test -r {script} || exit 255; sh {script} %f "%p"'


def clean_up(staging: str) -> str:
    """Return the recovery_end_command: what was staged has no use once the server has opened."""
    return f"rm -rf -- {_word(staging)}"


def script(last: str, *, open_end: bool) -> str:
    """Return the shell script; `last` is the last segment's name, `open_end` whether the archive ended there."""
    return _SCRIPT.replace("@LAST@", last[8:]).replace("@END@", _OPEN if open_end else _LIMITED)


def stage(server: Server, plan: Plan, far: Machine, report: Reporter) -> None:
    """Put the script and every file that replay will ask for on the far host; raises what keeps it from that.

    It can be done again: the directory is made anew, and what a lost link's tar still writes is in the removed one.
    """
    assert far.endpoint is not None and plan.wal is not None and plan.info is not None
    report.phase("wal", f"{len(plan.segments)} segments to {plan.staging}")
    place = os.path.join(plan.staging, "wal")
    what = f"WAL could not be staged in {plan.staging} on {far.name}"
    must(far, ["sh", "-c", 'umask 077; rm -rf -- "$1" && mkdir -p -- "$2"', "sh", plan.staging, place], what)
    size = plan.info.xlog_segment_size
    total = len(plan.segments) * size
    done = 0

    def chunks() -> Iterator[bytes]:
        nonlocal done
        for name, data in _files(server, plan):
            yield _header(name, len(data))
            yield data
            yield bytes(-len(data) % tarfile.BLOCKSIZE)
            done += len(data)
            report.progress(min(done, total), total)
        yield bytes(2 * tarfile.BLOCKSIZE)

    paced = pipe.paced(chunks(), server.restore_bandwidth_limit)
    pipe.feed(far.endpoint, ["tar", "-xf", "-", "-C", place], paced, what)
    text = script(plan.segments[-1], open_end=plan.open_end)
    far.write(os.path.join(plan.staging, _FETCH), text.encode(), mode=0o700)


def histories(server: Server) -> list[str]:
    """Return the names of all history files: PostgreSQL asks for them to follow a branch and to name a new one."""
    try:
        names = os.listdir(server.layout.wals)
    except FileNotFoundError:
        return []
    return sorted(name for name in names if segment.kind_of(name) == segment.HISTORY)


def _files(server: Server, plan: Plan) -> Iterator[tuple[str, bytes]]:
    """Yield each file's name and plain content, verified as PostgreSQL's own fetching would."""
    assert plan.info is not None
    names: Sequence[str] = [*histories(server), *plan.segments]
    system = plan.info.systemid
    with scratch.directory() as place, ThreadPoolExecutor(_AHEAD) as pool:

        def submitted(name: str) -> Future[bytes]:
            return pool.submit(_plain, server, name, system, place, begins=name == plan.segments[0])

        waiting = [submitted(name) for name in names[:_AHEAD]]
        for position, name in enumerate(names):
            data = waiting.pop(0).result()
            if position + _AHEAD < len(names):
                waiting.append(submitted(names[position + _AHEAD]))
            yield name, data


def _plain(server: Server, name: str, system: int | None, place: str, *, begins: bool) -> bytes:
    path = os.path.join(place, name)
    code = fetch.get(server.layout, name, path, system_id=system, begins=begins, config_file=server.named)
    if code != fetch.DELIVERED:
        why = "the archive does not hold it any more" if code == fetch.ABSENT else "see what was said above"
        raise CellarmanError(f"{name} could not be staged", why, Advice(cellarman("wal", "gaps", server.name)))
    with open(path, "rb") as file:
        data = file.read()
    os.unlink(path)
    return data


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member.tobuf(tarfile.USTAR_FORMAT)


def _word(text: str) -> str:
    return shlex.quote(text).replace("%", "%%")
