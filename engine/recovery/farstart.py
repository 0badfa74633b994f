"""Starting a restored cluster on another host and watching it from here: the same reading of the same three files.

The server is a session of its own there: it goes on when the link is lost, and so does the watching once it is back.
"""

from __future__ import annotations

import os
import time

from engine.config import Server
from engine.errors import CellarmanError, Refused
from engine.event import Reporter
from engine.host import problems
from engine.host.machine import Machine, machine, must
from engine.host.problems import HostError
from engine.recovery import settings, start
from engine.recovery.farside import ALIVE, find_postgres
from engine.recovery.plan import Plan
from engine.recovery.start import LOG, Found, Look, Verdict

_POLL = 0.5
_LONGEST_OUTAGE = 300.0
"""Seconds that the watching waits for a lost link to come back."""
_LARGEST_CONTROL = 8192

_TCP = "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null; exit 0"
_SOCKETS = """port=$1; shift
for d in "$@"; do [ -e "$d/.s.PGSQL.$port.lock" ] && exit 1; done; exit 0"""
_WRITABLE = 'cd -- "$1" && shift && for d in "$@"; do [ -d "$d" ] && [ -w "$d" ] || exit 1; done'
_LAUNCH = """umask 077; log=$1; shift
for v in $(env | sed -n 's/^\\(PG[A-Z_]*\\)=.*/\\1/p'); do unset "$v"; done
cd / && : >"$log" || exit 1
apart=nohup; command -v setsid >/dev/null && apart=setsid
$apart "$@" </dev/null >>"$log" 2>&1 &
echo $!"""
_LOOK = (
    ALIVE
    + f"""d=$1 pid=$2 offset=$3
if alive "$pid"; then echo alive; else echo gone; fi
head -c 4096 -- "$d/postmaster.pid" 2>/dev/null; printf '\\0'
head -c {_LARGEST_CONTROL} -- "$d/global/pg_control" 2>/dev/null | wc -c | tr -d ' '
head -c {_LARGEST_CONTROL} -- "$d/global/pg_control" 2>/dev/null
tail -c +"$offset" -- "$d/{LOG}" 2>/dev/null | head -c 1048576; exit 0"""
)
"""postmaster.pid first: once that says that the server is ready, pg_control is no longer the backup's, of a primary."""
_STOP = (
    ALIVE
    + """kill -QUIT "$1" 2>/dev/null
for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do alive "$1" || exit 0; sleep 1; done
kill -KILL "$1" 2>/dev/null; exit 0"""
)


def start_there(server: Server, plan: Plan, report: Reporter) -> Verdict:
    """Start the restored cluster on the plan's host and wait until it is open, paused, shut down, or has failed."""
    assert plan.endpoint is not None and plan.info is not None
    directory, major = plan.order.destination, plan.info.major or 0
    with machine(plan.endpoint) as far:
        program = find_postgres(far, server.path_prefix, major)
        effective = _configuration(far, directory)
        sockets, socket_note = _sockets(far, effective, directory)

        def once() -> Verdict:
            port, port_note = _port(far, effective, plan.order.port, directory, sockets)
            notes = tuple(note for note in (port_note, socket_note) if note)
            for note in notes:
                report.note(note, "warn")
            report.phase("start", f"{program} on port {port} of {far.name}")
            options = start.start_options(port, sockets, major) + start.earlier_stop(plan)
            found, pid = _run(far, program, options, plan, report)
            there = sockets.split(",")[0].strip()
            return start.verdict(found, port, there, pid, os.path.join(directory, LOG), notes)

        return start.until_port_held(once, plan, report)


def _run(far: Machine, program: str, options: list[str], plan: Plan, report: Reporter) -> tuple[Found, int | None]:
    """Start the postmaster and watch it; return what became of it, and its pid if it goes on."""
    directory = plan.order.destination
    words = ["sh", "-c", _LAUNCH, "sh", os.path.join(directory, LOG), program, "-D", directory, *options]
    pid = int(must(far, words, f"{program} could not be started on {far.name}"))
    running = _There(far, directory, pid, report)
    try:
        found = start.watch(running, plan, report, pause=_POLL)
    except BaseException:
        running.stop()
        raise
    if found[0] == "failed":
        running.stop()
    gone = found[0] == "failed" or running.look().gone
    return found, None if gone else pid


