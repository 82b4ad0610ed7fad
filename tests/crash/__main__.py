"""``python3 nanoclaw.py crash``: see the package. Exit code 0 when nothing was lost or doubled and every step was
met.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time

from tests.crash.plants import PLANTS
from tests.crash.run import crash, plant_kills, shout


def main() -> int:
    parser = argparse.ArgumentParser(prog="nanoclaw.py crash", description="Kill the host again and again; then count.")
    parser.add_argument("--kills", type=int, default=1000, help="at least so many [1000]")
    parser.add_argument("--seed", type=int, help="repeats the order of the kills [a new one]")
    parser.add_argument("--engine", action="store_true", help="kill -9 this machine's dockerd, too, and start it again")
    parser.add_argument("--plant", choices=sorted(PLANTS), help="a host with this bug, killed where it shows")
    parser.add_argument("--keep", action="store_true", help="leave the home in /tmp")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # either way the throw-away home and its containers go
        signal.signal(number, lambda *_: sys.exit(130))
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    began = time.monotonic()
    shout(f"seed {seed}")
    kills = plant_kills(options.plant, 5) if options.plant else options.kills
    tally, report = crash(kills, seed, options.plant or "", options.engine, shout, options.keep)
    print(f"seed {seed}, {time.monotonic() - began:.0f} s")
    print(f"kills {sum(tally.kills.values())}: " + ", ".join(f"{how} {n}" for how, n in sorted(tally.kills.items())))
    print("steps: " + ", ".join(f"{step} {n}" for step, n in sorted(tally.reached.items())))
    unreached = [] if options.plant else tally.unreached()
    if unreached:
        print(f"STEPS NEVER REACHED: {', '.join(unreached)}")
    print(report)
    return 0 if report.ok and not unreached else 1


if __name__ == "__main__":
    sys.exit(main())
