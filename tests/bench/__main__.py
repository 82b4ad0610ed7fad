"""``python3 nanoclaw.py bench [NAME…]``: measure, print one table, exit 0 when every target is met, else 1. ``soak``
takes half an hour and comes only by name.

Speed is asserted nowhere in the test suite: a busy machine is not a bug. Figures are medians, taken in turn with their
baseline, each sample begun when the machine is calm (``figures.calm``). What starts meanwhile still disturbs: on a
machine that others use, believe the ratios more than the times.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

from tests.bench import burst, idle, latency, many, requests, restart, soak, startup, storage
from tests.bench.figures import Figure, say, table

BENCHES = {
    "cold": latency.cold,
    "follow-up": latency.follow_ups,
    "idle": idle.idle,
    "durable": storage.durable,
    "news": storage.news,
    "burst": burst.burst,
    "startup": startup.startup,
    "requests": requests.requests,
    "groups": many.groups,
    "commands": many.commands,
    "restart": restart.restart,
    "stop": restart.stop,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="nanoclaw.py bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHES)} [all]; soak")
    parser.add_argument("--minutes", type=float, default=soak.MINUTES, help=f"of soak [{soak.MINUTES:g}]")
    arguments = parser.parse_args()
    names = arguments.names
    benches = {**BENCHES, "soak": lambda: soak.soak(arguments.minutes)}
    if unknown := [name for name in names if name not in benches]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(benches)}")
    for number in (signal.SIGINT, signal.SIGTERM):  # either way the throw-away home and its containers go
        signal.signal(number, lambda *_: sys.exit(130))
    figures: list[Figure] = []
    load = os.getloadavg()[0]
    for name in names or BENCHES:
        say(f"-- {name}")
        figures += benches[name]()
    print(f"{os.cpu_count()} cores, load {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end\n")
    print(table(figures))
    return 0 if all(figure.met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
