"""Reading the archive whole: real WAL is good, and every kind of damage is found, said and treated as a hole."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from engine.postgres import walfile
from engine.postgres.lsn import Lsn
from engine.postgres.segment import segment_name
from engine.repository import repository
from engine.repository.backupinfo import BackupInfo
from engine.repository.layout import Layout
from engine.wal import archive, auditlog, codec, condemned, fetch, index
from engine.wal.audit import audit
from engine.wal.findings import report
from tests.engine.wal.audit.conftest import Repo
from tests.engine.wal.pages import filled
from tests.support.wal import ended_sooner

SIZE = 1 << 20


def bad(repo: Repo, **options: float) -> dict[str, str]:
    """Read on; return what is bad."""
    return {each.name: each.problem or "" for each in audit(repo.layout, **options).bad}


def written_quietly(path: Path, data: bytes) -> None:
    """Change a file in place as a failing disk does: its times stay as they were."""
    times = os.stat(path)
    with path.open("r+b") as file:
        file.truncate(len(data))
        file.write(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]


def restored(repo: Repo, name: str) -> int:
    """Return what restore_command would be told about a segment."""
    return fetch.get(repo.layout, name, str(repo.root / "restored"))


def middle(repo: Repo) -> list[str]:
    """Return segments of timeline 1 with neighbours on both sides, full of small records."""
    return repo.life.segments(1)[6:12]


def test_real_wal_is_good(repo: Repo) -> None:
    outcome = audit(repo.layout)
    assert [(each.name, each.problem) for each in outcome.bad] == [] and outcome.unknown == ()
    assert outcome.read == len(repo.life.segments()) == outcome.round.read
    assert outcome.round.left == 0 and outcome.round.ended
    assert condemned.names(repo.layout) == []


def test_compressed_real_wal_is_good(packed_repo: Repo) -> None:
    assert bad(packed_repo) == {}


def test_real_wal_was_held_against_what_comes_before(repo: Repo) -> None:
    audit(repo.layout)
    with auditlog.Log(repo.layout) as log:
        readings = [log.reading(name) for name in repo.life.segments()]
    alone = [reading.name for reading in readings if reading and reading.joined is None]
    assert alone == repo.life.segments()[:1]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "flipped record": (lambda data: flipped(data, 500_003), "corrupt"),
    "zeroed page": (lambda data: data[: 40 * 8192] + bytes(8192) + data[41 * 8192 :], "zeroed"),
    "zeroed begin": (lambda data: bytes(8192) + data[8192:], "zeroed"),
    "all zeros": (lambda data: bytes(len(data)), "zeroed"),
    "zeros to the end": (lambda data: data[: SIZE // 2] + bytes(SIZE // 2), "its valid data ends"),
    "cut short": (lambda data: data[:300_000], "wrong size"),
    "empty": (lambda data: b"", "truncated"),
    "too long": (lambda data: data + bytes(8192), "wrong size"),
    "pages swapped": (
        lambda data: data[: 8192 * 9] + data[8192 * 10 : 8192 * 11] + data[8192 * 9 : 8192 * 10] + data[8192 * 11 :],
        "corrupt",
    ),
    "alien": (lambda data: data[:24] + struct.pack("<Q", 4711) + data[32:], "alien"),
    "no WAL": (lambda data: b"ELF!" * (SIZE // 4), "invalid"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_in_place_is_found_and_is_a_hole(repo: Repo, damage: str) -> None:
    change, word = DAMAGES[damage]
    name = middle(repo)[2]
    index.catch_up(repo.layout)
    written_quietly(repo.path(name), change(repo.path(name).read_bytes()))

    found = bad(repo)
    assert list(found) == [name]
    assert found[name].startswith(word)
    number = int(name[16:], 16)
    assert index.problems(repo.layout) == {(1, number): found[name]}
    assert restored(repo, name) == fetch.REFUSED
    about = [finding for finding in report(repo.server, ask_server=False).findings if finding.first == name]
    assert about and about[0].kind in ("invalid", "corrupt", "alien", "misplaced")


@pytest.mark.parametrize("at", [17, 8192 * 3 + 25, SIZE - 9])
def test_a_flip_of_a_compressed_file_is_found(packed_repo: Repo, at: int) -> None:
    name = middle(packed_repo)[1]
    data = packed_repo.path(name).read_bytes()
    written_quietly(packed_repo.path(name), flipped(data, at % len(data)))
    assert list(bad(packed_repo)) == [name]
    assert restored(packed_repo, name) == fetch.REFUSED


def test_a_compressed_file_cut_short_is_found(packed_repo: Repo) -> None:
    name = middle(packed_repo)[1]
    written_quietly(packed_repo.path(name), packed_repo.path(name).read_bytes()[:-100])
    assert list(bad(packed_repo)) == [name]


def test_swapped_neighbours_are_both_misplaced(repo: Repo) -> None:
    first, second = middle(repo)[2:4]
    one, other = repo.path(first).read_bytes(), repo.path(second).read_bytes()
    written_quietly(repo.path(first), other)
    written_quietly(repo.path(second), one)
    found = bad(repo)
    assert list(found) == [first, second]
    assert all(problem.startswith("misplaced") for problem in found.values())


def test_a_segment_of_another_branch_under_the_same_name_is_found_by_its_neighbours(repo: Repo) -> None:
    """Both timelines have these segments; on the wrong one, with its headers made to fit, nothing but the records
    themselves tells, or those of the one behind it."""
    name = next(name for name in repo.life.segments(2)[1:] if "00000001" + name[8:] in repo.life.segments(1))
    data = bytearray(repo.path("00000001" + name[8:]).read_bytes())
    for page in range(0, SIZE, 8192):
        if any(data[page : page + 24]):
            data[page + 4] = 2
    written_quietly(repo.path(name), bytes(data))
    found = bad(repo)
    assert found and all("does not continue" in reason or "checksum" in reason for reason in found.values())
    assert set(found) <= {name, repo.life.segments(2)[repo.life.segments(2).index(name) + 1]}


def of_another_history(repo: Repo) -> tuple[str, str]:
    """Put in place of a segment what its server would have written had it switched one record earlier; return its name
    and the next one's, which does not continue it."""
    name = next(
        name
        for name in repo.life.segments(1)
        if walfile.walk(data := repo.path(name).read_bytes(), walfile.read_header(data)).switched
    )
    written_quietly(repo.path(name), ended_sooner(repo.path(name).read_bytes()))
    return name, segment_name(1, int(name[16:], 16) + 1, SIZE)


