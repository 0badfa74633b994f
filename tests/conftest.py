"""Fixtures that every test may use: PostgreSQL tool sets by version."""

from __future__ import annotations

import os
import re
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support import cluster

INSTALLS = cluster.installs()

hypothesis.settings.register_profile("cellarman", database=None, deadline=None)
hypothesis.settings.load_profile("cellarman")


_VERSION = re.compile(r"\bpg(\d+)\b-?")


_LONG = ("tests/interop/", "tests/faults/")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run each test that takes every PostgreSQL with one of them, now this and now that one, to keep within the time;
    EVERY_POSTGRES=1 (`make test-every`) runs it with all. Files of long tests come first, so that none is left over
    when all else is done."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))
    if os.environ.get("EVERY_POSTGRES"):
        return
    versions: dict[str, list[str]] = {}
    for item in items:
        found = _VERSION.search(item.name)
        if found:
            versions.setdefault(_VERSION.sub("", item.nodeid), []).append(found[1])

    def chosen(item: pytest.Item) -> bool:
        found = _VERSION.search(item.name)
        test = _VERSION.sub("", item.nodeid)
        return found is None or found[1] == versions[test][zlib.crc32(test.encode()) % len(versions[test])]

    config.hook.pytest_deselected(items=[item for item in items if not chosen(item)])
    items[:] = [item for item in items if chosen(item)]


@pytest.fixture(scope="session", params=sorted(INSTALLS), ids=lambda major: f"pg{major}")
def each_postgres(request: pytest.FixtureRequest) -> cluster.Install:
    """Every PostgreSQL that this machine has, one after the other."""
    return INSTALLS[request.param]


@pytest.fixture(scope="session")
def postgres() -> cluster.Install:
    """The newest PostgreSQL that this machine has."""
    return INSTALLS[max(INSTALLS)]


@pytest.fixture(scope="session")
def debian_postgres() -> cluster.Install:
    """Debian's PostgreSQL, the one built with zstd, lz4 and TLS."""
    for install in INSTALLS.values():
        if str(install.bindir).startswith("/usr/lib/postgresql"):
            return install
    pytest.skip("no distribution PostgreSQL here")


@pytest.fixture
def another_file_system(tmp_path: Path) -> Iterator[Path]:
    """An empty directory on another file system than the test's own."""
    here = tmp_path.stat().st_dev
    places = [place for place in ("/dev/shm", "/tmp", "/var/tmp") if os.access(place, os.W_OK)]
    there = next((place for place in places if os.stat(place).st_dev != here), None)
    if there is None:
        pytest.skip("no second file system here")
    with tempfile.TemporaryDirectory(prefix="cm-elsewhere-", dir=there) as place:
        yield Path(place)
