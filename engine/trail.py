"""Who did what, when and from where, and how it ended: one line an action, appended to a file that is only ever read.

`<state_directory>/trail.jsonl` takes a line of JSON by one write(2) each; the command line, the console and the workers
of jobs all write it, and nothing rewrites it. A line that cannot be written never keeps an operator from acting: the
caller gets the reason and says it. Kept free of imports from other rooms.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import Any, Literal, get_args

from engine.errors import Cancelled, CellarmanError, Refused

FILE = "trail.jsonl"
_TAIL = 1 << 20
"""Bytes of the file's end that are read: some thousand lines."""
_TRIES, _PAUSE = 200, 0.01
_LONGEST = 4000
"""Characters of a text that are kept, so that a line stays a line."""

Outcome = Literal["started", "done", "refused", "failed", "cancelled", "interrupted"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One action, as it was written down."""

    at: datetime
    action: str
    """A word of `engine.permission.Action`."""
    server: str
    outcome: Outcome
    subject: str = ""
    """What it was done to: a backup's id, a restore point's name, a directory."""
    command: str = ""
    """The command line that does the same."""
    detail: str = ""
    """Why it was refused or failed, or what came out."""
    job: str = ""
    """The job that does it, for what is done by one."""
    via: str = "command"
    """command, console, job or maintenance."""
    user: str = ""
    uid: int = -1
    sudo_user: str = ""
    """Who became this user by sudo."""
    ssh: str = ""
    """SSH_CONNECTION: the other end's address and port, this end's address and port."""
    tty: str = ""
    pid: int = 0

    @property
    def who(self) -> str:
        """The person, as far as it is known."""
        return self.sudo_user or self.user or (str(self.uid) if self.uid >= 0 else "?")


def path(state_directory: str) -> str:
    return os.path.join(state_directory, FILE)


def entry(action: str, server: str, outcome: Outcome, **facts: str) -> Entry:
    """Return what this process would write down now; `facts` are the fields of Entry that it does not know itself."""
    return Entry(
        datetime.now(timezone.utc),
        action,
        server,
        outcome,
        user=account(),
        uid=os.getuid(),
        sudo_user=os.environ.get("SUDO_USER", ""),
        ssh=os.environ.get("SSH_CONNECTION", ""),
        tty=_tty(),
        pid=os.getpid(),
        **facts,
    )


def account() -> str:
    """Return the name of the account that this process runs as."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name  # not $USER: that is what somebody says of himself
    except KeyError:
        return str(os.getuid())


def _tty() -> str:
    for stream in (0, 2, 1):
        try:
            return os.ttyname(stream)
        except OSError:
            continue
    return ""


def write(state_directory: str, line: Entry) -> str:
    """Append one entry, durably; return why it could not be written, empty when it was."""
    document = {field.name: getattr(line, field.name) for field in fields(Entry)}
    document = {key: value[:_LONGEST] if isinstance(value, str) else value for key, value in document.items()}
    document["at"] = line.at.isoformat()
    text = json.dumps({key: value for key, value in document.items() if value != ""}, ensure_ascii=False) + "\n"
    try:
        os.makedirs(state_directory, mode=0o750, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(path(state_directory), flags, 0o640)
        try:
            _take_turn(fd)
            torn = _ends_torn(fd)
            data = (("\n" if torn else "") + text).encode("utf-8", "replace")
            if os.write(fd, data) < len(data):
                return f"{path(state_directory)}: the file system is full"
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        return str(error)
    return ""


def _take_turn(fd: int) -> None:
    """Wait until nobody else writes, for a moment at most: a line goes in whole all the same."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE)
        else:
            return


def _ends_torn(fd: int) -> bool:
    """Tell whether the last line was cut, by a disk that was full then."""
    size = os.fstat(fd).st_size
    return size > 0 and os.pread(fd, 1, size - 1) != b"\n"


def read(state_directory: str, last: int = 1000) -> list[Entry]:
    """Return the latest entries, newest first, at most `last`; a line that is none is passed over."""
    try:
        with open(path(state_directory), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    whole = lines[1:] if size > _TAIL else lines
    found = [made for line in whole if line and (made := _parse(line)) is not None]
    return found[::-1][:last]


def _parse(line: bytes) -> Entry | None:
    try:
        document: Any = json.loads(line)
        if not isinstance(document, dict):
            return None
        known = {field.name for field in fields(Entry)}
        body = {key: value for key, value in document.items() if key in known}
        body["at"] = datetime.fromisoformat(document["at"])
        if body["at"].tzinfo is None or body["outcome"] not in get_args(Outcome):
            return None
        return Entry(**body)
    except (ValueError, KeyError, TypeError):
        return None


class Acting:
    """The time from the beginning of an action to its end, as a context manager; whatever ends it is written down.

    `say` is told when the line could not be written; `clean` takes passwords out of the command and the detail.
    `subject` and `detail` may be set while it goes on.
    """

    def __init__(
        self,
        state_directory: str,
        action: str,
        server: str,
        *,
        subject: str = "",
        command: str = "",
        via: str = "command",
        say: Callable[[str], object] | None = None,
        clean: Callable[[str], str] = str,
    ) -> None:
        self.subject = subject
        self.detail = ""
        self.job = ""
        self.outcome: Outcome = "done"
        self._state_directory, self._action, self._server = state_directory, action, server
        self._command, self._via, self._say, self._clean = command, via, say, clean

    def __enter__(self) -> Acting:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        outcome, detail = self.outcome, self.detail
        if error is not None:
            outcome, detail = outcome_of(error), _words(error)
        problem = write(
            self._state_directory,
            entry(
                self._action,
                self._server,
                outcome,
                subject=self.subject,
                command=self._clean(self._command),
                detail=self._clean(detail),
                job=self.job,
                via=self._via,
            ),
        )
        if problem and self._say is not None:
            self._say(f"this action is not written down in the trail: {problem}")


def outcome_of(error: BaseException) -> Outcome:
    """Return how an action ended that this error ended."""
    if isinstance(error, Refused):
        return "refused"
    if isinstance(error, Cancelled):
        return "cancelled"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


def _words(error: BaseException) -> str:
    return str(error) if isinstance(error, CellarmanError) else f"{type(error).__name__}: {error}"
