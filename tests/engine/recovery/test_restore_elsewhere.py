"""Restoring on another host: a real sshd, real rsync and tar, a PostgreSQL that starts there and has the rows."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from engine.config import Server, load
from engine.errors import Busy, CellarmanError, Refused
from engine.event import Silent
from engine.host import openssh, rsync
from engine.host.machine import machine, must
from engine.host.problems import HostError
from engine.recovery import farside, farstart, link, sending, start
from engine.recovery.place import MARKER
from engine.recovery.plan import Order
from engine.recovery.planner import make_plan
from engine.recovery.remote import UNPACK
from engine.recovery.restore import execute
from engine.recovery.target import EndOfArchive, Immediate, LsnTarget, Target, TimeTarget
from tests.engine.recovery.scene import Scene, TakesPort, scene, value
from tests.support.cluster import Install, free_port
from tests.support.programs import Cellarman
from tests.support.sshd import Far, account, sshd
from tests.support.waiting import until


class Said(Silent):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str, level: Any = "info") -> None:
        self.notes.append(text)


def reach(made: Scene, far: Far) -> None:
    """Let the scene's configuration lead to a host."""
    toml = made.root / "cellarman.toml"
    toml.write_text(toml.read_text() + far.table())
    made.config = load(str(toml))


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    with sshd(tmp_path_factory.mktemp("far")) as host:
        yield host


@pytest.fixture(scope="module")
def stage(postgres: Install, far: Far) -> Iterator[Scene]:
    """Two backups, and WAL up to an end that the archive proves."""
    with scene(postgres) as made:
        reach(made, far)
        made.insert()
        made.backup()
        made.insert()
        made.archive_all()
        made.insert()
        made.archive_all()
        yield made


