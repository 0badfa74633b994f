"""What `cellarman setup` prints, pasted into a real server: it mends exactly what was missing."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from engine.check.facts import Unknown, gather
from engine.check.reach import Back, Reach
from engine.check.ssh import way_back
from engine.config import load
from engine.setup import keys
from engine.setup.lines import fitting
from tests.support import cluster
from tests.support.programs import BIN, Cellarman, configure
from tests.support.sshd import Far, account, sshd
from tests.support.waiting import until


@pytest.fixture(scope="module")
def server(each_postgres: cluster.Install) -> Iterator[cluster.Cluster]:
    with cluster.running(
        each_postgres, extra=["--wal-segsize=1"], archive_mode="on", archive_command="exit 1"
    ) as found:
        yield found


def pieces(cellarman: Cellarman, *more: str) -> dict[str, dict[str, str]]:
    found = cellarman.json("setup", "main", *more)["pieces"]
    return {piece["name"]: piece for piece in found}


def paste(server: cluster.Cluster, text: str) -> None:
    """Run SQL as a superuser in psql would; what only psql knows (\\password) is left to people."""
    for line in text.splitlines():
        if not line.startswith("\\"):
            server.sql(line)


def crontab_after(times: int, text: str, root: Path) -> str:
    """Return the crontab of an account that has none yet, after this was pasted so many times."""
    table, program = root / "table", root / "crontab"
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = -l ]; then cat {table}; else cat >{table}.new; mv {table}.new {table}; fi\n'
    )
    program.chmod(0o755)
    for _ in range(times):
        subprocess.run(["sh", "-c", text], env={"PATH": f"{root}:/usr/bin:/bin"}, check=True, timeout=10)
    return table.read_text()


def test_roles_grants_and_slot_pasted_one_after_the_other(server: cluster.Cluster, tmp_path: Path) -> None:
    one, two = (server.conninfo.replace("user=postgres", f"user={name}") for name in ("our-barman", "streaming_barman"))
    cellarman = configure(tmp_path, server, conninfo=one, streaming_conninfo=two, backup_method="local-rsync")
    found = pieces(cellarman)
    assert found["role our-barman"]["state"] == "missing" and found["role streaming_barman"]["state"] == "missing"
    assert found["slot cellarman"]["state"] == "unknown"
    paste(server, found["role our-barman"]["text"])
    paste(server, found["role streaming_barman"]["text"])
    found = pieces(cellarman)
    assert found["role our-barman"]["state"] == found["role streaming_barman"]["state"] == "there"
    assert found["rights of our-barman"]["state"] == "missing"
    assert "pg_switch_wal" in found["rights of our-barman"]["note"]
    paste(server, found["rights of our-barman"]["text"])
    paste(server, found["slot cellarman"]["text"])
    try:
        found = pieces(cellarman)
        assert found["rights of our-barman"]["state"] == found["slot cellarman"]["state"] == "there"
        assert found["settings"]["state"] == "there"
        assert found["maintenance"]["state"] == "missing" and "cron" in found["maintenance"]["text"]
        assert crontab_after(2, found["maintenance"]["text"], tmp_path).count("\n") == 1
        assert "role our-barman" not in pieces(cellarman, "--missing")
        checks = {check["name"]: check for check in cellarman.json("check", "main", code=None)["checks"]}
        assert checks["privileges"]["status"] == checks["pg_hba.conf"]["status"] == "ok"
        assert checks["replication slot"]["detail"].startswith("cellarman, not active")
    finally:
        server.sql("SELECT pg_drop_replication_slot('cellarman')")
        server.sql('DROP OWNED BY "our-barman"; DROP ROLE "our-barman"; DROP ROLE streaming_barman')


def test_hba_and_passwords_pasted(server: cluster.Cluster, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    server.sql("CREATE ROLE guarded LOGIN REPLICATION PASSWORD 'right:one'")
    hba = server.data / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text("host all postgres 127.0.0.1/32 trust\n")
    server.sql("SELECT pg_reload_conf()")
    try:
        guarded = server.conninfo.replace("user=postgres", "user=guarded")
        cellarman = configure(tmp_path / "site", server, conninfo=guarded, streaming_conninfo=guarded)
        found = json.loads(cellarman.run("setup", "main", "--json", env=home).out)["pieces"]
        lines = {piece["name"]: piece for piece in found}
        assert lines["pg_hba.conf"]["state"] == "missing"
        hba.write_text(hba.read_text() + lines["pg_hba.conf"]["text"] + "\n")
        server.sql("SELECT pg_reload_conf()")
        found = json.loads(cellarman.run("setup", "main", "--json", env=home).out)["pieces"]
        lines = {piece["name"]: piece for piece in found}
        assert lines[".pgpass"]["state"] == "missing"
        text = lines[".pgpass"]["text"].replace("PASSWORD", "right\\:one")
        subprocess.run(["sh", "-c", text], check=True, timeout=30)
        found = json.loads(cellarman.run("setup", "main", "--json", env=home).out)["pieces"]
        lines = {piece["name"]: piece for piece in found}
        states = {
            name: (lines[name]["state"], lines[name]["note"]) for name in ("pg_hba.conf", ".pgpass", "role guarded")
        }
        assert {state for state, _ in states.values()} == {"there"}, states
        (tmp_path / ".pgpass").chmod(0o644)
        checks = json.loads(cellarman.run("check", "main", "--json", env=home, code=1).out)["checks"]
        passwords = next(check for check in checks if check["name"] == ".pgpass")
        assert passwords["status"] == "fail" and passwords["fix"] == f"chmod 0600 {tmp_path}/.pgpass"
        assert "right:one" not in json.dumps(checks)
        subprocess.run(["sh", "-c", passwords["fix"]], check=True, timeout=30)
        checks = json.loads(cellarman.run("check", "main", "--json", env=home, code=None).out)["checks"]
        assert next(check for check in checks if check["name"] == ".pgpass")["status"] == "ok"
    finally:
        hba.write_text(before)
        server.sql("SELECT pg_reload_conf()")
        server.sql("DROP ROLE guarded")


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    with sshd(tmp_path / "far", PATH=f"{BIN}:/usr/bin:/bin") as found:
        yield found


def two_hosts(root: Path, server: cluster.Cluster, far: Far, **settings: object) -> Cellarman:
    cellarman = configure(root, server, archiver=True, **settings)
    with cellarman.config.open("a") as file:
        file.write(far.table())
    return cellarman


def test_every_archive_command_archives(server: cluster.Cluster, far: Far, tmp_path: Path) -> None:
    """Each way is pasted as it is printed; here both hosts are one, and ssh's own files are named in a config file."""
    there = far.endpoint
    cellarman = two_hosts(tmp_path / "site", server, far, backup_host=str(there), streaming_archiver=False)
    cellarman.run("cron", code=None)
    repo = tmp_path / "site" / "barman" / "main"
    said = tmp_path / "ssh"  # one short word: up to 15, PostgreSQL cuts a command at 1023 bytes
    said.write_text(f"IdentityFile {far.key}\nIdentitiesOnly yes\nUserKnownHostsFile {far.known_hosts}\n")
    options = f"-F {said}"
    for name in ("push over SSH, without Cellarman on the server", "push over SSH", "rsync"):
        text = pieces(cellarman)[f"archive_command: {name}"]["text"]
        # what this account's ~/.ssh and /etc would say, which a test must not write
        text = text.replace("ssh -T", f"ssh -T {options}")
        text = text.replace("--over", f"--identity {far.key} --known-hosts {far.known_hosts} --over")
        text = text.replace("--server main", f"--server main --config {cellarman.config}")
        text = text.replace("cellarman-wal push %p", f"{BIN}/cellarman-wal push %p")
        for line in text.splitlines():
            server.sql(line)
        server.sql("SELECT pg_create_restore_point('x')")
        segment = server.value("SELECT pg_walfile_name(pg_switch_wal())")
        until(
            lambda wanted=segment: (server.value("SELECT last_archived_wal FROM pg_stat_archiver") or "") >= wanted,
            seconds=90,
            what=f"{name}: {server.log[-1500:]}",
        )
        assert (repo / "incoming" / segment).exists() or (repo / "wals" / segment[:16] / segment).exists(), name
        assert pieces(cellarman)[f"archive_command: {name}"]["state"] == "there"
        checks = {check["name"]: check for check in cellarman.json("check", "main", code=None)["checks"]}
        assert checks["archive_command"]["status"] == checks["continuous archiving"]["status"] == "ok", name
    cellarman.run("wal", "ingest", "main")
    server.sql("ALTER SYSTEM RESET archive_command")
    server.sql("SELECT pg_reload_conf()")


