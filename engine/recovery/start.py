"""Starting a restored cluster and reading what became of it: its log, postmaster.pid and pg_control.

pg_ctl's exit code says nothing here: hot standby reaches "ready" before recovery fails. No login is needed.
Source of the messages: PostgreSQL's src/backend/access/transam/xlogrecovery.c, xlog.c; of postmaster.pid's lines:
src/include/utils/pidfile.h.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from engine.config import Server
from engine.errors import CellarmanError, Refused
from engine.event import Reporter
from engine.postgres import programs
from engine.postgres.controlfile import read_control
from engine.postgres.lsn import Lsn
from engine.postgres.segment import kind_of, parse_segment
from engine.recovery import settings
from engine.recovery.plan import Plan
from engine.recovery.target import EndOfArchive

LOG = "cellarman-start.log"
_POLL = 0.1
LONGEST_SOCKET = 90
"""Bytes of a directory in which a socket's path still fits."""
_STOP = 60.0

_FATAL = re.compile(r"(?:^|[\]:] )(?:FATAL|PANIC):\s+(.*)")
_RESTORED = re.compile(r'restored log file "([0-9A-F]{24})" from archive')
_STOPPING = re.compile(r"recovery stopping (?:before|after|at restore point) .*")
_LAST_TRANSACTION = re.compile(r"last completed transaction was at log time (.+)")
_REDO_DONE = re.compile(r"redo done at ([0-9A-F]+/[0-9A-F]+)")
_UNREADABLE = re.compile(r"LOG:\s+(.*\b(?:record|page|magic|length|checksum|could not)\b.*)")
"""What PostgreSQL says of WAL that it cannot go on with (xlogreader.c, report_invalid_record)."""
_UNBOUND = re.compile(r"LOG:\s+(could not bind .*)")
_PAUSED = "pausing at the end of recovery"
_STARVED = "insufficient parameter settings"
_SHUT_DOWN = "shutdown at recovery target"
_OUTLIVE: list[subprocess.Popen[bytes]] = []
"""Servers that were started here and go on without us."""

_PORT_LOST = re.compile(r"Address already in use|lock file \".*\.s\.PGSQL\.\d+\.lock\" already exists")
_TRIES = 5

State = Literal["open", "paused", "shutdown", "failed"]
Found = tuple[State, str, list[str]]
"""The state, PostgreSQL's words for it, and all the words of its log."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a restored cluster."""

    state: State
    text: str
    """PostgreSQL's own words."""
    port: int
    socket: str
    pid: int | None
    log: str
    stopped_at: str = ""
    last_transaction: str = ""
    last_lsn: str = ""
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """One line for people, when it did not fail."""
        where = f"port {self.port}" + (f", socket in {self.socket}" if self.socket else "")
        reached = self.stopped_at or (f"last transaction {self.last_transaction}" if self.last_transaction else "")
        tail = f"; {reached}" if reached else ""
        if self.state == "shutdown":
            return f"recovered and shut down{tail}"
        return f"{'open' if self.state == 'open' else 'paused, open for reading'} on {where}{tail}"

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": self.state,
            "text": self.text,
            "port": self.port,
            "socket": self.socket,
            "pid": self.pid,
            "log": self.log,
            "stopped_at": self.stopped_at,
            "last_transaction": self.last_transaction,
            "last_lsn": self.last_lsn,
        }


def start(server: Server, plan: Plan, report: Reporter) -> Verdict:
    """Start the restored cluster and wait until it is open, paused, shut down, or has failed.

    It waits as long as PostgreSQL lives and works; stopping the wait (Cancelled) stops the server too.
    Raises Refused as root or without the right program.
    """
    assert plan.info is not None
    directory, major = plan.order.destination, plan.info.major or 0
    if os.geteuid() == 0:
        raise Refused("PostgreSQL is not started as root", "it refuses that", "start it as the account that owns it")
    program = programs.find("postgres", server.path_prefix, plan.info.major)
    effective = configuration(directory)
    sockets, socket_note = _sockets(effective, directory)
    places = [os.path.join(directory, part.strip().strip('"')) for part in sockets.split(",")]

    def once() -> Verdict:
        port, port_note = _port(effective, plan.order.port, places)
        notes = tuple(note for note in (port_note, socket_note) if note)
        for note in notes:
            report.note(note, "warn")
        report.phase("start", f"{program.path} on port {port}")
        options = start_options(port, sockets, major) + earlier_stop(plan)
        found, pid = _run(program.path, options, plan, report)
        return verdict(found, port, sockets.split(",")[0].strip(), pid, os.path.join(directory, LOG), notes)

    return until_port_held(once, plan, report)


