"""Another host for the tests of this room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.sshd import Far, sshd


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    with sshd(tmp_path_factory.mktemp("far")) as host:
        yield host
