"""rsync: copying files between this host and another, or on this one, told as it goes.

Needs rsync 3.1 on both sides (2013): it compares modification times to the nanosecond and passes over files that are no
longer there. Source for options, output and exit codes: rsync(1).
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import IO, Literal, Protocol

from engine.errors import Cancelled, CellarmanError
from engine.host import local, openssh
from engine.host.ciphers import cheapest
from engine.host.endpoint import Endpoint
from engine.host.machine import Done
from engine.host.problems import HostError, explain_openssh, host_error

OLDEST = (3, 1, 0)
_CHECKS_NAMES = (3, 2, 5)
COMPRESSORS = ("lz4", "zstd", "zlib")
"""lz4 first: compressing and decompressing a database's files takes less than ssh's work on what it saves."""
_SILENCE = 600
"""Seconds without a byte after which rsync gives up; a dead link is noticed by ssh, in some seconds."""
_LOST = frozenset((10, 12, 30, 35, 255))
"""Exit codes of a lost link: socket I/O, protocol stream, timeouts, ssh's own failure."""
_CANNOT_WRITE = 11
"""Of the receiver's; what it says is lost where it ends before that is passed on."""
_VANISHED = 24
_PARTIAL = 23
_NO_SHELL = """sh -c 'exec "$@"'"""
"""A remote shell that stays here: the rsync that tells is then the one that receives, and tells of a file when the one
before has its name. In a plain local copy it is the sender, which runs ahead."""
_PROGRESS = re.compile(rb"\s*(\d+)\s+\d+%\s")
_ITEM = re.compile(rb"([<>ch.*][fdLDS][^ ]{9}|\*deleting {2}) (.*)", re.DOTALL)
_ESCAPE = re.compile(rb"\\#(\d{3})")
_GONE = re.compile(r'(?:file|directory) has vanished: "(.*)"')
_HARMLESS = re.compile(
    r"(file|directory) has vanished: |symlink has no referent: |skipping non-regular file|"
    r"WARNING: .* failed verification -- update (discarded|retained|put into partial-dir) \(will try again\)|"
    r".*read errors mapping .*: No data available \(61\)|"
    r"rsync (error|warning): (some files|some attrs|some files/attrs) "
)
"""What files that shrink or go away meanwhile make rsync say."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One rsync run, in either direction; times and permissions are kept, owners are not."""

    source: str
    """An absolute directory, whose content (or the listed files of it) is copied."""
    destination: str
    """An absolute directory; made when its parent is there."""
    far: Endpoint | None = None
    """None: both are here."""
    far_is: Literal["source", "destination"] = "source"
    files: Iterable[bytes] | None = None
    """Paths below `source`; can be gone through again. None: everything."""
    exclude: Sequence[str] = ()
    """rsync's patterns; one that begins with "+ " is not excluded after all (the first that matches counts)."""
    link_dest: str = ""
    copy_dest: str = ""
    bandwidth_limit: int = 0
    """Kilobytes a second; 0: no limit."""
    compress: str = ""
    """One of COMPRESSORS, or "" for none."""
    checksum: bool = False
    """Compare contents, not size and time."""
    ignore_times: bool = False
    """Transfer every file, whatever size and time say."""
    whole: bool = False
    """Send changed files whole, instead of finding out what in them changed; on one host that is done anyway."""
    delete: bool = False
    """Remove at the destination what the source does not have."""
    dry_run: bool = False
    rsync_path: str = ""
    """The program on the far side; "" for the one on its PATH."""
    links: Literal["keep", "follow"] = "keep"
    """Follow: what a symbolic link leads to is copied in its place."""
    partial: bool = False
    """Keep what came of a file when the link is lost, under its own name, for the next run to go on with."""
    largest: int = 0
    """Bytes of the largest file that is transferred; 0: all are."""


@dataclass(frozen=True, slots=True)
class Tick:
    """How far a transfer is."""

    done_bytes: int
    files_done: int
    name: str
    """The file at work, "" at first."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What a transfer did."""

    sent_bytes: int
    """Of the files that were transferred, before any compression or saving."""
    files: int
    vanished: tuple[str, ...] = ()
    """Absolute paths that went away meanwhile, as far as rsync says."""
    changed: tuple[str, ...] = ()
    """After a dry run: rsync's itemised lines of what would change, such as ">f.st...... a/b" and "*deleting   c"."""


