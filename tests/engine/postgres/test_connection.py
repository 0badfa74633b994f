"""Connections to real servers: what they tell, and what is said when they refuse."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import psycopg2
import psycopg2.extras
import pytest

from engine.errors import CellarmanError, ConfigError, Refused
from engine.postgres import connection
from tests.support.cluster import Cluster, Install, free_port, running

SECRET = "Tr0ub4dor&3"


@pytest.fixture(scope="module")
def server(postgres: Install) -> Iterator[Cluster]:
    """A server that wants passwords of all but `postgres`; `plain` has no right, `streamer` may replicate."""
    with running(postgres, max_replication_slots="4") as cluster:
        cluster.sql(f"CREATE ROLE plain LOGIN PASSWORD '{SECRET}'")
        cluster.sql(f"CREATE ROLE streamer LOGIN REPLICATION PASSWORD '{SECRET}'")
        cluster.sql(f"CREATE ROLE outsider LOGIN REPLICATION PASSWORD '{SECRET}'")
        (cluster.data / "pg_hba.conf").write_text(
            "host all postgres 127.0.0.1/32 trust\n"
            "host replication postgres 127.0.0.1/32 trust\n"
            "host all all 127.0.0.1/32 scram-sha-256\n"
            "host replication plain,streamer 127.0.0.1/32 scram-sha-256\n"
        )
        cluster.sql("SELECT pg_reload_conf()")
        yield cluster


def conninfo(cluster: Cluster, user: str, password: str | None = SECRET) -> str:
    options = {"user": user} if password is None else {"user": user, "password": password}
    return connection.with_options(cluster.conninfo, **options)


def refused(call: object, *arguments: object, **options: object) -> CellarmanError:
    with pytest.raises(CellarmanError) as caught:
        call(*arguments, **options)  # type: ignore[operator]
    assert SECRET not in "\n".join(caught.value.lines("")) + str(caught.value) + repr(caught.value)
    assert caught.value.fix
    return caught.value


def opened(text: str, **options: int) -> None:
    with connection.connect(text, **options):
        pass


def test_a_servers_facts(each_postgres: Install) -> None:
    with running(each_postgres, archive_mode="on", archive_command="false", max_connections="37") as cluster:
        place = cluster.root / "space"
        place.mkdir()
        cluster.sql(f"CREATE TABLESPACE \"a [b] 'c'\" LOCATION '{place}'")
        with connection.connect(cluster.conninfo) as conn:
            facts = connection.server_facts(conn)
        assert facts.major == each_postgres.major
        assert facts.system_id == cluster.value("SELECT system_identifier FROM pg_control_system()")
        assert (facts.timeline, facts.in_recovery, facts.segment_size) == (1, False, 16 << 20)
        assert facts.wal_level == "replica"
        assert facts.data_directory == str(cluster.data)
        assert facts.hba_file == str(cluster.data / "pg_hba.conf")
        assert facts.data_checksums == (each_postgres.major >= 18)
        assert [(space.name, space.location) for space in facts.tablespaces] == [("a [b] 'c'", str(place))]
        assert facts.cluster_size and facts.cluster_size > 20_000_000
        assert (facts.archive_mode, facts.archive_command) == ("on", "false")
        assert (facts.max_wal_senders, facts.wal_senders_used, facts.replication_slots_used) == (10, 0, 0)
        assert facts.superuser and facts.replication and not facts.missing_privileges
        assert facts.restore_settings["max_connections"] == "37"
        assert set(facts.restore_settings) == {
            "max_connections",
            "max_locks_per_transaction",
            "max_prepared_transactions",
            "max_wal_senders",
            "max_worker_processes",
        }
        identity = connection.identify_system(cluster.conninfo)
        assert (identity.system_id, identity.timeline) == (facts.system_id, 1)
        assert facts.current_lsn is not None and identity.lsn >= facts.current_lsn


def test_a_standbys_facts(postgres: Install) -> None:
    with running(postgres, restore_command="false") as cluster:
        cluster.stop()
        (cluster.data / "standby.signal").touch()
        cluster.start()
        with connection.connect(cluster.conninfo) as conn:
            facts = connection.server_facts(conn)
        assert facts.in_recovery
        assert facts.timeline == 1
        assert facts.current_lsn is not None


def test_what_a_plain_role_lacks_is_told_as_statements_that_help(server: Cluster) -> None:
    with connection.connect(conninfo(server, "plain")) as conn:
        before = connection.server_facts(conn)
    assert not before.superuser and not before.replication
    assert before.data_directory is None and before.cluster_size is None
    assert len(before.missing_privileges) == 4 and len(before.missing_for_copy) == 2
    for statement in (*before.missing_privileges, *before.missing_for_copy):
        server.sql(statement)
    with connection.connect(conninfo(server, "plain")) as conn:
        after = connection.server_facts(conn)
        assert connection.create_restore_point(conn, "by plain") > 0
        assert connection.switch_wal(conn) > 0
    assert after.missing_privileges == after.missing_for_copy == ()
    assert after.data_directory == str(server.data)
    assert after.cluster_size
    for statement in (*before.missing_privileges, *before.missing_for_copy):
        server.sql(statement.replace("GRANT", "REVOKE", 1).replace(" TO ", " FROM "))


def test_a_wrong_password_and_none(server: Cluster) -> None:
    error = refused(opened, conninfo(server, "plain", SECRET[:-1]))
    assert 'password authentication failed for user "plain"' in error.why
    assert ".pgpass" in error.fix
    assert f"port={server.port}" in error.what
    error = refused(opened, conninfo(server, "plain", None))
    assert "no password supplied" in error.why


def test_a_server_that_is_down_and_a_name_that_is_none() -> None:
    error = refused(opened, f"host=127.0.0.1 port={free_port()} user=x password={SECRET}")
    assert "Connection refused" in error.why
    assert "start the server" in error.fix
    assert error.exit_code == 4
    error = refused(opened, "host=/nonexistent user=x")
    assert "No such file" in error.why


def test_a_silent_server_is_given_up(server: Cluster) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begun = time.monotonic()
        error = refused(opened, f"host=127.0.0.1 port={silent.getsockname()[1]} user=x", timeout=2)
        assert time.monotonic() - begun < 20
    assert "timeout expired" in error.why


def test_no_role_and_no_database(server: Cluster) -> None:
    error = refused(opened, connection.with_options(server.conninfo, dbname="nowhere"))
    assert 'database "nowhere" does not exist' in error.why
    assert "dbname=" in error.fix


def test_a_database_without_an_encoding_may_hold_any_bytes(server: Cluster) -> None:
    server.sql("CREATE DATABASE bare ENCODING 'SQL_ASCII' TEMPLATE template0")
    with connection.connect(connection.with_options(server.conninfo, dbname="bare")) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT 'tablé', E'tabl\\xe9', %s", ("tabl\udce9",))
        assert cursor.fetchone() == ("tablé", "tabl\udce9", "tabl\udce9")


def test_no_right_to_replicate(server: Cluster) -> None:
    error = refused(connection.identify_system, conninfo(server, "plain"))
    assert error.fix.startswith('ALTER ROLE "plain" REPLICATION;')
    error = refused(connection.identify_system, conninfo(server, "outsider"))
    assert "no pg_hba.conf entry for replication connection" in error.why
    where, line, reload = error.fix.splitlines()
    assert "pg_hba.conf" in where and line == "host replication outsider 127.0.0.1/32 scram-sha-256"
    hba = server.data / "pg_hba.conf"
    before = hba.read_text()
    try:
        hba.write_text(f"{line}\n{before}")
        server.sql(reload)
        assert connection.identify_system(conninfo(server, "outsider")).timeline == 1
    finally:
        hba.write_text(before)
        server.sql(reload)
    assert connection.identify_system(conninfo(server, "streamer")).timeline == 1


def test_no_free_wal_sender(postgres: Install) -> None:
    with running(postgres) as cluster:
        cluster.sql("ALTER SYSTEM SET max_wal_senders = 1")
        cluster.stop()
        cluster.start()
        with contextlib.closing(
            psycopg2.connect(cluster.conninfo, connection_factory=psycopg2.extras.PhysicalReplicationConnection)
        ):
            error = refused(connection.identify_system, cluster.conninfo)
    assert "max_wal_senders" in error.why
    assert "max_wal_senders" in error.fix


def test_a_slow_statement_a_refused_one_and_a_lost_server(server: Cluster) -> None:
    with (
        pytest.raises(connection.QueryFailed) as slow,
        connection.connect(server.conninfo, statement_timeout=1) as conn,
        conn.cursor() as cursor,
    ):
        cursor.execute("SELECT pg_sleep(30)")
    assert slow.value.sqlstate == "57014"
    with pytest.raises(connection.QueryFailed) as denied, connection.connect(conninfo(server, "plain")) as conn:
        connection.create_restore_point(conn, "denied")
    assert denied.value.sqlstate == "42501"
    assert "grant" in denied.value.now("")
    with pytest.raises(connection.ConnectionFailed) as lost, connection.connect(server.conninfo) as conn:
        connection.create_restore_point(conn, "first")
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cellarman'")
        connection.create_restore_point(conn, "second")
    assert lost.value.what.startswith("lost the connection to ")
    assert "connection" in lost.value.why
    assert "log" in lost.value.fix


def test_slots(server: Cluster) -> None:
    with connection.connect(server.conninfo) as conn:
        assert connection.slot(conn, "keeper") is None
        connection.create_physical_slot(conn, "keeper")
        made = connection.slot(conn, "keeper")
        assert made is not None
        assert (made.kind, made.active, made.wal_status, made.temporary) == ("physical", False, "reserved", False)
        assert made.restart_lsn
        with pytest.raises(connection.QueryFailed, match="already exists"):
            connection.create_physical_slot(conn, "keeper")
        connection.drop_slot(conn, "keeper")
        assert connection.slot(conn, "keeper") is None
        with pytest.raises(connection.QueryFailed, match="does not exist"):
            connection.drop_slot(conn, "keeper")
        assert connection.basebackup_progress(conn, "nobody") is None


def test_what_a_server_can_compress_is_found_out_without_a_backup(each_postgres: Install) -> None:
    with running(each_postgres) as cluster:
        before = cluster.value("SELECT pg_current_wal_insert_lsn()")
        for algorithm in ("gzip", "lz4", "zstd"):
            refusal = connection.server_compression(cluster.conninfo, algorithm)
            done = _backup(cluster, f"--compress=server-{algorithm}")
            assert (done == "") == (refusal is None), (algorithm, refusal, done)
            if refusal:
                assert refusal in done
        assert connection.server_compression(cluster.conninfo, "none") is None
        assert "this error is expected" in cluster.log
        assert cluster.value("SELECT count(*) FROM pg_stat_progress_basebackup") == 0
        assert before


def _backup(cluster: Cluster, *options: str) -> str:
    """Return what pg_basebackup says when it fails to send a backup to nowhere, "" when it does not fail."""
    import subprocess

    program = str(cluster.install.bindir / "pg_basebackup")
    done = subprocess.run(
        [program, "-D", "-", "-F", "t", "-X", "none", "-c", "fast", "--no-manifest", *options, "-d", cluster.conninfo],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
    )
    return done.stderr if done.returncode else ""


def test_connection_strings_are_changed_and_shown_without_their_secrets() -> None:
    safe, password = connection.without_password(
        f"postgresql://barman:{SECRET.replace('&', '%26')}@pg:5433/app?sslmode=require"
    )
    assert password == SECRET
    assert connection.parse_conninfo(safe) == {
        "user": "barman", "host": "pg", "port": "5433", "dbname": "app", "sslmode": "require"
    }  # fmt: skip
    assert connection.without_password("host=pg user=barman") == ("user=barman host=pg", None)
    odd = connection.with_options("host=pg", application_name="it's a \\ name", dbname="")
    assert connection.parse_conninfo(odd)["application_name"] == "it's a \\ name"
    assert connection.where(f"host=pg password={SECRET}") == "host=pg"
    assert SECRET not in str(refused(connection.without_password, f"host=pg sslpassword={SECRET}"))
    with pytest.raises(Refused):
        connection.without_password(f"host=pg sslpassword={SECRET}")


@pytest.mark.parametrize(
    "text",
    [
        f"host=pg password=a {SECRET}",
        f"postgresql://u:a@{SECRET}:x@pg/db",
        f"postgres://u:{SECRET}/x@pg/db",
        f"host=pg {SECRET}=1",
        "host",
    ],
)
def test_a_broken_connection_string_is_told_without_its_words(text: str) -> None:
    error = refused(connection.parse_conninfo, text)
    assert isinstance(error, ConfigError)
    assert error.exit_code == 2
