"""WAL pushed over a real SSH connection: durable there before 0 here, whatever is cut, swapped or answers instead."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.config import load
from engine.host import openssh
from engine.host.endpoint import Endpoint
from engine.postgres import segment
from engine.repository.layout import Layout
from engine.wal import sending
from engine.wal.ingest import ingest
from tests.engine.wal import pages
from tests.engine.wal.test_client import HEAVY, ROOT
from tests.support import cluster
from tests.support.programs import BIN
from tests.support.sshd import Far, sshd, write_known_hosts
from tests.support.waiting import until


@dataclass
class Hosts:
    """The database host's directory, and the backup host behind SSH."""

    root: Path
    far: Far
    layout: Layout

    @property
    def over(self) -> str:
        return str(self.far.endpoint)

    @property
    def config(self) -> Path:
        return self.root / "cellarman.toml"

    @property
    def options(self) -> list[str]:
        keys = ["--identity", str(self.far.key), "--known-hosts", str(self.far.known_hosts)]
        return ["--server", "main", "--over", self.over, *keys]

    def push(self, path: str, *more: str) -> subprocess.CompletedProcess[str]:
        return self.client("push", path, *self.options, "--config", str(self.config), *more)

    def client(self, *words: str, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(BIN / "cellarman-wal"), *words],
            input=stdin,
            capture_output=True,
            check=False,
            timeout=60,
            env={**os.environ, **env},
        )
        return subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())

    def receive(self, name: str, content: bytes, sha256: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        """Push from standard input, as the far side is asked to."""
        announced = sha256 or hashlib.sha256(content).hexdigest()
        words = ["push", "-", "--server", "main", "--config", str(self.config)]
        return self.client(*words, "--name", name, "--sha256", announced, stdin=content, **env)

    def incoming(self) -> list[str]:
        return sorted(os.listdir(self.layout.incoming))

    def ingest(self) -> None:
        ingest(load(str(self.config)).server("main"))


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    layout = pages.make_layout(tmp_path)
    with sshd(tmp_path / "far", PATH=f"{BIN}:/usr/bin:/bin", PYTHONPATH=str(ROOT)) as far:
        made = Hosts(tmp_path, far, layout)
        made.config.write_text(
            f'[cellarman]\nbarman_home = "{tmp_path}/home"\nlock_timeout = 2\n'
            '[servers.main]\nconninfo = "host=/nowhere"\narchiver = true\n'
        )
        yield made


def test_it_is_there_and_nothing_is_said(hosts: Hosts) -> None:
    first, second = pages.put(hosts.root, 5), pages.put(hosts.root, 6)
    for path in (first, second, first, second):  # the first of all decides whose archive this is; then again
        done = hosts.push(path)
        assert (done.returncode, done.stdout + done.stderr) == (0, ""), done.stderr
    assert os.path.exists(hosts.layout.wal(pages.name(5)))
    assert hosts.incoming() == [pages.name(6)]
    assert Path(hosts.layout.incoming, pages.name(6)).read_bytes() == pages.content(6)
    hosts.ingest()
    assert os.path.exists(hosts.layout.wal(pages.name(6)))


def test_a_history_file(hosts: Hosts) -> None:
    path = hosts.root / "00000002.history"
    path.write_text(pages.HISTORY_2)
    assert hosts.push(str(path)).returncode == 0
    assert os.path.exists(hosts.layout.wal(path.name))


def test_without_cellarman_on_the_database_host(hosts: Hosts) -> None:
    """The line of `cellarman-wal --help`, as PostgreSQL hands it to a shell."""
    pages.put(hosts.root, 5)
    there = hosts.far.endpoint
    ssh = " ".join([*openssh.command(there), openssh.destination(there)])
    push = f"cellarman-wal push - --server main --config {hosts.config} --name %f"
    line = f"{ssh} {push} --sha256 $(sha256sum %p | cut -c1-64) < %p || exit 1"

    def archive(name: str) -> int:
        command = line.replace("%f", name).replace("%p", name)
        return subprocess.run(["sh", "-c", command], cwd=hosts.root, check=False, timeout=60).returncode

    assert archive(pages.name(5)) == 0
    assert os.path.exists(hosts.layout.wal(pages.name(5)))
    assert archive(pages.name(7)) == 1, "there is no such file"
    hosts.far.stop()
    assert archive(pages.name(5)) == 1, "nobody listens"


def test_other_content_under_the_same_name_is_refused(hosts: Hosts) -> None:
    assert hosts.push(pages.put(hosts.root, 5)).returncode == 0
    done = hosts.push(pages.put(hosts.root, 5, seed=1))
    assert done.returncode == 1
    assert "the repository holds it already" in done.stderr
    assert os.listdir(hosts.layout.errors) == [f"{pages.name(5)}.refused-at-push"]
    assert hosts.push(pages.put(hosts.root, 5)).returncode == 0
    assert os.listdir(hosts.layout.errors) == []


def test_another_clusters_wal_is_refused(hosts: Hosts) -> None:
    assert hosts.push(pages.put(hosts.root, 5)).returncode == 0
    done = hosts.push(pages.put(hosts.root, 6, system=pages.OTHER_SYSTEM))
    assert done.returncode == 1 and "belongs to the system" in done.stderr
    assert hosts.incoming() == []


@pytest.mark.parametrize("known", [False, True], ids=["first", "later"])
def test_a_part_or_another_content_leaves_nothing(hosts: Hosts, known: bool) -> None:
    if known:
        assert hosts.push(pages.put(hosts.root, 5)).returncode == 0
    whole = pages.content(6)
    digest = hashlib.sha256(whole).hexdigest()
    flipped = whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:]
    for arrived in (whole[:-1], b"", whole + b"x", flipped):
        done = hosts.receive(pages.name(6), arrived, digest)
        assert done.returncode == 1
        assert "did not arrive whole" in done.stderr and digest in done.stderr
        assert hosts.incoming() == [] and not os.path.exists(hosts.layout.wal(pages.name(6)))
    assert hosts.receive(pages.name(6), whole, digest.upper()).returncode == 0