def backed_up(repo: Repo, begin: str) -> BackupInfo:
    """Add a backup that begins in a segment."""
    at = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
    info = BackupInfo(
        "20261101T120000", status="DONE", begin_time=at, end_time=at, systemid=repo.life.system, xlog_segment_size=SIZE
    )
    first = int(begin[16:], 16)
    info = info.began(Lsn(first * SIZE + 40), 1).ended(Lsn((first + 1) * SIZE), 1)
    repository.save(repo.layout, info)
    return info


def test_where_two_segments_are_of_different_histories_the_one_that_a_backup_begins_in_is_good(repo: Repo) -> None:
    name, following = of_another_history(repo)
    found = bad(repo)
    assert list(found) == [following] and f"does not continue {name}" in found[following], "which one, nothing tells"
    info = backed_up(repo, following)
    for _ in range(2):
        assert bad(repo) == {name: f"corrupt: {following}, in which backup {info.id} begins, does not continue it"}
        assert condemned.names(repo.layout) == [name]
    os.unlink(auditlog.path(repo.layout))
    assert list(bad(repo)) == [name]
    written_quietly(repo.path(following), flipped(repo.path(following).read_bytes(), 70))
    assert list(bad(repo)) == [following], "what is bad itself speaks against no other"


def test_a_change_that_no_record_tells_of_is_found_the_second_time(repo: Repo) -> None:
    name = next(
        name
        for name in repo.life.segments(1)
        if walfile.walk(data := repo.path(name).read_bytes(), walfile.read_header(data)).switched
    )
    assert bad(repo) == {}
    data = repo.path(name).read_bytes()
    page = SIZE - 8192  # its header carries nothing behind a switch
    written_quietly(repo.path(name), data[: page + 21] + b"\x01" + data[page + 22 :])
    found = bad(repo)
    assert list(found) == [name] and "its content is not what it was on 20" in found[name]
    assert list(bad(repo)) == [name]
    written_quietly(repo.path(name), data)
    assert bad(repo) == {}
    assert condemned.names(repo.layout) == []


def test_something_behind_a_switch_is_found_and_is_no_hole(repo: Repo) -> None:
    name = next(
        name
        for name in repo.life.segments(1)
        if walfile.walk(data := repo.path(name).read_bytes(), walfile.read_header(data)).switched
    )
    written_quietly(repo.path(name), flipped(repo.path(name).read_bytes(), SIZE - 100))
    assert bad(repo)[name].startswith("harmless: behind the switch")
    assert list(bad(repo)) == [name] and condemned.names(repo.layout) == []