def until_port_held(once: Callable[[], Verdict], plan: Plan, report: Reporter) -> Verdict:
    """Start with `once`, and again as long as somebody else takes the port between its choice and the start.

    A port that was named is not exchanged for another one.
    """
    for _ in range(_TRIES - 1):
        found = once()
        if plan.order.port is not None or found.state != "failed" or not _PORT_LOST.search(found.text):
            return found
        report.note(f"port {found.port} was taken in the same moment; another one is chosen", "warn")
    return once()


def _run(program: str, options: list[str], plan: Plan, report: Reporter) -> tuple[Found, int | None]:
    """Start the postmaster and watch it; return what became of it, and its pid if it goes on."""
    directory = plan.order.destination
    log = os.path.join(directory, LOG)
    running = _Here(_launch(program, directory, options, log), directory, log)
    try:
        found = watch(running, plan, report)
    except BaseException:
        _stop(running.process)
        raise
    finally:
        running.close()
    if found[0] == "failed":
        _stop(running.process)
    elif not running.gone:
        _OUTLIVE.append(running.process)
    return found, None if running.gone else running.pid


def verdict(found: Found, port: int, sockets: str, pid: int | None, log: str, notes: tuple[str, ...]) -> Verdict:
    """Return what became of a cluster, with what its log says of how far it got."""
    state, text, words = found
    reached = (_last(_STOPPING, words), _last(_LAST_TRANSACTION, words), _last(_REDO_DONE, words))
    return Verdict(state, text, port, sockets, pid, log, *reached, notes)


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a server that was started."""

    gone: bool
    text: str
    """What its log says since the last look."""
    pid_file: str
    control: bytes
    """pg_control, perhaps caught while it was being written."""


class Running(Protocol):
    """A server that was started, here or on another host."""

    pid: int

    def look(self) -> Look: ...


class _Here:
    """A server on this host."""

    def __init__(self, process: subprocess.Popen[bytes], directory: str, log: str) -> None:
        self.process, self._directory = process, directory
        self.pid = process.pid
        self._log = open(log, encoding="utf-8", errors="replace")

    @property
    def gone(self) -> bool:
        return self.process.poll() is not None

    def look(self) -> Look:
        gone = self.gone
        pid_file, control = "", b""
        name = os.path.join(self._directory, "postmaster.pid")
        with contextlib.suppress(FileNotFoundError), open(name, encoding="utf-8", errors="replace") as file:
            pid_file = file.read()
        with contextlib.suppress(OSError), open(os.path.join(self._directory, "global", "pg_control"), "rb") as raw:
            control = raw.read()
        return Look(gone, self._log.read(), pid_file, control)

    def close(self) -> None:
        self._log.close()


def configuration(directory: str) -> dict[str, str]:
    """Return what postgresql.conf and postgresql.auto.conf of a data directory set; includes are not followed."""
    found: dict[str, str] = {}
    for name in ("postgresql.conf", "postgresql.auto.conf"):
        try:
            with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as file:
                found.update(setting for line in file if (setting := settings.setting_of(line))[0])
        except FileNotFoundError:
            continue
    return found


def _port(effective: Mapping[str, str], wanted: int | None, sockets: list[str]) -> tuple[int, str]:
    """Return the port to use for this start, and why when it is not the configured one."""
    if wanted is not None:
        if not _port_is_free(wanted, sockets):
            raise Refused(f"port {wanted} is taken", "another process listens on it", "choose another one with --port")
        return wanted, ""
    text = effective.get("port", "5432")
    configured = int(text) if text.isdigit() else 5432
    if _port_is_free(configured, sockets):
        return configured, ""
    chosen = _any_free_port()
    return chosen, f"port {configured} is taken: this start uses {chosen}"


def _port_is_free(port: int, sockets: list[str]) -> bool:
    """Tell whether nobody listens there, on TCP or by a socket of that number."""
    if any(os.path.exists(os.path.join(place, f".s.PGSQL.{port}.lock")) for place in sockets):
        return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def _any_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _sockets(effective: Mapping[str, str], directory: str) -> tuple[str, str]:
    """Return the directories for sockets, and why when they are not the configured ones."""
    configured = effective.get("unix_socket_directories", "")
    wanted = [part.strip().strip('"') for part in configured.split(",") if part.strip()]
    if wanted and all(part.startswith("@") or os.access(os.path.join(directory, part), os.W_OK) for part in wanted):
        return configured, ""
    for place in (directory, "/tmp"):
        if len(os.fsencode(place)) <= LONGEST_SOCKET and os.access(place, os.W_OK):
            why = f"{configured} is not writable here: this start has its socket in {place}" if wanted else ""
            return place, why
    return "", "no directory for a socket: this start listens on TCP only"


def start_options(port: int, sockets: str, major: int) -> list[str]:
    """Return settings of this start alone: where it listens, and a log that can be read whatever is configured."""
    chosen = {
        "port": str(port),
        "unix_socket_directories": sockets,
        "logging_collector": "off",
        "log_destination": "stderr",
        "log_min_messages": "warning",
        "log_line_prefix": "%m [%p] ",
        "log_timezone": "UTC",
        "lc_messages": "C",
        "hot_standby": "on",
    }
    if major >= 15:
        chosen["log_startup_progress_interval"] = "10s"
    return [word for key, value in chosen.items() for word in ("-c", f"{key}={value}")]


def earlier_stop(plan: Plan) -> list[str]:
    """Return options that stop right after the last commit that stays, where the next one's lock would block readers.

    The rows are the same. All five targets are given: an empty one in a file, read later, counts as a second target.
    """
    if plan.dropped is None or plan.kept is None or not plan.order.locks_readers(plan.dropped):
        return []
    chosen = {**dict.fromkeys(settings.TARGETS, ""), "recovery_target_inclusive": "on"}
    del chosen["recovery_target_lsn"]
    chosen["recovery_target_lsn"] = str(plan.kept.lsn)
    return [word for key, value in chosen.items() for word in ("-c", f"{key}={value}")]


def _launch(program: str, directory: str, options: list[str], log: str) -> subprocess.Popen[bytes]:
    """Start the postmaster, in a session of its own, with its words in `log`."""
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            [program, "-D", directory, *options],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            cwd="/",
            start_new_session=True,
            env={key: value for key, value in os.environ.items() if not key.startswith("PG")},
        )
    except OSError as error:
        raise CellarmanError(f"{program} could not be started", str(error)) from error
    finally:
        os.close(sink)


def watch(running: Running, plan: Plan, report: Reporter, *, pause: float = _POLL) -> Found:
    """Wait for the end of recovery."""
    report.phase("replay", f"to {plan.order.target}")
    words: list[str] = []
    replayed, lines = _Replayed(plan, report), _Lines()
    while True:
        seen = running.look()
        for line in lines.take(seen.text):
            words.append(line)
            replayed.take(line)
        found = _state(seen, running.pid, words)
        if found is not None:
            words += lines.take(running.look().text)  # it may have been decided after the last look at the log
            short = _fell_short(plan, words) if found[0] == "open" else None
            return (*(short or found), words)
        time.sleep(pause)


def _state(seen: Look, pid: int, words: list[str]) -> tuple[State, str] | None:
    """Return what the log, postmaster.pid and pg_control say together; None when it is not decided."""
    fatal = [match[1] for line in words if (match := _FATAL.search(line))]
    if seen.gone:
        if any(_SHUT_DOWN in line for line in words):
            return "shutdown", next(line for line in words if _SHUT_DOWN in line)
        text = next((f for f in fatal if "starting up" not in f), "") or (words[-1] if words else "it said nothing")
        return "failed", _with_details(text, words)
    starved = next((line for line in words if _STARVED in line), "")
    if starved:
        return "failed", starved
    if any(_PAUSED in line for line in words):
        return "paused", next(line for line in words if _PAUSED in line)
    if _pid_status(seen.pid_file, pid) == "ready" and _control_state(seen.control) == "in production":
        return "open", next(
            (line for line in reversed(words) if "ready to accept connections" in line), "in production"
        )
    return None


def _fell_short(plan: Plan, words: Sequence[str]) -> tuple[State, str] | None:
    """Return a failure when PostgreSQL opened without the last commit of the archive.

    Without a target it takes WAL that it cannot read for the end of all WAL, and says so in its log alone.
    """
    done = next((at for at, line in enumerate(words) if _REDO_DONE.search(line)), None)
    if done is None or plan.kept is None or not isinstance(plan.order.target, EndOfArchive):
        return None
    reached = Lsn.parse(_last(_REDO_DONE, [words[done]]))
    if reached >= plan.kept.lsn:
        return None
    said = next((found[1] for line in reversed(words[:done]) if (found := _UNREADABLE.search(line))), "")
    lost = f"it opened after {reached}, without what follows up to the commit at {plan.kept.lsn}, which was to be kept"
    return "failed", "\n".join(filter(None, (said, lost)))


def _with_details(text: str, words: list[str]) -> str:
    """Return PostgreSQL's message with the DETAIL and HINT lines that follow it, and with the addresses that it could
    not listen on."""
    at = next((i for i, line in enumerate(words) if text in line), len(words))
    more = [line for line in words[at + 1 : at + 4] if re.search(r"(DETAIL|HINT|CONTEXT):", line)]
    said = [re.sub(r"^.*?(DETAIL|HINT|CONTEXT):", r"\1:", line) for line in more]
    said += [found[1] for line in words[:at] if (found := _UNBOUND.search(line))]
    return "\n".join([text, *said])


def _pid_status(text: str, pid: int) -> str:
    """Return the last line of postmaster.pid: starting, ready, standby or stopping; empty for another server's."""
    lines = text.splitlines()
    return lines[7].strip() if len(lines) > 7 and lines[0].strip() == str(pid) else ""


