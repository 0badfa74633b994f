"""The verbs of the command line: what each does, for `--help`, without importing any of them."""

from __future__ import annotations

from collections import namedtuple


class Verb(namedtuple("Verb", "summary examples json")):
    """One verb: a sentence for the overview, example command lines, and whether it has a `--json` form."""

    __slots__ = ()


VERBS = {
    "servers": Verb(
        "One row a server, worst first: health, last good backup, how far it can be recovered, what is exposed.",
        ("cellarman servers", "cellarman servers --json"),
        True,
    ),
    "status": Verb(
        "The same facts of one server, with the reasons and what to do now.",
        ("cellarman status main",),
        True,
    ),
    "check": Verb(
        "Every check of a server: ok, warn, fail or skip, with the detail and how to fix it.",
        ("cellarman check main", "cellarman check all --json"),
        True,
    ),
    "setup": Verb(
        "Everything that a server needs by its configuration, ready to paste, and what of it is missing.",
        ("cellarman setup main", "cellarman setup main --missing"),
        True,
    ),
    "backup": Verb(
        "Take a backup as a job; on a terminal follow it (Ctrl-C detaches, the backup goes on).",
        (
            "cellarman backup main",
            "cellarman backup main --name before-upgrade --wait",
            "cellarman backup main --detach",
        ),
        True,
    ),
    "backups": Verb(
        "The catalogue of a server, newest first.",
        ("cellarman backups main", "cellarman backups main --json"),
        True,
    ),
    "show": Verb(
        "Everything known about one backup.",
        ("cellarman show main latest", "cellarman show main 20261123T014200 --json"),
        True,
    ),
    "verify": Verb(
        "Read every byte of a backup against its manifest, and the WAL that it needs.",
        ("cellarman verify main latest",),
        True,
    ),
    "keep": Verb(
        "Protect a backup from retention: with all WAL since (--full) or alone (--standalone); --release ends it.",
        ("cellarman keep main latest --full", "cellarman keep main before-upgrade --release"),
        True,
    ),
    "label": Verb(
        "Write a line about a backup beside it, for people; --remove takes it away.",
        (
            "cellarman label main latest --text 'before the move to the new hall'",
            "cellarman label main latest --remove",
        ),
        True,
    ),
    "delete": Verb(
        "Delete a backup and the WAL that only it needs; refuses what something else depends on.",
        ("cellarman delete main oldest --dry-run", "cellarman delete main 20261123T014200 --yes 20261123T014200"),
        True,
    ),
    "windows": Verb(
        "The moments that can be reached: from, to, with which backup, and what bounds each.",
        ("cellarman windows main", "cellarman windows main --json"),
        True,
    ),
    "restore": Verb(
        "Get a cluster back to a moment; --plan says every step and touches nothing.",
        (
            "cellarman restore main auto /srv/restored --to-time '2026-11-23 14:05:00+01:00' --plan",
            "cellarman restore main auto /srv/restored --to-time '2026-11-23 14:05:00+01:00' --start",
            "cellarman restore main latest /srv/restored --to-immediate --action pause",
            "cellarman restore --plan-file shop.toml --plan",
        ),
        True,
    ),
    "wal": Verb(
        "The WAL archive: what it lacks, whether it is good, what mends it; take in what arrived, keep receiving.",
        (
            "cellarman wal gaps main",
            "cellarman wal verify main --budget 10m",
            "cellarman wal fetch-missing main --dry-run",
            "cellarman wal restore-point main before-upgrade --switch",
            "cellarman wal ingest main",
            "cellarman wal receive main",
            "cellarman wal reindex main",
        ),
        True,
    ),
    "jobs": Verb(
        "Backups, restores and other long work: running and past, newest first.",
        ("cellarman jobs", "cellarman jobs --json"),
        True,
    ),
    "job": Verb(
        "Follow or cancel one job.",
        ("cellarman job follow latest", "cellarman job follow ID --json", "cellarman job cancel ID"),
        True,
    ),
    "cron": Verb(
        "One maintenance pass over all servers: WAL taken in, receivers alive, dead work marked, retention.",
        ("cellarman cron",),
        True,
    ),
    "agent": Verb(
        "The same pass for ever, woken by arrivals.",
        ("cellarman agent",),
        False,
    ),
    "config": Verb(
        "Check the configuration, or show each value with the file and line that it came from.",
        ("cellarman config check", "cellarman config show", "cellarman config show main --json"),
        True,
    ),
    "aftermath": Verb(
        "Prove the whole loop: a marker through every WAL lane, a restore in a sandbox, the marker read back.",
        ("cellarman aftermath main", "cellarman aftermath main --no-backup --sandbox /srv/sandbox"),
        True,
    ),
    "import-barman": Verb(
        "A Barman configuration as cellarman.toml on standard output; what cannot be carried over on standard error.",
        ("cellarman import-barman /etc/barman.conf",),
        False,
    ),
    "demo": Verb(
        "A disposable PostgreSQL with a live workload and a repository with real backups, and the console on it.",
        ("cellarman demo", "cellarman demo --no-console --dir /tmp/cellarman-demo"),
        False,
    ),
}
