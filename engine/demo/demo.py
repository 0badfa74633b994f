"""The demo, from nothing to a repository with backups, and back to nothing."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Callable

from engine import config as config_
from engine.config import Config
from engine.demo import place
from engine.demo.account import ACCOUNT
from engine.demo.server import DemoServer
from engine.demo.watchdog import Watchdog
from engine.errors import CellarmanError
from engine.event import Ended, Note, Phase
from engine.job import follow, launch, spec

SERVER = "shop"
CONFIG = """\
# The configuration of a demo of Cellarman. All of this is removed when the demo ends.
[cellarman]
barman_home = {home}
state_directory = {state}

[servers.{server}]
description = "A wine shop that sells ten times a second"
conninfo = {conninfo}
streaming_conninfo = {streaming_conninfo}
streaming_archiver = true
slot_name = "cellarman"
immediate_checkpoint = true
retention_policy = "REDUNDANCY 4"
minimum_redundancy = 1
path_prefix = {path_prefix}
bandwidth_limit = {bandwidth_limit}
"""
WATCHABLE = 6000
"""Kilobytes a second at which the demo's backup takes long enough to be watched."""

Say = Callable[[str], None]


class Demo:
    """A server, its workload, its repository and its maintenance, all below one directory."""

    def __init__(self, directory: str | None, say: Say) -> None:
        """`directory` is the place to use, None for a temporary one; `say` takes a line for the operator."""
        self._say = say
        for name in [name for name in os.environ if name.startswith(("PG", "CELLARMAN_"))]:
            del os.environ[name]
        self._server: DemoServer
        self._children: list[subprocess.Popen[bytes]] = []
        self.root = place.make(directory)
        os.environ[place.MARK] = self.root
        self._watchdog = Watchdog(self.root)

    @property
    def config_file(self) -> str:
        return os.path.join(self.root, "cellarman.toml")

    def build(self) -> Config:
        """Start everything, take a first backup, and return the configuration; what was started stays until `clear`."""
        self._server = DemoServer(self.root)
        self._say(f"PostgreSQL {self._server.version()} in {self.root}")
        self._server.start()
        self._say("orders come in, ten a second")
        self._spawn("workload.log", "engine.demo.workload", self._server.conninfo("postgres"))
        config = self.configure()
        self._spawn("agent.log", "engine.cli.main", "--config", self.config_file, "agent")
        self._say(f"a first backup of the server {SERVER}")
        self.backup(config, "opening")
        return config

    def configure(self, bandwidth_limit: int = 0) -> Config:
        """Write the configuration, backups limited to so many kilobytes a second (0: not), and return it."""
        text = CONFIG.format(
            server=SERVER,
            home=_toml(os.path.join(self.root, "barman")),
            state=_toml(os.path.join(self.root, "state")),
            conninfo=_toml(self._server.conninfo("barman")),
            streaming_conninfo=_toml(self._server.conninfo("streaming_barman")),
            path_prefix=_toml(self._server.bindir),
            bandwidth_limit=bandwidth_limit,
        )
        with open(f"{self.config_file}.new", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(file.name, self.config_file)  # the agent may be reading it
        return config_.load(self.config_file)

    def start_backup(self, config: Config, name: str) -> str:
        """Start a backup and return the job's id."""
        return launch.launch(config, spec.make(config, "backup", SERVER, name=name))

    def backup(self, config: Config, name: str) -> None:
        """Take a backup and tell its phases.

        Raises CellarmanError when it fails.
        """
        job = follow.find(config.state_directory, self.start_backup(config, name))
        for event in follow.follow(job.directory):
            if isinstance(event, Phase):
                self._say(f"  {event.phase} {event.detail}".rstrip())
            elif isinstance(event, Note) and event.level != "info":
                self._say(f"  {event.text}")
            elif isinstance(event, Ended) and event.status != "done":
                raise CellarmanError(f"the demo's backup {event.status}", event.reason, event.fix)

    def clear(self) -> None:
        """Stop and remove everything.

        Raises CellarmanError when something would not end.
        """
        left = self._watchdog.clear()
        if left:
            raise CellarmanError(
                "parts of the demo would not stop",
                f"still running: {', '.join(map(str, left))}",
                f"kill -9 {' '.join(map(str, left))}",
            )

    def facts(self) -> list[tuple[str, str]]:
        """Return what an operator needs to look at the demo from another terminal, as (name, value)."""
        cellarman = f"{os.path.join(os.path.dirname(sys.executable), 'cellarman')} --config {self.config_file}"
        name = pwd.getpwuid(os.getuid()).pw_name
        foreign = [("account", f"{name}; as root: setpriv --reuid={name} --clear-groups --regid={os.getgid()} COMMAND")]
        return [
            *(foreign if name == ACCOUNT else []),
            ("configuration", self.config_file),
            ("repository", os.path.join(self.root, "barman", SERVER)),
            ("server", self._server.conninfo("postgres")),
            ("orders", f"{self._server.bindir}/psql \"{self._server.conninfo('postgres')}\" -c 'TABLE latest_orders'"),
            ("console", cellarman),
            ("backups", f"{cellarman} backups {SERVER}"),
        ]

    def _spawn(self, log: str, module: str, *args: str) -> None:
        """Start a module in a session of its own; what it prints goes to a log in the demo's directory."""
        with open(os.path.join(self.root, log), "ab") as output:
            self._children.append(
                subprocess.Popen(
                    [sys.executable, "-m", module, *args],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    cwd="/",
                )
            )


def _toml(text: str) -> str:
    """Return the text as a TOML string.

    >>> print(_toml('a"b'))
    "a\\"b"
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