@pytest.mark.parametrize("place", ["receipt.filled", "receipt.linked", "receipt.synced"])
def test_killed_at_the_far_side_and_sent_again(hosts: Hosts, place: str) -> None:
    assert hosts.push(pages.put(hosts.root, 5)).returncode == 0
    assert hosts.receive(pages.name(6), pages.content(6), CELLARMAN_CRASH_AT=place).returncode not in (0, 1)
    assert hosts.push(pages.put(hosts.root, 6)).returncode == 0
    hosts.ingest()
    assert os.path.exists(hosts.layout.wal(pages.name(6)))
    assert hosts.incoming() == [] or all(name.startswith(".") for name in hosts.incoming())


def test_only_the_receipt_counts(hosts: Hosts) -> None:
    """Something that answers with 0 has not stored anything by that."""
    done = hosts.push(pages.put(hosts.root, 5), "--program", "true")
    assert done.returncode == 1
    assert "gave no receipt" in done.stderr


def test_what_goes_wrong_has_its_name(hosts: Hosts) -> None:
    path = pages.put(hosts.root, 5)
    done = hosts.push(path, "--program", "/no/such/cellarman-wal")
    assert done.returncode == 1 and "is not at" in done.stderr and "--program PATH" in done.stderr
    hosts.far.new_host_keys()
    done = hosts.push(path)
    assert done.returncode == 1 and "host key" in done.stderr and "has changed" in done.stderr
    hosts.far.known_hosts.write_text("")
    done = hosts.push(path)
    assert done.returncode == 1 and "is not known" in done.stderr and "ssh-keyscan" in done.stderr
    write_known_hosts(hosts.far)
    (hosts.far.root / "authorized_keys").write_text("")
    done = hosts.push(path)
    assert done.returncode == 1 and "does not accept" in done.stderr
    hosts.far.stop()
    done = hosts.push(path)
    assert done.returncode == 1 and "refuses the connection" in done.stderr
    assert hosts.client("push", str(hosts.root / "nothing"), *hosts.options).returncode == 1
    assert hosts.client("push", path, "--server", "main", "--over", "a b").returncode == 1


def test_a_link_that_goes_silent_is_given_up(hosts: Hosts) -> None:
    """As behind a firewall that drops everything: nothing is closed, and nothing comes."""
    asked, stuck = hosts.root / "asked", hosts.root / "stuck"
    stuck.write_text(f"#!/bin/sh\ntouch {asked}\nexec sleep 100\n")
    stuck.chmod(0o755)
    path = pages.put(hosts.root, 6)
    words = ["push", path, *hosts.options, "--program", str(stuck)]
    with subprocess.Popen([str(BIN / "cellarman-wal"), *words], stderr=subprocess.PIPE, text=True) as push:
        until(asked.exists, what="the far side begins")
        frozen = [int(pid) for session in hosts.far.sessions() for pid in [session, *_below(session)]]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            _, said = push.communicate(timeout=40)
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
    assert push.returncode == 1 and "lost" in said


