"""Starting a job in a process of its own, and stopping it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from engine import permission, trail
from engine.commands import cellarman
from engine.config import Config
from engine.errors import Advice, CellarmanError, Refused
from engine.job import commandline, follow
from engine.job import spec as spec_
from engine.job.spec import JobSpec
from engine.postgres import dsn

Say = Callable[[str], object]
START_TIMEOUT = 15.0
CANCEL_TIMEOUT = 30.0


def launch(
    config: Config,
    spec: JobSpec,
    *,
    read_only: bool = False,
    via: str = "command",
    say: Say | None = None,
    timeout: float = START_TIMEOUT,
) -> str:
    """Start the job, write that into the trail, and return its id when its journal has begun, or it has already ended.

    The worker belongs to nobody: its own session, no terminal, no parent of ours. `via` tells who orders it, command or
    console; `say` takes what went wrong beside the work. Raises Refused when everything is read-only, CellarmanError
    when the worker cannot be started.
    """
    server = config.server(spec.server)
    line, about = commandline.of(spec), commandline.subject(spec)
    state = config.state_directory
    with trail.Acting(
        state, spec.kind, server.name, subject=about, command=line, via=via, say=say, clean=dsn.redact
    ) as acting:
        action = action_of(spec)
        permission.require(action, server.name, read_only=read_only or config.read_only, protected=server.protected)
        job_directory, lock = _prepare(config, spec)
        try:
            _start(job_directory, lock, timeout)
        finally:
            os.close(lock)
        acting.outcome, acting.job = "started", spec.id
        _await_start(job_directory, timeout)
    return spec.id


def action_of(spec: JobSpec) -> permission.Action:
    """Return what a job does, as permission knows it: a restore that changes a data directory replaces it."""
    return "replace" if spec.kind == "restore" and spec.arguments.get("delta") else spec.kind


def _prepare(config: Config, spec: JobSpec) -> tuple[str, int]:
    """Make the job's directory, whole, and return it with the lock, held: the worker inherits it, so that no reader
    ever sees a job whose lock is free before it began."""
    root = spec_.directory(config.state_directory)
    making = os.path.join(root, f".{spec.id}.new")
    final = os.path.join(root, spec.id)
    lock = -1
    try:
        os.makedirs(root, mode=0o750, exist_ok=True)
        os.mkdir(making, 0o750)
        spec_.write(os.path.join(making, spec_.SPEC), spec)
        lock = os.open(os.path.join(making, spec_.LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(making, final)
    except OSError as error:
        if lock >= 0:
            os.close(lock)
        raise CellarmanError(
            f"the {spec.kind} was not started: its journal cannot be made",
            str(error),
            f"make {root} writable, or set state_directory in the configuration",
        ) from error
    return final, lock


def _start(job_directory: str, lock: int, timeout: float) -> None:
    output = os.open(os.path.join(job_directory, spec_.OUTPUT), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        # The first process forks and ends at once, so that the worker is nobody's child and leaves no zombie.
        first = subprocess.Popen(
            [sys.executable, "-m", "engine.job.worker", job_directory, str(lock)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            start_new_session=True,
            pass_fds=[lock],
        )
    except OSError as error:
        raise CellarmanError("the job's worker could not be started", str(error)) from error
    finally:
        os.close(output)
    try:
        first.wait(timeout)
    except subprocess.TimeoutExpired:
        first.kill()
        first.wait()


def _await_start(job_directory: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    events = os.path.join(job_directory, spec_.EVENTS)
    while time.monotonic() < deadline:
        alive = follow.held(job_directory)
        if os.path.exists(events) and os.path.getsize(events):
            return
        if not alive:
            raise CellarmanError("the job's worker ended before it began", _output(job_directory))
        time.sleep(0.01)
    raise CellarmanError(
        f"the job's worker did not begin within {timeout:.0f} s",
        _output(job_directory),
        Advice(cellarman("job", "follow", os.path.basename(job_directory))),
    )


def _output(job_directory: str) -> str:
    """Return the end of what the worker printed."""
    with open(os.path.join(job_directory, spec_.OUTPUT), encoding="utf-8", errors="replace") as file:
        return file.read()[-2000:].strip() or "it said nothing"


def cancel(
    config: Config,
    ref: str,
    *,
    read_only: bool = False,
    via: str = "command",
    say: Say | None = None,
    timeout: float = CANCEL_TIMEOUT,
) -> str:
    """Stop the job, write that into the trail, and return its id once its worker is gone.

    Raises NotFound for no such job, Refused for one that does not run, CellarmanError when it cannot be stopped or
    does not stop within `timeout` seconds.
    """
    job = follow.find(config.state_directory, ref)
    line, state = cellarman("job", "cancel", job.id).line(config.named), config.state_directory
    with trail.Acting(state, "cancel", job.server, subject=job.id, command=line, via=via, say=say, clean=dsn.redact):
        permission.require("cancel", f"job {job.id}", read_only=read_only or config.read_only)
        if job.status != "running":
            follow_it = Advice(cellarman("job", "follow", job.id))
            raise Refused(f"job {job.id} does not run", f"it is {job.status}", follow_it)
        _terminate(job.directory, job.id)
        _await_end(job.directory, job.id, timeout)
    return job.id


def _await_end(job_directory: str, job: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while follow.held(job_directory):
        if time.monotonic() >= deadline:
            raise CellarmanError(
                f"job {job} has not stopped within {timeout:.0f} s",
                f"its worker (pid {_worker(job_directory)}) was told to stop and is still cleaning up",
                Advice(cellarman("job", "follow", job)),
            )
        time.sleep(0.05)


def _worker(job_directory: str) -> int | None:
    """Return the pid that the lock's holder wrote into it."""
    with open(os.path.join(job_directory, spec_.LOCK), encoding="ascii") as file:
        first = file.readline().strip()
    return int(first) if first.isdigit() else None


def _terminate(job_directory: str, job: str) -> None:
    pid = _worker(job_directory)
    if pid is None:
        raise CellarmanError(f"job {job} cannot be stopped yet", "its worker has not said its pid", "try again")
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Asked again with the process pinned: a held lock means that this pid is still the worker's.
        if follow.held(job_directory):
            signal.pidfd_send_signal(process, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise CellarmanError(
            f"job {job} cannot be stopped by this account", f"pid {pid}: {error}", f"sudo kill -TERM {pid}"
        ) from error
    finally:
        os.close(process)