class _There:
    """A server on another host."""

    def __init__(self, far: Machine, directory: str, pid: int, report: Reporter) -> None:
        self._far, self._directory, self.pid, self._report = far, directory, pid, report
        self._read = 0

    def look(self) -> Look:
        words = ["sh", "-c", _LOOK, "sh", self._directory, str(self.pid), str(self._read + 1)]
        out = self._patiently(words)
        state, rest = out.split(b"\n", 1)
        pid_file, rest = rest.split(b"\0", 1)
        size, rest = rest.split(b"\n", 1)
        control, text = rest[: int(size)], rest[int(size) :]
        whole = text[: text.rfind(b"\n") + 1] if state != b"gone" else text
        self._read += len(whole)
        return Look(state == b"gone", whole.decode(errors="replace"), pid_file.decode(errors="replace"), control)

    def stop(self) -> None:
        try:
            self._far.run(["sh", "-c", _STOP, "sh", str(self.pid)], timeout=60)
        except CellarmanError as error:
            where = f"process {self.pid} on {self._far.name}"
            self._report.note(f"the server could not be stopped, {where}: {error}", "warn")

    def _patiently(self, words: list[str]) -> bytes:
        deadline = time.monotonic() + _LONGEST_OUTAGE
        told = False
        while True:
            try:
                return must(self._far, words, f"the server on {self._far.name} could not be looked at")
            except HostError as error:
                if error.kind not in problems.LINK or time.monotonic() > deadline:
                    raise
                if not told:
                    self._report.note(f"{error.what}; the server there goes on, and is looked for again", "warn")
                    told = True
                time.sleep(2.0)


def _configuration(far: Machine, directory: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("postgresql.conf", "postgresql.auto.conf"):
        try:
            text = far.read(os.path.join(directory, name)).decode(errors="replace")
        except FileNotFoundError:
            continue
        found.update(setting for line in text.splitlines() if (setting := settings.setting_of(line))[0])
    return found


def _sockets(far: Machine, effective: dict[str, str], directory: str) -> tuple[str, str]:
    """Return the directories for sockets, and why when they are not the configured ones."""
    configured = effective.get("unix_socket_directories", "")
    wanted = [part.strip().strip('"') for part in configured.split(",") if part.strip()]

    def writable(*places: str) -> bool:
        return far.run(["sh", "-c", _WRITABLE, "sh", directory, *places]).status == 0

    if wanted and writable(*(part for part in wanted if not part.startswith("@"))):
        return configured, ""
    for place in (directory, "/tmp"):
        if len(os.fsencode(place)) <= start.LONGEST_SOCKET and writable(place):
            why = f"{configured} is not writable there: this start has its socket in {place}" if wanted else ""
            return place, why
    return "", "no directory for a socket: this start listens on TCP only"


def _port(far: Machine, effective: dict[str, str], wanted: int | None, directory: str, sockets: str) -> tuple[int, str]:
    """Return the port to use for this start, and why when it is not the configured one."""
    taken = held(must(far, ["sh", "-c", _TCP], "its ports").decode(errors="replace"))
    places = [os.path.join(directory, part.strip().strip('"')) for part in sockets.split(",")]

    def is_free(port: int) -> bool:
        return port not in taken and far.run(["sh", "-c", _SOCKETS, "sh", str(port), *places]).status == 0

    if wanted is not None:
        if not is_free(wanted):
            why = f"another process on {far.name} has it"
            raise Refused(f"port {wanted} is taken", why, "choose another one with --port")
        return wanted, ""
    text = effective.get("port", "5432")
    configured = int(text) if text.isdigit() else 5432
    if is_free(configured):
        return configured, ""
    for port in range(configured + 1, 65536):
        if is_free(port):
            return port, f"port {configured} is taken: this start uses {port}"
    raise Refused("no port is free", f"from {configured} on, on {far.name}", "name one with --port")


def held(text: str) -> set[int]:
    """Return the local ports that nobody can listen on now, from /proc/net/tcp and tcp6 (proc_net_tcp(5)): those of
    listeners and of connections, but not of ones that only wait for stragglers (state 06, TIME_WAIT).

    >>> line = "  0: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1"
    >>> held("  sl  local_address rem_address   st\\n" + line), held(line.replace(" 0A ", " 06 "))
    ({5432}, set())
    """
    found = set()
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[0].endswith(":") and fields[3] != "06":
            found.add(int(fields[1].rpartition(":")[2], 16))
    return found
