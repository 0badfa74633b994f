"""Bad destinations, backups and moments are refused before a byte is written; kills leave nothing that starts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from engine.errors import Cancelled, NotFound, Refused
from engine.event import Silent
from engine.recovery import copying
from engine.recovery.destination import refusals
from engine.recovery.place import MARKER, Ground, look
from engine.recovery.plan import Order
from engine.recovery.restore import execute
from engine.recovery.target import Immediate, NameTarget, TimeTarget, XidTarget
from tests.engine.recovery.scene import Scene, scene
from tests.support.cluster import Install


@pytest.fixture(scope="module")
def stage(postgres: Install) -> Iterator[Scene]:
    with scene(postgres) as made:
        made.insert()
        made.backup()
        made.insert()
        made.archive_all()
        yield made


def refused(stage: Scene, destination: Path | str) -> Refused:
    plan = stage.plan(Immediate(), destination=str(destination))
    assert plan.reachable and plan.refused is not None
    with pytest.raises(Refused):
        execute(plan.order.to_arguments(), stage.server, Silent())
    return plan.refused


def test_a_running_server(stage: Scene) -> None:
    assert "running server" in refused(stage, stage.cluster.data).what


def test_a_directory_that_is_not_empty(stage: Scene, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "not empty" in refused(stage, tmp_path).what
    assert os.listdir(tmp_path) == ["file"]


def test_inside_the_repository_and_around_it(stage: Scene) -> None:
    assert "repository" in refused(stage, Path(stage.server.layout.home) / "restored").what
    assert "repository" in refused(stage, Path(stage.server.barman_home).parent).what


def test_inside_a_data_directory(stage: Scene) -> None:
    for below in ("below", "base/below", "pg_wal"):
        assert "data directory" in refused(stage, stage.cluster.data / below).what
    assert not (stage.cluster.data / "below").exists()


def test_a_link_that_leads_nowhere(stage: Scene, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    assert "leads nowhere" in refused(stage, tmp_path / "link").what


def test_a_file(stage: Scene, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "not a directory" in refused(stage, tmp_path / "file").what
    assert "cannot be made" in refused(stage, tmp_path / "file" / "below").what


def test_not_writable(stage: Scene, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    why = refused(stage, tmp_path / "below")
    assert "cannot be made" in why.what
    assert f"install -d -o {os.getuid()} -m 0700 {tmp_path / 'below'}" in why.now("")


def test_a_file_system_that_is_mounted_read_only(stage: Scene, tmp_path: Path) -> None:
    """Seen the same on this host and by the shell of another one; no directory that root makes would help."""
    words = ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount"]
    mount = 'mount -t tmpfs -o ro small "$1" && exec "$2" -c "$3" "$1"'
    script = (
        "import sys\nfrom engine.host.local import ThisHost\nfrom engine.recovery import farside\n"
        "from engine.recovery.place import look\n"
        "for path in (sys.argv[1], sys.argv[1] + '/a/b', '/'):\n"
        "    print(look(path).read_only, farside.survey(ThisHost(), path, []).destination.read_only, sep='|')\n"
    )
    done = subprocess.run(
        [*words, "sh", "-c", mount, "sh", str(tmp_path), sys.executable, script], capture_output=True, text=True
    )
    if "unshare failed" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"this account cannot mount: {done.stderr.strip()}")
    assert done.stdout.splitlines() == [f"{tmp_path}|{tmp_path}", f"{tmp_path}|{tmp_path}", "|"], done.stderr
    for path in (tmp_path, tmp_path / "below"):
        place = replace(look(str(path)), usable=False, parent_usable=False, read_only=str(tmp_path))
        [found] = refusals(stage.server, Ground(os.getuid(), place), ())
        assert f"the file system at {tmp_path} is mounted read-only" in found.why
        assert f"mount -o remount,rw {tmp_path}" in found.now("") and "install -d" not in found.now("")


def test_root_and_other_accounts(stage: Scene, tmp_path: Path) -> None:
    found = refusals(stage.server, Ground(0, look(str(tmp_path / "x"))), ())
    assert found and "root" in found[0].what
    found = refusals(stage.server, Ground(os.getuid() + 1, look(str(tmp_path))), ())
    assert found and "another account" in found[0].what and "chown" in found[0].now("")
    (tmp_path / "PG_VERSION").touch()
    found = refusals(stage.server, Ground(os.getuid() + 1, look(str(tmp_path))), ())
    assert found and "another account" in found[0].what and "chown" not in found[0].now("")


def test_what_may_not_be_looked_into(stage: Scene, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (tmp_path / "link").symlink_to(hidden / "below")
    hidden.chmod(0)
    try:
        for path in (hidden, hidden / "below", hidden / "below" / "deeper", tmp_path / "link"):
            plan = stage.plan(Immediate(), destination=str(path))
            assert plan.refused and "cannot be looked into" in plan.refused.what
            assert "permission denied" in plan.refused.why
            assert "chown" not in plan.refused.now("") and "install" not in plan.refused.now("")
            assert plan.leftover is None and "interrupted" not in plan.steps[0]
    finally:
        hidden.chmod(0o700)


def test_moments_that_cannot_be(stage: Scene) -> None:
    now = datetime.now(timezone.utc)
    future = stage.plan(TimeTarget(now + timedelta(days=1)))
    assert future.refused and "future" in future.refused.why and future.before and future.before.at
    early = stage.plan(TimeTarget(now - timedelta(days=9000)))
    assert early.refused and early.before is None and early.after and early.after.at
    nobody = stage.plan(XidTarget(4_000_000_000))
    assert nobody.refused and "4000000000" in nobody.refused.why
    unnamed = stage.plan(NameTarget("no such point"))
    assert unnamed.refused and "no such point" in unnamed.refused.what


def test_backups_that_are_not(stage: Scene) -> None:
    with pytest.raises(NotFound):
        stage.plan(backup="20000101T000000")
    info = Path(stage.server.layout.backup_info("20360101T000000"))
    info.write_text("garbage without sense\n")
    try:
        plan = stage.plan()
        assert plan.refused is None and any("20360101T000000" in warning for warning in plan.warnings)
    finally:
        info.unlink()


def test_a_backup_without_its_files_is_passed_over(stage: Scene) -> None:
    later = stage.backup()
    place = Path(stage.server.layout.backup(later.id))
    place.rename(place.with_suffix(".aside"))
    try:
        plan = stage.plan()
        assert plan.refused is None and plan.info is not None and plan.info.id != later.id
        named = stage.plan(backup=later.id)
        assert named.refused is not None and "are gone" in named.refused.why
    finally:
        place.with_suffix(".aside").rename(place)


def test_a_stale_plan(stage: Scene, tmp_path: Path) -> None:
    order = stage.order(Immediate(), destination=str(tmp_path / "new"))
    with pytest.raises(Refused, match="plan has changed"):
        execute({**order.to_arguments(), "planned": {"backup": "other", "timeline": 1}}, stage.server, Silent())
    assert not (tmp_path / "new").exists()


def test_an_order_survives_json(stage: Scene) -> None:
    order = stage.order(XidTarget(7, inclusive=False), tablespaces={"a": "/b"}, port=5)
    assert Order.from_arguments("main", order.to_arguments()) == order


def _run(stage: Scene, destination: Path, step: str) -> subprocess.CompletedProcess[str]:
    """Restore in a process of its own that is killed at a step."""
    script = (
        "import json, sys\nfrom engine.config import load\nfrom engine.event import Silent\n"
        "from engine.recovery.restore import execute\n"
        "execute(json.loads(sys.argv[2]), load(sys.argv[1]).server('main'), Silent())\n"
    )
    import json

    order = stage.order(Immediate(), destination=str(destination))
    return subprocess.run(
        [sys.executable, "-c", script, str(stage.root / "cellarman.toml"), json.dumps(order.to_arguments())],
        env={**os.environ, "CELLARMAN_CRASH_AT": step},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("step", ["restore.begun", "restore.copied", "restore.furnished", "restore.synced"])
def test_killed_it_cannot_start_and_the_next_one_converges(stage: Scene, tmp_path: Path, step: str) -> None:
    destination = tmp_path / "new"
    killed = _run(stage, destination, step)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    postgres = stage.cluster.install.bindir / "postgres"
    start = subprocess.run([postgres, "-D", destination], capture_output=True, text=True, timeout=30, check=False)
    assert start.returncode != 0
    assert (destination / MARKER).exists()
    again = stage.plan(Immediate(), destination=str(destination))
    assert again.refused is None and again.leftover is not None and "interrupted" in again.steps[0]
    assert _run(stage, destination, "").returncode == 0
    assert not (destination / MARKER).exists() and (destination / "global" / "pg_control").exists()


def test_cancelled_it_leaves_nothing(stage: Scene, tmp_path: Path) -> None:
    class Impatient(Silent):
        def phase(self, name: str, detail: str = "") -> None:
            if name == "sync":
                raise Cancelled("cancelled by the operator")

    destination = tmp_path / "new"
    with pytest.raises(Cancelled):
        execute(stage.order(Immediate(), destination=str(destination)).to_arguments(), stage.server, Impatient())
    assert not destination.exists()
    kept = tmp_path / "kept"
    kept.mkdir()
    with pytest.raises(Cancelled):
        execute(stage.order(Immediate(), destination=str(kept)).to_arguments(), stage.server, Impatient())
    assert os.listdir(kept) == []


def test_an_unreadable_file_stops_the_copy(stage: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = stage.plan().info
    assert info is not None
    victim = Path(stage.server.layout.data(info.id)) / "PG_VERSION"
    victim.chmod(0)
    try:
        with pytest.raises(Exception, match="PG_VERSION"):
            execute(stage.order(Immediate(), destination=str(tmp_path / "new")).to_arguments(), stage.server, Silent())
    finally:
        victim.chmod(0o600)
    assert not (tmp_path / "new").exists()


def test_a_tar_member_that_leads_outside(tmp_path: Path) -> None:
    import io
    import tarfile

    from engine.errors import CellarmanError
    from engine.recovery.extraction import extract, tar_files

    for name in ("../out", "/tmp/out", "a/../../out"):
        with tarfile.open(tmp_path / "base.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            member = tarfile.TarInfo("x")
            member.name, member.size = name, 3
            tar.addfile(member, io.BytesIO(b"bad"))
        [found], _ = tar_files(str(tmp_path))
        meter = copying.Meter(Silent(), 0)
        (tmp_path / "in").mkdir()
        with pytest.raises(CellarmanError, match="leads outside"):
            extract(found, str(tmp_path / "in"), meter, skip=lambda _: False, rename=lambda n: n)
        assert os.listdir(tmp_path / "in") == []
        shutil.rmtree(tmp_path / "in")
        assert not (tmp_path / "out").exists()
