"""The demo's shop: places orders for ever, one commit each: `python -m engine.demo.workload CONNINFO`.

Ends when its server does not come back within a minute.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time

import psycopg2

PAUSE = 0.1
"""Seconds between two orders."""
PATIENCE = 60.0

ORDER = """\
INSERT INTO orders (customer, bottles, price, note)
VALUES (%s, %s, %s, md5(random()::text)) RETURNING id"""
RESTOCK = "UPDATE orders SET note = md5(note) WHERE id BETWEEN %s - 400 AND %s"


def main() -> int:
    """Place orders until the server is gone; connects again after a restart."""
    conninfo = sys.argv[1]
    last_success = time.monotonic()
    while time.monotonic() - last_success < PATIENCE:
        with contextlib.suppress(psycopg2.Error), contextlib.closing(psycopg2.connect(conninfo)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                while True:
                    _order(cursor)
                    last_success = time.monotonic()
                    time.sleep(PAUSE)
        time.sleep(0.5)
    return 1


def _order(cursor: psycopg2.extensions.cursor) -> None:
    cursor.execute(ORDER, (random.randint(1, 5000), random.randint(1, 12), random.randint(60, 960) / 10))
    row = cursor.fetchone()
    if row and row[0] % 50 == 0:
        cursor.execute(RESTOCK, (row[0], row[0]))


if __name__ == "__main__":
    sys.exit(main())