@pytest.fixture(autouse=True)
def small_files_count_as_big(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these small clusters hold comes by one rsync, and by several at once."""
    monkeypatch.setattr(sending, "_BIG", 1 << 16)


def order(stage: Scene, destination: Path | str, target: Target | None = None, **changes: Any) -> Order:
    on = changes.pop("on", f"{account()}@127.0.0.1")
    return stage.order(target, destination=str(destination), on=on, **changes)


def run(stage: Scene, wanted: Order, report: Silent | None = None) -> dict[str, Any]:
    return execute(wanted.to_arguments(), stage.server, report or Silent())


@contextlib.contextmanager
def removed(stage: Scene, destination: Path | str) -> Iterator[None]:
    try:
        yield
    finally:
        stage.remove(str(destination))
        shutil.rmtree(f"{destination}.cellarman-wal", ignore_errors=True)


def conninfo(result: dict[str, Any]) -> str:
    return f"host=127.0.0.1 port={result['port']} user=postgres dbname=postgres"


def test_everything_there_is(stage: Scene, tmp_path: Path) -> None:
    """A directory with a strange name; to the end of the archive, opened; what was staged goes away by itself."""
    destination = tmp_path / 'it\'s $(a) "new" 100%'
    with removed(stage, destination):
        result = run(stage, order(stage, destination, start=True))
        assert result["verdict"] == "open" and result["host"].startswith(f"{account()}@127.0.0.1:")
        assert value(conninfo(result), "SELECT count(*) FROM kept") == 300
        found = start.configuration(str(destination))
        assert found["archive_mode"] == "off" and "cellarman-wal get" not in found["restore_command"]
        assert not (destination / MARKER).exists()
        assert not (destination / "global" / "pg_control.cellarman").exists()
        assert os.stat(destination).st_mode & 0o777 == 0o700
        gone = Path(f"{destination}.cellarman-wal")
        until(lambda: not gone.exists(), what="the end of the staged WAL")


def test_a_port_that_is_taken_between_its_choice_and_the_start(stage: Scene, tmp_path: Path) -> None:
    destination = tmp_path / "new"
    with contextlib.closing(TakesPort()) as rival, removed(stage, destination):
        result = run(stage, order(stage, destination, TimeTarget(stage.marks[1].at), start=True), rival)
        assert result["verdict"] == "paused"
        assert result["port"] != rival.taken[0].getsockname()[1]


def test_a_moment_paused_and_resumed(stage: Scene, tmp_path: Path) -> None:
    destination = tmp_path / "new"
    middle = stage.marks[1]
    with removed(stage, destination):
        result = run(stage, order(stage, destination, TimeTarget(middle.at), start=True))
        assert result["verdict"] == "paused"
        assert value(conninfo(result), "SELECT count(*) FROM kept") == middle.rows
        with pytest.raises(Refused, match="running server"):
            run(stage, order(stage, destination, delta=True))


def test_a_server_that_gets_ready_while_it_is_looked_at_is_not_open(tmp_path: Path) -> None:
    """The copied pg_control says "in production" until the server writes its own."""
    (tmp_path / "global").mkdir()
    control = tmp_path / "global" / "pg_control"
    os.mkfifo(control)

    over = threading.Event()

    def gets_ready() -> None:
        while not over.wait(0.001):
            with contextlib.suppress(OSError):  # nobody reads
                end = os.open(control, os.O_WRONLY | os.O_NONBLOCK)
                (tmp_path / "postmaster.pid").write_text("1\n\n\n\n\n\n\nready\n")
                os.close(end)

    server = threading.Thread(target=gets_ready)
    server.start()
    with machine(None) as here:
        seen = farstart._There(here, str(tmp_path), os.getpid(), Silent()).look()
    over.set()
    server.join()
    assert (seen.gone, seen.pid_file, seen.control) == (False, "", b"")
    with machine(None) as here:
        control.unlink()
        control.write_bytes(b"control")
        (tmp_path / start.LOG).write_text("one\ntwo")
        seen = farstart._There(here, str(tmp_path), os.getpid(), Silent()).look()
    assert seen.pid_file.endswith("ready\n") and (seen.control, seen.text) == (b"control", "one\n")


def test_without_cellarman_and_without_the_repository(stage: Scene, tmp_path: Path) -> None:
    """What was staged is enough: the repository is out of reach when the server starts."""
    destination = tmp_path / "new"
    with removed(stage, destination):
        run(stage, order(stage, destination, action="promote"))
        home = Path(stage.server.layout.home)
        home.rename(home.with_suffix(".away"))
        try:
            pg_ctl = str(stage.cluster.install.bindir / "pg_ctl")
            words = [pg_ctl, "-D", str(destination), "-o", f"-p {free_port()}", "-l", str(tmp_path / "log")]
            subprocess.run([*words, "-w", "start"], check=True, capture_output=True, env={"PATH": "/usr/bin:/bin"})
            pid, _, _, port = (destination / "postmaster.pid").read_text().splitlines()[:4]
            assert int(pid)
            until(lambda: _is_open(conninfo({"port": port})), what="the opening")
            assert value(conninfo({"port": port}), "SELECT count(*) FROM kept") == 300
        finally:
            home.with_suffix(".away").rename(home)


def _is_open(words: str) -> bool:
    with contextlib.suppress(psycopg2.OperationalError):
        return bool(value(words, "SELECT NOT pg_is_in_recovery()"))
    return False


def test_the_staged_command_tells_the_truth(stage: Scene, tmp_path: Path) -> None:
    """recovery.md §4: 0, 1 only for the proven end, 255 for a hole, an error, and a command that is gone."""
    destination = tmp_path / "new"
    with removed(stage, destination):
        run(stage, order(stage, destination))
        plan = stage.plan(EndOfArchive(), destination=str(tmp_path / "other"), on=f"{account()}@127.0.0.1")
        text = start.configuration(str(destination))["restore_command"]
        staged = Path(f"{destination}.cellarman-wal")

        def get(name: str) -> int:
            (destination / "pg_wal" / "RECOVERYXLOG").unlink(missing_ok=True)
            line = text.replace("%f", name).replace("%p", "pg_wal/RECOVERYXLOG").replace("%%", "%")
            return subprocess.run(["sh", "-c", line], cwd=destination, capture_output=True, check=False).returncode

        first, last = plan.segments[0], plan.segments[-1]
        assert get(first) == 0 and os.path.getsize(destination / "pg_wal" / "RECOVERYXLOG") == 1 << 20
        after = f"{last[:16]}{int(last[16:], 16) + 1:08X}"
        assert get(after) == 1 and get("00000002.history") == 1
        assert get(f"00000001{'0' * 16}") == 255  # before what was staged: not proven to be absent
        (staged / "wal" / plan.segments[1]).unlink()
        assert get(plan.segments[1]) == 255
        (destination / "pg_wal").chmod(0o500)
        assert get(first) == 255
        (destination / "pg_wal").chmod(0o700)
        (staged / "wal").chmod(0)
        assert get(first) == 255 and get(after) == 255
        (staged / "wal").chmod(0o700)
        shutil.rmtree(staged)
        assert get(first) == 255 and get(after) == 255 and get("00000002.history") == 255


def test_a_hole_in_what_was_staged_stops_recovery(stage: Scene, tmp_path: Path) -> None:
    """A segment lost on the far host after staging ends in PostgreSQL's FATAL, told here, not in a promotion."""
    destination = tmp_path / "new"
    with removed(stage, destination):

        class Thief(Silent):
            def phase(self, name: str, detail: str = "") -> None:
                if name == "start":
                    victims = sorted(Path(f"{destination}.cellarman-wal", "wal").iterdir())
                    victims[-1].unlink()

        with pytest.raises(CellarmanError) as caught:
            run(stage, order(stage, destination, start=True), Thief())
        assert "could not restore file" in caught.value.why and "on " in caught.value.what
        assert not _alive_in(destination)


def _alive_in(directory: Path) -> bool:
    path = directory / "postmaster.pid"
    return path.exists() and Path("/proc", path.read_text().split()[0]).exists()


def test_a_target_before_a_later_end_is_limited(stage: Scene, tmp_path: Path) -> None:
    """Beyond what was staged for a target there is more in the archive: that is no end."""
    destination = tmp_path / "new"
    with removed(stage, destination):
        run(stage, order(stage, destination, Immediate()))
        plan = stage.plan(Immediate(), destination=str(tmp_path / "o"), on=f"{account()}@127.0.0.1")
        assert not plan.open_end
        script = f"{destination}.cellarman-wal/fetch"
        last = stage.plan(destination=str(tmp_path / "o"), on=f"{account()}@127.0.0.1").segments[-1]
        assert last not in plan.segments
        done = subprocess.run(["sh", script, last, str(tmp_path / "x")], capture_output=True, text=True, check=False)
        assert done.returncode == 255 and "the archive has more" in done.stderr


@pytest.mark.parametrize("settings", [{}, {"backup_compression": "zstd"}], ids=["plain", "tar"])
def test_tablespaces_and_strange_names(debian_postgres: Install, far: Far, settings: dict[str, str]) -> None:
    with scene(debian_postgres, **settings) as stage:
        reach(stage, far)
        place = stage.root / "space 0"
        place.mkdir()
        stage.cluster.sql(f"CREATE TABLESPACE \"it's odd\" LOCATION '{place}'")
        stage.cluster.sql('CREATE TABLE t TABLESPACE "it\'s odd" AS SELECT generate_series(1, 1000) i')
        stage.insert()
        info = stage.backup()
        assert info.is_tar == bool(settings)
        new = str(stage.root / "moved $(x) 1")
        destination = stage.root / "restored there"
        with removed(stage, destination):
            wanted = order(stage, destination, Immediate(), tablespaces={"it's odd": new}, action="promote", start=True)
            result = run(stage, wanted)
            assert result["verdict"] == "open"
            assert value(conninfo(result), "SELECT count(*) FROM t") == 1000
            assert os.readlink(destination / "pg_tblspc" / str(info.tablespaces[0].oid)) == new
            value(conninfo(result), "INSERT INTO t VALUES (0) RETURNING i")
        assert stage.cluster.value("SELECT count(*) FROM t") == 1000
        again = stage.plan(Immediate(), destination=str(destination), on=wanted.on)
        assert again.refused is not None and "not empty" in again.refused.what


def test_a_tablespace_made_after_the_backup(postgres: Install, far: Far) -> None:
    with scene(postgres) as stage:
        reach(stage, far)
        stage.insert()
        stage.backup()
        place = stage.root / "made later"
        place.mkdir()
        stage.cluster.sql(f"CREATE TABLESPACE fast LOCATION '{place}'")
        stage.cluster.sql("CREATE TABLE t TABLESPACE fast AS SELECT generate_series(1, 1000) i")
        stage.archive_all()
        destination = stage.root / "restored there"
        with removed(stage, destination):
            wanted = order(stage, destination, EndOfArchive(), action="promote", start=True)
            with pytest.raises(Refused, match=f"replay would write into {place} on .*127.0.0.1"):
                run(stage, wanted)
            stage.cluster.stop()
            place.rename(stage.root / "moved away")
            assert value(conninfo(run(stage, wanted)), "SELECT count(*) FROM t") == 1000
            assert os.readlink(next((destination / "pg_tblspc").iterdir())) == str(place)


# -- refusals


def refused(stage: Scene, destination: Path | str, **changes: Any) -> Refused:
    wanted = order(stage, destination, Immediate(), **changes)
    plan = stage.plan(Immediate(), **{k: v for k, v in wanted.to_arguments().items() if k in ("destination", "on")})
    with pytest.raises(Refused):
        run(stage, wanted)
    assert plan.refused is not None
    return plan.refused


def test_what_is_refused_here_is_refused_there(stage: Scene, tmp_path: Path) -> None:
    assert "running server" in refused(stage, stage.cluster.data).what
    assert "data directory" in refused(stage, stage.cluster.data / "base" / "below").what
    (tmp_path / "file").write_text("x")
    assert "not empty" in refused(stage, tmp_path).what
    assert "not a directory" in refused(stage, tmp_path / "file").what
    assert "cannot be made" in refused(stage, tmp_path / "file" / "below").what
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    assert "leads nowhere" in refused(stage, tmp_path / "link").what
    (tmp_path / "shut").mkdir(mode=0o500)
    why = refused(stage, tmp_path / "shut" / "new")
    assert "cannot be made" in why.what and f"install -d -o {os.getuid()}" in why.now("")
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "shut"]


