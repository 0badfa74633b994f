"""The speed targets, measured against their rivals on this machine in one run: `python -m tests.bench [NAME…]`.

Needs about 15 GB of space and some minutes at the full scale. Exit code 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.bench import backups, console, gaps, inspector, listing, recovery, rsync, startup, wal

BENCHES = {
    "startup": startup.run,
    "listing": listing.run,
    "console": console.run,
    "inspector": inspector.run,
    "crowd": console.crowd,
    "wal": wal.run,
    "gaps": gaps.run,
    "backups": backups.run,
    "rsync": rsync.run,
    "recovery": recovery.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which, of {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--scale", type=int, default=200, help="pgbench's scale; 200 is 3 GB (default)")
    parser.add_argument("--repeat", type=int, default=3, help="how often each rival runs")
    args = parser.parse_args()
    unknown = set(args.names) - set(BENCHES)
    if unknown:
        parser.error(f"no bench {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    missed = 0
    for name, bench in BENCHES.items():
        if args.names and name not in args.names:
            continue
        root = Path(tempfile.mkdtemp(prefix="cm-bench-"))
        try:
            for result in bench(root, args.scale, args.repeat):
                print(result.line(), flush=True)
                missed += not result.kept
        finally:
            shutil.rmtree(root, ignore_errors=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
