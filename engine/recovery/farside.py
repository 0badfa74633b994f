"""The same facts of another host, by one POSIX shell script over SSH; nothing of ours needs to be installed there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from engine.errors import CellarmanError, Refused
from engine.host.machine import Machine, must
from engine.recovery.place import MARKER, Ground, Place, parse_leftover

_MOST_NAMES = 40
ALIVE = """alive() { # pid: neither gone nor a zombie
    s=$(ps -o stat= -p "$1" 2>/dev/null) || kill -0 "$1" 2>/dev/null || return 1
    case $s in Z*) return 1 ;; esac
}
"""
_SCRIPT = (
    ALIVE
    + f"""
say() {{ printf '%s\\0' "$1"; }}
look() {{
    p=$1 there=0 leads= dir=0 owner=0 usable=0 pid= inside= up=0 upok=0 mark= control=0 system= hidden= ro=
    q=${{p%/*}}; q=${{q:-/}}
    while [ ! -e "$q" ] && [ ! -L "$q" ]; do q=${{q%/*}}; q=${{q:-/}}; done
    {{ [ -e "$p" ] || [ -L "$p" ]; }} && there=1
    if [ $there = 1 ] && [ ! -e "$p" ]; then leads=$(readlink -- "$p"; echo .); leads=${{leads%??}}; fi
    if [ -e "$p" ]; then
        e=$p; owner=$(ls -ldnL -- "$p" | awk 'NR == 1 {{ print $3 }}')
        real=$(readlink -f -- "$p"; echo .); real=${{real%??}}
    else
        e=$q; real=$(readlink -f -- "$q"; echo .); real=${{real%??}}${{p#"$q"}}
    fi
    [ -d "$p" ] && dir=1
    [ $dir = 1 ] && [ -r "$p" ] && [ -w "$p" ] && [ -x "$p" ] && usable=1
    [ $dir = 1 ] && {{ [ ! -r "$p" ] || [ ! -x "$p" ]; }} && hidden=$p
    [ -d "$q" ] && up=1
    [ $there = 0 ] && [ $up = 1 ] && [ ! -x "$q" ] && hidden=$q
    [ -w "$q" ] && [ -x "$q" ] && upok=1
    while [ ! -e "$e" ]; do e=${{e%/*}}; e=${{e:-/}}; done
    m=$(df -Pk -- "$e" | awk 'NR == 2 {{ print $NF }}')
    awk -v m="$m" '$2 == m {{ o = "," $4 "," }} END {{ exit o !~ /,ro,/ }}' /proc/self/mounts 2>/dev/null && ro=$m
    d=${{real%/*}}
    while [ -n "$d" ]; do [ -f "$d/PG_VERSION" ] && {{ inside=$d; break; }}; d=${{d%/*}}; done
    if [ -f "$p/postmaster.pid" ]; then
        n=$(head -n 1 -- "$p/postmaster.pid" | tr -cd 0-9)
        [ -n "$n" ] && alive "$n" && pid=$n
    fi
    [ -e "$p/global/pg_control" ] && control=1 && system=$(od -An -N8 -tx1 -- "$p/global/pg_control" | tr -d ' \\n')
    [ -f "$p/{MARKER}" ] && mark=$(head -c 65536 -- "$p/{MARKER}") && mark=.$mark
    for fact in "$there" "$real" "$leads" "$dir" "$owner" "$usable" "$pid" "$inside" "$q" "$up" "$upok" "$mark" \
        "$control" "$system" "$hidden" "$ro"; do say "$fact"; done
    say "$(df -Pk -- "$e" | awk 'NR == 2 {{ for (i = 1; i <= NF; i++) if ($i ~ /%$/) {{ print $(i - 1); exit }} }}')"
    say "$(stat -c %d -- "$e" 2>/dev/null || df -Pk -- "$e" | awk 'NR == 2 {{ print $1 }}')"
    if [ $dir = 1 ] && [ -z "$hidden" ]; then
        count=0
        [ -e "$p/PG_VERSION" ] && say /PG_VERSION
        for f in "$p"/* "$p"/.[!.]* "$p"/..?*; do
            {{ [ -e "$f" ] || [ -L "$f" ]; }} || continue
            say "/${{f##*/}}"; count=$((count + 1)); [ $count -lt {_MOST_NAMES} ] || break
        done
    fi
    say end
}}
id -u
cat /proc/sys/kernel/random/boot_id 2>/dev/null || echo unknown
for path in "$@"; do look "$path"; done
"""
)
_FACTS = 18
_FIND = """major=$1; shift
for d in "$@" "/usr/lib/postgresql/$major/bin" "/usr/pgsql-$major/bin" "/opt/postgresql/$major/bin" \
    "$(pg_config --bindir 2>/dev/null)" "$(dirname -- "$(command -v postgres || echo /)")"; do
    [ -x "$d/postgres" ] && printf '%s\\0%s\\0' "$d/postgres" "$("$d/postgres" --version 2>/dev/null)"