def test_the_repository_when_the_other_host_is_this_one(stage: Scene) -> None:
    assert "repository" in refused(stage, Path(stage.server.layout.home) / "restored").what


def test_a_host_that_cannot_be_reached(stage: Scene, tmp_path: Path, far: Far) -> None:
    with pytest.raises(HostError) as caught:
        stage.plan(destination=str(tmp_path / "new"), on="127.0.0.1:1")
    assert caught.value.kind == "refused"


def test_no_room_there(stage: Scene, tmp_path: Path) -> None:
    """A disk that is only on the other host; too small, or filled meanwhile."""
    with sshd(tmp_path / "own", small=64) as own:
        server = own_server(stage, tmp_path, own)
        wanted = order(stage, own.disk / "new", Immediate())
        with machine(own.endpoint) as host:
            plan = make_plan(server, wanted, now=datetime.now(timezone.utc))
            assert plan.refused is None and plan.free_bytes is not None and 32 << 20 < plan.free_bytes <= 64 << 20
            must(host, ["sh", "-c", 'head -c 45000000 /dev/zero > "$1"', "sh", str(own.disk / "big")], "it failed")
            plan = make_plan(server, wanted, now=datetime.now(timezone.utc))
            assert plan.refused is not None and "too little room" in plan.refused.what
            assert str(own.endpoint) in plan.refused.what
            must(host, ["rm", str(own.disk / "big")], "it failed")
            with pytest.raises(HostError) as caught:
                execute(wanted.to_arguments(), server, Filler(own))
            assert caught.value.kind == "disk_full" and caught.value.host == str(own.endpoint)
            assert must(host, ["ls", "-A", str(own.disk)], "it failed") == b"big\n"


