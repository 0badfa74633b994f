"""A host behind SSH: one paramiko connection a host, shared between threads, with nothing left to wait for ever.

The settings are OpenSSH's own (`sshconfig`), host keys are looked up by OpenSSH's own rules (ssh-keygen -F) and never
added, and a link that has gone dead is noticed within `openssh.ALIVE_INTERVAL` x `ALIVE_COUNT` seconds.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import shlex
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import IO

import paramiko
from paramiko.agent import Agent
from paramiko.ssh_exception import SSHException

from engine.errors import CellarmanError
from engine.host import openssh, problems
from engine.host.endpoint import Endpoint
from engine.host.machine import Done
from engine.host.problems import HostError, Kind, host_error
from engine.host.sshconfig import Effective, effective

_SESSIONS = 6
"""At a time on one connection; sshd's MaxSessions is 10, and counts one for some moments after its end."""
_SESSION_WAIT = 60.0
"""Seconds that a session is waited for when sshd has no more to give."""
_DEAD_MS = openssh.ALIVE_INTERVAL * openssh.ALIVE_COUNT * 1000
_AGENT_PATIENCE = 5.0
_CHUNK = 1 << 16
_PROXY_PATIENCE = 1.0
_MARK = b"cellarman-hears-you"
_ABSENT, _SHORT = 44, 45
_READ = f'[ -e "$1" ] || exit {_ABSENT}; exec head -c "$2" -- "$1"'
_WRITE = f"""umask 077; new=$1.cellarman-$$
trap 'rm -f -- "$new"' EXIT
cat >"$new" || exit 1
[ "$(wc -c <"$new")" -eq "$3" ] || exit {_SHORT}
chmod "$2" -- "$new" && {{ sync -- "$new" 2>/dev/null || sync; }} && mv -f -- "$new" "$1" || exit 1
trap - EXIT
sync -- "$4" 2>/dev/null || sync"""
"""$1 path, $2 mode, $3 bytes (a cut link ends the input early), $4 directory."""

_ERRNO: dict[int, Kind] = {
    errno.ECONNREFUSED: "refused",
    errno.EHOSTUNREACH: "no_route",
    errno.ENETUNREACH: "no_route",
    errno.EHOSTDOWN: "no_route",
    errno.ENETDOWN: "no_route",
    errno.ETIMEDOUT: "timeout",
}

logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False

_links: dict[tuple[Endpoint, str], _Link] = {}
_links_lock = threading.Lock()


def connect(endpoint: Endpoint, *, timeout: float | None = None, config_file: str = "") -> SshHost:
    """Return the host there, over the connection that this process already has to it, or over a new one.

    `timeout` seconds for each step of connecting, else the endpoint's. Raises HostError.
    """
    key = (endpoint, config_file)
    with _links_lock:
        link = _links.setdefault(key, _Link(endpoint, config_file))
        link.users += 1
    host = SshHost(link)
    try:
        link.transport(timeout or endpoint.connect_timeout)
    except BaseException:
        host.close()
        raise
    return host


