"""SSH both ways: keys, who may log in with them, and which hosts are known; only public halves are ever read."""

from __future__ import annotations

import os
import re
import shlex
import shutil

from engine.check.account import account
from engine.check.facts import Facts, Unknown
from engine.check.reach import Reach, backup_host, needs_way_back
from engine.host import openssh, problems
from engine.host.endpoint import Endpoint
from engine.host.local import ThisHost, installed
from engine.setup.piece import Piece, State, found

_KEY = "~/.ssh/id_ed25519"
_AGAIN = "once that key is known here, run this again: it then prints the lines that let it in"


def there(facts: Facts) -> list[Piece]:
    """This account's way to the server's host, for rsync backups, remote restores and checks."""
    endpoint = facts.server.ssh
    if endpoint is None or not endpoint.host:
        return []
    works = isinstance(facts.reach, Reach)
    key = os.path.expanduser(endpoint.identity_file or _KEY)
    public = _public(f"{key}.pub")
    here = f"here, as {account()}"
    user = endpoint.user or account()
    rejected = isinstance(facts.reach, Unknown) and "does not accept" in facts.reach.what
    known = works or rejected or _is_known(endpoint)
    return [
        Piece(f"key of {account()}", here, _keygen(key), "sh", found(works or bool(public))),
        _known(endpoint, here, found(known), of=f"on {endpoint.host}"),
        Piece(
            f"login of {account()} as {user}@{endpoint.host}",
            f"on {endpoint.host}, as root",
            _authorize(user, public, "restrict"),
            "sh",
            found(True if works else False if rejected or not public else None),
            _why_not(facts, key, public, rejected=rejected),
        ),
    ]


def back(facts: Facts) -> list[Piece]:
    """The way of PostgreSQL's account to this host, for its archive_command."""
    endpoint = facts.server.ssh
    if endpoint is None or not needs_way_back(facts.server):
        return []
    to = backup_host(facts.server)
    reach = facts.reach if isinstance(facts.reach, Reach) else None
    works = reach is not None and reach.back is not None and not reach.back.problem
    theirs = reach.public_key if reach else ""
    who, far = endpoint.user or "postgres", f"on {endpoint.host}, as {endpoint.user or 'postgres'}"
    said, kind = (reach.back.problem, reach.back.kind) if reach and reach.back else ("", None)
    unknown_key = kind in ("unknown_host_key", "host_key_changed")
    known = True if works or kind == "key_rejected" else False if unknown_key else None
    user, bound_to = to.user or account(), reach.back.bound_to if reach and reach.back else ()
    let_in = _authorize(user, theirs, f'restrict,command="{_only_push(facts)}"')
    foreign = bool(bound_to) and facts.server.name not in bound_to
    if foreign:
        said = f"the key may only push WAL of {', '.join(bound_to)}"
        let_in = _also(user, bound_to[0], facts.server.name)
    return [
        Piece(f"key of {who}", far, _keygen(_KEY), "sh", found(works or bool(theirs) if reach else None)),
        _known(to, far, found(known), of="here"),
        Piece(
            f"login of {who} as {to}",
            "here, as root",
            let_in,
            "sh",
            found(works and not foreign if works else None if unknown_key or reach is None else False),
            "this key can push WAL and nothing else; for rsync into incoming/ write restrict alone before the key"
            + (f"\nnow: {' '.join(said.split())}" if said and (theirs or works) else "")
            + ("" if theirs or works or not reach else f"\n{who} on {endpoint.host} has no key yet"),
        ),
    ]


def _why_not(facts: Facts, key: str, public: str, *, rejected: bool) -> str:
    """Return why the login does not work, as far as that is known: no key at all, or one that is not let in."""
    if not public:
        return f"there is no {key}.pub here yet"
    if rejected and isinstance(facts.reach, Unknown):
        return f"the key is here and is not let in there: {' '.join(facts.reach.what.split())}"
    return ""


_SSHD_PATH = "/usr/local/bin:/usr/bin:/bin"
"""What sshd's sessions have at least."""


def _only_push(facts: Facts) -> str:
    """Return the one command of a bound key, with its program's whole path where sshd would not find it."""
    program = installed("cellarman-wal")
    if not program or shutil.which("cellarman-wal", path=_SSHD_PATH):
        program = "cellarman-wal"
    words = [program, "only-push", "--server", facts.server.name]
    words += ["--config", facts.config_file] if facts.config_file else []
    return shlex.join(words)


def _public(path: str) -> str:
    """Return a public key's line, "" when there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            line = file.readline(20_000).strip()
    except OSError:
        return ""
    return line if line.isprintable() else ""


def _keygen(path: str) -> str:
    return f"ssh-keygen -t ed25519 -N '' -f {path if path.startswith('~') else shlex.quote(path)}"


def _is_known(endpoint: Endpoint) -> bool:
    path = os.path.expanduser(endpoint.known_hosts or "~/.ssh/known_hosts")
    return ThisHost().run(["ssh-keygen", "-F", problems.known_name(endpoint), "-f", path]).status == 0


def _known(endpoint: Endpoint, where: str, state: State, *, of: str) -> Piece:
    """Getting to know a host: what ssh-keyscan brings is compared before it is trusted."""
    port = ["-p", str(endpoint.port)] if endpoint.port is not None else []
    scan = shlex.join(["ssh-keyscan", "-t", "ed25519", *port, endpoint.host])
    file = problems.known_hosts_file(endpoint)
    text = f"{scan} >> {file}\nssh-keygen -l -F {shlex.quote(problems.known_name(endpoint))} -f {file}"
    note = (
        f"compare the fingerprint with the one that this prints {of}: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"
    )
    return Piece(f"host key of {endpoint.host}", where, text, "sh", state, note)


def _authorize(user: str, key: str, options: str) -> str:
    """Return the commands, for root, that let a key in.

    Without a key there is nothing to paste but a comment.
    """
    if not key:
        return f"# nothing to paste yet: {_AGAIN}"
    home = _home(user)
    line = shlex.quote(f"{options} {key}")
    return (
        f"install -d -o {user} -g $(id -gn {user}) -m 0700 {home}/.ssh\n"
        f"echo {line} >> {home}/.ssh/authorized_keys\n"
        f"chown {user}: {home}/.ssh/authorized_keys; chmod 0600 {home}/.ssh/authorized_keys"
    )


def _home(user: str) -> str:
    """Return an account's home as a shell finds it, so that it may lie anywhere."""
    if user.replace("-", "").replace("_", "").isalnum():
        return f"~{user}"
    return f"$(getent passwd {shlex.quote(user)} | cut -d: -f6)"


def _also(user: str, bound_to: str, server: str) -> str:
    """Return the command, for root, that lets the keys that may push WAL of one server push that of another too."""
    line = f'/ only-push .*--server {re.escape(bound_to)}[" ]/'
    words = ["sed", "-i", f"{line}s/ only-push / only-push --server {server} /"]
    return f"{shlex.join(words)} {_home(user)}/.ssh/authorized_keys"


def ssh_words(endpoint: Endpoint) -> list[str]:
    """Return ssh with what an archive_command needs of options, and the destination: short enough to read."""
    port = ["-p", str(endpoint.port)] if endpoint.port is not None else []
    options = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=2", "ServerAliveCountMax=3")
    return ["ssh", "-T", *port, *(word for option in options for word in ("-o", option)), openssh.destination(endpoint)]
