"""What keeps a host from being worked with: each kind made for real, by paramiko and by OpenSSH, with the same name."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.host import calls, openssh, problems, rsync
from engine.host.endpoint import Endpoint
from engine.host.machine import machine
from engine.host.problems import HostError
from engine.host.ssh import connect
from tests.support.sshd import Far, account, sshd, write_known_hosts
from tests.support.waiting import until


def by_paramiko(endpoint: Endpoint) -> HostError:
    with pytest.raises(HostError) as caught, connect(endpoint) as host:
        host.run(["true"])
    return caught.value


def by_openssh(endpoint: Endpoint) -> HostError:
    words = [*openssh.command(endpoint), openssh.destination(endpoint), "true"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    return problems.explain_openssh(endpoint, done.returncode, done.stderr)


WAYS = pytest.mark.parametrize("way", [by_paramiko, by_openssh])
Way = Callable[[Endpoint], HostError]


@pytest.fixture
def own(tmp_path: Path):
    """A host that a test may break."""
    with sshd(tmp_path / "own") as host:
        yield host


@WAYS
def test_nobody_listens(far: Far, way: Way) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = probe.getsockname()[1]
    error = way(far.but(port=closed))
    assert error.kind == "refused" and str(closed) in error.now("")


@WAYS
def test_a_name_that_nobody_knows(far: Far, way: Way) -> None:
    assert way(far.but(host="no-such-host.invalid")).kind == "unknown_name"


@WAYS
def test_no_route(far: Far, way: Way) -> None:
    # A destination that the kernel itself has no way to, whatever the machine's network is: RFC 4291's discard prefix.
    error = way(far.but(host="100::1", connect_timeout=3))
    assert error.kind in ("no_route", "timeout")
    if "unreachable" in error.why:
        assert error.kind == "no_route"


@WAYS
def test_somebody_listens_and_says_nothing(far: Far, way: Way) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(5)
        began = time.monotonic()
        error = way(far.but(port=silent.getsockname()[1], connect_timeout=1))
        assert error.kind == "timeout" and time.monotonic() - began < 15


@WAYS
def test_an_unknown_host_key(own: Far, way: Way) -> None:
    own.known_hosts.write_text("")
    error = way(own.endpoint)
    assert error.kind == "unknown_host_key" and str(own.known_hosts) in error.now("")
    assert own.known_hosts.read_text() == ""  # never added


def test_the_fingerprint_and_the_command_that_adds_the_key(own: Far) -> None:
    own.known_hosts.write_text("")
    error = by_paramiko(own.endpoint)
    listed = subprocess.run(
        ["ssh-keygen", "-lf", str(own.root / "host_ed25519.pub")], capture_output=True, text=True, check=True
    )
    assert listed.stdout.split()[1] in error.why and listed.stdout.split()[1].startswith("SHA256:")
    subprocess.run(["sh", "-c", error.now("").rpartition(": ")[2]], check=True)
    with machine(own.endpoint) as host:
        assert host.run(["true"]).status == 0


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
@pytest.mark.parametrize("hashed", [False, True])
def test_known_hosts_in_every_form(own: Far, kind: str, hashed: bool) -> None:
    """The server has two keys; one known one is enough, and it is asked for."""
    write_known_hosts(own, hashed=hashed, only=kind)
    assert ("127.0.0.1" in own.known_hosts.read_text()) != hashed
    with machine(own.endpoint) as host:
        assert host.run(["true"]).status == 0


@WAYS
def test_a_changed_host_key(own: Far, way: Way) -> None:
    own.new_host_keys()
    error = way(own.endpoint)
    assert error.kind == "host_key_changed" and "ssh-keygen -R" in error.now("")
    forget = error.now("")[error.now("").index("ssh-keygen -R") :].split(";")[0]
    subprocess.run(["sh", "-c", forget], check=True, capture_output=True)
    assert way(own.endpoint).kind == "unknown_host_key"


def test_a_revoked_host_key(own: Far) -> None:
    words = (own.root / "host_ed25519.pub").read_text().split()
    write_known_hosts(own, only="ed25519")
    with own.known_hosts.open("a") as file:
        file.write(f"@revoked * {words[0]} {words[1]}\n")
    with pytest.raises(HostError) as caught, connect(own.endpoint):
        pass
    assert caught.value.kind in ("unknown_host_key", "host_key_changed")


@WAYS
def test_a_key_that_is_not_accepted(own: Far, way: Way) -> None:
    (own.root / "authorized_keys").write_text("")
    error = way(own.endpoint)
    assert (
        error.kind == "key_rejected"
        and f"the key {own.key} is here" in error.now("")
        and f"cat {own.key}.pub" in error.now("")
    )


@WAYS
def test_a_key_with_a_passphrase(own: Far, way: Way) -> None:
    """What to do about it comes first: that the key is let in over there is of no help."""
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", str(own.key)], check=True)
    error = way(own.endpoint)
    assert error.kind == "key_rejected"
    first = error.now("").splitlines()[0]
    assert f"ssh-add {own.key}" in first and f"ssh-keygen -p -N '' -f {own.key}" in first


def test_the_agent_holds_the_key(own: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for OpenSSH: the named key, by the agent when it is not readable without its passphrase."""
    agent = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    values = dict(line.split(";")[0].split("=", 1) for line in agent.splitlines() if "=" in line)
    try:
        env = {**os.environ, "SSH_AUTH_SOCK": values["SSH_AUTH_SOCK"]}
        subprocess.run(["ssh-add", "-q", str(own.key)], env=env, check=True, capture_output=True)
        subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", str(own.key)], check=True)
        monkeypatch.setenv("SSH_AUTH_SOCK", values["SSH_AUTH_SOCK"])
        for endpoint in (own.endpoint, own.but(identity_file="")):
            with connect(endpoint) as host:
                assert host.run(["true"]).status == 0
    finally:
        os.kill(int(values["SSH_AGENT_PID"]), 15)


