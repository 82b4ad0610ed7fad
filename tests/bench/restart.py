"""How soon a host is at work again that left much undone, and how soon a stop has stopped."""

from __future__ import annotations

import statistics
import subprocess
import time

from nanoclaw.files.locks import Locks
from nanoclaw.stores.cursors import Cursor, Cursors
from tests.bench.figures import Figure, calm, median_ms, say, spread, until
from tests.bench.household import DEADLINE, Household
from tests.bench.storage import write_chat
from tests.support.scripted_model import Hang

GROUPS, EACH = 200, 50
RESTARTS = 3
STOPS = 5


def restart() -> list[Figure]:
    """10,000 messages wait in 200 chats, handed to nobody yet, when the host starts."""
    ready, dispatched = [], []
    for number in range(RESTARTS):
        with Household(GROUPS) as household:
            household.stop()
            cursors = Cursors(household.home, Locks())
            for folder in household.folders:
                write_chat(household.home.chat(f"local:{folder}"), EACH)
                cursors.put(folder, Cursor(jid=f"local:{folder}"))
            calm()
            begun = time.time()
            ready.append(household.start())
            look = lambda household=household: next(iter(household.docker_runs()), None)  # noqa: E731
            dispatched.append(until(look, DEADLINE, "the first `docker run`") - begun)
        say(f"restart {number}: ready {ready[-1]:.2f} s, first run {dispatched[-1]:.2f} s")
    first, second = statistics.median(ready), statistics.median(dispatched)
    return [
        Figure("10,000 pending: ready", first, "s", None, "", "<= 3 s", first <= 3,
               f"process start -> `Host started` in the log; {GROUPS} groups; {spread(ready)}"),
        Figure("10,000 pending: first run", second, "s", None, "", "<= 3 s", second <= 3,
               f"process start -> exec of the first `docker run`; {spread(dispatched)}"),
    ]  # fmt: skip


def stop() -> list[Figure]:
    """A file ``state/STOP-<folder>`` while the agent waits for a model that says nothing, until the engine lists its
    container no more; in turn with ``docker rm -f`` of a container of the same image that sleeps."""
    gone, bare = [], []
    with Household(1) as household:
        (folder,) = household.folders
        household.model.rule = lambda request: Hang()
        for number in range(STOPS):
            asked = len(household.model.requests)
            household.drop(folder, "work without end")
            household.model.wait_for_requests(asked + 1)
            calm()
            begun = time.time()
            stop_file(household, folder)
            gone.append(_gone(household, f"nanoclaw.folder={folder}") - begun)
            bare.append(_bare_stop(household))
            obeyed(household, folder)
            say(f"stop {number}: gone after {gone[-1]:.2f}, bare {bare[-1]:.2f} s")
    most = max(gone)
    return [
        Figure("stop -> container gone", most, "s", median_ms(bare) / 1000, "", "<= 2 s", most <= 2,
               f"the slowest of {spread(gone)}; baseline: `docker rm -f` of a container that sleeps, the median"),
    ]  # fmt: skip


def stop_file(household: Household, folder: str) -> None:
    """Ask for a stop as a script would."""
    (household.home.state / f"STOP-{folder}").touch()


def obeyed(household: Household, folder: str) -> None:
    """Return when a stop is carried out."""
    path = household.home.state / f"STOP-{folder}"
    until(lambda: None if path.exists() else True, DEADLINE, f"{path} obeyed", pause=0.01)


def _gone(household: Household, label: str) -> float:
    """The time at which the engine lists no container with a label, stopped ones included."""
    argv = [household.docker, "ps", "-aq", "--filter", f"label={label}"]

    def look() -> float | None:
        return None if subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip() else time.time()

    return until(look, DEADLINE, f"no container {label}", pause=0.01)


def _bare_stop(household: Household) -> float:
    label = f"nanoclaw.bench={household.root.name}"
    argv = [
        household.docker,
        "run",
        "-d",
        "--network",
        "none",
        "--label",
        label,
        "nanoclaw-agent:latest",
        "sleep",
        "600",
    ]
    name = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    begun = time.time()
    subprocess.run([household.docker, "rm", "-f", name], capture_output=True, check=True)
    return _gone(household, label) - begun