@dataclass(frozen=True, slots=True)
class RsyncVersion:
    """An rsync program."""

    number: tuple[int, ...]
    compressors: tuple[str, ...]
    """Those of COMPRESSORS that it has, the quickest first."""

    def __str__(self) -> str:
        return ".".join(map(str, self.number))


class Runs(Protocol):
    """A host on which programs are run: a Machine, or less."""

    @property
    def name(self) -> str: ...

    @property
    def endpoint(self) -> Endpoint | None: ...

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0) -> Done: ...


def version(machine: Runs, program: str = "rsync") -> RsyncVersion:
    """Ask a host for its rsync; raises HostError when there is none, CellarmanError when it is too old."""
    done = machine.run([program, "--version"], timeout=30)
    fix = "install rsync there (Debian: apt install rsync), or put it on the PATH that a shell without terminal has"
    if done.status != 0:
        raise HostError("command_missing", machine.name, f"there is no rsync on {machine.name}", done.words, fix)
    text = done.out.decode(errors="replace")
    noise, start, _ = text.partition("rsync  version ")
    if start and noise and machine.endpoint is not None:
        raise host_error("noisy_shell", machine.endpoint, f"it printed: {noise.strip()[:300]!r}")
    found = parse_version(text)
    if found is None or found.number < OLDEST:
        said = text.partition("\n")[0]
        raise CellarmanError(
            f"the rsync of {machine.name} is too old", said or "it does not tell its version", "install rsync 3.1 there"
        )
    return found


def parse_version(text: str) -> RsyncVersion | None:
    """Return what `rsync --version` says, None for something else.

    >>> str(parse_version("rsync  version 3.2.7  protocol version 31\\nCompress list:\\n    zstd lz4 zlibx zlib none"))
    '3.2.7'
    >>> parse_version("rsync  version 3.1.3  protocol version 31").compressors
    ('zlib',)
    """
    found = re.match(r"rsync\s+version v?(\d+(?:\.\d+)*)", text)
    if found is None:
        return None
    listed = re.search(r"^Compress list:\s*\n\s+(.*)$", text, re.MULTILINE)
    has = listed[1].split() if listed else ["zlib"]
    return RsyncVersion(tuple(map(int, found[1].split("."))), tuple(name for name in COMPRESSORS if name in has))


def compressor(wanted: str, *programs: RsyncVersion) -> str | None:
    """Return the compressor to use between rsync programs, "" for none; None when one lacks the `wanted` one.

    "auto" is the quickest that all have, but not zlib, which takes longer than most networks.

    >>> compressor("auto", RsyncVersion((3, 2, 7), ("lz4", "zstd", "zlib")), RsyncVersion((3, 1, 3), ("zlib",)))
    ''
    """
    common = [name for name in COMPRESSORS if all(name in program.compressors for program in programs)]
    if wanted == "none":
        return ""
    if wanted == "auto":
        return next((name for name in common if name != "zlib"), "")
    return wanted if wanted in common else None


def argv(transfer: Transfer) -> list[str]:
    """Return the command line; file names go by standard input."""
    words = [
        "rsync",
        "--protect-args",  # no shell there sees a path
        "--times",
        "--perms",
        "--omit-dir-times",
        "--copy-links" if transfer.links == "follow" else "--links",
        "--no-human-readable",
        "--out-format=%i %n",
        "--info=progress2",
        "--outbuf=L",
        f"--timeout={_SILENCE}",
    ]
    if transfer.files is None:
        words.append("--recursive")
    else:
        words += ["--files-from=-", "--from0", "--ignore-missing-args", "--no-implied-dirs", *_trusting()]
    words += [f"--filter={_filter(pattern)}" for pattern in transfer.exclude]
    for option, value in (("--link-dest", transfer.link_dest), ("--copy-dest", transfer.copy_dest)):
        words += [f"{option}={value}"] if value else []
    if transfer.bandwidth_limit:
        words.append(f"--bwlimit={transfer.bandwidth_limit}")
    words += _compression(transfer)
    words += [f"--max-size={transfer.largest}"] if transfer.largest else []
    words += ["--checksum"] if transfer.checksum else []
    words += ["--ignore-times"] if transfer.ignore_times else []
    words += ["--delete-delay"] if transfer.delete else []
    words += ["--dry-run"] if transfer.dry_run else []
    words += ["--partial"] if transfer.partial else []
    words += ["--whole-file"] if transfer.far is None or transfer.whole else []
    return words + _places(transfer.source, transfer.destination, transfer.far, transfer.far_is, transfer.rsync_path)


