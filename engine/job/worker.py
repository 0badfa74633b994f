"""The process that does a job: `python -m engine.job.worker DIRECTORY LOCK_FD`.

It needs no console: its own session, SIGHUP ignored, working directory /, standard streams in files. It holds the
job's lock for life. SIGTERM interrupts the work as Ctrl-C would, once, which nothing that minds an error takes for
one; what cleans up is not interrupted again.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from types import FrameType
from typing import Any

from engine import config as config_
from engine import trail
from engine.errors import CANCELLED, Cancelled, CellarmanError
from engine.job import commandline, work
from engine.job import spec as spec_
from engine.job.journal import JournalReporter


def main() -> int:
    """Do the job of the directory in argv; returns the exit status."""
    job_directory, lock = sys.argv[1], int(sys.argv[2])
    if os.fork():
        os._exit(0)  # the launcher waits for this one
    os.set_inheritable(lock, False)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.chdir("/")
    _sign(lock)
    spec = spec_.read(job_directory)
    journal = JournalReporter(job_directory, spec, secrets=[os.environ.get("PGPASSWORD", "")])
    state_directory = os.path.dirname(os.path.dirname(os.path.abspath(job_directory)))
    try:
        # The trail's line is written first: whoever reads of the end in the journal finds it in the trail too.
        with journal, _acting(state_directory, spec, journal) as acting:
            acting.job = spec.id
            journal.result.update(_work(spec, journal))
            acting.detail = str(journal.result.get("summary", ""))
    except CellarmanError as error:
        print("\n".join(error.lines(spec.named)), file=sys.stderr)
        return error.exit_code
    return 0


def _work(spec: spec_.JobSpec, journal: JournalReporter) -> dict[str, Any]:
    try:
        _on_sigterm()
        result = work.run(spec, config_.load(spec.config_file or None), journal)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return result
    except KeyboardInterrupt:
        raise Cancelled(CANCELLED) from None


def _acting(state_directory: str, spec: spec_.JobSpec, journal: JournalReporter) -> trail.Acting:
    return trail.Acting(
        state_directory,
        spec.kind,
        spec.server,
        subject=commandline.subject(spec),
        command=commandline.of(spec),
        via="job",
        clean=journal.clean,
    )


def _sign(lock: int) -> None:
    """Hold the lock, and write who holds it: pid, and the start time that tells it from a later namesake."""
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open("/proc/self/stat", encoding="ascii") as file:
        started = file.read().rpartition(")")[2].split()[19]  # proc(5), field 22
    os.pwrite(lock, f"{os.getpid()}\n{started}\n".encode(), 0)


def _on_sigterm() -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt(CANCELLED)

    signal.signal(signal.SIGTERM, stop)


if __name__ == "__main__":
    sys.exit(main())
