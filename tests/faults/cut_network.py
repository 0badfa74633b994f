"""Two hosts in networks of their own, and a cable that is pulled: packets vanish, nobody is told.

Run inside a user and network namespace by test_cut_network.py: python -m tests.faults.cut_network TOML ROOT WHAT.
Prints one JSON document of what was seen.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2

from engine.backup import rsync
from engine.config import Server, load
from engine.errors import CellarmanError
from engine.event import Silent
from engine.host.machine import machine
from engine.host.problems import LINK, HostError
from engine.recovery import link
from engine.recovery.plan import Order
from engine.recovery.restore import execute
from engine.recovery.target import EndOfArchive
from engine.repository import repository
from tests.support import cluster
from tests.support.sshd import Far, account, sshd
from tests.support.waiting import until

NEAR, FAR = "10.77.0.1", "10.77.0.2"
_RSYNC = '[servers.main]\nbackup_method = "rsync"\n'
FIREWALL = shutil.which("iptables", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Cable:
    """A pair of network devices between this namespace and another one."""

    def __init__(self) -> None:
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "600"])
        self.there = ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net"]
        own = os.readlink("/proc/self/ns/net")
        until(lambda: os.readlink(f"/proc/{self.holder.pid}/ns/net") != own, "a network of its own")
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(self.holder.pid))
        _ip("addr", "add", f"{NEAR}/24", "dev", "near")
        _ip("link", "set", "near", "up")
        _ip("link", "set", "lo", "up", within=self.there)
        _ip("addr", "add", f"{FAR}/24", "dev", "far", within=self.there)
        _ip("link", "set", "far", "up", within=self.there)

    def pull(self) -> None:
        """Let every packet vanish, in both directions, without a word to either side."""
        self._set("-A", "down")

    def close(self, port: int) -> None:
        """Let the packets to and from one port over there vanish, as a firewall does that forgot a connection."""
        for chain, side in (("INPUT", "--dport"), ("OUTPUT", "--sport")):
            words = ["-A", chain, "-p", "tcp", side, str(port), "-j", "DROP"]
            subprocess.run([*self.there, str(FIREWALL), *words], check=True)

    def plug(self) -> None:
        self._set("-D", "up")

    def _set(self, rule: str, link: str) -> None:
        """Do it as a firewall that drops would, or without one by the other end of the cable."""
        if FIREWALL is None:
            _ip("link", "set", "far", link, within=self.there)
            return
        for chain in ("INPUT", "OUTPUT"):
            subprocess.run([*self.there, FIREWALL, rule, chain, "-j", "DROP"], check=True)


def _ip(*words: str, within: list[str] | None = None) -> None:
    subprocess.run([*(within or []), "ip", *words], check=True)


class Puller(Silent):
    """Pulls the cable when the copy is under way, and plugs it in again when the loss was noticed, if told."""

    def __init__(self, cable: Cable, *, again: bool) -> None:
        self.cable, self.again = cable, again
        self.pulled = self.noticed = 0.0
        self.notes: list[str] = []

    def progress(self, done_bytes: int, *rest: Any, **more: Any) -> None:
        if not self.pulled and done_bytes > 1 << 20:
            self.cable.pull()
            self.pulled = time.monotonic()

    def note(self, text: str, level: Any = "info") -> None:
        self.notes.append(text)
        if self.pulled and not self.noticed and ("trying again" in text or "taken up again" in text):
            self.noticed = time.monotonic()
            if self.again:
                self.cable.plug()


@contextlib.contextmanager
def hosts(root: Path) -> Iterator[tuple[Cable, Far]]:
    cable = Cable()
    try:
        with sshd(root / "far", address=FAR, within=cable.there) as far:
            yield cable, far
    finally:
        cable.holder.kill()
        cable.holder.wait()


def restore(cable: Cable, far: Far, server: Server, root: Path, *, again: bool) -> dict[str, Any]:
    """Restore with the cable pulled in the middle."""
    link._PAUSES = (0.5, 0.5)
    report = Puller(cable, again=again)
    order = Order(server.name, str(root / "new"), target=EndOfArchive(), on=f"{account()}@{FAR}", start=again)
    began = time.monotonic()
    result: dict[str, Any] = {}
    error: HostError | None = None
    try:
        result = execute(order.to_arguments(), server, report)
    except HostError as caught:
        error = caught
    return {
        "pulled": bool(report.pulled),
        "noticed_after": report.noticed - report.pulled,
        "took": time.monotonic() - began,
        "kind": error.kind if error else "",
        "what": error.what if error else "",
        "notes": report.notes,
        "result": result,
    }


class TwicePuller(Puller):
    """Pulls the cable once more when the copy went on after the first time, and leaves it out."""

    before = 0
    """Bytes that had come when the loss was noticed."""
    went_on = 0.0

    def progress(self, done_bytes: int, *rest: Any, **more: Any) -> None:
        super().progress(done_bytes, *rest, **more)
        if not self.noticed:
            self.before = done_bytes
        elif not self.went_on and done_bytes > self.before + (1 << 20):
            self.cable.pull()
            self.went_on = time.monotonic()


def backup(cable: Cable, server: Server) -> dict[str, Any]:
    """Back up with the cable pulled in the middle, for a time and then for good."""
    report = TwicePuller(cable, again=True)
    error: HostError | None = None
    began = time.monotonic()
    try:
        rsync.take(server, report=report)
    except HostError as caught:
        error = caught
    with contextlib.closing(psycopg2.connect(server.conninfo)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'cellarman_backup_%'")
        left = cursor.fetchone()[0]
    return {
        "noticed_after": report.noticed - report.pulled,
        "went_on": bool(report.went_on),
        "failed_after": time.monotonic() - report.went_on,
        "took": time.monotonic() - began,
        "kind": error.kind if error else "",
        "what": error.what if error else "",
        "notes": report.notes,
        "in_backup_mode": left,
        "status": [info.status for info in repository.backups(server.layout) if info.method == "rsync"],
    }


class SessionCutter(Silent):
    """Cuts the database session, and it alone, when the copy is under way."""

    def __init__(self, cable: Cable, port: int) -> None:
        self.cable, self.port = cable, port
        self.cut = 0.0

    def progress(self, done_bytes: int, *rest: Any, **more: Any) -> None:
        if not self.cut and done_bytes > 1 << 20:
            self.cable.close(self.port)
            self.cut = time.monotonic()


def session(cable: Cable, far: Far, root: Path) -> dict[str, Any]:
    """Back up a server over there, whose database session is cut in the middle of the copy while SSH lives on."""
    installs = cluster.installs()
    server = cluster.Cluster(installs[max(installs)], root / "pg", cluster.free_port())
    server.root.mkdir()
    (root / "barman" / "main" / "incoming").mkdir(parents=True)
    server.init(archive_mode="on", archive_command=f"cp %p {root}/barman/main/incoming/%f")
    server.configure(listen_addresses=FAR)
    with (server.data / "pg_hba.conf").open("a") as hba:
        hba.write(f"host all all {NEAR}/32 trust\n")
    program = [str(server.install.bindir / "pg_ctl"), "-D", str(server.data), "-l", str(server.root / "log")]
    subprocess.run([*cable.there, *program, "-w", "start"], check=True, stdout=subprocess.DEVNULL)
    try:
        toml = root / "session.toml"
        toml.write_text(
            f'[cellarman]\nbarman_home = "{root}/barman"\nstate_directory = "{root}/state"\n[servers.main]\n'
            f'conninfo = "host={FAR} port={server.port} user=postgres dbname=postgres"\nbackup_method = "rsync"\n'
            "archiver = true\nstreaming_archiver = false\nimmediate_checkpoint = true\ncheck_timeout = 5\n"
            f"bandwidth_limit = 1000\n{far.table()}"
        )
        report = SessionCutter(cable, server.port)
        error: CellarmanError | None = None
        try:
            rsync.take(load(str(toml)).server("main"), report=report)
        except CellarmanError as caught:
            error = caught
        failed_after = time.monotonic() - report.cut
        while _in_backup_mode(server) and time.monotonic() - report.cut < 120:
            time.sleep(0.2)
        return {
            "failed_after": failed_after,
            "left_after": time.monotonic() - report.cut,
            "what": error.what if error else "",
            "why": error.why if error else "",
            "fix": error.now("") if error else "",
            "status": [info.status for info in repository.backups(load(str(toml)).server("main").layout)],
        }
    finally:
        server.stop("immediate")


def _in_backup_mode(server: cluster.Cluster) -> int:
    """Ask by the socket in the file system, which no firewall cuts."""
    words = f"host={server.root} port={server.port} user=postgres dbname=postgres"
    with contextlib.closing(psycopg2.connect(words)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'cellarman_backup_%'")
        return int(cursor.fetchone()[0])


def command(cable: Cable, far: Far) -> dict[str, Any]:
    """Let a command of paramiko's connection run while the cable is pulled."""
    with machine(far.endpoint) as host:
        host.run(["true"])
        cable.pull()
        began = time.monotonic()
        try:
            host.run(["sleep", "300"], timeout=200)
        except HostError as error:
            kind = error.kind
        took = time.monotonic() - began
        cable.plug()
        deadline = time.monotonic() + 30
        while True:  # the kernel has to find its neighbour again
            try:
                return {"kind": kind, "took": took, "again": host.run(["echo", "again"]).out.decode()}
            except HostError as error:
                assert error.kind in LINK and time.monotonic() < deadline
                time.sleep(0.1)


