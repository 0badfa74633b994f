"""A real OpenSSH server on a loopback port, as this account, with throw-away keys: the tests' other host."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from engine.host.endpoint import Endpoint
from tests.support.cluster import free_port

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
_NO_SHELL = ("nologin", "false")
_READY = 20.0


@dataclass
class Far:
    """A running sshd; its account's home is `home`, whatever the system says."""

    root: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    address: str = "127.0.0.1"
    within: Sequence[str] = ()
    """Words before the command, which run it in a network of its own."""
    small: int = 0
    """Megabytes of a file system at `disk`, on that host alone; 0: none."""
    shell: str = ""
    """The account's login shell there; "" for one that it has, or bash."""

    @property
    def disk(self) -> Path:
        return self.root / "disk"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def known_hosts(self) -> Path:
        return self.root / "known_hosts"

    @property
    def key(self) -> Path:
        return self.root / "client_key"

    @property
    def log(self) -> str:
        return (self.root / "sshd.log").read_text()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.address, account(), self.port, str(self.key), str(self.known_hosts))

    def but(self, **changed: object) -> Endpoint:
        """Return the endpoint with some values changed."""
        return replace(self.endpoint, **changed)

    def table(self, server: str = "main") -> str:
        """Return the TOML table by which Cellarman reaches this host."""
        there = self.endpoint
        return (
            f"[servers.{server}.ssh]\nhost = '{there.host}'\nuser = '{there.user}'\nport = {there.port}\n"
            f"identity_file = '{there.identity_file}'\nknown_hosts = '{there.known_hosts}'\n"
        )

    def sessions(self) -> list[int]:
        """Return the pids of the sshd processes that serve a connection."""
        assert self.process is not None
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(word) for word in path.read_text().split()]

    def cut(self) -> int:
        """Kill every connection as the crash of a host would end it, and return how many there were."""
        found = self.sessions()
        for pid in found:
            below = Path(f"/proc/{pid}/task/{pid}/children")
            with contextlib.suppress(OSError):
                for child in below.read_text().split():
                    os.kill(int(child), signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(found)

    def new_host_keys(self) -> None:
        """Give the host other keys, as a new installation has; known_hosts keeps the old ones."""
        self.stop()
        _host_keys(self.root)
        self.start()

    def start(self) -> None:
        """Start sshd and wait until it listens."""
        (self.root / "sshd_config").write_text(_config(self))
        (self.root / "sshd.log").write_text("")
        argv = [str(SSHD), "-D", "-f", str(self.root / "sshd_config"), "-E", str(self.root / "sshd.log")]
        self.process = subprocess.Popen([*self.within, *_with_a_shell(self), *argv], stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + _READY
        while True:
            with contextlib.suppress(OSError), socket.create_connection((self.address, self.port), 1):
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"sshd did not start: {self.log}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop sshd and all its connections."""
        if self.process is not None:
            with contextlib.suppress(FileNotFoundError):
                self.cut()
            self.process.terminate()
            self.process.wait(10)
            self.process = None


@contextlib.contextmanager
def sshd(
    root: Path,
    *,
    address: str = "127.0.0.1",
    within: Sequence[str] = (),
    small: int = 0,
    shell: str = "",
    **environment: str,
) -> Iterator[Far]:
    """Run sshd with its files in `root`; `environment` is its sessions'. Skips where there is no sshd or no shell."""
    if SSHD is None:
        pytest.skip("no sshd here")
    root.mkdir(parents=True, exist_ok=True)
    far = Far(root, free_port(), None, environment, address, within, small, shell)
    for place in (far.home, far.disk):
        place.mkdir(exist_ok=True)
    _host_keys(root)
    _keygen(far.key, "ed25519")
    (root / "authorized_keys").write_text((root / "client_key.pub").read_text())
    far.start()
    write_known_hosts(far)
    try:
        yield far
    finally:
        far.stop()


def write_known_hosts(far: Far, *, hashed: bool = False, only: str = "") -> None:
    """Write what a careful operator would have in known_hosts; `only` one type of key."""
    lines = []
    for kind in ("ed25519", "ecdsa"):
        if only in ("", kind):
            words = (far.root / f"host_{kind}.pub").read_text().split()
            lines.append(f"[{far.address}]:{far.port} {words[0]} {words[1]}\n")
    far.known_hosts.write_text("".join(lines))
    if hashed:
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(far.known_hosts)], check=True, capture_output=True)


def account() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _host_keys(root: Path) -> None:
    for kind in ("ed25519", "ecdsa"):
        (root / f"host_{kind}").unlink(missing_ok=True)
        _keygen(root / f"host_{kind}", kind)


def _keygen(path: Path, kind: str, passphrase: str = "") -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(path)], check=True)


def _config(far: Far) -> str:
    lines = {
        "ListenAddress": far.address,
        "Port": str(far.port),
        "HostKey": f"{far.root}/host_ed25519\nHostKey {far.root}/host_ecdsa",
        "PidFile": "none",
        "AuthorizedKeysFile": f"{far.root}/authorized_keys",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "UsePAM": "no",
        "StrictModes": "no",
        "MaxStartups": "100",
        "LogLevel": "VERBOSE",
    }
    pairs = {"HOME": str(far.home), **far.environment}
    environment = " ".join(f'"{key}={value}"' for key, value in pairs.items())
    return "".join(f"{key} {value}\n" for key, value in lines.items()) + f"SetEnv {environment}\n"


def _with_a_shell(far: Far) -> list[str]:
    """Return the words before sshd that give this account a shell, when it has none, and the host its small disk.

    sshd takes the shell from the account's entry. An account such as nobody gets another entry in a mount namespace,
    where only files are asked for accounts: systemd's module would call it locked.
    """
    root, entry = far.root, pwd.getpwuid(os.geteuid())
    if os.path.basename(entry.pw_shell) not in _NO_SHELL and not far.small and not far.shell:
        return []
    with open("/etc/passwd", encoding="utf-8") as file:
        others = [line for line in file if not line.startswith(f"{entry.pw_name}:")]
    ours = f"{entry.pw_name}:x:{entry.pw_uid}:{entry.pw_gid}::{root}/home:{far.shell or '/bin/bash'}\n"
    files = {
        "passwd": "".join([*others, ours]),
        "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
    }
    # The whole of /etc, not single files: a mount on one goes away when the real one is replaced, by any useradd.
    etc, real = root / "etc", root / "real-etc"
    shutil.rmtree(etc, ignore_errors=True)
    for place in (etc, real):
        place.mkdir(exist_ok=True)
    for name in {*os.listdir("/etc")} - {*files}:
        (etc / name).symlink_to(real / name)
    for name, text in files.items():
        (etc / name).write_text(text)
    script = (
        'mount --rbind /etc "$1/real-etc" && mount --bind "$1/etc" /etc || exit 1; '
        '[ "$2" = 0 ] || mount -t tmpfs -o "size=$2m,mode=0700" small "$1/disk" || exit 1; shift 2; '
        'exec setpriv --ambient-caps=-all --inh-caps=-all "$@"'
    )
    words = ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount"]
    words += ["sh", "-c", script, "sh", str(root), str(far.small)]
    tried = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"{entry.pw_name} cannot have a host of its own: {tried.stderr.strip()}")
    return words