def test_a_bad_last_segment_is_found_and_one_that_just_ends_early_is_not(repo: Repo) -> None:
    data = repo.path(repo.life.segments(2)[-3]).read_bytes()
    assert walfile.walk(data, walfile.read_header(data)).ended_by == "end"
    for name in repo.life.segments(2)[-2:]:
        repo.path(name).unlink()
    last = repo.life.segments(2)[-3]
    written_quietly(repo.path(last), data[: SIZE // 2] + bytes(SIZE // 2))
    assert bad(repo) == {}
    written_quietly(repo.path(last), data[: SIZE // 2] + bytes(8192) + data[SIZE // 2 + 8192 :])
    assert bad(repo)[last].startswith("zeroed")


def test_a_replaced_file_is_good_again_at_once(repo: Repo) -> None:
    name = middle(repo)[2]
    good = repo.path(name).read_bytes()
    written_quietly(repo.path(name), flipped(good, 500_003))
    assert list(bad(repo)) == [name]
    source = repo.root / name
    source.write_bytes(good)
    archive.store(repo.layout, str(source), name, compression="none")
    assert index.problems(repo.layout) == {}
    assert restored(repo, name) == fetch.DELIVERED
    assert any(kept.startswith(name) for kept in os.listdir(repo.layout.errors))
    assert bad(repo) == {}
    assert condemned.names(repo.layout) == []


def test_a_neighbour_is_judged_anew_when_what_comes_before_it_changes(repo: Repo) -> None:
    first, second = middle(repo)[2:4]
    shutil.move(repo.path(first), repo.root / "aside")
    assert bad(repo) == {}
    with auditlog.Log(repo.layout) as log:
        reading = log.reading(second)
        assert reading and reading.joined is None
    shutil.move(repo.root / "aside", repo.path(first))
    assert bad(repo) == {}
    with auditlog.Log(repo.layout) as log:
        reading = log.reading(second)
        assert reading and reading.joined is not None


def test_a_log_that_is_gone_or_garbage_costs_time_only(repo: Repo) -> None:
    name = middle(repo)[2]
    written_quietly(repo.path(name), flipped(repo.path(name).read_bytes(), 500_003))
    assert list(bad(repo)) == [name]
    log = Path(auditlog.path(repo.layout))
    for content in (None, b"garbage" * 1000, b""):
        if content is None:
            log.unlink()
        else:
            log.write_bytes(content)
        assert index.problems(repo.layout) != {}
        outcome = audit(repo.layout)
        assert outcome.read == len(repo.life.segments())
        assert [each.name for each in outcome.bad] == [name]
    shutil.rmtree(condemned.directory(repo.layout))
    index.rebuild(repo.layout)
    assert list(bad(repo)) == [name] and index.problems(repo.layout) != {}


def test_a_bad_segment_gives_way_to_what_the_server_pushes_again(repo: Repo) -> None:
    """With the same size and times as the archived file had, as a file of pg_wal has."""
    name = middle(repo)[2]
    written_quietly(repo.path(name), flipped(repo.path(name).read_bytes(), 500_003))
    source = repo.root / name
    shutil.copy2(repo.life.files / name, source)
    with pytest.raises(archive.Conflict):
        archive.store(repo.layout, str(source), name, compression="none")
    assert list(bad(repo)) == [name]
    archive.store(repo.layout, str(source), name, compression="none")
    assert index.problems(repo.layout) == {} and bad(repo) == {}


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_large_segment_is_read_in_less_memory_than_it_has(tmp_path: Path, compression: str) -> None:
    """In a process that may have less memory of its own than the segment has bytes."""
    size, most = 128 << 20, 112 << 20
    layout = Layout("main", str(tmp_path / "main"))
    repository.prepare(layout)
    noise = random.Random(1).randbytes(1 << 20)
    for number in (3, 4):
        content = filled(number, 1, size=size, noise=noise)
        path = Path(layout.wal(segment_name(1, number, size)))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(codec.compress(content if number == 3 else flipped(content, size - 9000), compression))
    program = (
        f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({most}, {most}))\n"
        "from engine.repository.layout import Layout; from engine.wal.audit import audit\n"
        f"found = audit(Layout('main', {layout.home!r}))\n"
        "print(found.read, found.unknown, [(each.name, each.problem[:8]) for each in found.bad])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert found.stdout == f"2 () [('{segment_name(1, 4, size)}', 'corrupt:')]\n", found.stderr
