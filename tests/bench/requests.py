"""What a script waits for: from the rename of its request's file until the person has the message."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path

from nanoclaw.files.atomic import write_json
from tests.bench.figures import Figure, calm, median_ms, short, spread, until
from tests.bench.household import DEADLINE, Household

FILES = 300
WARM_UP = 5


def requests() -> list[Figure]:
    """Files renamed into ``state/ipc/<folder>/messages/`` one at a time, each when the one before was answered; until
    the local channel's far side has the line."""
    with Household(1) as household:
        calm()
        times = request_times(household, household.folders[0], FILES)
    chain = "baseline: the writes and fsyncs in between (the reply's draft, its rename, the line)"
    return figures("request -> delivered", times, bare_chain(FILES), chain)


def figures(what: str, times: list[float], bare: list[float], baseline: str) -> list[Figure]:
    """Median and 99th percentile of requests, beside those of ``bare``, which ``baseline`` describes."""
    median, high = median_ms(times), percentile_ms(times, 0.99)
    how = f"file renamed into messages/ -> line in state/local; {spread(times)}; {baseline}"
    return [
        Figure(f"{what}: median", median, "ms", median_ms(bare), "549 ms", "<= 5 ms", median <= 5, how),
        Figure(
            f"{what}: p99", high, "ms", percentile_ms(bare, 0.99), "", "<= 25 ms", high <= 25,
            f"of {len(times)} files, one at a time; max {short(max(times) * 1000)} ms",
        ),
    ]  # fmt: skip


def request_times(household: Household, folder: str, count: int) -> list[float]:
    """Seconds from rename to delivery of ``count`` requests, without the first ones."""
    times = []
    for number in range(count + WARM_UP):
        before, answered = household.delivered_bytes(folder), _answers(household, folder)
        start = household.request(folder, f"request {number}: the bread is in the oven")
        times.append(household.await_delivery(folder, before) - start)
        _settled(household, folder, answered)
    return times[WARM_UP:]


def _answers(household: Household, folder: str) -> int:
    answers = household.home.ipc / folder / "answers"
    return len(os.listdir(answers)) if answers.exists() else 0


def _settled(household: Household, folder: str, answered: int) -> None:
    """The request is answered, and its reply gone from the outbox: nothing of it runs into the next one."""

    def look() -> bool | None:
        waits = any(name.endswith(".json") for name in os.listdir(household.home.outbox))
        return None if waits or _answers(household, folder) == answered else True

    until(look, DEADLINE, "the request's answer")


def bare_chain(count: int) -> list[float]:
    """Seconds that the machine's disk takes for a reply made durable (draft, fsync, rename, fsync of the directory)
    and a line appended and fsynced, in a directory like the home's."""
    root = Path(tempfile.mkdtemp(prefix="nc-bench-", dir="/tmp"))
    times = []
    try:
        line = json.dumps({"key": "x" * 40, "time": "2026-11-22T09:30:00.000+00:00", "text": "a line"}).encode() + b"\n"
        fd = os.open(root / "line.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in range(count + WARM_UP):
            start = time.perf_counter()
            write_json(root / f"{number}.json", {"id": "x" * 40, "text": "a line", "order": number})
            os.write(fd, line)
            os.fsync(fd)
            times.append(time.perf_counter() - start)
            (root / f"{number}.json").unlink()
        os.close(fd)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return times[WARM_UP:]


def percentile_ms(seconds: list[float], share: float) -> float:
    """The value in ms that ``share`` of the samples do not exceed."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000
