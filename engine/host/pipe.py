"""Bytes into a program on another host, through the OpenSSH client, which is several times faster than paramiko."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from engine.host import local, openssh, problems
from engine.host.ciphers import cheapest
from engine.host.endpoint import Endpoint

_END = 120.0
"""Seconds that the far program may take after its last input."""


def paced(chunks: Iterable[bytes | memoryview], limit: int) -> Iterator[bytes | memoryview]:
    """Yield chunks so that no more than `limit` kilobytes a second are taken; 0: no limit."""
    due = 0.0
    for chunk in chunks:
        if limit:
            now = time.monotonic()
            due = max(due, now) + len(chunk) / (limit << 10)
            time.sleep(max(0.0, due - now))
        yield chunk


def feed(endpoint: Endpoint, argv: Sequence[str], chunks: Iterable[bytes | memoryview], what: str) -> None:
    """Run a program there with these bytes as its input; raises HostError or CellarmanError unless it succeeds.

    When `chunks` raises, the program sees its input end early: it has to be one that notices, as tar does.
    Call it from the main thread (`local.start_leashed`).
    """
    ssh = [*openssh.command(endpoint), *cheapest(endpoint), openssh.destination(endpoint)]
    words = [*ssh, openssh.remote_command(argv)]
    with tempfile.TemporaryFile() as said:
        with local.start_leashed(words, stdin=subprocess.PIPE, stdout=said, stderr=said) as process:
            assert process.stdin is not None
            try:
                with suppress(BrokenPipeError):  # its exit code and its words say why it reads no more
                    for chunk in chunks:
                        process.stdin.write(chunk)
                    process.stdin.close()
                process.wait(_END)
            except BaseException:
                process.kill()
                raise
            finally:
                with suppress(BrokenPipeError):  # what is still to be written then is of no use
                    process.stdin.close()
        said.seek(0)
        text = said.read(1 << 16).decode(errors="replace").strip()
    if process.returncode == 255:
        raise problems.explain_openssh(endpoint, 255, text)
    if process.returncode != 0:
        raise problems.failed(str(endpoint), argv[0], what, process.returncode, text)
