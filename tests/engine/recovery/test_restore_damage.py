"""Damage anywhere in the WAL: what is said beforehand is what PostgreSQL then does, and it never promotes across it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pytest

from engine.errors import Refused
from engine.event import Silent
from engine.postgres.lsn import Lsn
from engine.postgres.segment import parse_segment, segment_name, segment_of
from engine.recovery.planner import make_plan
from engine.recovery.reachable import reachable_windows
from engine.recovery.restore import execute
from engine.recovery.target import LsnTarget
from engine.repository.layout import Layout
from engine.wal import codec, findings
from engine.wal.audit import audit
from engine.wal.fetch import REFUSED, get
from tests.engine.recovery.scene import SEGMENT, Mark, Scene, scene, value
from tests.engine.wal.judgement.test_real_recovery import concluded
from tests.support.cluster import Cluster, Install, free_port
from tests.support.wal import ended_sooner, last_record

Damage = Callable[["Life", Path], None]


@dataclass
class Life:
    """A backup and five transactions, each in a segment of its own, the last behind a record of 3 MB; a restored data
    directory that was not started."""

    scene: Scene
    marks: list[Mark]
    core: list[str]
    """The segments that the backup needs."""
    template: Path
    archive: Path
    """A copy of the archive as it was."""
    compression: str

    @property
    def layout(self) -> Layout:
        return self.scene.server.layout

    def path(self, position: str) -> Path:
        names = sorted(name for _, _, files in os.walk(self.layout.wals) for name in files if len(name) == 24)
        after = [name for name in names if name > self.core[-1]]
        chosen = {
            "core": self.core[0],
            "first": after[0],
            "middle": after[len(after) // 2],
            "filled": after[-4],  # by a record that begins and ends in others
            "last": after[-1],
        }
        return Path(self.layout.wal(chosen[position]))

    def plain(self, path: Path) -> bytes:
        return codec.read_segment(str(path))

    def write(self, path: Path, data: bytes) -> None:
        path.write_bytes(codec.compress(data, self.compression))

    def heal(self) -> None:
        """Have the archive as it was, and nothing derived from it."""
        for directory in (self.layout.wals, self.layout.own, self.layout.incoming, self.layout.errors):
            shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(self.archive, self.layout.wals)
        os.makedirs(self.layout.incoming)
        os.makedirs(self.layout.errors)

    def recovered(self) -> tuple[str, int]:
        """Start a copy of the restored directory; return how that ended, and the rows."""
        place = Path(tempfile.mkdtemp(prefix="tried-", dir=self.scene.root))
        cluster = Cluster(self.scene.cluster.install, place, free_port())
        try:
            shutil.copytree(self.template, cluster.data, symlinks=True)
            cluster.data.chmod(0o700)
            cluster.configure(port=str(cluster.port), unix_socket_directories=str(place), hot_standby="off")
            program = str(cluster.install.bindir / "pg_ctl")
            command = [program, "-D", str(cluster.data), "-l", str(place / "log"), "-W", "start"]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            said = concluded(cluster)
            return said, cluster.value("SELECT count(*) FROM kept") if said == "promoted" else -1
        finally:
            cluster.stop("immediate")
            shutil.rmtree(place, ignore_errors=True)  # a prefetch helper may just be clearing up in it


@contextlib.contextmanager
def lived(postgres: Install, compression: str) -> Iterator[Life]:
    with scene(postgres, compression=compression) as stage:
        stage.insert()
        info = stage.backup()
        marks = []
        for number in range(5):
            if number == 4:
                stage.cluster.sql(f"SELECT pg_logical_emit_message(false, 'x', repeat('x', {3 * SEGMENT}))")
            marks.append(stage.insert(2000))
            stage.archive_all()
        order = stage.order()
        execute(order.to_arguments(), stage.server, Silent())
        template = stage.root / "template"
        os.rename(order.destination, template)
        archive = stage.root / "archive"
        shutil.copytree(stage.server.layout.wals, archive)
        first, last = (parse_segment(name, SEGMENT)[1] for name in (info.begin_wal or "", info.end_wal or ""))
        core = [segment_name(1, number, SEGMENT) for number in range(first, last + 1)]
        yield Life(stage, marks, core, template, archive, compression)


@pytest.fixture(scope="module")
def lives(postgres: Install) -> Iterator[Callable[[str], Life]]:
    """Return the life whose archive is compressed so, made when it is first asked for."""
    made: dict[str, Life] = {}
    with contextlib.ExitStack() as stack:

        def of(compression: str) -> Life:
            if compression not in made:
                made[compression] = stack.enter_context(lived(postgres, compression))
            return made[compression]

        yield of


@pytest.fixture
def life(lives: Callable[[str], Life], request: pytest.FixtureRequest) -> Life:
    return lives(request.param)


def deleted(life: Life, path: Path) -> None:
    path.unlink()


def truncated(life: Life, path: Path) -> None:
    life.write(path, life.plain(path)[: SEGMENT // 2])


def cut_as_stored(life: Life, path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(life: Life, path: Path) -> None:
    path.write_bytes(b"")


def zeroed(life: Life, path: Path) -> None:
    life.write(path, bytes(SEGMENT))


def zeroed_from_the_last_record_on(life: Life, path: Path) -> None:
    data = life.plain(path)
    life.write(path, data[: last_record(data)] + bytes(SEGMENT - last_record(data)))


def flipped_record(life: Life, path: Path) -> None:
    data = bytearray(life.plain(path))
    data[last_record(bytes(data)) + 8] ^= 1
    life.write(path, bytes(data))


def flipped_page_header(life: Life, path: Path) -> None:
    data = bytearray(life.plain(path))
    data[0] ^= 0xFF
    life.write(path, bytes(data))


def flipped_quietly(life: Life, path: Path) -> None:
    """As the medium does it: the times stay. The index knew it when it was good."""
    reachable_windows(life.scene.server)
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if life.compression != "none" else last_record(bytes(data)) + 8] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    audit(life.layout)


def swapped(life: Life, path: Path) -> None:
    other = path.with_name(f"{path.name[:16]}{int(path.name[16:], 16) - 1:08X}")
    data = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(data)


def alien(life: Life, path: Path) -> None:
    data = life.plain(path)
    life.write(path, data[:24] + b"\1" * 8 + data[32:])


def torn_off(life: Life, path: Path) -> None:
    """Its records are right, each by itself, and go on from another segment than the one before."""
    data = bytearray(life.plain(path))
    data[2] |= 1  # XLP_FIRST_IS_CONTRECORD
    data[16:20] = (int.from_bytes(data[16:20], "little") + 64).to_bytes(4, "little")
    life.write(path, bytes(data))


def unreadable(life: Life, path: Path) -> None:
    path.chmod(0)


def cut_in_incoming(life: Life, path: Path) -> None:
    Path(life.layout.incoming, path.name).write_bytes(life.plain(path)[: SEGMENT // 2])
    path.unlink()


def under_another_name(life: Life, path: Path) -> None:
    path.rename(f"{path}.gz")


KINDS: list[Damage] = [
    deleted, truncated, cut_as_stored, emptied, zeroed, zeroed_from_the_last_record_on, flipped_record,
    flipped_page_header, flipped_quietly, swapped, alien, torn_off, unreadable, cut_in_incoming,
    under_another_name,
]  # fmt: skip


COMPRESSIONS = ("none", "zstd")


def spread(*cases: tuple[object, ...], of: int) -> list[tuple[object, ...]]:
    """Return one of each `of` cases that follow each other, now this one and now that; all when EVERY_POSTGRES is
    set."""
    if os.environ.get("EVERY_POSTGRES"):
        return list(cases)
    groups = [cases[at : at + of] for at in range(0, len(cases), of)]
    return [group[at % len(group)] for at, group in enumerate(groups)]


def named(value: object) -> str:
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize("life", COMPRESSIONS, indirect=True)
def test_whole(life: Life) -> None:
    life.heal()
    assert life.scene.plan().reachable
    assert findings.report(life.scene.server, ask_server=False).status == "ok"
    assert life.recovered() == ("promoted", life.marks[-1].rows)


@pytest.mark.parametrize(
    ("life", "damage", "position"),
    spread(*((c, d, p) for c in COMPRESSIONS for d in KINDS for p in ("core", "first", "middle")), of=3),
    indirect=["life"],
    ids=named,
)
def test_damage_is_said_beforehand_and_never_promoted_across(life: Life, damage: Damage, position: str) -> None:
    life.heal()
    try:
        damage(life, life.path(position))
        plan = life.scene.plan()
        assert not plan.reachable, plan.warnings
        assert findings.report(life.scene.server, ask_server=False).status == "critical"
        found, without = reachable_windows(life.scene.server)
        assert {window.bounded_by for window in found} <= {"gap", "invalid_segment"}
        assert bool(without) == (position == "core" or (damage is swapped and position == "first"))
        with pytest.raises(Refused):
            execute(life.scene.order().to_arguments(), life.scene.server, Silent())
        said, _ = life.recovered()
        assert "could not restore file" in said or "could not locate" in said, said
    finally:
        life.heal()


@pytest.mark.parametrize(
    ("life", "damage"),
    spread(*((c, d) for d in KINDS for c in COMPRESSIONS), of=2),
    indirect=["life"],
    ids=named,
)
def test_damage_at_the_end(life: Life, damage: Damage) -> None:
    """Nothing follows: what is gone is an honest end, as is valid WAL that ends early; everything else is refused."""
    life.heal()
    try:
        damage(life, life.path("last"))
        plan = life.scene.plan()
        said, rows = life.recovered()
        assert plan.reachable == (said == "promoted"), (plan.refusals, said)
        if plan.reachable:
            assert plan.kept is not None
            assert rows == max(mark.rows for mark in life.marks if mark.xid <= plan.kept.xid)
    finally:
        life.heal()


@pytest.mark.parametrize("life", [COMPRESSIONS[-1]], indirect=True)
def test_the_last_segment_cut_short_after_it_was_indexed(life: Life) -> None:
    """As it is now it ends the window, which is where recovery ends."""
    life.heal()
    path = life.path("last")
    os.utime(path.parent, (1, 1))  # nothing new has been in it for long
    try:
        before, _ = reachable_windows(life.scene.server)
        cut = Lsn.parse(life.marks[-1].lsn) % SEGMENT // 8192 * 8192
        life.write(path, life.plain(path)[:cut] + bytes(SEGMENT - cut))
        [found], _ = reachable_windows(life.scene.server)
        kept = life.scene.plan().kept
        assert kept is not None and kept.at == found.to_time < before[0].to_time
        assert found.to_lsn < before[0].to_lsn
    finally:
        life.heal()


@pytest.mark.parametrize("life", [COMPRESSIONS[-1]], indirect=True)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_segment_of_another_history_that_only_the_next_one_speaks_against(life: Life, read_only: bool) -> None:
    """Nothing is wrong with it by itself: that the next one follows another record has to be seen beforehand."""
    life.heal()
    try:
        reachable_windows(life.scene.server)
        number = segment_of(Lsn.parse(life.marks[0].lsn), SEGMENT)
        path = Path(life.layout.wal(segment_name(1, number, SEGMENT)))
        following = segment_name(1, number + 1, SEGMENT)
        life.write(path, ended_sooner(life.plain(path)))
        now = datetime.now(timezone.utc)
        plan = make_plan(life.scene.server, life.scene.order(), now=now, read_only=read_only)
        assert plan.refused and following in plan.refused.why, plan.warnings
        assert findings.report(life.scene.server, ask_server=False).status == "critical"
        inside = LsnTarget(Lsn(number * SEGMENT + 8192))
        near = make_plan(life.scene.server, life.scene.order(inside), now=now, read_only=read_only)
        assert near.reachable and any(f"{following} does not go on from" in warning for warning in near.warnings)
        assert read_only or "could not restore file" in life.recovered()[0]
    finally:
        life.heal()


@pytest.mark.parametrize(
    ("life", "seed"),
    spread(*((c, seed) for seed in range(6) for c in COMPRESSIONS), of=2),
    indirect=["life"],
)
def test_a_byte_flipped_anywhere(life: Life, seed: int) -> None:
    """The plan says what PostgreSQL then does: all rows, or nothing at all. Behind a switch it reads nothing."""
    life.heal()
    choice = random.Random(seed)
    path = life.path(choice.choice(["core", "first", "middle", "filled"]))
    data = bytearray(life.plain(path))
    at = choice.choice([choice.randrange(SEGMENT), choice.randrange(2000)])
    data[at] ^= 1 << choice.randrange(8)
    try:
        life.write(path, bytes(data))
        plan = life.scene.plan()
        said, rows = life.recovered()
        assert plan.reachable == (said == "promoted"), (path.name, at, plan.refusals, said)
        assert said != "promoted" or rows == life.marks[-1].rows
    finally:
        life.heal()


@pytest.mark.parametrize("read_only", [False, True])
def test_what_comes_before_the_segment_that_a_backup_begins_in_is_nothing_to_it(
    postgres: Install, read_only: bool
) -> None:
    """PostgreSQL never reads it; and that the backup begins there tells which of the two is of another history."""
    with scene(postgres) as stage:
        stage.insert()
        older = stage.backup()
        stage.insert()
        stage.archive_all()
        stage.insert()
        stage.archive_all()
        newer = stage.backup()
        number = parse_segment(newer.begin_wal or "", SEGMENT)[1]
        twin = segment_name(1, number - 1, SEGMENT)
        path = Path(stage.server.layout.wal(twin))
        path.write_bytes(ended_sooner(codec.read_segment(str(path))))
        shutil.rmtree(stage.server.layout.own)
        if not read_only:
            audit(stage.server.layout)
        now = datetime.now(timezone.utc)
        before = make_plan(stage.server, stage.order(backup=older.id), now=now, read_only=read_only)
        assert before.refused and f"{newer.begin_wal}, in which backup {newer.id} begins" in before.refused.why
        plan = make_plan(stage.server, stage.order(backup=newer.id), now=now, read_only=read_only)
        assert plan.reachable, plan.refused
        found, _ = reachable_windows(stage.server, read_only=read_only)
        assert {(w.backup, w.bounded_by) for w in found} == {
            (older.id, "invalid_segment"),
            (newer.id, "end_of_archive"),
        }
        said = findings.report(stage.server, ask_server=False, read_only=read_only)
        assert [(f.kind, f.first) for f in said.findings if f.severity != "note"] == [("corrupt", twin)]
        with stage.restored(backup=newer.id) as (_, conninfo):
            assert value(conninfo, "SELECT count(*) FROM kept") == stage.marks[-1].rows


def test_a_twin_that_was_indexed_before_its_follower_came(postgres: Install) -> None:
    """What comes is held against what was indexed in an earlier pass, also where no record goes on across the two."""
    with scene(postgres) as stage:
        stage.insert()
        stage.backup()
        number = segment_of(Lsn.parse(stage.insert().lsn), SEGMENT)
        stage.archive_all()
        path = Path(stage.server.layout.wal(segment_name(1, number, SEGMENT)))
        path.write_bytes(ended_sooner(codec.read_segment(str(path))))
        assert reachable_windows(stage.server)[0][0].bounded_by == "end_of_archive"
        stage.insert()
        stage.archive_all()
        following = segment_name(1, number + 1, SEGMENT)
        plan = stage.plan()
        assert plan.refused and following in plan.refused.why, plan.warnings
        assert get(stage.server.layout, following, str(stage.root / "delivered")) == REFUSED


def segments_of(stage: Scene) -> set[str]:
    return {path.name for path in Path(stage.server.layout.wals).rglob("00000001????????????????")}


def test_wal_of_another_history_than_the_backup_that_it_seems_to_be_of(postgres: Install) -> None:
    """Two lives of one cluster wrote the same segments: PostgreSQL finds no end of the backup in those of the other."""
    with scene(postgres) as stage:
        stage.insert()
        stage.backup()
        stage.insert()
        stage.archive_all()
        place, aside = stage.cluster.data, stage.root / "aside"
        stage.cluster.stop()
        shutil.copytree(place, aside, symlinks=True)
        shared = segments_of(stage)
        stage.cluster.start()
        info = stage.backup()
        stage.insert()
        stage.archive_all()
        order = stage.order()
        execute(order.to_arguments(), stage.server, Silent())
        stage.cluster.stop()
        core = [name for name in segments_of(stage) if (info.begin_wal or "") <= name <= (info.end_wal or "")]
        shutil.rmtree(place)
        aside.rename(place)
        place.chmod(0o700)
        for name in segments_of(stage) - shared:
            os.unlink(stage.server.layout.wal(name))
        stage.cluster.start()
        while any(not os.path.exists(stage.server.layout.wal(name)) for name in core):
            stage.insert(3000)
            stage.archive_all()
        plan = stage.plan(backup=info.id)
        assert plan.refused and f"says that backup {info.id} ended" in plan.refused.why, plan
        assert info.id not in [window.backup for window in reachable_windows(stage.server)[0]]
        said = findings.report(stage.server, ask_server=False)
        assert [f.state for f in said.findings if f.kind == "unusable"] == ["other_history"]
        restored = Cluster(postgres, stage.root / "other", free_port())
        restored.root.mkdir()
        restored.data.symlink_to(order.destination)
        restored.configure(port=str(restored.port), unix_socket_directories=str(restored.root))
        try:
            postgres.run("pg_ctl", "-D", str(restored.data), "-l", str(restored.root / "log"), "-W", "start")
            assert "could not locate" in concluded(restored) or "ends before end of" in concluded(restored)
        finally:
            restored.stop("immediate")