class SshHost:
    """A host behind SSH, as a Machine."""

    def __init__(self, link: _Link) -> None:
        self._link: _Link | None = link
        self.endpoint = link.endpoint
        self.name = str(link.endpoint)

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0) -> Done:
        """Run a program to its end (`Machine.run`)."""
        if self._link is None:
            raise AssertionError("this host was closed")
        with self._link.session() as channel:
            try:
                return _execute(channel, argv, stdin, timeout)
            except TimeoutError as error:
                why = f"{argv[0]} had {timeout:g} s; it may go on there"
                raise host_error("timeout", self.endpoint, why, f"look there: ps -ef | grep {argv[0]}") from error
            except (SSHException, OSError, EOFError) as error:
                raise host_error("dropped", self.endpoint, _text(error)) from error

    def read(self, path: str, *, limit: int = 1 << 20) -> bytes:
        """Return a file's bytes (`Machine.read`)."""
        done = self.run(["sh", "-c", _READ, "sh", path, str(limit + 1)], timeout=120)
        if done.status == _ABSENT:
            raise FileNotFoundError(errno.ENOENT, f"no such file on {self.name}", path)
        if done.status != 0:
            raise problems.failed(self.name, "sh", f"{path} on {self.name} cannot be read", done.status, done.words)
        if len(done.out) > limit:
            raise CellarmanError(f"{path} on {self.name} is too long", f"more than {limit} bytes", "see what it is")
        return done.out

    def write(self, path: str, data: bytes, *, mode: int = 0o600) -> None:
        """Write a file whole or not at all (`Machine.write`)."""
        words = ["sh", "-c", _WRITE, "sh", path, f"{mode:04o}", str(len(data)), os.path.dirname(path)]
        done = self.run(words, stdin=data, timeout=120)
        if done.status == _SHORT:
            raise host_error("dropped", self.endpoint, f"{path} did not arrive whole")
        if done.status != 0:
            raise problems.failed(self.name, "sh", f"{path} on {self.name} cannot be written", done.status, done.words)

    def close(self) -> None:
        """Let go of the connection; the last one to do so ends it."""
        link, self._link = self._link, None
        if link is None:
            return
        with _links_lock:
            link.users -= 1
            last = link.users == 0
            if last:
                _links.pop((link.endpoint, link.config_file), None)
        if last:
            link.disconnect()

    def __enter__(self) -> SshHost:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Link:
    """One connection, made when it is needed, and made anew when it was lost between two commands."""

    def __init__(self, endpoint: Endpoint, config_file: str) -> None:
        self.endpoint, self.config_file = endpoint, config_file
        self.users = 0
        self._lock = threading.Lock()
        self._sessions = threading.BoundedSemaphore(_SESSIONS)
        self._transport: paramiko.Transport | None = None
        self._proxy: subprocess.Popen[bytes] | None = None
        self._proxy_said: IO[bytes] | None = None

    def transport(self, timeout: float) -> paramiko.Transport:
        """Return the connection, alive as far as is known."""
        with self._lock:
            if self._transport is None or not self._transport.is_active():
                self._end()
                self._transport = self._connect(timeout)
            return self._transport

    @contextlib.contextmanager
    def session(self) -> Iterator[paramiko.Channel]:
        """Open a channel for one command."""
        timeout = self.endpoint.connect_timeout
        if not self._sessions.acquire(timeout=600):
            raise host_error("timeout", self.endpoint, f"{_SESSIONS} commands run there already")
        try:
            channel = self._open(timeout)
            try:
                yield channel
            finally:
                with contextlib.suppress(SSHException, OSError, EOFError):  # a lost link was told already
                    channel.close()
        finally:
            self._sessions.release()

    def _open(self, timeout: float) -> paramiko.Channel:
        deadline = time.monotonic() + _SESSION_WAIT
        while True:
            began = time.monotonic()
            transport = self.transport(timeout)
            try:
                return transport.open_session(timeout=timeout)
            except (SSHException, OSError, EOFError) as error:
                if not transport.is_active():
                    raise host_error("dropped", self.endpoint, _text(error)) from error
                # sshd has as many as it allows; paramiko tells only one of several threads that this is why.
                now = time.monotonic()
                if now > deadline or now - began >= timeout:
                    raise host_error("timeout", self.endpoint, f"{_text(error)}: see MaxSessions there") from error
                time.sleep(0.05)

    def disconnect(self) -> None:
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        if self._proxy is not None:
            self._proxy.kill()
            self._proxy.wait()
            self._proxy = None
        if self._proxy_said is not None:
            self._proxy_said.close()
            self._proxy_said = None

    def _connect(self, timeout: float) -> paramiko.Transport:
        settings = effective(self.endpoint, config_file=self.config_file)
        known = _known_keys(settings)
        sock = self._through(settings.proxy) if settings.proxy else _dial(self.endpoint, settings, timeout)
        transport = paramiko.Transport(sock)
        try:
            transport.banner_timeout = transport.handshake_timeout = timeout
            transport.auth_timeout = transport.channel_timeout = timeout
            _prefer(transport, [name for name, _ in known])
            self._shake_hands(transport, timeout)
            _check_key(self.endpoint, settings, known, transport.get_remote_server_key())
            _authenticate(self.endpoint, settings, transport)
            transport.set_keepalive(openssh.ALIVE_INTERVAL)
            _check_shell(self.endpoint, transport, timeout)
        except BaseException:
            transport.close()
            self._end()
            raise
        return transport

    def _shake_hands(self, transport: paramiko.Transport, timeout: float) -> None:
        began = time.monotonic()
        try:
            transport.start_client(timeout=timeout)
        except (SSHException, OSError, EOFError) as error:
            words = _text(error)
            if self._proxy is not None and self._proxy_said is not None and _has_ended(self._proxy):
                self._proxy_said.seek(0)
                words = self._proxy_said.read().decode(errors="replace") or words
                raise problems.explain_openssh(self.endpoint, self._proxy.returncode, words) from error
            late = time.monotonic() - began >= 0.9 * timeout
            raise host_error("timeout" if late else "dropped", self.endpoint, words) from error
        if not transport.initial_kex_done:  # paramiko returns when the time is up
            raise host_error("timeout", self.endpoint, "it does not speak SSH, or not in time")

    def _through(self, argv: Sequence[str]) -> socket.socket:
        """Start the program that leads there and return our end of its socket."""
        ours, theirs = socket.socketpair()
        with theirs:
            end = theirs.fileno()
            self._proxy_said = tempfile.TemporaryFile()
            self._proxy = subprocess.Popen(argv, stdin=end, stdout=end, stderr=self._proxy_said)
        return ours


