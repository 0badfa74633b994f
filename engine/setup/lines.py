"""The lines that keep WAL coming: archive_command in its ways, and the crontab."""

from __future__ import annotations

import os
import re
import shlex

from engine.check.account import account
from engine.check.facts import Facts, Unknown
from engine.check.live import Live
from engine.check.reach import backup_host, needs_way_back
from engine.check.repository import MISSED_MAINTENANCE, crontab, every_minute
from engine.check.wal import push_command
from engine.commands import cellarman
from engine.config import Config, places
from engine.host import openssh
from engine.postgres.quoting import literal, shell_word
from engine.setup.keys import ssh_words
from engine.setup.piece import Piece, found
from engine.setup.sql import superuser

_OURS = {
    "push over SSH": re.compile(r"\bpush\b.*--over[=\s]"),
    "push over SSH, without Cellarman on the server": re.compile(r"\bssh\b.*\bpush - "),
    "push": re.compile(r"cellarman-wal['\"]? push %p"),
}
_UNCUT = 16
"""The version from which archive_command, as it is run, may have any length."""
_LONGEST = 1023
"""Bytes of it before that (MAXPGPATH in src/backend/postmaster/shell_archive.c of 15)."""
_SCRIPT = "cellarman-archive.sh"


def archive_commands(facts: Facts) -> list[Piece]:
    """The ways in which PostgreSQL can deliver its segments, the best first; one is enough."""
    if not facts.server.archiver:
        return []
    remote = needs_way_back(facts.server)
    ways = [_ssh_alone(facts), _over_ssh(facts), _by_rsync(facts)] if remote else [_same_host(facts)]
    current = facts.live.facts.archive_command or "" if isinstance(facts.live, Live) else ""
    used = next((name for name, _, _ in ways if _is_used(facts, name, current)), "")
    pieces = []
    major = facts.live.facts.major if isinstance(facts.live, Live) else None
    for number, (name, full, remark) in enumerate(ways):
        command, note = fitting(full, remark, major)
        truth = None if isinstance(facts.live, Unknown) else bool(used) or _SCRIPT in current
        state = found(truth) if number == 0 else "choice"
        if used:
            state = "there" if name == used else "choice"
        text = f"ALTER SYSTEM SET archive_command = {literal(command)};\nSELECT pg_reload_conf();"
        pieces.append(Piece(f"archive_command: {name}", superuser(facts), text, "sql", state, note))
    return pieces


def fitting(command: str, note: str, major: int | None) -> tuple[str, str]:
    """Return a command and its note as they are, or by a file where PostgreSQL would cut the command short."""
    longest = len(os.fsencode(command.replace("%p", "pg_wal/" + "0" * 24).replace("%f", "0" * 24)))
    if major is None or major >= _UNCUT or longest <= _LONGEST:
        return command, note
    script = re.sub("%[pf%]", lambda sign: {"%p": '"$1"', "%f": '"$2"', "%%": "%"}[sign[0]], command)
    return f"sh ./{_SCRIPT} %p %f", (
        f"{note}\nit has {longest} bytes, and PostgreSQL {major} cuts archive_command at {_LONGEST}: so it goes into a"
        f" file. First, in the server's data directory, as PostgreSQL's account:\n"
        f"printf '%s\\n' {shlex.quote(script)} > {_SCRIPT}"
    )


def _is_used(facts: Facts, name: str, current: str) -> bool:
    if name == "rsync":
        return "rsync" in current and facts.server.layout.incoming in current
    return _OURS[name].search(current) is not None and facts.server.name in current


def _same_host(facts: Facts) -> tuple[str, str, str]:
    note = f"on this host; it writes as PostgreSQL's account, which has to be {account()}"
    return "push", push_command(facts), note


def _over_ssh(facts: Facts) -> tuple[str, str, str]:
    to = str(backup_host(facts.server))
    words = ["cellarman-wal", "push", "%p", "--server", shell_word(facts.server.name), "--over", shell_word(to)]
    note = "Cellarman is on both hosts; as above, and only a receipt that names file and SHA-256 counts as stored"
    return "push over SSH", " ".join(words), note


def _ssh_alone(facts: Facts) -> tuple[str, str, str]:
    ssh = " ".join(map(shell_word, ssh_words(backup_host(facts.server))))
    push = f"cellarman-wal push - --server {shell_word(facts.server.name)} --name %f"
    command = f"{ssh} {push} --sha256 $(sha256sum %p | cut -c1-64) < %p || exit 1"
    note = "the server needs nothing but ssh and sha256sum; the file is verified and durable here before it returns 0"
    return "push over SSH, without Cellarman on the server", command, note


def _by_rsync(facts: Facts) -> tuple[str, str, str]:
    """Copy as Barman's users do, as safe as rsync and sync(1) make it."""
    to = backup_host(facts.server)
    ssh = " ".join(map(shell_word, ssh_words(to)[:-1]))
    incoming = facts.server.layout.incoming
    target = shell_word(f"{openssh.rsync_host(to)}:{incoming}/")
    command = (
        f"rsync -t --fsync --protect-args -e {shell_word(ssh)} %p {target}%f"
        f" && {ssh} {shell_word(openssh.destination(to))} sync {shell_word(shlex.quote(incoming))} || exit 1"
    )
    note = (
        "rsync 3.2.4 or newer at both ends: it writes under a temporary name, syncs, renames, and sync makes the name "
        "durable; the key must not be bound to a command.\n"
        "its limits: nothing is verified before 0 (another cluster's WAL, or other content under the same name, "
        "replaces what waits, and is noticed when it is taken in), and a segment takes two logins"
    )
    return "rsync", command, note


def cron(facts: Facts, config: Config) -> list[Piece]:
    """The crontab's line for maintenance, every minute."""
    last = None if isinstance(facts.storage, Unknown) else facts.storage.last_by_itself
    truth = None if isinstance(facts.storage, Unknown) else last is not None and facts.now - last <= MISSED_MAINTENANCE
    own = places.of_one_account(config.files)
    line = every_minute(own[-1] if len(config.files) == 1 and own else "")
    text = f"{crontab(line)}\n# or, to be kept running: {cellarman('agent').line(facts.named)}"
    note = "the agent does the same and wakes when something arrives"
    return [Piece("maintenance", f"here, as {account()}", text, "sh", found(truth), note)]
