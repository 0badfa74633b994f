"""Verdicts held against what PostgreSQL does: the same damaged archive is judged, and then recovered from."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine.postgres.backuplabel import BackupLabel, parse_label
from engine.postgres.segment import segment_name, segment_of
from engine.repository import repository
from engine.repository.backupinfo import BackupInfo
from engine.wal.judgement.coverage import lines
from engine.wal.judgement.values import Finding
from tests.conftest import INSTALLS
from tests.engine.wal.judgement.archive_of import HOUR, NOW, SIZE, Repo, alarms
from tests.support.cluster import Cluster, Install, free_port, running
from tests.support.waiting import until

ROWS = 6
_LIMIT = 60.0


@dataclass
class Story:
    """One server's life: a backup, a row a segment, and a second life on timeline 2 from after row 3."""

    install: Install
    root: Path
    label: BackupLabel = field(init=False)
    system: int = 0
    rows: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Row to the (timeline, segment) that holds its commit; the second life's rows are from 101 on."""

    @property
    def archive(self) -> Path:
        return self.root / "archive"

    def write(self, cluster: Cluster, first: int, count: int) -> None:
        for row in range(first, first + count):
            cluster.sql(f"INSERT INTO told VALUES ({row})")
            name = cluster.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
            self.rows[row] = (int(name[:8], 16), int(name[16:], 16))
            cluster.sql(f"SELECT pg_create_restore_point('after {row}')")
            if row != 3:
                cluster.sql("SELECT pg_switch_wal()")

    def recover(self, place: Path, archive: Path, **settings: str) -> Cluster:
        """Start a copy of the backup that recovers from an archive; the caller stops it."""
        place.mkdir()
        cluster = Cluster(self.install, place, free_port())
        shutil.copytree(self.root / "base", cluster.data)
        (cluster.data / "recovery.signal").touch()
        cluster.configure(
            port=str(cluster.port),
            unix_socket_directories=str(place),
            restore_command=f'cp "{archive}/%f" "%p"',
            hot_standby="off",
            **{"archive_mode": "off", **settings},
        )
        subprocess.run(
            [str(self.install.bindir / "pg_ctl"), "-D", str(cluster.data), "-l", str(place / "log"), "-W", "start"],
            check=True,
            capture_output=True,
            timeout=60,
        )
        return cluster

    def outcome(self, place: Path, archive: Path, **settings: str) -> tuple[str, set[int]]:
        """Return ("promoted", rows) or the words of PostgreSQL's refusal, after recovering from an archive."""
        cluster = self.recover(place, archive, **settings)
        try:
            said = concluded(cluster)
            rows = {row for (row,) in cluster.sql("SELECT id FROM told")} if said == "promoted" else set()
        finally:
            cluster.stop("immediate")
            shutil.rmtree(cluster.data)
        return said, rows


def concluded(cluster: Cluster) -> str:
    """Wait for the end of a recovery; return "promoted" or what PostgreSQL died of."""

    def end() -> str:
        text = cluster.log if (cluster.root / "log").exists() else ""
        fatal = re.search(r"FATAL:  (?!the database system is)(.*)", text)
        if fatal:
            return fatal[1]
        return "promoted" if "database system is ready to accept connections" in text else ""

    return str(until(end, "the end of recovery", _LIMIT, seen=lambda: cluster.log))


@pytest.fixture(scope="module", params=sorted({max(INSTALLS), 15} & set(INSTALLS)), ids=lambda major: f"pg{major}")
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    told = Story(INSTALLS[request.param], tmp_path_factory.mktemp("story"))
    told.archive.mkdir()
    command = f'test ! -f "{told.archive}/%f" && cp "%p" "{told.archive}/%f"'
    settings = {"archive_mode": "on", "archive_command": command}
    with running(told.install, extra=["--wal-segsize=1"], **settings) as cluster:
        told.system = int(cluster.system_id)
        cluster.sql("CREATE TABLE told (id int)")
        cluster.install.run(
            "pg_basebackup", "-D", str(told.root / "base"), "-X", "none", "-c", "fast", "-d", cluster.conninfo
        )
        told.write(cluster, 1, ROWS)
        cluster.stop()
    second = told.recover(
        told.root / "second",
        told.archive,
        recovery_target_name="after 3",
        recovery_target_action="promote",
        archive_mode="on",
        archive_command=command,
    )
    try:
        assert concluded(second) == "promoted"
        told.write(second, 101, 4)
        second.stop()
    finally:
        second.stop("immediate")
    [history] = told.archive.glob("00000001*.backup")
    told.label = parse_label(history.read_text())
    yield told