def _control_state(data: bytes) -> str:
    try:
        return read_control(data).state
    except CellarmanError:
        return ""


class _Lines:
    """Whole lines of a text that grows."""

    def __init__(self) -> None:
        self._rest = ""

    def take(self, text: str) -> list[str]:
        """Return the lines that `text` completes."""
        *whole, self._rest = (self._rest + text).split("\n")
        return whole


class _Replayed:
    """Counts the segments that PostgreSQL fetched and tells it as progress."""

    def __init__(self, plan: Plan, report: Reporter) -> None:
        self._report = report
        assert plan.info is not None and plan.wal is not None
        self._size = plan.info.xlog_segment_size
        self._first = parse_segment(plan.wal.first, self._size)[1]
        self._total = plan.wal.count * self._size

    def take(self, line: str) -> None:
        match = _RESTORED.search(line)
        if match and kind_of(match[1]) == "segment":
            number = parse_segment(match[1], self._size)[1]
            self._report.progress(min(self._total, (number - self._first + 1) * self._size), self._total)
        elif _STOPPING.search(line) or _FATAL.search(line) or "redo done" in line:
            self._report.note(line)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a server that nobody waits for any more."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGQUIT)
    try:
        process.wait(_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last(pattern: re.Pattern[str], words: list[str]) -> str:
    found = [match for line in words if (match := pattern.search(line))]
    return (found[-1][1] if pattern.groups else found[-1][0]) if found else ""
