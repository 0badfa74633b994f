"""The near end of a push over SSH: one WAL file, with its SHA-256, to `cellarman-wal push -` at the backup host.

ssh reads the file itself; what it and the far side print is kept until it is known how it ended. Only the far side's
receipt, which names the file and its checksum, counts as stored: an exit code of 0 alone could come from anything that
answers there. No configuration of this host is read. Light: the WAL client loads this.
"""

from __future__ import annotations

import hashlib
import os

from engine.errors import CellarmanError
from engine.postgres import segment

SSH_OPTIONS = (
    "-T",
    "-o",
    "BatchMode=yes",
    "-o",
    "StrictHostKeyChecking=yes",
    "-o",
    "ConnectTimeout=10",
    "-o",
    "ServerAliveInterval=2",
    "-o",
    "ServerAliveCountMax=3",
    "-o",
    "UpdateHostKeys=no",
    "-o",
    "ControlPath=none",
    "-o",
    "ClearAllForwardings=yes",
)
"""Nobody is asked, no host is trusted unseen, and a link that is cut is noticed within seconds."""
_PIECE = 1 << 20
_WORDS = 8192
"""Bytes of what the far side says that are kept."""
_UNQUOTED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./-_")
_NO_LINK = 255
_NOT_FOUND = (126, 127)


def receipt(name: str, sha256: str) -> str:
    """Return the line by which the far side says that the file is durable there."""
    return f"cellarman-wal: durable {name} {sha256}"


def quote(word: str) -> str:
    """Return a word as a POSIX shell reads it back.

    >>> quote("pg_wal/00"), quote("it's"), quote("")
    ('pg_wal/00', "'it'\\\\''s'", "''")
    """
    if word and _UNQUOTED.issuperset(word):
        return word
    return "'" + word.replace("'", "'\\''") + "'"


def send(
    path: str, *, server: str, over: str, config: str = "", program: str = "", identity: str = "", known_hosts: str = ""
) -> None:
    """Return once the file at `path` is durable at the SSH destination `over`; it stays where it is.

    `over` is [user@]host[:port] (an IPv6 address in brackets), or the same after ssh://; `config` and `program` are
    the far side's, `identity` a private key of this side, `known_hosts` its list of hosts. Raises CellarmanError with
    what ssh or the far side said.
    """
    name = os.path.basename(path)
    if segment.kind_of(name) == segment.FOREIGN:
        raise CellarmanError(f"{name!r} is not sent", "it is not the name of a WAL file")
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CellarmanError(f"cannot read {path}", str(error)) from error
    try:
        checksum = _checksum(source)
        far = [program or "cellarman-wal", "push", "-", "--server", server, "--name", name, "--sha256", checksum]
        far += ["--receipt", *(("--config", config) if config else ())]
        keys = ["-i", identity, "-o", "IdentitiesOnly=yes"] if identity else []
        keys += ["-o", f"UserKnownHostsFile={_quoted(known_hosts)}"] if known_hosts else []
        status, words = _run(["ssh", *SSH_OPTIONS, *keys, "--", _destination(over), " ".join(map(quote, far))], source)
    except OSError as error:
        raise CellarmanError(f"cannot send {name} to {over}", str(error)) from error
    finally:
        os.close(source)
    if status != 0 or receipt(name, checksum) not in words.splitlines():
        raise _failed(name, over, far[0], status, words)


def _quoted(path: str) -> str:
    """Return a path as one word of ssh_config(5), where % and blanks mean something."""
    return '"' + path.replace("%", "%%") + '"'


def _destination(over: str) -> str:
    """Return the destination as ssh takes one: with a port only in a URI.

    >>> _destination("barman@backup"), _destination("barman@backup:2222")
    ('barman@backup', 'ssh://barman@backup:2222')
    """
    return over if "://" in over or ":" not in over else f"ssh://{over}"


def _checksum(descriptor: int) -> str:
    digest, at = hashlib.sha256(), 0
    while data := os.pread(descriptor, _PIECE, at):
        digest.update(data)
        at += len(data)
    return digest.hexdigest()


def _run(argv: list[str], source: int) -> tuple[int, str]:
    """Run a program with `source` as its standard input; return its exit status and the end of what it printed."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, source, 0), *((os.POSIX_SPAWN_DUP2, writing, at) for at in (1, 2))]
        process = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions)
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    said = b""
    try:
        while data := os.read(reading, _WORDS):
            said = (said + data)[-_WORDS:]
    finally:
        os.close(reading)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said.decode("utf-8", "replace")


def _failed(name: str, over: str, program: str, status: int, words: str) -> CellarmanError:
    """Return the error for a push that was not acknowledged, in the words of the program that failed."""
    said = words.strip() or "it said nothing"
    if status == _NO_LINK:
        return _no_link(name, over, said)
    if status in _NOT_FOUND:
        return CellarmanError(
            f"cannot send {name}: {program} is not at {over}", said, "install it there, or name it: --program PATH"
        )
    if status != 0:
        return CellarmanError(f"{name} was not taken at {over} (exit {status})", said)
    return CellarmanError(
        f"{name} was not acknowledged by {over}",
        f"the program there ended well and gave no receipt: {said}",
        "see which command the key is bound to in authorized_keys there; it must be cellarman-wal",
    )


def _no_link(name: str, over: str, said: str) -> CellarmanError:
    """Return the error for a host that was not reached, by the name that its problem has everywhere."""
    from engine.errors import UsageError
    from engine.host import problems
    from engine.host.endpoint import Endpoint

    try:
        told: CellarmanError = problems.explain_openssh(
            Endpoint.parse(over.partition("://")[2] or over), _NO_LINK, said
        )
    except UsageError:
        told = CellarmanError("the link was lost", said)
    return CellarmanError(f"cannot send {name}: {told.what}", told.why, told.fix)