def test_a_command_that_postgresql_would_cut_goes_into_a_file(tmp_path: Path) -> None:
    """Up to 15 it copies the command into 1024 bytes."""
    command = f"printf '%%s/%%s\\n' %p {'x' * 1000}%f || exit 1"
    assert fitting(command, "note", 16) == (command, "note")
    assert fitting("cp %p /x/%f", "note", 15) == ("cp %p /x/%f", "note")
    short, note = fitting(command, "note", 15)
    made = note.splitlines()[-1]
    subprocess.run(["sh", "-c", made], cwd=tmp_path, check=True, timeout=30)
    run = short.replace("%p", "pg_wal/a").replace("%f", "a")
    done = subprocess.run(["sh", "-c", run], cwd=tmp_path, check=True, timeout=30, capture_output=True, text=True)
    assert done.stdout == f"pg_wal/a/{'x' * 1000}a\n"


def test_the_ssh_matrix(server: cluster.Cluster, far: Far, tmp_path: Path) -> None:
    cellarman = two_hosts(tmp_path / "site", server, far, backup_method="rsync", backup_host=str(far.endpoint))
    checks = {check["name"]: check for check in cellarman.json("check", "main", code=None)["checks"]}
    assert checks["SSH to the server"]["status"] == "ok"
    assert checks["clock of the SSH host"]["status"] == "ok"
    assert checks["rsync"]["status"] == "ok" and checks["rsync"]["detail"].endswith(" there")
    assert checks["SSH from the server"]["status"] == "fail"
    assert "host key" in checks["SSH from the server"]["detail"]
    found = pieces(cellarman)
    login = next(piece for name, piece in found.items() if name.startswith("login of") and "as" in name)
    assert login["state"] == "there"
    bound = next(piece for name, piece in found.items() if name.endswith(f"as {far.endpoint}"))
    assert bound["text"].startswith("# nothing to paste yet")  # that account has no key
    (far.home / ".ssh").mkdir()
    shutil.copy(f"{far.key}.pub", far.home / ".ssh" / "id_ed25519.pub")
    bound = next(piece for name, piece in pieces(cellarman).items() if name.endswith(f"as {far.endpoint}"))
    assert f'command="{cellarman.wal()[0]} only-push --server main --config {cellarman.config}"' in bound["text"]
    (far.root / "authorized_keys").write_text("")
    checks = {check["name"]: check for check in cellarman.json("check", "main", code=1)["checks"]}
    assert (
        checks["SSH to the server"]["status"] == "fail" and "does not accept" in checks["SSH to the server"]["detail"]
    )
    assert checks["SSH from the server"]["status"] == checks["rsync"]["status"] == "skip"
    login = next(piece for name, piece in pieces(cellarman).items() if name.startswith("login of"))
    assert login["state"] == "missing" and "authorized_keys" in login["text"]
    assert "the key is here and is not let in there" in login["note"] and "SHA256:" in login["note"]
    far.stop()
    checks = {check["name"]: check for check in cellarman.json("check", "main", code=1)["checks"]}
    assert "refuses the connection" in checks["SSH to the server"]["detail"]


