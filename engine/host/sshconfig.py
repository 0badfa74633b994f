"""What OpenSSH would do for an endpoint: its own answer (ssh -G), so that paramiko connects to the same place."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from engine.host import openssh
from engine.host.endpoint import Endpoint
from engine.host.problems import HostError, host_error

_PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Effective:
    """Where a connection goes and what it may use."""

    host: str
    port: int
    user: str
    known_as: str
    """The name under which known_hosts has it."""
    identity_files: tuple[str, ...]
    identities_only: bool
    known_hosts: tuple[str, ...]
    """Files, the one for new keys first."""
    proxy: tuple[str, ...] = ()
    """The program whose standard input and output lead there, when there is no direct way."""


def effective(endpoint: Endpoint, *, config_file: str = "") -> Effective:
    """Ask ssh what it makes of an endpoint; `config_file` stands for ssh's own files. Raises HostError."""
    words = openssh.command(endpoint)
    words[1:1] = ["-F", config_file] if config_file else []
    try:
        done = subprocess.run(
            [*words, "-G", openssh.destination(endpoint)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
        )
    except FileNotFoundError as error:
        what = "the OpenSSH client is missing here"
        raise HostError("command_missing", "this host", what, str(error), "install openssh-client") from error
    except subprocess.TimeoutExpired as error:
        raise host_error("timeout", endpoint, "ssh -G did not end: a Match exec of ~/.ssh/config hangs") from error
    if done.returncode != 0:
        why = done.stderr.decode(errors="replace").strip()
        what = f"ssh cannot use its configuration for {endpoint}"
        raise HostError("unknown_name", str(endpoint), what, why, "correct ~/.ssh/config")
    return _read(endpoint, done.stdout.decode(errors="surrogateescape"), words)


def _read(endpoint: Endpoint, text: str, words: Sequence[str]) -> Effective:
    said: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        said.setdefault(key, []).append(value)

    def one(key: str) -> str:
        value = said.get(key, [""])[0]
        return "" if value == "none" else value

    host, port, user = one("hostname"), int(one("port") or 22), one("user")

    def path(text: str) -> str:
        return expand(home + text[1:] if text.startswith("~/") else text)

    def expand(text: str) -> str:
        """Put in what ssh_config(5), "TOKENS", has for %; ssh -G leaves that to whoever uses a value."""
        tokens = {"%": "%", "d": home, "h": host, "n": endpoint.host, "p": str(port), "r": user}
        return re.sub("%(.)", lambda found: tokens.get(found[1], found[0]), text)

    home = pwd.getpwuid(os.geteuid()).pw_dir  # as ssh does, whatever HOME says

    identities = [endpoint.identity_file] if endpoint.identity_file else [path(p) for p in said.get("identityfile", [])]
    own = [endpoint.known_hosts] if endpoint.known_hosts else [path(p) for p in one("userknownhostsfile").split()]
    name = one("hostkeyalias") or (host if port == 22 else f"[{host}]:{port}")
    return Effective(
        host,
        port,
        user,
        name,
        tuple(identities),
        one("identitiesonly") == "yes",
        (*own, *one("globalknownhostsfile").split()),
        _proxy(endpoint, words, host, port, one("proxyjump"), expand(one("proxycommand"))),
    )


def _proxy(endpoint: Endpoint, words: Sequence[str], host: str, port: int, jump: str, command: str) -> tuple[str, ...]:
    """Return the program that a connection goes through; ssh itself for a jump, so that its rules hold there too."""
    if jump:
        *before, last = jump.split(",")
        target = f"[{host}]:{port}"
        base = ["ssh", *(["-F", words[2]] if words[1] == "-F" else [])]
        options = ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
        options += ["-o", f"ConnectTimeout={endpoint.connect_timeout}"]
        options += ["-o", f"ServerAliveInterval={openssh.ALIVE_INTERVAL}"]
        options += ["-o", f"ServerAliveCountMax={openssh.ALIVE_COUNT}"]
        through = ["-J", ",".join(before)] if before else []
        return (*base, *options, *through, "-W", target, last if "://" in last else f"ssh://{last}")
    if command:
        return ("/bin/sh", "-c", f"exec {command}")
    return ()