@lru_cache(1)
def _trusting() -> tuple[str, ...]:
    """Return the option without which this host's rsync would compare each name that comes with each that it asked for:
    of 100,000 files that takes minutes. Names that lead out of the destination are refused all the same."""
    try:
        return ("--trust-sender",) if version(local.ThisHost()).number >= _CHECKS_NAMES else ()
    except CellarmanError:
        return ()  # running it will say what is wrong


def _filter(pattern: str) -> str:
    return pattern if pattern.startswith("+ ") else f"- {pattern}"


def _compression(transfer: Transfer) -> list[str]:
    if not transfer.compress or transfer.far is None:
        return []
    if transfer.compress == "zlib":  # the only one that rsync before 3.2 has, which knows no choice
        return ["--compress"]
    return ["--compress", f"--compress-choice={transfer.compress}"]


def _places(source: str, destination: str, far: Endpoint | None, far_is: str, program: str) -> list[str]:
    places = {"source": f"{source.rstrip('/')}/", "destination": f"{destination.rstrip('/')}/" if destination else ""}
    if far is None:
        shell = [f"--rsh={_NO_SHELL}"]
        places["source"] = f"here:{_literal(places['source'])}"
    else:
        shell = [f"--rsh={' '.join(map(_quoted, [*openssh.command(far), *cheapest(far)]))}"]
        shell += [f"--rsync-path={program}"] if program else []
        there = _literal(places[far_is]) if far_is == "source" else places[far_is]
        places[far_is] = f"{openssh.rsync_host(far)}:{there}"
    return [*shell, "--", *(place for place in (places["source"], places["destination"]) if place)]


def _quoted(word: str) -> str:
    """Return a word of --rsh; rsync splits it at blanks outside quotes, and a doubled quote is one of itself.

    >>> _quoted("-T"), _quoted("UserKnownHostsFile=/a b/it's")
    ('-T', "'UserKnownHostsFile=/a b/it''s'")
    """
    return word if not re.search(r"[\\s'\"]", word) else "'" + word.replace("'", "''") + "'"


def _literal(path: str) -> str:
    """Return a source on the far side so that rsync there takes no sign of it for a wildcard.

    >>> print(_literal("/srv/a[1]*"))
    /srv/a\\[1]\\*
    """
    return re.sub(r"([*?\[\\])", r"\\\1", path) if re.search(r"[*?\[]", path) else path


def move(
    transfer: Transfer,
    tick: Callable[[Tick], None],
    *,
    stop: threading.Event | None = None,
    arrived: Callable[[bytes], None] | None = None,
) -> Moved:
    """Run a transfer to its end; `tick` is called as it goes on, `arrived` with the path of each file that is whole
    (when the far side is the destination: that was sent).

    Both are called in this thread. Files that vanish meanwhile are no error. Raises HostError: `dropped` when the link
    was lost or what ssh says, `disk_full`; Cancelled when `stop` is set; CellarmanError with rsync's words otherwise.
    """
    watch = _Watch(tick, arrived or _nobody, transfer.dry_run)
    status, said = run(argv(transfer), watch.line, files=transfer.files, stop=stop)
    problem = complaint(status, said)
    if problem is not None:
        raise explain(status, problem, transfer.far, writes_there=transfer.far_is == "destination")
    watch.end()
    gone = tuple(found[1] for found in map(_GONE.match, said.splitlines()) if found)
    return Moved(watch.done, watch.files, gone, tuple(watch.changed))


