"""A house of a thousand groups: its host's start, its idle life, its latencies beside those of one group, and how long
commands take in it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from nanoclaw.files.atomic import json_bytes
from nanoclaw.files.locks import Locks
from nanoclaw.paths import PROJECT, Home
from nanoclaw.runs.records import Claim, Run
from nanoclaw.stores.cursors import Cursor, Cursors
from nanoclaw.stores.refused import put
from nanoclaw.stores.transcripts import Position, Transcripts
from tests.bench import requests
from tests.bench.figures import Figure, calm, median_ms, say, spread, until
from tests.bench.household import DEADLINE, Household
from tests.bench.idle import cpu_percent, process_status
from tests.bench.startup import seconds_of
from tests.bench.storage import write_chat

GROUPS = 1000
MESSAGES = 1_000_000
RUNS = 300
REFUSED = 50
FILES = 200
STARTS = 5
ROUNDS = 9


def groups() -> list[Figure]:
    """1,000 registered groups: the very first start (which makes their directories), later ones, an idle minute, and
    the latencies, which are measured in a house of one group right after."""
    with Household(GROUPS, requires_trigger=True) as household:
        first = household.first_start
        served = _served(household)
        later = []
        for _ in range(STARTS):
            household.stop()
            calm()
            later.append(household.start())
            _served(household)
        say(
            f"starts: {first:.2f} s, then {', '.join(f'{value:.2f}' for value in later)} s; first served {served:.2f} s"
        )
        time.sleep(5.0)
        cpu, how = cpu_percent(household.pid)
        rss = process_status(household.pid)["VmRSS"] / 1024
        calm()
        asked = requests.request_times(household, household.folders[500], FILES)
        stored = _stored_times(household, household.folders[501])
    with Household(1, requires_trigger=True) as household:
        rss_of_one = process_status(household.pid)["VmRSS"] / 1024
        calm()
        asked_one = requests.request_times(household, household.folders[0], FILES)
        stored_one = _stored_times(household, household.folders[0])
    start, median, floor = median_ms(later) / 1000, median_ms(stored), median_ms(stored_one)
    how_stored = f"file renamed into the inbox -> line in the transcript; {spread(stored)}"
    return [
        Figure("1,000 groups: first start", first, "s", None, "", "<= 2 s", first <= 2,
               f"process start -> `Host started` in the log; their directories {served:.2f} s later"),
        Figure("1,000 groups: start", start, "s", None, "", "<= 2 s", start <= 2, f"the same, later; {spread(later)}"),
        Figure("1,000 groups: idle CPU", cpu, "%", None, "", "<= 0.2 %", cpu <= 0.2, how),
        Figure("1,000 groups: RSS", rss, "MB", rss_of_one, "", "", True, "VmRSS; baseline: one group"),
        *requests.figures("1,000 groups: request", asked, asked_one, "baseline: one group"),
        Figure("1,000 groups: inbox -> transcript", median, "ms", floor, "", "<= 5 ms", median <= 5,
               f"{how_stored}; one group: {spread(stored_one)}"),
    ]  # fmt: skip


def _served(household: Household) -> float:
    """Seconds until the last group's directories are there and its request is delivered."""
    start = time.perf_counter()
    folder = household.folders[-1]
    answers = household.home.ipc / folder / "current_tasks.json"
    until(lambda: True if answers.exists() else None, DEADLINE, f"{answers}")
    before = household.delivered_bytes(folder)
    household.request(folder, "hello")
    household.await_delivery(folder, before)
    return time.perf_counter() - start


def _stored_times(household: Household, folder: str) -> list[float]:
    """Seconds from the rename into the inbox until the transcript is longer."""
    times = []
    for number in range(FILES + requests.WARM_UP):
        before = household.transcript_bytes(folder)
        start = household.drop(folder, f"message {number}")

        def look(before: int = before) -> float | None:
            return time.time() if household.transcript_bytes(folder) > before else None

        times.append(until(look, DEADLINE, f"a line in {folder}") - start)
        time.sleep(0.02)  # the turn ends, the journal is written
    return times[requests.WARM_UP :]


