"""A cluster that the jobs' tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster, Install, running
from tests.support.site import Site, site


@pytest.fixture(scope="module")
def cluster(postgres: Install) -> Iterator[Cluster]:
    with running(postgres) as server:
        yield server


@pytest.fixture
def slow(cluster: Cluster) -> Iterator[Site]:
    """A site whose backups take many seconds, so that they can be watched and hit."""
    with site(cluster, bandwidth_limit=2048) as where:
        yield where
