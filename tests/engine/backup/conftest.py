"""Clusters that several modules back up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster, Install, running


@pytest.fixture(scope="module")
def cluster(postgres: Install) -> Iterator[Cluster]:
    """The newest PostgreSQL, with a table of some megabytes."""
    with running(postgres) as server:
        server.sql("CREATE TABLE filler AS SELECT g, repeat(md5(g::text), 8) AS t FROM generate_series(1, 40000) g")
        yield server
