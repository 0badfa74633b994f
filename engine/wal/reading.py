"""Reading archived segments for the index: what their records tell, and whether PostgreSQL would replay them.

Where many are to be read, as many processes as there are processors each read runs of them. Such a process ends with
its input, so none outlives who started it; what one cannot tell, or no longer answers for, is left to the caller.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import IO

from engine.errors import CellarmanError
from engine.postgres import recordruns, segment, walfile
from engine.postgres.timeline import Switch
from engine.repository.files import at_once
from engine.repository.layout import Layout
from engine.wal import codec, contentcheck, inspection, soundness
from engine.wal.inventory import histories

_RUN = 16
"""Segments that a process is given at once; the one before them is read too, for the record that goes on from it."""
_WORTH = 4 * _RUN
"""Segments from which on starting processes costs less than it saves."""
_MOST = 8
_QUICKER = 2
"""Segments that are read quicker record by record than numpy is loaded."""
_MODULE = "engine.wal.reading"


class Read(
    namedtuple(
        "Read", ("problem", "header", "facts", "joined", "proven", "seconds"), defaults=(None, None, False, False, 0)
    )
):
    """What reading a segment found; header and facts only when there is no problem."""

    __slots__ = ()
    problem: str | None
    """Why it satisfies nothing."""
    header: walfile.SegmentHeader | None
    facts: walfile.SegmentFacts | None
    joined: bool
    """No record goes on in it from before, or the one that does was put together."""
    proven: bool
    """Every record was verified."""
    seconds: float
    """What verifying took."""


class Unknown(Exception):
    """Nobody here knows how the segment before ends."""


class Reader:
    """Reads segments, and remembers how the last one ended: the next one mostly goes on there."""

    def __init__(
        self,
        layout: Layout,
        system_id: int | None,
        carry_into: Callable[[walfile.SegmentHeader, int], walfile.Carry | None],
    ) -> None:
        """`carry_into` returns the record that goes on in the segment of a header and number; it may raise Unknown."""
        self._layout = layout
        self._system_id = system_id
        self._carry_into = carry_into
        self._newest: tuple[int, int, walfile.Carry | None] = (0, 0, None)
        self._ending: tuple[str, contentcheck.Ending] | None = None
        self._histories: dict[int, tuple[Switch, ...]] | None = None
        self._large: bool | None = None
        self._count = 0
        """Segments read."""

    def read(self, name: str, *, prove: bool) -> Read:
        """Read one archived segment, its records verified if `prove`. Raises FileNotFoundError, and Unknown."""
        try:
            data = self._content(name)
            header = walfile.read_header(data)
            problem = walfile.check_segment(name, header, system_id=self._system_id, size=len(data))
        except CellarmanError as error:
            return Read(error.why or error.what)
        if problem:
            return Read(problem)
        _, number = segment.parse_segment(name, header.segment_size)
        carry = self._carry(header, number) if header.rem_len else None
        walked = self._walk(data, header, carry)
        facts = walked[0]
        began = time.monotonic()
        problem = self._found_bad(name, data, header, lambda *_: walked) if prove else None
        seconds = time.monotonic() - began
        if problem:
            return Read(problem, seconds=seconds)
        self._newest = (int(name[:8], 16), number, facts.carry)
        joined = not header.rem_len or (carry is not None and carry.missing == header.rem_len)
        return Read(None, header, facts, joined, prove, seconds)

    def _content(self, name: str) -> bytes:
        """Return the plain content of a segment; of large ones little has to stay in memory."""
        path = self._layout.wal(name)
        if self._large is None:
            self._large = _are_large(self._layout, name)
        if not self._large:
            return codec.read_segment(path)
        with open(path, "rb", buffering=0, opener=at_once) as file:
            size = min(os.fstat(file.fileno()).st_size, codec.LARGEST_PLAIN) + 1
            stored = codec.stored_apart(file.fileno(), size, self._layout.own)
        return codec.plain_apart(stored, codec.LARGEST_PLAIN, self._layout.own)

    def _walk(
        self, data: bytes, header: walfile.SegmentHeader, carry: walfile.Carry | None
    ) -> tuple[walfile.SegmentFacts, recordruns.Runs | None]:
        self._count += 1
        if self._count <= _QUICKER:
            return walfile.walk(data, header, carry), None
        return recordruns.walk(data, header, carry)

    def lead_in(self, name: str) -> None:
        """Learn how a segment ends that others go on from, if it can be told from itself."""
        with contextlib.suppress(CellarmanError, OSError, ValueError):
            data = self._content(name)
            header = walfile.read_header(data)
            facts = walfile.walk(data, header)
            if walfile.check_segment(name, header, system_id=self._system_id, size=len(data)) is None and (
                facts.last_record_lsn is not None
            ):
                self._newest = (*segment.parse_segment(name, header.segment_size), facts.carry)

    def histories(self) -> dict[int, tuple[Switch, ...]]:
        """Return the timelines' histories, as they were when they were first asked for."""
        if self._histories is None:
            self._histories = histories(self._layout, os.listdir(self._layout.wals))[0]
        return self._histories

    def _carry(self, header: walfile.SegmentHeader, number: int) -> walfile.Carry | None:
        """Return the record that the segment before leaves unfinished; its timeline is that of the first page."""
        if self._newest[:2] == (header.timeline, number - 1):
            return self._newest[2]
        return self._carry_into(header, number)

    def _found_bad(self, name: str, data: bytes, header: walfile.SegmentHeader, walk: contentcheck.Walk) -> str | None:
        """Return why a segment cannot be replayed to where its valid data ends, None when it can be."""
        known = self.histories()
        magic = inspection.magic_of(self._layout, self._system_id)
        before = self._ending
        if before is not None and contentcheck.predecessor(name, header, known) != before[0]:
            before = None
        found = soundness.judge_with(
            self._layout, name, data, self._system_id, known, magic, before, self._layout.own, walk
        )
        self._ending = None if found.ending is None else (name, found.ending)
        return found.problem