def _has_ended(proxy: subprocess.Popen[bytes]) -> bool:
    """Tell whether the program is over, which closes its end of the socket a moment before."""
    try:
        proxy.wait(_PROXY_PATIENCE)
    except subprocess.TimeoutExpired:
        return False
    return True


def _dial(endpoint: Endpoint, settings: Effective, timeout: float) -> socket.socket:
    """Connect to the first address that answers."""
    try:
        addresses = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise host_error("unknown_name", endpoint, f"{settings.host}: {error}") from error
    failure: OSError = OSError(errno.EHOSTUNREACH, "it has no address")
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(timeout)
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # what we send stays unanswered: the keepalive's other half
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_MS)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    kind_ = "timeout" if isinstance(failure, TimeoutError) else _ERRNO.get(failure.errno or 0, "no_route")
    where = f"{settings.host} port {settings.port}"
    raise host_error(kind_, endpoint, f"{where}: {_text(failure)}") from failure


def _known_keys(settings: Effective) -> list[tuple[str, str]]:
    """Return (type, base64) of the keys that known_hosts files have for this host; revoked ones are left out."""
    found: list[tuple[str, str]] = []
    revoked: set[str] = set()
    for path in settings.known_hosts:
        if not os.access(path, os.R_OK):
            continue
        done = subprocess.run(
            ["ssh-keygen", "-F", settings.known_as, "-f", path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=20,
        )
        for line in done.stdout.decode(errors="replace").splitlines():
            fields = line.split()
            if len(fields) < 3 or fields[0].startswith("#"):
                continue
            if fields[0].startswith("@"):
                revoked.update(fields[3:4] if fields[0] == "@revoked" else ())
                continue
            found.append((fields[1], fields[2]))
    return [(name, key) for name, key in found if key not in revoked]


def _prefer(transport: paramiko.Transport, types: Sequence[str]) -> None:
    """Ask for the kinds of host key that we know, so that a server with several shows one of those."""
    options = transport.get_security_options()
    wanted = [offer for name in types for offer in (["rsa-sha2-512", "rsa-sha2-256"] if name == "ssh-rsa" else [name])]
    wanted = [name for name in dict.fromkeys(wanted) if name in options.key_types]
    options.key_types = [*wanted, *(name for name in options.key_types if name not in wanted)]


def _check_key(endpoint: Endpoint, settings: Effective, known: Sequence[tuple[str, str]], key: paramiko.PKey) -> None:
    """Compare the key that the server showed with the known ones; raises HostError unless it is one of them."""
    shown = (key.get_name(), key.get_base64())
    if shown in known:
        return
    line = f"{settings.known_as} {shown[0]} {shown[1]}"
    file = shlex.quote(settings.known_hosts[0]) if settings.known_hosts else "~/.ssh/known_hosts"
    add = f"echo {shlex.quote(line)} >> {file}"
    what = f"it shows a {shown[0]} key with the fingerprint {key.fingerprint}"
    there = "there: ssh-keygen -lf /etc/ssh/ssh_host_" + shown[0].split("-")[1] + "_key.pub"
    if not known:
        why = f"{what}; {file} has none for {settings.known_as}"
        fix = f"compare the fingerprint ({there}); when it is the same: {add}"
        raise host_error("unknown_host_key", endpoint, why, fix)
    kinds = ", ".join(dict.fromkeys(name for name, _ in known))
    why = f"{what}; known_hosts has another one for {settings.known_as} ({kinds})"
    fix = (
        f"ask its owner whether it was installed anew; if not, somebody is in between. If so ({there}):\n"
        f"ssh-keygen -R {shlex.quote(settings.known_as)} -f {file}; {add}"
    )
    raise host_error("host_key_changed", endpoint, why, fix)


def _authenticate(endpoint: Endpoint, settings: Effective, transport: paramiko.Transport) -> None:
    """Try the agent's keys and then the key files; raises HostError when none is accepted."""
    files, notes = _file_keys(settings.identity_files)
    with _agent_keys() as agent:
        if settings.identities_only:
            ours = {blob for path in settings.identity_files if (blob := _public_blob(path))}
            agent = [key for key in agent if key.get_base64() in ours]
        if _try([*((key, "agent") for key in agent), *files], settings.user, transport, notes):
            return
    raise host_error("key_rejected", endpoint, "\n".join(notes))


def _try(keys: Sequence[tuple[paramiko.PKey, str]], user: str, transport: paramiko.Transport, notes: list[str]) -> bool:
    """Tell whether one of these keys, each with where it is from, lets us in; `notes` get what was tried."""
    tried: list[str] = []
    for key, label in keys:
        tried.append(f"{label} ({key.get_name()} {key.fingerprint})")
        try:
            transport.auth_publickey(user, key)
        except paramiko.BadAuthenticationType as error:
            notes.append(f"it takes {', '.join(error.allowed_types)}")
            break
        except (SSHException, OSError, EOFError) as error:
            notes += [] if isinstance(error, paramiko.AuthenticationException) else [_text(error)]
            if not transport.is_active():
                break  # too many keys, or too late
        if transport.is_authenticated():
            return True
    notes.insert(0, f"as {user} with " + (", ".join(tried) or "no key at all"))
    return False


def _file_keys(paths: Sequence[str]) -> tuple[list[tuple[paramiko.PKey, str]], list[str]]:
    """Return the keys of those files that are there, and why others of them cannot be used."""
    found: list[tuple[paramiko.PKey, str]] = []
    notes: list[str] = []
    for path in paths:
        try:
            found.append((paramiko.PKey.from_path(path), path))
        except FileNotFoundError:
            continue
        except TypeError:  # cryptography: the key is encrypted and there is no password
            notes.append(f"{path} has a passphrase, and the agent does not hold it: ssh-add {shlex.quote(path)}")
        except (OSError, ValueError, SSHException, paramiko.pkey.UnknownKeyType) as error:
            notes.append(f"{path} cannot be read: {_text(error)}")
    return found, notes


@contextlib.contextmanager
def _agent_keys() -> Iterator[list[paramiko.PKey]]:
    """Give the agent's keys while they can be used; none when there is no agent, or it does not answer."""
    if "SSH_AUTH_SOCK" not in os.environ:
        yield []
        return
    agents: list[Agent] = []

    def ask() -> None:
        with contextlib.suppress(SSHException, OSError):
            agents.append(Agent())

    asking = threading.Thread(target=ask, name="ssh-agent", daemon=True)
    asking.start()
    asking.join(_AGENT_PATIENCE)
    try:
        yield list(agents[0].get_keys()) if agents else []
    finally:
        for agent in agents:
            agent.close()


def _public_blob(path: str) -> str:
    """Return the base64 of a private key file's public half; empty when it has none beside it."""
    try:
        with open(f"{path}.pub", encoding="utf-8", errors="replace") as file:
            return file.read().split()[1]
    except (OSError, IndexError):
        return ""


def _check_shell(endpoint: Endpoint, transport: paramiko.Transport, timeout: float) -> None:
    """See that the account's shell runs a command and prints nothing of its own, which rsync would choke on."""
    try:
        with contextlib.closing(transport.open_session(timeout=timeout)) as channel:
            done = _execute(channel, ["echo", _MARK.decode()], b"", timeout)
    except TimeoutError as error:
        raise host_error("timeout", endpoint, "its shell did not run a command in time") from error
    except (SSHException, OSError, EOFError) as error:
        raise host_error("dropped", endpoint, _text(error)) from error
    if _MARK not in done.out:
        why = done.words or f"a command ended with status {done.status} and printed nothing"
        fix = "give the account a shell there (getent passwd), and no ForceCommand or command= in authorized_keys"
        raise HostError("command_missing", str(endpoint), f"the shell on {endpoint} runs no commands", why, fix)
    if done.out != _MARK + b"\n":
        noise = done.out.replace(_MARK + b"\n", b"").decode(errors="replace").strip()
        raise host_error("noisy_shell", endpoint, f"it printed: {noise[:300]!r}")


def _execute(channel: paramiko.Channel, argv: Sequence[str], stdin: bytes, timeout: float) -> Done:
    """Run a program to its end. Raises TimeoutError, and EOFError when the link was lost.

    sshd ends the whole connection for a byte, or an end of input, that reaches a session after its end; so that end
    waits for the input's, and the thread that sends is the one that closes.
    """
    deadline = time.monotonic() + timeout
    command = openssh.remote_command(argv, drain=bool(stdin)) + ("" if stdin else " </dev/null")
    too_late = threading.Timer(timeout, channel.close)  # paramiko itself waits for the answer without an end
    too_late.start()
    try:
        channel.exec_command(os.fsencode(command))
    except SSHException:
        if time.monotonic() >= deadline:
            raise TimeoutError from None
        raise
    finally:
        too_late.cancel()
    return _talk(channel, memoryview(stdin), deadline)


def _talk(channel: paramiko.Channel, stdin: memoryview, deadline: float) -> Done:
    """Feed a command its input and read it to its end.

    The status of a command that a signal ended is -1: paramiko does not tell which.
    """
    out, err = bytearray(), bytearray()
    while True:
        stdin = _feed(channel, stdin)
        while channel.recv_ready():
            out += channel.recv(_CHUNK)
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(_CHUNK)
        ended = channel.exit_status_ready() and channel.eof_received
        if ended and not channel.recv_ready() and not channel.recv_stderr_ready():
            break
        if channel.closed or not channel.get_transport().is_active():
            break
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if stdin and channel.send_ready():
            continue
        # The channel is readable at its end too; the status may come a moment after that, as may room for more input.
        select.select([channel], [], [], min(left, 0.02 if stdin or channel.eof_received else 1.0))
        if channel.eof_received:
            channel.status_event.wait(min(left, 0.02))
    while data := _rest(channel):
        out += data
    if channel.exit_status == -1 and not channel.get_transport().is_active():
        raise EOFError("the connection ended before the command did")
    return Done(channel.exit_status, bytes(out), bytes(err))


def _feed(channel: paramiko.Channel, stdin: memoryview) -> memoryview:
    """Send of a command's input what it has room for, and the end after the last; returns what is left."""
    if not stdin or not channel.send_ready():
        return stdin
    try:
        left = stdin[channel.send(bytes(stdin[:_CHUNK])) :]
    except OSError:  # it was ended there, as by a signal; or the link is lost, which is told where that is seen
        return stdin[:0]
    if not left:
        channel.shutdown_write()
    return left


def _rest(channel: paramiko.Channel) -> bytes:
    return bytes(channel.recv(_CHUNK)) if channel.recv_ready() else b""


def _text(error: BaseException) -> str:
    return str(error) or ("it ended without a word" if isinstance(error, EOFError) else type(error).__name__)
