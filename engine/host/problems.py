"""What goes wrong between hosts, each by its name, with the command that tells more or puts it right."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import replace
from typing import Literal

from engine.commands import cellarman
from engine.errors import Advice, CellarmanError
from engine.host import openssh
from engine.host.endpoint import Endpoint

Kind = Literal[
    "no_route",
    "refused",
    "timeout",
    "unknown_name",
    "unknown_host_key",
    "host_key_changed",
    "key_rejected",
    "command_missing",
    "noisy_shell",
    "disk_full",
    "dropped",
]


LINK: frozenset[Kind] = frozenset(("dropped", "timeout", "no_route", "refused"))
"""Kinds that may pass by themselves."""


class HostError(CellarmanError):
    """A host that cannot be worked with: `kind` is why, `host` its name."""

    def __init__(self, kind: Kind, host: str, what: str, why: str = "", fix: str | Advice = "") -> None:
        super().__init__(what, why, fix)
        self.kind: Kind = kind
        self.host = host


_OPENSSH: tuple[tuple[str, Kind], ...] = (
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED|HOST IDENTIFICATION HAS CHANGED", "host_key_changed"),
    (r"Host key verification failed|host key is known for|no hostkey alg", "unknown_host_key"),
    (r"Could not resolve hostname|Name or service not known|nodename nor servname", "unknown_name"),
    (r"Permission denied \(|Too many authentication failures|no mutual signature", "key_rejected"),
    (r"Connection refused", "refused"),
    (r"No route to host|Network is unreachable|Host is down|Network is down", "no_route"),
    (r"protocol version mismatch -- is your shell clean", "noisy_shell"),
    (r"No space left on device|Disk quota exceeded|\(28\)|\(122\)", "disk_full"),
    (r"command not found|: not found|[Nn]o such file or directory.*\(remote\)|Unknown command", "command_missing"),
    (r"Connection timed out during|connect to host .* timed out|Operation timed out", "timeout"),
)
"""What OpenSSH and rsync print (sshconnect.c, ssh.c, rsync's main.c); the first that is found says it."""

_WHAT: dict[Kind, str] = {
    "no_route": "there is no route to {host}",
    "refused": "{host} refuses the connection",
    "timeout": "{host} did not answer in time",
    "unknown_name": "no host of this name is known: {host}",
    "unknown_host_key": "the host key of {host} is not known",
    "host_key_changed": "the host key of {host} has changed",
    "key_rejected": "{host} does not accept this account's key",
    "command_missing": "a program is missing on {host}",
    "noisy_shell": "the shell on {host} prints something of its own",
    "disk_full": "the disk on {host} is full",
    "dropped": "the connection to {host} was lost",
}


def fix_for(kind: Kind, endpoint: Endpoint) -> str | Advice:
    """Return what to do about a problem with a host, with the exact command."""
    ssh = shlex.join([*openssh.command(replace(endpoint, control="")), openssh.destination(endpoint), "true"])
    match kind:
        case "no_route" | "timeout" | "dropped":
            return f"see to the network and its firewalls, then try it: {ssh}"
        case "refused":
            return f"start sshd there, or name its port in [servers.NAME.ssh]; then try it: {ssh}"
        case "unknown_name":
            return (
                f"correct host in [servers.NAME.ssh], or give it an address: getent hosts {shlex.quote(endpoint.host)}"
            )
        case "unknown_host_key":
            scan = shlex.join(["ssh-keyscan", *_port(endpoint), endpoint.host])
            return (
                f"compare its fingerprint, {scan} | ssh-keygen -lf - , with the one that the host's owner gives you\n"
                f"(there: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub); when they agree: {scan} >> "
                f"{known_hosts_file(endpoint)}"
            )
        case "host_key_changed":
            forget = f"ssh-keygen -R {shlex.quote(known_name(endpoint))} -f {known_hosts_file(endpoint)}"
            return f"ask its owner whether it was installed anew; if not, somebody is in between. If so: {forget}"
        case "key_rejected":
            return _let_in(endpoint)
        case "command_missing":
            return "install it there, or put it on the PATH that a shell without terminal has"
        case "noisy_shell":
            return (
                "let it print nothing without a terminal; "
                "the first line of ~/.bashrc there: case $- in *i*) ;; *) return;; esac\n"
                f"this must print nothing: {ssh}"
            )
        case "disk_full":
            return "make room there (df -h), then run it again"


def host_error(kind: Kind, endpoint: Endpoint, why: str = "", fix: str | Advice = "") -> HostError:
    """Return the error of this kind about a host behind SSH, in the usual words."""
    return HostError(kind, str(endpoint), _WHAT[kind].format(host=endpoint), why, fix or fix_for(kind, endpoint))


def explain_openssh(endpoint: Endpoint, status: int, stderr: str) -> HostError:
    """Return what ssh's or rsync's words mean; without words, or with others, the link was lost.

    >>> explain_openssh(Endpoint("pg"), 255, "ssh: connect to host pg port 22: Connection refused").kind
    'refused'
    """
    words = "\n".join(line.rstrip() for line in stderr.splitlines() if line.strip(" @\r") and not line.startswith("**"))
    kind = next((kind for pattern, kind in _OPENSSH if re.search(pattern, words)), None)
    if kind is None:
        kind = "command_missing" if status == 127 else "dropped"
    return host_error(kind, endpoint, words or f"it ended with status {status} and said nothing")


def failed(host: str, program: str, what: str, status: int, words: str) -> CellarmanError:
    """Return the error about a program that ended with a status: missing, a full disk, or its own words."""
    if status == 127:
        what = f"{program} is missing on {host}"
        return HostError("command_missing", host, what, words, "install it there, or put it on the PATH")
    if re.search(r"No space left on device|Disk quota exceeded", words):
        return HostError("disk_full", host, f"{what}: the disk on {host} is full", words, "make room there (df -h)")
    return CellarmanError(what, words or f"{program} ended with status {status}", "see to the cause, then run it again")


def known_name(endpoint: Endpoint) -> str:
    """Return how known_hosts names a host (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").

    >>> known_name(Endpoint("pg")), known_name(Endpoint("pg", port=2222))
    ('pg', '[pg]:2222')
    """
    return endpoint.host if endpoint.port in (None, 22) else f"[{endpoint.host}]:{endpoint.port}"


def known_hosts_file(endpoint: Endpoint) -> str:
    """Return the file that a new host key belongs in, ready for a shell."""
    return shlex.quote(endpoint.known_hosts) if endpoint.known_hosts else "~/.ssh/known_hosts"


def _port(endpoint: Endpoint) -> list[str]:
    return [] if endpoint.port is None else ["-p", str(endpoint.port)]


_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
"""Those of the keys that ssh tries by itself that people have."""
_SETUP = cellarman("setup", "NAME")


def _has_passphrase(key: str) -> bool:
    words = ["ssh-keygen", "-y", "-P", "", "-f", os.path.expanduser(key)]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"incorrect passphrase" in done.stderr


def _let_in(endpoint: Endpoint) -> Advice:
    """Return what to do where no key of ours is accepted: make one, or have the one that is here let in."""
    names = [endpoint.identity_file] if endpoint.identity_file else list(_KEYS)
    key = next((name for name in names if os.path.exists(os.path.expanduser(name))), "")
    user = endpoint.user or "that account"
    if not key:
        make = f"ssh-keygen -t ed25519 -N '' -f {endpoint.identity_file or _KEYS[0]}"
        return Advice(f"there is no key here: {make}; then ", _SETUP, f" prints how {user} lets it in")
    locked = (
        f"the key {key} has a passphrase, which nobody is asked for: let an agent hold it, ssh-add {key}; cron has"
        f" none, so for that take it off: ssh-keygen -p -N '' -f {key}\nelse: "
        if _has_passphrase(key)
        else ""
    )
    return Advice(
        f"{locked}the key {key} is here, and {user} on {endpoint.host} does not let it in: its ~/.ssh/authorized_keys"
        f" must have the line that this prints: cat {key}.pub (",
        _SETUP,
        " prints the commands for it)\n"
        "or another key is meant: identity_file in [servers.NAME.ssh]; sshd's log there says why it refused",
    )
