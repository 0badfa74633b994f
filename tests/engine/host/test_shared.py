"""One SSH connection that several commands go through, over a real sshd."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.host import rsync, scratch
from engine.host.calls import Calls
from engine.host.rsync import Transfer
from engine.host.shared import Shared
from tests.support import sshd as sshd_module
from tests.support.sshd import Far
from tests.support.waiting import until

ROOT = Path(__file__).parents[3]


def connections(far: Far) -> int:
    """Return how many connections the server has let in since it started."""
    return far.log.count("Accepted publickey ")


def test_many_commands_take_one_connection_and_leave_nothing(far: Far, tmp_path: Path) -> None:
    before = connections(far)
    with Shared(far.endpoint) as shared:
        there = shared.endpoint()
        assert there is not None and there.control and str(there) == str(far.endpoint)
        for _ in range(3):
            assert Calls(there).run(["echo", "heard"]).out == b"heard\n"
        (far.home / "file").write_text("x")
        rsync.move(Transfer(str(far.home), str(tmp_path), there, files=[b"file"]), lambda _: None)
        assert connections(far) == before + 1
    assert not os.path.exists(os.path.dirname(there.control))
    until(lambda: not far.sessions(), "the connection is closed")


def test_what_a_killed_process_left_is_swept_and_nothing_else(far: Far) -> None:
    script = (
        "import os, signal\nfrom engine.host.endpoint import Endpoint\nfrom engine.host.shared import Shared\n"
        f"with Shared({far.endpoint!r}) as shared:\n    print(shared.endpoint().control, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=60, check=False, stdout=subprocess.PIPE)
    socket = Path(killed.stdout.decode().strip())
    left = socket.parent
    assert socket.name == "ssh" and socket.exists()
    scratch.sweep()
    assert left.exists()  # it might be somebody's who is about to lock it
    old = time.time() - 3600
    os.utime(left, (old, old))
    with scratch.directory() as held:
        os.utime(held, (old, old))
        assert scratch.sweep() >= 1  # in /tmp there may be more
        assert os.path.isdir(held) and not left.exists()
    assert not os.path.lexists(held)


def test_a_connection_that_was_lost_is_gone_around(far: Far) -> None:
    with Shared(far.endpoint) as shared:
        there = shared.endpoint()
        assert there is not None and there.control
        far.cut()
        until(lambda: shared.endpoint() == far.endpoint, "its end is noticed")
        assert Calls(there).run(["echo", "heard"]).out == b"heard\n"  # whoever knows only the old way


def test_a_host_that_is_not_reached_is_told_by_the_command_itself(far: Far) -> None:
    with Shared(far.but(port=1)) as shared:
        assert shared.endpoint() == far.but(port=1)
    with Shared(None) as nothing:
        assert nothing.endpoint() is None


def test_a_host_that_allows_one_session_a_connection_gets_more_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = sshd_module._config
    monkeypatch.setattr(sshd_module, "_config", lambda far: usual(far) + "MaxSessions 1\n")
    with sshd_module.sshd(tmp_path / "far") as host, Shared(host.endpoint) as shared, ThreadPoolExecutor(3) as pool:
        there = shared.endpoint()
        assert there is not None and there.control
        words = ["sh", "-c", "sleep 0.5; echo heard"]
        assert [done.out for done in pool.map(Calls(there).run, [words] * 3)] == [b"heard\n"] * 3