@WAYS
def test_a_shell_that_talks(tmp_path: Path, way: Way) -> None:
    with sshd(tmp_path / "noisy") as own:
        (own.home / ".bashrc").write_text("echo Welcome to $HOSTNAME\n")
        if way is by_openssh:
            source = tmp_path / "source"
            source.mkdir()
            words = ["rsync", "-r", "-e", shlex.join(openssh.command(own.endpoint)), f"{source}/"]
            words.append(f"{openssh.rsync_host(own.endpoint)}:{tmp_path}/copy/")
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode != 0
            error = problems.explain_openssh(own.endpoint, done.returncode, done.stderr)
            with pytest.raises(HostError) as caught:
                rsync.version(calls.host(own.endpoint))
            assert caught.value.kind == "noisy_shell" and "Welcome to" in caught.value.why
        else:
            error = by_paramiko(own.endpoint)
            assert "Welcome to" in error.why
        assert error.kind == "noisy_shell" and "bashrc" in error.now("")


def test_an_account_that_may_run_nothing(own: Far) -> None:
    line = (own.root / "authorized_keys").read_text()
    (own.root / "authorized_keys").write_text(f'command="echo go away; exit 1" {line}')
    error = by_paramiko(own.endpoint)
    assert error.kind == "command_missing" and "go away" in error.why


def test_a_full_disk(far: Far) -> None:
    with connect(far.endpoint) as host, pytest.raises(HostError) as caught:
        from engine.host.machine import must

        must(host, ["sh", "-c", "head -c 9 /dev/zero > /dev/full"], "the file could not be written")
    assert caught.value.kind == "disk_full" and caught.value.host == str(far.endpoint)


def test_a_connection_that_is_cut(own: Far) -> None:
    """The command that ran fails at once; the next one finds a new connection."""
    with connect(own.endpoint) as host:
        failed: list[HostError] = []

        def wait() -> None:
            try:
                host.run(["sleep", "60"])
            except HostError as error:
                failed.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        until(lambda: "sleep" in _commands_below(own), "the command's start")
        began = time.monotonic()
        assert own.cut() == 1
        waiting.join(30)
        assert [error.kind for error in failed] == ["dropped"] and time.monotonic() - began < 10
        assert host.run(["echo", "again"]).out == b"again\n"


def _commands_below(own: Far) -> str:
    text = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return "\n".join(line for line in text.splitlines() if line.startswith("sleep 60"))


def test_names_that_ssh_would_take_for_options() -> None:
    for host, user in (("-oProxyCommand=x", ""), ("a b", ""), ("pg", "-l"), ("pg;reboot", ""), ("pg", "a b")):
        with pytest.raises(ValueError, match="not "):
            Endpoint(host, user)


def test_through_another_host_and_a_file_of_settings(own: Far, tmp_path: Path) -> None:
    """~/.ssh/config is OpenSSH's to read: aliases, ports, accounts, keys, and jumps."""
    common = f"  User {account()}\n  IdentityFile {own.key}\n  UserKnownHostsFile {own.known_hosts}\n"
    place = f"  HostName 127.0.0.1\n  Port {own.port}\n"
    config = tmp_path / "config"
    config.write_text(f"Host jump\n{place}{common}Host behind\n{place}{common}  ProxyJump jump\n")
    with connect(Endpoint("jump"), config_file=str(config)) as host:
        assert host.run(["true"]).status == 0
    with connect(Endpoint("behind"), config_file=str(config)) as host:
        assert host.run(["echo", "$x"]).out == b"$x\n"
        assert len(own.sessions()) == 2
    command = f"  ProxyCommand ssh -F {config} -W %h:%p jump\n"
    with config.open("a") as file:
        file.write(f"Host beyond\n{place}{common}{command}")
    with connect(Endpoint("beyond"), config_file=str(config)) as host:
        assert host.run(["true"]).status == 0
    (own.root / "authorized_keys").write_text("")
    with pytest.raises(HostError) as caught, connect(Endpoint("behind"), config_file=str(config)):
        pass
    assert caught.value.kind == "key_rejected"


def test_no_key_at_all_is_another_matter_than_one_that_is_not_let_in(own: Far, tmp_path: Path) -> None:
    error = by_openssh(own.but(identity_file=str(tmp_path / "none")))
    assert error.kind == "key_rejected" and "there is no key here: ssh-keygen" in error.now("")


def test_a_question_by_openssh_says_of_a_host_key_what_paramiko_says(own: Far) -> None:
    own.known_hosts.write_text("")
    with pytest.raises(HostError) as asked:
        calls.Calls(own.endpoint).run(["true"])
    told = by_paramiko(own.endpoint)
    assert (asked.value.what, asked.value.why, asked.value.now("")) == (told.what, told.why, told.now(""))
    assert "SHA256:" in told.why and "compare the fingerprint" in told.now("")
