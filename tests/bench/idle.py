"""What a host costs that has nothing to do."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from nanoclaw.paths import PROJECT
from tests.bench.figures import Figure, say
from tests.bench.household import Household

SECONDS = 60.0
SETTLE = 5.0
IMPORTS = "import docker, filelock, tomlkit, tomli_w, watchdog.observers.inotify, http.client, http.server, sys"


def idle() -> list[Figure]:
    """CPU (utime + stime of /proc/PID/stat, all threads) over 60 s and RSS, at three times: with five groups
    registered and nothing ever run; with one idle container; after that conversation is over. The baseline of RSS is
    a Python of the same environment that has only imported the packages."""
    figures = []
    floor = _bare_rss()
    with Household(5) as household:
        folder = household.folders[0]
        figures += _watch(household.pid, "idle, 5 groups", floor)
        household.drop(folder, "hello")
        household.await_delivery(folder, 0)
        figures += _watch(household.pid, "idle, a container waits", floor)
        household.close(folder)
        figures += _watch(household.pid, "idle, conversation over", floor)
    return figures


def _watch(pid: int, what: str, floor: float) -> list[Figure]:
    time.sleep(SETTLE)
    say(f"{what}: {SECONDS:.0f} s ...")
    cpu, how = cpu_percent(pid)
    status = process_status(pid)
    rss, threads = status["VmRSS"] / 1024, status["Threads"]
    return [
        Figure(
            f"{what}: CPU", cpu, "%", None, "0.1 %", "<= 0.1 %", cpu <= 0.1, how,
        ),
        Figure(
            f"{what}: RSS", rss, "MB", floor, "64 MB", "<= 45 MB", rss <= 45,
            f"VmRSS with {threads} threads; baseline: the same Python with the packages imported",
        ),
    ]  # fmt: skip


def cpu_percent(pid: int) -> tuple[float, str]:
    """What a process uses of one core in the next ``SECONDS``, and how that was measured."""
    before, start = _cpu_seconds(pid), time.monotonic()
    time.sleep(SECONDS)
    cpu = 100 * (_cpu_seconds(pid) - before) / (time.monotonic() - start)
    return cpu, f"of one core, over {SECONDS:.0f} s (the kernel counts 10 ms steps, 0.017 %)"


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def process_status(pid: int) -> dict[str, int]:
    """``VmRSS`` in kB and ``Threads`` of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = (line.split(":", 1) for line in lines)
    return {key: int(value.split()[0]) for key, value in pairs if key in ("VmRSS", "Threads")}


def _bare_rss() -> float:
    """MB of a Python that imported the packages."""
    python = PROJECT / ".venv" / "bin" / "python"
    code = f"{IMPORTS}; print(flush=True); sys.stdin.read()"
    process = subprocess.Popen([python, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    process.stdout.readline()
    rss = process_status(process.pid)["VmRSS"] / 1024
    process.communicate()
    return rss