def test_a_host_that_turns_a_key_away_is_known(server: cluster.Cluster, tmp_path: Path) -> None:
    """A login gets that far only when the host's key is known, in whichever file."""
    with sshd(tmp_path / "far", shell="/bin/bash", PATH=f"{BIN}:/usr/bin:/bin") as far:
        site = tmp_path / "site"
        cellarman = two_hosts(site, server, far, backup_method="rsync", backup_host=str(far.endpoint))

        def back() -> list[str]:
            """The state of the backup host's key over there, and of the login from there."""
            found, login = pieces(cellarman), f"login of {account()} as {far.endpoint}"
            return [found[name]["state"] for name in (f"host key of {far.address}", login)]

        assert back() == ["missing", "unknown"]
        (far.home / ".ssh").mkdir(mode=0o700)
        shutil.copy(far.known_hosts, far.home / ".ssh" / "known_hosts")
        assert back() == ["there", "missing"]
        config = load(str(cellarman.config))
        gathered = gather(config, config.server("main"), datetime.now(timezone.utc))
        assert isinstance(gathered.reach, Reach) and gathered.reach.back and gathered.reach.back.kind == "key_rejected"
        far.known_hosts.write_text("")
        for said, state in (("the host key of pg is not known", "missing"), ("pg does not accept our key", "there")):
            facts = replace(gathered, reach=Unknown(said))
            assert {piece.name: piece.state for piece in keys.there(facts)}[f"host key of {far.address}"] == state


def test_a_key_that_is_bound_to_another_server_is_let_push_for_this_one_too(tmp_path: Path) -> None:
    home = tmp_path / "barman"
    (tmp_path / "cellarman.toml").write_text(
        f"[cellarman]\nbarman_home = '{home}'\nstate_directory = '{tmp_path}/state'\n"
        "[servers.second]\nactive = false\narchiver = true\nbackup_method = 'rsync'\n"
        "conninfo = 'host=pg'\nbackup_host = 'barman@backup'\nssh = { host = 'pg', user = 'postgres' }\n"
    )
    config = load(str(tmp_path / "cellarman.toml"))
    back = Back("barman@backup", client="1.0", bound_to=("main.1",))
    gathered = gather(config, config.server("second"), datetime.now(timezone.utc))
    facts = replace(gathered, reach=Reach("postgres", 0.0, 0.0, "3.2.7", "", back))
    assert way_back(facts).status == "fail" and "only push WAL of main.1" in way_back(facts).detail
    login = keys.back(facts)[-1]
    assert login.state == "missing" and "only push WAL of main.1" in login.note
    file = tmp_path / "authorized_keys"
    file.write_text(
        'restrict,command="cellarman-wal only-push --server main.1" ssh-ed25519 AAAA one\n'
        'restrict,command="cellarman-wal only-push --server main.10" ssh-ed25519 BBBB two\n'
    )
    subprocess.run([*shlex.split(login.text)[:-1], str(file)], check=True, timeout=10)
    assert [line.count("--server second") for line in file.read_text().splitlines()] == [1, 0]
    both = replace(back, bound_to=("second", "main.1"))
    facts = replace(facts, reach=Reach("postgres", 0.0, 0.0, "3.2.7", "", both))
    assert way_back(facts).status == "ok" and {piece.state for piece in keys.back(facts)} == {"there"}
