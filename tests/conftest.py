"""Fixtures that every test may use: PostgreSQL tool sets by version."""

from __future__ import annotations

import hypothesis
import pytest

from tests.support import cluster

INSTALLS = cluster.installs()

hypothesis.settings.register_profile("cellarman", database=None, deadline=None)
hypothesis.settings.load_profile("cellarman")


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
