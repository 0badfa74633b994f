"""The OpenSSH client's command line, from the same settings that paramiko's connection uses."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence

from engine.host.endpoint import Endpoint

ALIVE_INTERVAL = 2
ALIVE_COUNT = 3
"""A link without an answer is given up after their product, in seconds."""

_DRAIN = '"$@"; status=$?; cat >/dev/null; exit "$status"'
_SHELLS_DIFFER = re.compile(r"[^\x01-\x7f]|['\\!\n]")
_NOT_PLAIN = re.compile(rb"[^\w %+,./:=@-]")


def command(endpoint: Endpoint) -> list[str]:
    """Return ssh and its options, without the destination: no questions, no new host keys, no waiting for ever.

    >>> command(Endpoint("pg", "postgres", 2222))[:3]
    ['ssh', '-p', '2222']
    """
    words = ["ssh"]
    words += ["-p", str(endpoint.port)] if endpoint.port is not None else []
    options = [
        *_files(endpoint),
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "UpdateHostKeys=no",
        f"ServerAliveInterval={ALIVE_INTERVAL}",
        f"ServerAliveCountMax={ALIVE_COUNT}",
        f"ConnectTimeout={endpoint.connect_timeout}",
        "ConnectionAttempts=1",
        # A connection that somebody else shares would not have our keepalive.
        f"ControlPath={_quoted(endpoint.control) if endpoint.control else 'none'}",
        "ClearAllForwardings=yes",
        "PermitLocalCommand=no",
    ]
    for option in options:
        words += ["-o", option]
    return [*words, "-a", "-x", "-T"]


def destination(endpoint: Endpoint) -> str:
    """Return "user@host" as ssh takes it, to follow `command`'s words."""
    return f"{endpoint.user}@{endpoint.host}" if endpoint.user else endpoint.host


def remote_command(argv: Sequence[str], *, drain: bool = False) -> str:
    r"""Return what the account's shell there is given to run a program: every word quoted, in the C locale.

    It may be any shell: in single quotes sh, csh and fish leave alone what is neither a quote, a backslash, "!" nor a
    newline; words with one of those go as octal numbers, for sh to read. `drain`: sh reads what the program leaves of
    its input, so that the session ends only after our last byte.

    >>> remote_command(["ls", "--", "a b", "$(reboot)", ""])
    "exec env LC_ALL=C ls -- 'a b' '$(reboot)' ''"
    >>> print(remote_command(["echo", "hi!"]))
    exec sh -c 'eval "$(printf %b "exec env LC_ALL=C echo \0047hi\0041\0047")"'
    """
    if any("\0" in word for word in argv):
        raise ValueError(f"a program's argument cannot hold a NUL: {list(argv)!r}")
    words = ["sh", "-c", _DRAIN, "sh", *argv] if drain else argv
    command = f"exec env LC_ALL=C {shlex.join(words)}"
    if not any(_SHELLS_DIFFER.search(word) for word in words):
        return command
    hidden = _NOT_PLAIN.sub(lambda found: b"\\0%03o" % found[0][0], os.fsencode(command)).decode("ascii")
    return f"""exec sh -c 'eval "$(printf %b "{hidden}")"'"""


def rsync_host(endpoint: Endpoint) -> str:
    """Return "user@host" as rsync takes it before ":path": an IPv6 address in brackets.

    >>> rsync_host(Endpoint("::1", "postgres"))
    'postgres@[::1]'
    """
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{endpoint.user}@{host}" if endpoint.user else host


def _files(endpoint: Endpoint) -> list[str]:
    """Return the options that name files; ssh_config(5) expands % in them and splits at blanks outside quotes."""
    found = []
    if endpoint.identity_file:
        found += [f"IdentityFile={_quoted(endpoint.identity_file)}", "IdentitiesOnly=yes"]
    if endpoint.known_hosts:
        found += [f"UserKnownHostsFile={_quoted(endpoint.known_hosts)}"]
    return found


def _quoted(path: str) -> str:
    r"""Return a path as one word of ssh_config.

    >>> print(_quoted("/home/a b/100%"))
    "/home/a b/100%%"
    """
    text = path.replace("%", "%%")
    if not any(sign in text for sign in " \t\"'\\#"):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