done
exit 0"""


def survey(far: Machine, destination: str, spaces: Sequence[str]) -> Ground:
    """Return what is at these absolute paths of another host, and by whom it is seen. Raises CellarmanError."""
    paths = [_plain(path) for path in (destination, *spaces)]
    what = f"{far.name} could not be looked at"
    out = must(far, ["sh", "-c", _SCRIPT, "sh", *paths], what, timeout=120)
    head, boot, rest = out.split(b"\n", 2)
    words = iter(rest.split(b"\0"))
    places = [_place(path, words) for path in paths]
    if not head.isdigit():
        raise CellarmanError(what, f"id -u said {head!r}", "see what the account's shell does there")
    same = boot.strip() == _boot_id()
    return Ground(int(head), places[0], tuple(places[1:]), host=far.name, holds_repository=same)


def find_postgres(far: Machine, path_prefix: str, major: int) -> str:
    """Return the path of this major version's postgres on a host; raises Refused when it has none."""
    wanted = [part for part in path_prefix.split(os.pathsep) if part]
    out = must(far, ["sh", "-c", _FIND, "sh", str(major), *wanted], f"no postgres could be looked for on {far.name}")
    words = [word.decode(errors="replace") for word in out.split(b"\0")]
    found = dict(zip(words[::2], words[1::2], strict=False))
    for path, version in found.items():
        match = re.search(r"\) (\d+)", version)
        if match and int(match[1]) == major:
            return path
    have = ", ".join(f"{path} ({version})" for path, version in found.items() if path)
    raise Refused(
        f"there is no PostgreSQL {major} on {far.name}",
        have or "no postgres was found there",
        f"install it there (Debian: apt install postgresql-{major}), or leave out --start",
    )


def _plain(path: str) -> str:
    """Return a path as the script takes it: no doubled slashes, none at the end."""
    return os.path.normpath("/" + path.lstrip("/"))


def _place(path: str, words: Iterator[bytes]) -> Place:
    facts = [os.fsdecode(next(words)) for _ in range(_FACTS)]
    there, real, leads, directory, owner, usable, pid, inside, parent, up, upok, mark, *rest = facts
    control, system, hidden, read_only, free, device = rest
    names = []
    while (word := os.fsdecode(next(words))) != "end":
        names.append(word[1:])
    return Place(
        path,
        _plain(real),
        there == "1",
        leads,
        directory == "1",
        int(owner or 0),
        usable == "1",
        tuple(sorted(set(names))),
        int(pid) if pid else None,
        inside,
        parent,
        up == "1",
        upok == "1",
        int(free or 0) * 1024,
        device,
        parse_leftover(os.fsencode(mark[1:]), has_control=control == "1") if mark else None,
        system_id=int.from_bytes(bytes.fromhex(system), "little") if len(system) == 16 else None,
        read_only=read_only,
        hidden=hidden,
    )


def _boot_id() -> bytes:
    """Return what tells this running system from every other (random(4))."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().strip()
    except OSError:
        return b"this one"
