"""The rows by which a restored cluster is judged: what was committed when."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from tests.support.cluster import Cluster, Install, free_port


def table(cluster: Cluster) -> None:
    """Make the table and a tablespace with a table of its own."""
    place = cluster.root / "space"
    place.mkdir()
    cluster.sql(f"CREATE TABLESPACE space LOCATION '{place}'")
    cluster.sql("CREATE TABLE kept (n integer PRIMARY KEY, filler text)")
    cluster.sql("CREATE TABLE apart (n integer PRIMARY KEY) TABLESPACE space")


def add(cluster: Cluster, first: int, last: int) -> datetime:
    """Commit rows `first` to `last`; return a moment after that commit and before any later one."""
    cluster.sql(f"INSERT INTO kept SELECT n, md5(n::text) FROM generate_series({first}, {last}) n")
    cluster.sql(f"INSERT INTO apart SELECT n FROM generate_series({first}, {last}) n")
    moment = cluster.value("SELECT clock_timestamp()")
    cluster.sql("SELECT pg_sleep(0.01)")
    return moment.astimezone(timezone.utc)


def opened(install: Install, data: Path) -> Cluster:
    """Start a restored data directory on a port of its own and return it when it takes connections for writing.

    The caller stops it.
    """
    restored = Cluster(install, data.parent, free_port())
    install.run(
        "pg_ctl", "-D", str(data), "-l", str(data.parent / "restored.log"), "-w", "-t", "60",
        "-o", f"-p {restored.port} -c unix_socket_directories={data.parent} -c logging_collector=off", "start",
    )  # fmt: skip
    return restored


def close(install: Install, data: Path) -> None:
    install.run("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")


def last(cluster: Cluster) -> tuple[int, int]:
    """Return the highest row of each table; fail when rows before it are missing."""
    counts = cluster.sql("SELECT count(*), max(n) FROM kept UNION ALL SELECT count(*), max(n) FROM apart")
    assert all(count == highest for count, highest in counts), counts
    return counts[0][1], counts[1][1]