def processes() -> int:
    """Return how many processes are to read where there is much."""
    return min(_MOST, len(os.sched_getaffinity(0)))


def many(
    layout: Layout, system_id: int | None, names: Sequence[str], prove: Callable[[], float], count: int
) -> Generator[Read | None, None, None]:
    """Yield what reading each of `names`, which are sorted, found, in their order; None for one that the caller is to
    read. `count` processes do it; for one, or when there is little to read, all is None.

    `prove` is asked for the seconds that may still be spent on verifying.
    """
    if count < 2 or len(names) < _WORTH or _are_large(layout, names[0]):
        yield from [None] * len(names)
        return
    runs = [(names[max(0, at - 1) : at], names[at : at + _RUN]) for at in range(0, len(names), _RUN)]
    at_work = [_Process(layout, system_id) for _ in range(count)]
    try:
        for at, (before, run) in enumerate(runs[: 2 * count]):
            at_work[at % count].ask(before, run, prove())
        for at, (_, run) in enumerate(runs):
            found = at_work[at % count].answer(len(run))
            if at + 2 * count < len(runs):
                at_work[at % count].ask(*runs[at + 2 * count], prove())
            yield from found
    finally:
        for process in at_work:
            process.end()


def _are_large(layout: Layout, name: str) -> bool:
    """Tell whether segments are so large, by one of them, that several at once would fill the memory."""
    try:
        return walfile.read_header(codec.read_head(layout.wal(name))).segment_size > codec.LARGE
    except (CellarmanError, OSError):
        return False


class _Process:
    """A process that reads; one that has died leaves everything to the caller."""

    def __init__(self, layout: Layout, system_id: int | None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._send((layout, system_id))

    def ask(self, before: Sequence[str], names: Sequence[str], prove: float) -> None:
        """Have a run read, with up to `prove` seconds of verifying; answers come in the order of the questions."""
        self._send((before, names, prove))

    def answer(self, count: int) -> list[Read | None]:
        """Return the answer to the oldest question, which is about `count` segments."""
        assert self._process.stdout is not None
        try:
            found: list[Read | None] = pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            return [None] * count
        return found

    def end(self) -> None:
        """Stop the process."""
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()

    def _send(self, said: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            pickle.dump(said, self._process.stdin)
            self._process.stdin.flush()


def _unknown(header: walfile.SegmentHeader, number: int) -> walfile.Carry | None:
    raise Unknown


def _answers(reader: Reader, before: Sequence[str], names: Sequence[str], prove: float) -> Iterator[Read | None]:
    for name in before:
        reader.lead_in(name)
    for name in names:
        try:
            found = reader.read(name, prove=prove > 0)
        except (Unknown, OSError):
            reader.lead_in(name)
            yield None
        else:
            prove -= found.seconds
            yield found


def main(source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer the questions of a `_Process` until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's is for who asks, who then ends this
    layout, system_id = pickle.load(source)
    reader = Reader(layout, system_id, _unknown)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            before, names, prove = pickle.load(source)
            pickle.dump(list(_answers(reader, before, names, prove)), sink)
            sink.flush()


if __name__ == "__main__":
    from engine.wal import reading  # what it answers with must not be of `__main__`

    reading.main(sys.stdin.buffer, sys.stdout.buffer)