def main() -> int:
    toml, root, what = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    with hosts(root) as (cable, far):
        text = Path(toml).read_text() + far.table() + "connect_timeout = 3\n"
        own = "bandwidth_limit = 4000\nrestore_bandwidth_limit = 4000\n"
        own += "basebackup_retry_sleep = 1\nbasebackup_retry_times = 1\n"
        text = text.replace("[servers.main]\n", f"[servers.main]\n{own}", 1)
        if what == "backup":  # the server is in the first network: only its socket in the file system is reached
            text = text.replace("host=127.0.0.1", f"host={Path(toml).parent}/pg").replace("[servers.main]\n", _RSYNC, 1)
        (root / "own.toml").write_text(text)
        server = load(str(root / "own.toml")).server("main")
        if what == "command":
            seen = command(cable, far)
        elif what == "session":
            seen = session(cable, far, root)
        elif what == "backup":
            seen = backup(cable, server)
        else:
            seen = restore(cable, far, server, root, again=what == "again")
        print(json.dumps(seen))
        if seen.get("result"):
            pid = int((root / "new" / "postmaster.pid").read_text().split()[0])
            rows = _rows(server, seen["result"])
            print(json.dumps({"rows": rows}))
            os.kill(pid, 3)
    return 0


def _rows(server: Server, result: dict[str, Any]) -> int:
    """Count by the socket in the file system, which both hosts share: the server listens in the other network."""
    words = f"host={result['socket']} port={result['port']} user=postgres dbname=postgres"
    with contextlib.closing(psycopg2.connect(words)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM kept")
        return int(cursor.fetchone()[0])


if __name__ == "__main__":
    sys.exit(main())
