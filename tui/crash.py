"""What remains of a crash: a report without locals and without passwords, and one line that says where it is."""

from __future__ import annotations

import os
import sys
import traceback
from datetime import datetime, timezone

from engine import __version__
from engine.commands import cellarman
from engine.postgres.dsn import redact


def write_report(error: BaseException, state_directory: str) -> str:
    """Write what is known of `error` to a new file for its owner alone; return its path, or why there is none."""
    text = (
        f"cellarman {__version__}, Python {sys.version.split()[0]}\n"
        f"{datetime.now(timezone.utc).isoformat()}\n\n"
        + "".join(traceback.format_exception(type(error), error, error.__traceback__))
    )
    path = os.path.join(state_directory, f"crash-{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{os.getpid()}.txt")
    try:
        os.makedirs(state_directory, mode=0o750, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(redact(text))
    except OSError as refused:
        return f"no report could be written: {refused}"
    return path


def summary(error: BaseException, report: str, named: str) -> list[str]:
    """Return the lines to print after a crash; `named` is the configuration that commands have to name."""
    said = traceback.format_exception_only(type(error), error)[-1].strip()
    return [
        "The console has broken; this is a defect of cellarman. Jobs go on, and no data was touched.",
        f"why: {redact(said)}",
        f"now: start it again, or use the commands ({cellarman('servers').line(named)}); please report {report}",
    ]
