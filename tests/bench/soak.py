"""Half an hour of a busy house: does the host grow?"""

from __future__ import annotations

import os
import statistics
import time

from tests.bench.figures import Figure, say, until
from tests.bench.household import DEADLINE, Household
from tests.bench.idle import process_status
from tests.bench.restart import obeyed, stop_file
from tests.support.scripted_model import Hang, Reply, echo, last_user_text

MINUTES = 30.0
GROUPS = 4
SAMPLES = 10
PAUSE = 1.0
"""s between two rounds: it is a long life that is measured, not a burst."""


def soak(minutes: float = MINUTES) -> list[Figure]:
    """Rounds of messages, follow-ups, scripts' requests, a stop in mid-turn and a container that is closed, each seen
    to be done; RSS, descriptors and threads of the host after each tenth of the time, when every group has an idle
    container. Flat: the mean of the last third of the samples is at most 1.1 times that of the first."""
    samples: list[dict[str, float]] = []
    rounds = 0
    with Household(GROUPS) as household:
        household.model.rule = _rule
        begun, seconds = time.monotonic(), 60 * minutes
        while len(samples) < SAMPLES:
            _round(household, rounds)
            rounds += 1
            if time.monotonic() - begun >= seconds * (len(samples) + 1) / SAMPLES:
                samples.append(_sample(household.pid))
                shown = ", ".join(f"{name} {value:.1f}" for name, value in samples[-1].items())
                say(f"{(time.monotonic() - begun) / 60:.1f} min, {rounds} rounds: {shown}")
            time.sleep(PAUSE)
    return [_figure(name, [sample[name] for sample in samples], minutes, rounds) for name in samples[0]]


def _rule(request: dict[str, object]) -> Reply:
    return Hang() if "without end" in last_user_text(request).rpartition("<message")[2] else echo(request)


def _round(household: Household, number: int) -> None:
    stopped, closed = (household.folders[(number + offset) % GROUPS] for offset in (0, 1))
    for text in ("a message", "a follow-up"):
        _all_answered(household, household.folders, f"{text} of round {number}")
    for folder in household.folders:
        before = household.delivered_bytes(folder)
        household.request(folder, f"a request of round {number}")
        household.await_delivery(folder, before)
    asked = len(household.model.requests)
    household.drop(stopped, "work without end")
    household.model.wait_for_requests(asked + 1)
    stop_file(household, stopped)
    obeyed(household, stopped)
    household.close(closed)
    household.model.requests.clear()
    _all_answered(household, [stopped, closed], f"a fresh container in round {number}")
    until(lambda: None if any(household.home.outbox.glob("*.json")) else True, DEADLINE, "an empty outbox", pause=0.01)


def _all_answered(household: Household, folders: list[str], text: str) -> None:
    """Each group's agent has answered this text."""
    for folder in folders:
        household.drop(folder, f"{text};")
    for folder in folders:
        path, wanted = household.home.local / f"{folder}.jsonl", f"echo: {text};".encode()
        look = lambda path=path, wanted=wanted: True if path.exists() and wanted in _tail(path) else None  # noqa: E731
        until(look, DEADLINE, f"the answer to {text!r} in {folder}", pause=0.01)


def _tail(path: os.PathLike[str]) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 4096))
        return file.read()


def _sample(pid: int) -> dict[str, float]:
    status = process_status(pid)
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return {"RSS, MB": status["VmRSS"] / 1024, "descriptors": descriptors, "threads": status["Threads"]}


def _figure(name: str, values: list[float], minutes: float, rounds: int) -> Figure:
    third = len(values) // 3
    first, last = statistics.mean(values[:third]), statistics.mean(values[-third:])
    shown = ", ".join(f"{value:.0f}" for value in values)
    how = f"{minutes:g} minutes, {rounds} rounds over {GROUPS} groups; the last third of {shown}; baseline: the first"
    return Figure(f"soak: {name}", last, "", first, "", "<= 1.1 x the first", last <= 1.1 * first, how)
