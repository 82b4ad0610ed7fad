"""How long a command takes through the launcher, as a shell or cron calls it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

from nanoclaw.paths import PROJECT
from tests.bench.figures import Figure, calm, median_ms, spread
from tests.bench.household import Household

ROUNDS = 15
DOCTORS = 7


def startup() -> list[Figure]:
    """``python3 nanoclaw.py --version`` and ``doctor``, from the start of the process to its end, in turn with an
    empty Python and with ``docker version``. The interpreter is called by its real path: a version manager's shim is
    not our time."""
    python = os.path.realpath(sys.executable)
    launcher = [python, str(PROJECT / "nanoclaw.py")]
    version, empty, doctor, engine = [], [], [], []
    with Household(5) as household:
        homes = {"NANOCLAW_HOME": str(household.home.root), "NANOCLAW_CONFIG_DIR": str(household.home.user_config)}
        docker = shutil.which("docker") or "docker"
        for number in range(ROUNDS + 1):
            calm(5.0)
            times = [seconds_of([*launcher, "--version"], homes), seconds_of([python, "-c", "pass"], homes)]
            if number <= DOCTORS:
                times += [seconds_of([*launcher, "doctor"], homes), seconds_of([docker, "version"], homes)]
            if number:
                for kept, seconds in zip((version, empty, doctor, engine), times, strict=False):
                    kept.append(seconds)
    first, second = median_ms(version), median_ms(doctor)
    return [
        Figure(
            "nanoclaw.py --version", first, "ms", median_ms(empty), "", "<= 120 ms", first <= 120,
            f"process start to end; {spread(version)}; baseline: python3 -c pass",
        ),
        Figure(
            "nanoclaw.py doctor", second, "ms", median_ms(engine), "", "<= 2,000 ms", second <= 2000,
            f"beside a living host with 5 groups; {spread(doctor)}; baseline: docker version",
        ),
    ]  # fmt: skip


def seconds_of(argv: list[str], environment: dict[str, str]) -> float:
    """How long a process takes that says and asks nothing; its exit code does not matter."""
    start = time.perf_counter()
    subprocess.run(argv, env=os.environ | environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return time.perf_counter() - start