def _nobody(path: bytes) -> None:
    """Hear of a file that arrived, and do nothing."""


def run(
    words: Sequence[str],
    line: Callable[[bytes], None],
    *,
    files: Iterable[bytes] | None = None,
    stop: threading.Event | None = None,
    env: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run rsync, handing on each line of its output; returns its exit code and what it said on standard error.

    Raises Cancelled when `stop` is set, CellarmanError when there is no rsync here.
    """
    with tempfile.TemporaryFile() as names:
        for name in files or ():
            names.write(name + b"\0")
        names.seek(0)
        try:
            process = local.start_leashed(
                words,
                env={"LC_ALL": "C", **(env or {})},
                stdin=names.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise HostError(
                "command_missing", "this host", "rsync could not be started", str(error), "apt install rsync"
            ) from error
        with process:
            try:
                return _listen(process, line, stop)
            finally:
                local.stop(process)


def _listen(
    process: subprocess.Popen[bytes], line: Callable[[bytes], None], stop: threading.Event | None
) -> tuple[int, str]:
    assert process.stdout is not None and process.stderr is not None
    said = bytearray()
    rest = b""
    streams: list[IO[bytes]] = [process.stdout, process.stderr]
    while streams:
        ready, _, _ = select.select(streams, [], [], 0.2)
        if stop is not None and stop.is_set():
            raise Cancelled("the transfer was stopped")
        for stream in ready:
            block = os.read(stream.fileno(), 1 << 16)
            if not block:
                streams.remove(stream)
            elif stream is process.stderr:
                said += block
                del said[: max(0, len(said) - (1 << 18))]
            else:
                *lines, rest = re.split(rb"[\r\n]", rest + block)
                for text in lines:
                    line(text)
    return process.wait(), said.decode(errors="replace")


@dataclass
class _Watch:
    """Reads what rsync prints: a line when a file begins, and how many bytes are through."""

    tick: Callable[[Tick], None]
    arrived: Callable[[bytes], None]
    keep: bool
    done: int = 0
    files: int = 0
    name: str = ""
    changed: list[str] = field(default_factory=list)
    _at_work: bytes = b""

    def line(self, text: bytes) -> None:
        progress = _PROGRESS.match(text)
        if progress:
            self.done = max(self.done, int(progress[1]))
        else:
            item = _ITEM.fullmatch(text)
            if item is None:
                return
            path = plain(item[2])
            if self.keep:
                self.changed.append(f"{item[1].decode()} {os.fsdecode(path)}")
            if item[1][1:2] != b"f" or item[1][:1] not in (b"<", b">"):
                return
            self.end()
            self._at_work, self.name = path, os.fsdecode(path)
        self.tick(Tick(self.done, self.files, self.name))

    def end(self) -> None:
        """Take the file at work for whole: the next one began, or all is done."""
        if self._at_work:
            self.files += 1
            self.arrived(self._at_work)
            self._at_work = b""


def plain(name: bytes) -> bytes:
    """Return a name as it is from how rsync prints it.

    >>> plain(rb"new\\#012line, caf\\#303\\#251 and \\#134#123")
    b'new\\nline, caf\\xc3\\xa9 and \\\\#123'
    """
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 8)]), name) if b"\\#" in name else name


def complaint(status: int, said: str) -> str | None:
    """Return what rsync complains of, or None when all is well: files that shrink or vanish meanwhile are normal.

    >>> complaint(24, 'directory has vanished: "/a"\\nrsync warning: some files vanished before they …')
    >>> complaint(23, 'rsync: [sender] send_files failed to open "/a": Permission denied (13)')
    'rsync: [sender] send_files failed to open "/a": Permission denied (13)'
    """
    if status == 0:
        return None
    words = [line for line in said.splitlines() if line.strip() and not _HARMLESS.match(line)]
    if status in (_PARTIAL, _VANISHED) and not words:
        return None
    return "\n".join(words[:20])


def explain(status: int, said: str, far: Endpoint | None, *, writes_there: bool) -> CellarmanError:
    """Return the error that rsync's exit code and words mean.

    >>> explain(11, "", None, writes_there=False).what
    'a file could not be written on this host'
    """
    where = str(far) if writes_there and far is not None else "this host"
    if re.search(r"No space left on device|Disk quota exceeded", said):
        return HostError("disk_full", where, f"the disk on {where} is full", said, "make room there (df -h)")
    if status == _CANNOT_WRITE and not said:
        what, why = f"a file could not be written on {where}", "rsync ended without its words, as a full disk makes it"
        return HostError(
            "disk_full", where, what, why, "make room there (df -h); see its kernel's log if there is room"
        )
    if far is not None and status in (*_LOST, 127, 2):
        absent = "(0 bytes received so far)" in said and re.search(
            r"^\S*sh: .*: No such file or directory$", said, re.M
        )
        return explain_openssh(far, 127 if absent else status, said)
    ended = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    return CellarmanError(
        f"rsync failed ({ended})", said or "it said nothing", "put right what it names, then run it again"
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or directory of a listing."""

    path: bytes
    size: int
    mode: int
    """Permission bits."""
    modified: int
    """Seconds of the epoch."""
    directory: bool = False


_ENTRY = re.compile(rb"([-dlcbps])(\S{9})\S?\s+(\d+) (\d{4})/(\d\d)/(\d\d) (\d\d):(\d\d):(\d\d) (.*)", re.DOTALL)


def listing(
    directory: str,
    far: Endpoint | None,
    take: Callable[[Entry], None],
    *,
    exclude: Sequence[str] = (),
    links: Literal["keep", "follow"] = "keep",
    rsync_path: str = "",
    stop: threading.Event | None = None,
) -> list[str]:
    """Hand everything below a directory to `take` as it comes, parents first, links and special files left out.

    Returns what rsync could not follow or read because it went away. Raises as `move` does.
    """
    words = ["rsync", "--protect-args", "--recursive", "--list-only", "--no-human-readable", f"--timeout={_SILENCE}"]
    words += ["--copy-links"] if links == "follow" else ["--links"]
    words += ["--outbuf=L", *(f"--filter={_filter(pattern)}" for pattern in exclude)]

    def line(text: bytes) -> None:
        entry = _entry(text)
        if entry is not None:
            take(entry)

    words += _places(directory, "", far, "source", rsync_path)
    status, said = run(words, line, stop=stop, env={"TZ": "UTC"})
    problem = complaint(status, said)
    if problem is not None:
        raise explain(status, problem, far, writes_there=False)
    return [text for text in said.splitlines() if _GONE.match(text) or text.startswith("symlink has no")]


def _entry(text: bytes) -> Entry | None:
    r"""Return what a line of a listing says, None for what is neither file nor directory, or no such line.

    >>> _entry(rb"-rw-------        8192 2026/11/26 00:25:23 base/1/112")
    Entry(path=b'base/1/112', size=8192, mode=384, modified=1795652723, directory=False)
    """
    found = _ENTRY.fullmatch(text)
    if found is None or found[1] not in (b"-", b"d"):
        return None
    year, month, day, hour, minute, second = (int(found[group]) for group in range(4, 10))
    modified = _days(year, month, day) * 86400 + hour * 3600 + minute * 60 + second
    return Entry(plain(found[10]), int(found[3]), _mode(found[2]), modified, found[1] == b"d")


def _mode(text: bytes) -> int:
    """Return permission bits from "rwxr-x---"; s and t stand where x would.

    >>> oct(_mode(b"rwxr-s--T"))
    '0o3750'
    """
    bits = sum(1 << (8 - place) for place, sign in enumerate(text) if sign not in b"-ST")
    return bits | sum(0o4000 >> (place // 3) for place in (2, 5, 8) if text[place] in b"sStT")


def _days(year: int, month: int, day: int) -> int:
    """Return days since the epoch; quicker than a datetime, for listings of millions.

    >>> _days(1970, 1, 1), _days(2026, 11, 26)
    (0, 20783)
    """
    year -= month <= 2
    month += 9 if month <= 2 else -3
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * month + 2) // 5 + day - 719469