def _below(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children]


def test_a_key_that_can_do_nothing_else(hosts: Hosts) -> None:
    keys = hosts.far.root / "authorized_keys"
    bound = f'restrict,command="cellarman-wal only-push --server main --config {hosts.config}" '
    keys.write_text(bound + (hosts.far.root / "client_key.pub").read_text())
    path = pages.put(hosts.root, 5)
    assert hosts.client("push", path, *hosts.options).returncode == 0
    assert os.path.exists(hosts.layout.wal(pages.name(5)))
    done = hosts.client("push", path, *(word.replace("main", "other") for word in hosts.options))
    assert done.returncode == 1 and "other was asked for" in done.stderr

    keys.write_text(keys.read_text().replace(" only-push ", " only-push --server other "))
    done = hosts.client("push", path, *(word.replace("main", "other") for word in hosts.options))
    assert "may only push" not in done.stderr and "other" in done.stderr  # which is not configured
    assert hosts.client("push", pages.put(hosts.root, 6), *hosts.options).returncode == 0

    there = hosts.far.endpoint
    for command in (
        "touch broken",
        f"cat {hosts.config}",
        "cellarman-wal get x y --server main",
        "",
        "cellarman-wal push",
    ):
        argv = [*openssh.command(there), openssh.destination(there), command]
        asked = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60, text=True)
        assert asked.returncode == 1 and asked.stdout == "", command
        assert "may only push WAL of other, main" in asked.stderr or "cannot be understood" in asked.stderr
    assert not (hosts.far.home / "broken").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("push", "-", "--server", "main"),
        ("push", "-", "--server", "main", "--name", "x", "--sha256", ""),
        ("push", "x", "--server", "main", "--name", "x", "--sha256", "y"),
        ("push", "x", "--server", "main", "--identity", "k"),
        ("push", "-", "--server", "main", "--over", "h", "--name", "x", "--sha256", "y"),
        ("push", "-", "--server", "main", "--name", "../x", "--sha256", "y"),
        ("only-push",),
    ],
)
def test_what_cannot_be_meant_is_1(hosts: Hosts, words: tuple[str, ...]) -> None:
    done = hosts.client(*words, CELLARMAN_CONFIG=str(hosts.config))
    assert done.returncode == 1 and done.stderr.startswith("cellarman-wal: ")


def test_both_ends_load_little() -> None:
    code = "import engine.wal.client, engine.wal.sending, engine.wal.receipt, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60
    )
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert not (set(done.stdout.split()) - set(bare.stdout.split())) & HEAVY


def test_its_options_are_those_of_every_other_connection() -> None:
    usual = openssh.command(Endpoint("backup"))
    assert set(sending.SSH_OPTIONS) <= set(usual)


def test_postgresql_archives_over_ssh(hosts: Hosts, postgres: cluster.Install) -> None:
    words = [str(BIN / "cellarman-wal"), "push", "%p", *hosts.options, "--config", str(hosts.config)]
    with cluster.running(
        postgres, extra=["--wal-segsize=1"], archive_mode="on", archive_command=" ".join(words)
    ) as server:
        for _ in range(3):
            server.sql("SELECT pg_create_restore_point('x')")
            server.sql("SELECT pg_switch_wal()")
        last = server.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
        before = segment.segment_name(1, segment.parse_segment(last, 1 << 20)[1] - 1, 1 << 20)
        until(
            lambda: (server.value("SELECT last_archived_wal FROM pg_stat_archiver") or "") >= before,
            what=f"archiving {before}: {server.log[-2000:]}",
        )
        hosts.ingest()
        archived = sorted(os.listdir(os.path.dirname(hosts.layout.wal(before))))
        assert archived[-1] == before
        first = segment.parse_segment(archived[0], 1 << 20)[1]
        assert archived == [segment.segment_name(1, first + at, 1 << 20) for at in range(len(archived))]
        assert server.value("SELECT failed_count FROM pg_stat_archiver") == 0
