"""identity.json, and the keep and delete_this marks, in the places of all ages; what the WAL client must not load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.repository import annotations as marks
from engine.repository import identity
from tests.engine.repository.catalogues import BARMAN, ROOT, empty

ID = "20261122T094440"


def test_keep_is_written_as_barman_writes_it(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    assert marks.keep(layout, ID) is None
    marks.set_keep(layout, ID, "standalone")
    assert Path(layout.meta, f"{ID}-keep").read_bytes() == b"standalone"
    marks.set_keep(layout, ID, "full")
    assert marks.keep(layout, ID) == "full"
    assert marks.release(layout, ID) and not marks.release(layout, ID)
    assert marks.keep(layout, ID) is None


def test_marks_of_before_barman_3_13_3_count(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    place = Path(layout.base, ID, "annotations")
    place.mkdir(parents=True)
    (place / "keep").write_text("full")
    (place / "delete_this").write_text("delete")
    assert marks.keep(layout, ID) == "full" and marks.is_deleting(layout, ID)
    assert marks.release(layout, ID) and marks.unset_deleting(layout, ID)
    assert marks.keep(layout, ID) is None and not marks.is_deleting(layout, ID)


@pytest.mark.parametrize("content", ["", "nonsense", "full\n", "\udcff"])
def test_a_mark_that_says_nothing_protects(tmp_path: Path, content: str) -> None:
    layout = empty(tmp_path)
    Path(layout.annotation(ID, "keep")).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert marks.keep(layout, ID) == "full"


def test_the_mark_of_a_deletion_is_barmans(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    marks.set_deleting(layout, ID)
    assert Path(layout.meta, f"{ID}-delete_this").read_bytes() == b"delete"


def test_identity_is_barmans_byte_for_byte_and_written_once(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    assert identity.system_id(layout) is None
    assert identity.write(layout, 7710929279087522286, 15)
    assert Path(layout.identity).read_bytes() == (BARMAN / "pgs/identity.json").read_bytes()
    assert not identity.write(layout, 1, 18)
    assert identity.system_id(layout) == 7710929279087522286


@pytest.mark.parametrize("text", ["", "[]", '{"systemid": "x"}', "{", '{"systemid": []}'])
def test_an_identity_that_says_nothing_is_an_error_and_not_a_stranger(tmp_path: Path, text: str) -> None:
    layout = empty(tmp_path)
    Path(layout.identity).write_text(text)
    with pytest.raises(identity.IdentityError, match=r"identity\.json"):
        identity.system_id(layout)


def test_what_the_wal_client_needs_of_the_catalogue_is_light() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "from engine.repository import identity, layout, locks, xlogdb\n"
        "heavy = {'dataclasses', 'typing', 're', 'enum', 'pathlib', 'json', 'logging', 'subprocess', 'datetime',"
        " 'tempfile', 'shutil', 'contextlib'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    run = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
