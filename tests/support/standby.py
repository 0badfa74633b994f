"""A standby of a test's server, and a primary that ends its WAL segments as a busy one does."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.support.cluster import Cluster, free_port
from tests.support.waiting import until


@contextlib.contextmanager
def standby_of(primary: Cluster, place: Path) -> Iterator[Cluster]:
    """Run a standby in `place` that has replayed a little more than it was made with."""
    place.mkdir()
    primary.install.run("pg_basebackup", "-d", primary.conninfo, "-D", str(place / "data"), "-R", "-c", "fast")
    standby = Cluster(primary.install, place, free_port())
    standby.configure(port=str(standby.port), unix_socket_directories=str(place))
    standby.start()
    try:
        primary.sql("SELECT pg_switch_wal()")
        primary.sql("CREATE TABLE filler AS SELECT n FROM generate_series(1, 20000) n")
        reached = f"SELECT pg_last_wal_replay_lsn() >= '{primary.value('SELECT pg_current_wal_lsn()')}'::pg_lsn"
        until(lambda: standby.value(reached), what="the standby has replayed it")
        yield standby
    finally:
        standby.stop("immediate")


@contextlib.contextmanager
def switching(primary: Cluster) -> Iterator[None]:
    """Have the primary write WAL and end segments, as a busy one does."""
    done = threading.Event()

    def work() -> None:
        while not done.wait(0.3):
            primary.sql("SELECT pg_create_restore_point('busy'), pg_switch_wal()")
            primary.sql("CHECKPOINT")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