@dataclass
class Archive:
    """A copy of the story's archive to be damaged, and the repository that judges it."""

    story: Story
    repo: Repo
    plain: Path

    def segment(self, timeline: int, number: int) -> Path:
        return self.plain / segment_name(timeline, number, SIZE)

    def of_row(self, row: int) -> Path:
        return self.segment(*self.story.rows[row])

    def judged(self) -> list[Finding]:
        """Take the archive as it is now into the repository, and judge it."""
        wals = Path(self.repo.layout.wals)
        shutil.rmtree(wals)
        wals.mkdir()
        for file in self.plain.iterdir():
            place = wals / (file.name[:16] if len(file.name) >= 24 else "")
            place.mkdir(exist_ok=True)
            shutil.copy2(file, place)
        return self.repo.findings()

    def predicted(self, choice: str = "latest") -> set[int]:
        """Return the rows that recovery will bring back, as far as the verdict says."""
        from engine.event import Silent
        from engine.wal.findings import gather

        made = gather(self.repo.server, now=NOW, ask_server=False, read_only=False, selected=(), told=Silent())
        case = made.cases[0]
        [base] = case.bases
        found = {line.timeline: line for line in lines(case) if base in line.bases}
        line = found[max(found) if choice == "latest" else 1]
        last = line.reaches(segment_of(base.start, SIZE)) or 0
        return {row for row, (t, n) in self.story.rows.items() if n <= last and line.canonical(n) == t} | {
            row for row, (t, n) in self.story.rows.items() if t == 1 and row <= 3 and n <= last
        }


@pytest.fixture
def archive(story: Story, tmp_path: Path) -> Archive:
    plain = tmp_path / "archive"
    plain.mkdir()
    for file in story.archive.iterdir():
        if file.name.startswith("00000001") and len(file.name) == 24:
            shutil.copy2(file, plain)
    repo = Repo(tmp_path)
    known = {"systemid": str(story.system), "version": str(story.install.major)}
    Path(repo.layout.identity).write_text(json.dumps(known))
    ended = NOW - 5 * HOUR
    info = BackupInfo(
        "20261101T000000",
        server_name="main",
        status="DONE",
        begin_time=ended,
        end_time=ended,
        version=150000,
        systemid=story.system,
        xlog_segment_size=SIZE,
    )
    assert story.label.stop_lsn is not None
    repository.save(repo.layout, info.began(story.label.start_lsn, 1).ended(story.label.stop_lsn, 1))
    Path(repo.layout.data(info.id)).mkdir(parents=True)
    return Archive(story, repo, plain)


def two_lives(archive: Archive) -> Archive:
    """Add the second life's WAL, and take the first one's after the fork away."""
    for file in archive.story.archive.iterdir():
        if file.name.startswith("00000002"):
            shutil.copy2(file, archive.plain)
    for row in range(4, ROWS + 1):
        archive.of_row(row).unlink(missing_ok=True)
    switch = archive.story.rows[3][1]
    for file in archive.plain.glob("00000001*"):
        if int(file.name[16:24], 16) >= switch:
            file.unlink()
    return archive


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    end = data.rindex(next(byte for byte in reversed(data) if byte).to_bytes(1, "little"))
    data[end] ^= 1
    path.write_bytes(data)


def test_v1_whole(archive: Archive, tmp_path: Path) -> None:
    assert alarms(archive.judged()) == []
    assert archive.story.outcome(tmp_path / "pg", archive.plain) == ("promoted", set(range(1, ROWS + 1)))
    assert archive.predicted() == set(range(1, ROWS + 1))


Damage = Callable[[Archive], None]
_SILENT: dict[str, tuple[str, Damage]] = {
    "V3 missing": ("hole", lambda a: a.of_row(5).unlink()),
    "V9 zeros": ("invalid", lambda a: _write(a.of_row(5), bytes(SIZE))),
    "V11 neighbour": ("misplaced", lambda a: _write(a.of_row(5), a.of_row(4).read_bytes())),
    "V13 partial": ("hole", lambda a: _rename(a.of_row(5))),
}


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _rename(path: Path) -> None:
    path.rename(f"{path}.partial")


@pytest.mark.parametrize("what", _SILENT)
def test_postgresql_promotes_at_damage_that_is_critical_here(archive: Archive, tmp_path: Path, what: str) -> None:
    kind, damage = _SILENT[what]
    damage(archive)
    [alarm] = alarms(archive.judged())
    assert alarm[:2] == (kind, "critical")
    outcome = archive.story.outcome(tmp_path / "pg", archive.plain)
    assert outcome == ("promoted", archive.predicted()) and outcome[1] == {1, 2, 3, 4}


def test_v10_a_flipped_byte(archive: Archive, tmp_path: Path) -> None:
    assert alarms(archive.judged()) == []
    flip(archive.of_row(5))
    [alarm] = alarms(archive.judged())
    assert alarm[:2] == ("corrupt", "critical")
    said, rows = archive.story.outcome(tmp_path / "pg", archive.plain)
    assert said == "promoted" and {1, 2, 3, 4} <= rows < set(range(1, ROWS + 1))