def commands() -> list[Figure]:
    """Commands from process start to end, with 1,000 groups, 1,000,000 messages in one chat, 300 runs and 50 refused
    files; beside a living host and without one, in turn with an empty Python."""
    figures = []
    with Household(GROUPS, requires_trigger=True) as household:
        _served(household)
        household.stop()
        _fill(household.home, household.folders[0])
        without = _rounds(household)
        household.start()
        _served(household)
        beside = _rounds(household)
    empty = without.pop("")
    beside.pop("")
    for name, times in without.items():
        for times_of, where in ((times, "no host"), (beside[name], "beside a host")):
            value = median_ms(times_of)
            how = f"process start to end; {spread(times_of)}; baseline: python3 -c pass"
            what = f"{name}, {where}"
            figures.append(Figure(what, value, "ms", median_ms(empty), "", "<= 300 ms", value <= 300, how))
    return figures


def _rounds(household: Household) -> dict[str, list[float]]:
    """Seconds of each command, by its words; "" is the empty Python."""
    python = os.path.realpath(sys.executable)
    launcher = [python, str(PROJECT / "nanoclaw.py")]
    homes = {"NANOCLAW_HOME": str(household.home.root), "NANOCLAW_CONFIG_DIR": str(household.home.user_config)}
    folder = household.folders[0]
    calls = {
        "groups list": [],
        "groups show": [folder],
        "groups set": [folder],
        "messages": ["--group", folder, "-n", "20"],
        "runs list": [],
        "sessions list": [],
        "cursor show": [folder],
        "cursor reset": [folder, "--to", "end"],
        "send": ["--group", folder, "hello"],
        "ipc errors list": [],
        "status": [],
    }
    times: dict[str, list[float]] = {"": [], **{name: [] for name in calls}}
    for number in range(ROUNDS):
        calm(5.0)
        times[""].append(seconds_of([python, "-c", "pass"], {}))
        for name, options in calls.items():
            change = [f"name=Round {number}"] if name == "groups set" else []
            times[name].append(seconds_of([*launcher, *name.split(), *options, *change], homes))
    return times


def _fill(home: Home, folder: str) -> None:
    """A long chat, runs and refused files, as a host would have left them."""
    say(f"writing {MESSAGES:,} messages ...")
    write_chat(home.chat(f"local:{folder}"), MESSAGES)
    locks = Locks()
    last = Transcripts(home, locks).last(f"local:{folder}")
    Cursors(home, locks).put(folder, Cursor(jid=f"local:{folder}", place=last, done=last.seq))
    for run in _runs(folder):
        directory = home.runs / run.id
        (directory / "in").mkdir(parents=True)
        (directory / "run.json").write_bytes(json_bytes(asdict(run)))
    for number in range(REFUSED):
        put(home, f"ipc-{folder}-{number}.json", "a reason", f"state/ipc/{folder}/messages/{number}.json", data=b"{}")


def _runs(folder: str) -> Iterator[Run]:
    for number in range(RUNS):
        begun = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(minutes=number)
        when, place = begun.isoformat(), Position(number + 1, 1, 0)
        yield Run(
            id=f"{folder}-{begun:%Y%m%d-%H%M%S}-000",
            folder=folder,
            jid=f"local:{folder}",
            container=f"nanoclaw-{folder}-{number}",
            runtime="docker",
            image="nanoclaw-agent",
            group={},
            timeout=1800.0,
            idle_timeout=1800.0,
            placeholder_hash="0" * 64,
            socket="",
            created=when,
            started=when,
            ended=when,
            status="judged",
            outcome="success",
            claims=[Claim(1, "0" * 36, Position(number, 1, 0), place, "finished", True)],
        )