class Filler(Said):
    """Fills the other host's disk when the copy begins."""

    def __init__(self, far: Far) -> None:
        super().__init__()
        self.far = far

    def phase(self, name: str, detail: str = "") -> None:
        if name == "copy":
            with machine(self.far.endpoint) as host:
                must(host, ["sh", "-c", 'head -c 55000000 /dev/zero > "$1"', "sh", str(self.far.disk / "big")], "no")


def own_server(stage: Scene, root: Path, far: Far, **changed: Any) -> Server:
    """Return the scene's server with another host, and other settings."""
    text = (stage.root / "cellarman.toml").read_text().split("[servers.main.ssh]")[0] + far.table()
    lines = "".join(f"{key} = {item!r}\n" for key, item in changed.items())
    (root / "own.toml").write_text(text.replace("[servers.main]\n", f"[servers.main]\n{lines}", 1))
    return load(str(root / "own.toml")).server("main")


def test_what_may_not_be_looked_into_there(stage: Scene, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir(0o000)
    try:
        for path in (hidden, hidden / "below"):
            refused = stage.plan(destination=str(path), on=f"{account()}@127.0.0.1").refused
            assert refused and "cannot be looked into" in refused.what and "permission denied" in refused.why
    finally:
        hidden.chmod(0o700)


def test_no_such_postgres_there(stage: Scene, tmp_path: Path) -> None:
    with machine(stage.server.ssh) as host, pytest.raises(Refused, match="no PostgreSQL 97"):
        farside.find_postgres(host, stage.server.path_prefix, 97)


def test_the_plan_tells_how_to_start_it_with_the_program_that_is_there(stage: Scene, tmp_path: Path) -> None:
    planned = stage.plan(Immediate(), destination=str(tmp_path / "new"), on=f"{account()}@127.0.0.1")
    [start_it] = [step for step in planned.steps if "start it yourself" in step]
    program = start_it.partition(": ")[2].partition(" -D ")[0]
    assert os.path.isabs(program) and os.access(program, os.X_OK)


# -- deltas


def test_a_delta_onto_a_stopped_directory(stage: Scene, tmp_path: Path) -> None:
    """What will change is shown first; what only the old directory had is gone; rows of after the backup are gone."""
    destination = tmp_path / "old"
    with removed(stage, destination):
        result = run(stage, order(stage, destination, Immediate(), start=True, action="promote"))
        value(conninfo(result), "CREATE TABLE later AS SELECT 1 i; SELECT 1")
        pg_ctl = str(stage.cluster.install.bindir / "pg_ctl")
        running = refused_for(stage, destination, delta=True)
        assert "running server" in running.what and "pg_ctl" in running.now("")
        subprocess.run([pg_ctl, "-D", str(destination), "-w", "stop"], check=True, capture_output=True)
        (destination / "stray").write_text("x")
        assert "--delta" in refused_for(stage, destination).now("")
        wanted = order(stage, destination, delta=True, start=True)
        plan = stage.plan(destination=str(destination), on=wanted.on, delta=True)
        assert plan.refused is None and plan.delta and plan.changes is not None
        assert any(line.startswith("*deleting") and line.endswith(" stray") for line in plan.changes.lines)
        assert plan.changes.removed >= 1 and plan.changes.sent > 0
        assert (destination / "stray").exists() and (destination / "global" / "pg_control").exists()
        result = run(stage, wanted)
        assert result["verdict"] == "open"
        assert value(conninfo(result), "SELECT count(*) FROM kept") == 300
        assert value(conninfo(result), "SELECT count(*) FROM pg_class WHERE relname = 'later'") == 0
        assert not (destination / "stray").exists()


def refused_for(stage: Scene, destination: Path, **changes: Any) -> Refused:
    plan = stage.plan(destination=str(destination), on=f"{account()}@127.0.0.1", **changes)
    assert plan.refused is not None
    return plan.refused


def test_checksums_find_what_size_and_time_hide(stage: Scene, tmp_path: Path) -> None:
    destination = tmp_path / "old"
    with removed(stage, destination):
        run(stage, order(stage, destination, Immediate()))
        victim = destination / "base" / "1" / "PG_VERSION"
        before, times = victim.read_bytes(), os.stat(victim)
        victim.write_bytes(bytes(len(before)))
        os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
        run(stage, order(stage, destination, Immediate(), delta=True))
        assert victim.read_bytes() != before
        run(stage, order(stage, destination, Immediate(), delta=True, checksum=True))
        assert victim.read_bytes() == before


def test_a_delta_never_onto_something_else(stage: Scene, tmp_path: Path) -> None:
    """Another system's directory, a directory that is none, and files where a tablespace would go."""
    other = tmp_path / "other"
    stage.cluster.install.run("initdb", "-D", str(other), "-U", "postgres", "-A", "trust", "-N")
    assert "another system" in refused_for(stage, other, delta=True).what
    (other / "global" / "pg_control").unlink()
    assert "not whole" in refused_for(stage, other, delta=True).what
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday").touch()
    assert "not empty" in refused_for(stage, tmp_path / "photos", delta=True).what
    assert (tmp_path / "photos" / "holiday").exists()


def test_a_tablespace_directory_that_two_servers_share(debian_postgres: Install, far: Far) -> None:
    with scene(debian_postgres) as stage:
        reach(stage, far)
        (stage.root / "space").mkdir()
        stage.cluster.sql(f"CREATE TABLESPACE fast LOCATION '{stage.root}/space'")
        stage.cluster.sql("CREATE TABLE t TABLESPACE fast AS SELECT generate_series(1, 1000) i")
        stage.backup()
        new, destination = stage.root / "moved", stage.root / "there"
        with removed(stage, destination):
            run(stage, order(stage, destination, Immediate(), tablespaces={"fast": str(new)}))
            other = new / "PG_9.6_201608131" / "1"
            other.mkdir(parents=True)
            wanted = order(stage, destination, Immediate(), tablespaces={"fast": str(new)}, delta=True)
            plan = make_plan(stage.server, wanted, now=datetime.now(timezone.utc))
            assert plan.refused is not None and "holds more than this tablespace" in plan.refused.what
            shutil.rmtree(other.parent)
            [own] = new.iterdir()
            (own / "stray").touch()
            run(stage, wanted)
            assert other.parent.parent.exists() and not (own / "stray").exists()


def test_nothing_can_be_made_beside_the_directory(stage: Scene, tmp_path: Path) -> None:
    """WAL is staged inside it then, and goes away with the end of recovery."""
    destination = tmp_path / "shut" / "new"
    destination.mkdir(parents=True)
    destination.parent.chmod(0o500)
    try:
        result = run(stage, order(stage, destination, start=True))
        assert value(conninfo(result), "SELECT count(*) FROM kept") == 300
        until(lambda: not (destination / "cellarman-wal").exists())
    finally:
        destination.parent.chmod(0o700)
        stage.remove(str(destination))


def test_one_at_a_time(stage: Scene, tmp_path: Path) -> None:
    destination = tmp_path / "new"

    class Second(Silent):
        error: CellarmanError | None = None

        def phase(self, name: str, detail: str = "") -> None:
            if name == "copy" and self.error is None:
                with pytest.raises(Busy) as caught:
                    run(stage, order(stage, destination, Immediate()))
                self.error = caught.value

    second = Second()
    with removed(stage, destination):
        run(stage, order(stage, destination, Immediate()), second)
        assert second.error is not None and str(destination) in second.error.what


# -- interruptions


@pytest.mark.parametrize("step", ["remote.begun", "remote.copied", "remote.staged", "remote.synced"])
def test_killed_it_cannot_start_and_the_next_one_converges(stage: Scene, tmp_path: Path, step: str) -> None:
    import json
    import sys

    destination = tmp_path / "new"
    wanted = order(stage, destination, Immediate())
    script = (
        "import json, sys\nfrom engine.config import load\nfrom engine.event import Silent\n"
        "from engine.recovery.restore import execute\n"
        "execute(json.loads(sys.argv[2]), load(sys.argv[1]).server('main'), Silent())\n"
    )
    words = [sys.executable, "-c", script, str(stage.root / "cellarman.toml"), json.dumps(wanted.to_arguments())]
    with removed(stage, destination):
        env = {**os.environ, "CELLARMAN_CRASH_AT": step}
        killed = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        postgres = stage.cluster.install.bindir / "postgres"
        tried = subprocess.run([postgres, "-D", destination], capture_output=True, timeout=30, check=False)
        assert tried.returncode != 0
        assert (destination / MARKER).exists()
        again = stage.plan(Immediate(), destination=str(destination), on=wanted.on)
        assert again.refused is None and again.leftover is not None and "interrupted" in again.steps[0]
        with late_tar(stage, destination) as late:
            run(stage, wanted)
            assert late.wait(20) != 0
        assert not (destination / MARKER).exists() and (destination / "global" / "pg_control").exists()


@contextlib.contextmanager
def late_tar(stage: Scene, destination: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run what a lost link leaves over there: a tar that still waits for the rest of its input."""
    there = stage.server.ssh
    assert there is not None
    command = openssh.remote_command(["sh", "-c", UNPACK, "sh", str(destination)])
    words = [*openssh.command(there), openssh.destination(there), command]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as late:
        assert late.stdin is not None
        member = tarfile.TarInfo("late")
        member.size = 1 << 20
        late.stdin.write(member.tobuf() + bytes(tarfile.RECORDSIZE))  # it takes a record at a time
        late.stdin.flush()
        try:
            until((destination / "late").exists, what="tar to be there")
            yield late
        finally:
            late.kill()


def test_an_error_leaves_nothing(stage: Scene, tmp_path: Path) -> None:
    class Impatient(Silent):
        def phase(self, name: str, detail: str = "") -> None:
            if name == "sync":
                raise CellarmanError("enough")

    destination, kept = tmp_path / "a" / "new", tmp_path / "kept"
    kept.mkdir()
    for place in (destination, kept):
        with pytest.raises(CellarmanError, match="enough"):
            run(stage, order(stage, place, Immediate()), Impatient())
        assert not Path(f"{place}.cellarman-wal").exists()
    assert not destination.exists() and os.listdir(kept) == []


def test_a_full_disk_there(stage: Scene, tmp_path: Path) -> None:
    """Staging by tar says so, with the host's name; nothing is left."""
    from engine.host import pipe

    assert stage.server.ssh is not None
    with pytest.raises(HostError) as caught:
        pipe.feed(stage.server.ssh, ["dd", "of=/dev/full", "bs=1024"], [bytes(1 << 16)] * 20, "WAL could not be staged")
    assert caught.value.kind == "disk_full" and caught.value.host == str(stage.server.ssh)


def test_a_link_cut_in_the_middle_goes_on(stage: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sshd that serves rsync is killed: it is said, tried again, and the rows are there."""
    with sshd(tmp_path / "own") as own:
        server = own_server(stage, tmp_path, own, bandwidth_limit=4000)
        monkeypatch.setattr(link, "_PAUSES", (0.1, 0.1, 0.1))
        destination = tmp_path / "new"
        report = Cutter(own)
        with removed(stage, destination):
            wanted = order(stage, destination, start=True)
            result = execute(wanted.to_arguments(), server, report)
            assert report.noticed
            assert value(conninfo(result), "SELECT count(*) FROM kept") == 300


def test_big_files_go_beside_each_other(stage: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the two waits, with a file at work, until both are told of."""
    together = threading.Event()

    class Both(Silent):
        def progress(self, *amounts: Any, **more: Any) -> None:
            if len(more.get("lanes", ())) == 2:
                together.set()

    def move(transfer: rsync.Transfer, tick: Callable[[rsync.Tick], None], **more: Any) -> rsync.Moved:
        def waits(now: rsync.Tick) -> None:
            tick(now)
            assert transfer.files is None or not now.name or together.wait(60)

        return moving(transfer, waits, **more)

    moving = rsync.move
    monkeypatch.setattr(rsync, "move", move)
    destination = tmp_path / "new"
    with removed(stage, destination):
        assert stage.server.parallel_jobs == 2
        run(stage, order(stage, destination, Immediate()), Both())
        assert together.is_set()


def test_a_link_that_stays_cut_fails_and_says_so(stage: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sshd(tmp_path / "own") as own:
        server = own_server(stage, tmp_path, own, bandwidth_limit=4000)
        monkeypatch.setattr(link, "_PAUSES", (0.1, 0.1, 0.1))
        destination = tmp_path / "new"
        report = Cutter(own, stop=True)
        with removed(stage, destination):
            with pytest.raises(HostError) as caught:
                execute(order(stage, destination).to_arguments(), server, report)
            assert caught.value.kind in ("dropped", "refused") and str(own.endpoint) in caught.value.what
            assert any("cannot start" in note for note in report.notes)
            assert (destination / MARKER).exists() and not (destination / "global" / "pg_control").exists()


def test_a_link_that_comes_back_too_late_finds_what_was_copied(
    stage: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The restore has given up, and says that the same one goes on; nothing that is there is removed."""
    with sshd(tmp_path / "own") as own:
        server = own_server(stage, tmp_path, own, restore_bandwidth_limit=4000)
        monkeypatch.setattr(link, "_PAUSES", ())
        destination = tmp_path / "new"
        wanted = order(stage, destination, start=True).to_arguments()
        with removed(stage, destination):
            with pytest.raises(HostError, match="stopped") as caught:
                execute(wanted, server, report := Gone(own, destination))
            assert "run the same restore again" in caught.value.now("")
            assert any(note.endswith("cannot start; the same restore goes on with it") for note in report.notes)
            assert not any(note.startswith("removing") for note in report.notes)
            assert (destination / MARKER).exists()
            before = inodes(destination)
            result = execute(wanted, server, Silent())
            after = inodes(destination)
            assert sum(after[path] == inode for path, inode in before.items()) > len(before) // 2
            assert value(conninfo(result), "SELECT count(*) FROM kept") == 300


def test_a_link_cut_while_a_tar_is_sent_begins_anew(
    debian_postgres: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the lost link left writing over there is ended, and what it made is gone, before the second try."""
    monkeypatch.setattr(link, "_PAUSES", (0.1, 0.1, 0.1))
    with sshd(tmp_path / "own") as own, scene(debian_postgres, backup_compression="zstd") as made:
        reach(made, own)
        made.insert()
        assert made.backup().is_tar
        server, destination = own_server(made, tmp_path, own, restore_bandwidth_limit=4000), tmp_path / "new"
        report = Cutter(own)

        def cut() -> None:
            until((destination / "base").exists, what="the first files")
            (destination / "stray").touch()
            while not report.noticed:
                report.progress(1)

        cutting = threading.Thread(target=cut)
        cutting.start()
        with removed(made, destination):
            result = execute(order(made, destination, Immediate(), start=True).to_arguments(), server, report)
            cutting.join()
            assert any(note.startswith("resumed after") for note in report.notes)
            assert not (destination / "stray").exists()
            assert value(conninfo(result), "SELECT count(*) FROM kept") == 100


def test_a_link_cut_while_wal_is_staged_goes_on(stage: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was copied is not thrown away for it."""

    class AtWal(Said):
        phases: list[str] = []

        def phase(self, name: str, detail: str = "") -> None:
            self.phases.append(name)

        def progress(self, *amounts: Any, **more: Any) -> None:
            if self.phases[-1] == "wal" and self.phases.count("wal") == 1:
                own.cut()

    with sshd(tmp_path / "own") as own:
        server = own_server(stage, tmp_path, own)
        monkeypatch.setattr(link, "_PAUSES", (0.1, 0.1, 0.1))
        destination, report = tmp_path / "new", AtWal()
        with removed(stage, destination):
            result = execute(order(stage, destination, start=True).to_arguments(), server, report)
            assert report.phases.count("copy") == 1 and report.phases.count("wal") == 2
            assert any("trying again" in note for note in report.notes)
            assert value(conninfo(result), "SELECT count(*) FROM kept") == 300


class Cutter(Said):
    """Kills the connections when the copy is under way, until that is noticed: one moment may be between two rsyncs."""

    def __init__(self, far: Far, *, stop: bool = False) -> None:
        super().__init__()
        self.far, self.stop = far, stop

    @property
    def noticed(self) -> bool:
        return any("trying again" in note for note in self.notes)

    def progress(self, done_bytes: int, *rest: Any, **more: Any) -> None:
        if done_bytes and not self.noticed:
            if self.stop:
                self.far.stop()
            else:
                self.far.cut()


class Gone(Cutter):
    """Kills the connections once some files have come, until the restore gives up."""

    def __init__(self, far: Far, destination: Path) -> None:
        super().__init__(far)
        self.destination = destination

    @property
    def noticed(self) -> bool:
        over = any("stays in" in note or "removing" in note for note in self.notes)
        return over or len(inodes(self.destination)) < 20


def inodes(destination: Path) -> dict[Path, int]:
    """Return the files of relations that are there under their names."""
    return {path: path.stat().st_ino for path in (destination / "base").rglob("[0-9]*") if path.is_file()}


def test_the_watching_survives_a_cut(stage: Scene, tmp_path: Path) -> None:
    """The server over there goes on when the link is lost, and what becomes of it is still told."""
    with sshd(tmp_path / "own") as own:
        server = own_server(stage, tmp_path, own)
        destination = tmp_path / "new"

        class Once(Said):
            def phase(self, name: str, detail: str = "") -> None:
                if name == "replay":
                    own.cut()

        report = Once()
        with removed(stage, destination):
            wanted = order(stage, destination, LsnTarget(_lsn(stage.marks[1].lsn)), start=True)
            result = execute(wanted.to_arguments(), server, report)
            assert result["verdict"] == "paused"
            assert value(conninfo(result), "SELECT count(*) FROM kept") == stage.marks[1].rows


def _lsn(text: str) -> Any:
    from engine.postgres.lsn import Lsn

    return Lsn.parse(text)


# -- the command line


def test_the_verb(stage: Scene, tmp_path: Path) -> None:
    cellarman = Cellarman(stage.root / "cellarman.toml")
    there, destination = f"{account()}@127.0.0.1", tmp_path / "new"
    words = ["restore", "main", "auto", str(destination), "--on", there]
    document = cellarman.json(*words, "--plan")
    assert document["host"].startswith(there) and document["staging"] == f"{destination}.cellarman-wal"
    assert document["changes"] is None and not destination.exists()
    with removed(stage, destination):
        done = cellarman.run(*words, "--start", "--yes", str(destination))
        assert "open on port" in done.out and there in done.out + done.err
        pg_ctl = str(stage.cluster.install.bindir / "pg_ctl")
        subprocess.run([pg_ctl, "-D", str(destination), "-w", "stop"], check=True, capture_output=True)
        refused = cellarman.run(*words, "--plan", code=3)
        assert "--delta" in refused.out
        shown = cellarman.run(*words, "--delta", "--plan").out
        assert "files to send" in shown and f"on {there}" in shown and "*deleting" in shown
        assert cellarman.json(*words, "--delta", "--checksum", "--plan")["changes"]["sent_files"] > 0
    for wrong in (["--delta"], ["--on", there, "--checksum"], ["--on", "a b"], ["--on", "-oProxyCommand=x"]):
        assert cellarman.run("restore", "main", "auto", str(destination), *wrong, code=2).err
    relative = cellarman.run("restore", "main", "auto", "relative", "--on", there, code=2)
    assert "whole path" in relative.err
    away = cellarman.run("restore", "main", "auto", str(destination), "--on", "127.0.0.1:1", "--plan", code=4)
    assert "refuses the connection" in away.err and "now: start sshd there" in away.err


def test_a_job_that_is_cancelled_leaves_nothing_there(stage: Scene, tmp_path: Path) -> None:
    toml = tmp_path / "slow.toml"
    text = (stage.root / "cellarman.toml").read_text()
    toml.write_text(text.replace("[servers.main]\n", "[servers.main]\nrestore_bandwidth_limit = 1000\n", 1))
    cellarman, destination = Cellarman(toml), tmp_path / "new"
    words = ["restore", "main", "auto", str(destination), "--on", f"{account()}@127.0.0.1"]
    assert "at most 1000 KiB a second by restore_bandwidth_limit" in cellarman.run(*words, "--plan").out
    job = cellarman.run(*words, "--detach").out.split()[-1]
    until(lambda: (destination / "base").exists(), what="the copy")
    assert (destination / MARKER).exists()
    cellarman.run("job", "cancel", job)
    until(lambda: cellarman.json("jobs")["jobs"][0]["status"] == "cancelled", what="the end of the job")
    assert not destination.exists()