def test_v3_with_a_target_behind_the_hole(archive: Archive, tmp_path: Path) -> None:
    archive.of_row(5).unlink()
    assert archive.judged()[0].severity == "critical"
    said, _ = archive.story.outcome(tmp_path / "pg", archive.plain, recovery_target_name="after 6")
    assert said == "recovery ended before configured recovery target was reached"


def test_v8_a_truncated_segment(archive: Archive, tmp_path: Path) -> None:
    path = archive.of_row(5)
    path.write_bytes(path.read_bytes()[: SIZE // 2])
    [alarm] = alarms(archive.judged())
    assert alarm[:2] == ("invalid", "critical")
    said, _ = archive.story.outcome(tmp_path / "pg", archive.plain)
    assert said == f'archive file "{path.name}" has wrong size: {SIZE // 2} instead of {SIZE}'


def test_v6_v7_the_backups_own_wal(archive: Archive, tmp_path: Path) -> None:
    label = archive.story.label
    assert label.stop_lsn is not None
    first, last = segment_of(label.start_lsn, SIZE), segment_of(label.stop_lsn - 1, SIZE)
    kept = archive.segment(1, first).read_bytes()
    archive.segment(1, first).unlink()
    found = archive.judged()
    assert alarms(found)[0][:3] == ("unusable", "critical", "missing_start")
    said, _ = archive.story.outcome(tmp_path / "pg", archive.plain)
    assert said.startswith("could not locate required checkpoint record")
    if last > first:
        archive.segment(1, first).write_bytes(kept)
        archive.segment(1, last).unlink()
        assert alarms(archive.judged())[0][:3] == ("unusable", "critical", "missing_stop")
        said, _ = archive.story.outcome(tmp_path / "pg2", archive.plain)
        assert said == "WAL ends before end of online backup"


def test_v14_the_second_life_goes_on_without_the_parents_copy(archive: Archive, tmp_path: Path) -> None:
    two_lives(archive)
    assert alarms(archive.judged()) == []
    outcome = archive.story.outcome(tmp_path / "pg", archive.plain)
    assert outcome == ("promoted", archive.predicted()) and outcome[1] == {1, 2, 3, 101, 102, 103, 104}


def test_v16_the_dead_branch_is_replayed(archive: Archive, tmp_path: Path) -> None:
    two_lives(archive)
    switch = archive.story.rows[3][1]
    for row in range(3, ROWS + 1):
        shutil.copy2(archive.story.archive / archive.of_row(row).name, archive.plain)
    archive.segment(2, switch).unlink()
    assert ("branch_hazard", "critical") in {alarm[:2] for alarm in alarms(archive.judged())}
    said, rows = archive.story.outcome(tmp_path / "pg", archive.plain)
    assert said == "promoted" and rows == {1, 2, 3, 4}, "row 4 is of the dead branch"


def test_v17_neither_copy_of_the_switch_segment(archive: Archive, tmp_path: Path) -> None:
    two_lives(archive)
    archive.segment(2, archive.story.rows[3][1]).unlink()
    assert alarms(archive.judged())[0][:2] == ("hole", "critical")
    said, rows = archive.story.outcome(tmp_path / "pg", archive.plain)
    assert said == "promoted" and rows == {1, 2}


def test_v18_the_old_primary_ran_on(archive: Archive, tmp_path: Path) -> None:
    two_lives(archive)
    for row in range(3, ROWS + 1):
        shutil.copy2(archive.story.archive / archive.of_row(row).name, archive.plain)
    found = archive.judged()
    assert alarms(found) == [] and "dead_tail" in {finding.kind for finding in found}
    latest = archive.story.outcome(tmp_path / "latest", archive.plain)
    assert latest == ("promoted", archive.predicted()) and 104 in latest[1]
    current = archive.story.outcome(tmp_path / "current", archive.plain, recovery_target_timeline="current")
    assert current == ("promoted", set(range(1, ROWS + 1)))


def test_v20_v40_histories_that_are_not_there(archive: Archive, tmp_path: Path) -> None:
    two_lives(archive)
    history = archive.plain / "00000002.history"
    (archive.plain / "00000003.history").write_text(f"{history.read_text()}2\t7F/0\tpromoted again\n")
    history.unlink()
    kinds = {alarm[:2] for alarm in alarms(archive.judged())}
    assert ("history_hole", "critical") in kinds
    said, rows = archive.story.outcome(tmp_path / "pg", archive.plain)
    assert said == "promoted" and rows == {1, 2}, "latest is 1"
    said, _ = archive.story.outcome(tmp_path / "seven", archive.plain, recovery_target_timeline="7")
    assert said == "recovery target timeline 7 does not exist"
