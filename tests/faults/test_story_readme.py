"""The README, followed to the letter on a real server: roles, pg_hba, ~/.pgpass, configuration, and back."""

from __future__ import annotations

import os
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pytest

from engine.cli.verbs import VERBS
from tests.support import cluster
from tests.support.programs import BIN, LIMIT, Outcome
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def block(language: str, holding: str) -> str:
    """Return the README's block of a language that holds some text."""
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if holding in text]
    assert len(found) == 1, f"{len(found)} blocks of {language} hold {holding!r}"
    return str(found[0])


class Operator:
    """An account with a home of its own, in which the README is followed."""

    def __init__(self, home: Path, server: cluster.Cluster) -> None:
        self.home = home
        self.server = server
        self.repository = home / "barman"
        self.environment = {
            "HOME": str(home),
            "PATH": f"{BIN}:/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "CELLARMAN_STATE_DIRECTORY": str(home / "state"),
            "CELLARMAN_PATH_PREFIX": str(server.install.bindir),
        }

    def follow_the_readme(self) -> None:
        """Do steps 2 to 5, with this server's address."""
        address = "127.0.0.1/32"
        self.server.sql(block("sql", "CREATE ROLE barman"))
        lines = block("text", "scram-sha-256").replace("192.0.2.10/32", address)
        (self.server.data / "pg_hba.conf").write_text(f"host all postgres {address} trust\n{lines}")
        self.server.sql("SELECT pg_reload_conf()")

        passwords = self.home / ".pgpass"
        passwords.write_text(block("text", "choose-another").replace("pg:5432", f"127.0.0.1:{self.server.port}"))
        passwords.chmod(0o600)
        config = self.home / ".config/cellarman/cellarman.toml"
        config.parent.mkdir(parents=True)
        text = block("toml", "[servers.main]").replace("host=pg", f"host=127.0.0.1 port={self.server.port}")
        config.write_text(text.replace("/var/lib/barman", str(self.repository)))

    def run(self, line: str, code: int | None = 0) -> Outcome:
        """Run a line of shell as it stands in the README."""
        done = subprocess.run(
            ["sh", "-c", line],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT,
            check=False,
            env=self.environment,
            cwd=self.home,
        )
        outcome = Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert code is None or outcome.code == code, f"{line}\n{outcome.text}"
        return outcome

    def stop_receiving(self) -> None:
        lock = self.repository / ".main-receive-wal.lock"
        if lock.exists():
            self.run(f"kill {int(lock.read_text())}", code=None)
            until(lambda: not Path(f"/proc/{int(lock.read_text())}").exists(), what="the receiver's end")


def test_the_readme_gets_a_dropped_table_back_under_load(each_postgres: cluster.Install, tmp_path: Path) -> None:
    with cluster.running(each_postgres) as server:
        at = ["-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres", "postgres"]
        each_postgres.run("pgbench", "-i", "-q", "-s", "2", *at)
        server.sql("CREATE TABLE orders AS SELECT n AS id, md5(n::text) AS note FROM generate_series(1, 10000) n")
        operator = Operator(tmp_path, server)
        operator.follow_the_readme()
        load = subprocess.Popen(
            [str(each_postgres.bindir / "pgbench"), "-n", "-c", "2", "-T", "120", "-R", "200", *at],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            operator.run("cellarman config check")
            operator.run("cellarman cron")
            operator.run("cellarman backup main --name monday --wait")
            operator.run("cellarman check main")
            assert "monday" in operator.run("cellarman backups main").out
            server.sql("INSERT INTO orders SELECT n, 'late' FROM generate_series(10001, 12345) n")
            server.sql("SELECT pg_sleep(0.05)")
            moment = server.value("SELECT clock_timestamp()").astimezone(timezone.utc)
            server.sql("SELECT pg_sleep(0.05)")
            server.sql("DROP TABLE orders")
            bring_back(operator, moment)
        finally:
            load.kill()
            load.wait()
            operator.stop_receiving()
        assert_no_password_was_written(operator)


def bring_back(operator: Operator, moment: datetime) -> None:
    """Restore to the moment, start, and find every row."""
    server = operator.server
    server.sql("SELECT pg_switch_wal()")
    server.sql("CHECKPOINT")
    restored = operator.home / "restored"
    line = f"cellarman restore main auto {restored} --to-time '{moment.isoformat(' ')}'"

    def reachable() -> bool:
        operator.run("cellarman cron")
        return operator.run(f"{line} --plan", code=None).code == 0

    until(reachable, seconds=60, what="a reachable moment")
    assert not restored.exists()
    said = operator.run(f"{line} --action promote --start --yes {restored}")
    port = re.search(r"open on port (\d+)", said.out)
    assert port, said.text
    back = cluster.Cluster(server.install, operator.home, int(port[1]))
    try:
        assert back.sql("SELECT count(*), max(id) FROM orders") == [(12345, 12345)]
        assert back.value("SHOW archive_mode") == "off"
    finally:
        server.install.run("pg_ctl", "-D", str(restored), "-w", "-m", "immediate", "stop")


def assert_no_password_was_written(operator: Operator) -> None:
    secrets = (b"choose-one", b"choose-another")
    for path in operator.home.rglob("*"):
        if path.is_file() and path.name != ".pgpass":
            content = path.read_bytes()
            assert not any(secret in content for secret in secrets), path


def test_every_command_in_the_readme_exists() -> None:
    words = re.findall(r"^\$ cellarman (\w[\w-]*)", README, re.MULTILINE) + re.findall(r"`cellarman (\w[\w-]*)", README)
    assert words and set(words) <= set(VERBS)


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_every_link_into_the_repository_leads_somewhere(target: str) -> None:
    assert os.path.exists(ROOT / target)
