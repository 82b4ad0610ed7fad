"""Twenty groups write fifteen messages each at once, with five containers and the default timeouts: who is answered,
and when.

The bare turns: for each group one bare ``docker run`` (``bare.py``) whose in/ holds, from the start, all prompts that
the host made of that group's messages; five at a time, the next as soon as a container has ended by itself after its
last result. So the baseline does exactly the model's work of ours, with the fewest containers that can do it (one
conversation per group), and waits for nothing but the engine. Both are timed until the last answer; what the host adds
(files, claims, scheduling, clean-up) is the difference.
"""

from __future__ import annotations

import html
import json
import re
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.bench.bare import Bare
from tests.bench.figures import Figure, calm, say, until
from tests.bench.household import Household
from tests.bench.idle import process_status

GROUPS, EACH, CONTAINERS = 20, 15, 5
ROUNDS = 3
GIVE_UP = 300.0


def burst() -> list[Figure]:
    """300 messages dropped at once; three rounds of ours and bare in turn."""
    ours, bare, answered, containers, rss = [], [], [], [], []
    for number in range(ROUNDS):
        with Household(GROUPS) as household:
            calm()
            start = time.time()
            for message in range(EACH):
                for folder in household.folders:
                    household.drop(folder, f"{folder} asks {message};")
            try:
                until(lambda: True if _answered(household) == GROUPS * EACH else None, GIVE_UP, "all answers", 0.25)
            except TimeoutError:
                say("not all messages were answered")
            ours.append(household.last_delivery() - start)
            answered.append(_answered(household))
            containers.append(sum(len(household.runs(folder)) for folder in household.folders))
            rss.append(process_status(household.pid)["VmRSS"] / 1024)
            until(lambda: True if _is_over(household) else None, 60.0, "the last turns over", 0.05)
            for folder in household.folders:
                if json.loads((household.runs(folder)[-1] / "run.json").read_bytes())["status"] != "judged":
                    household.close(folder)
            calm()
            bare.append(_bare(household))
        say(f"burst {number}: {answered[-1]} answered, ours {ours[-1]:.1f}, bare {bare[-1]:.1f} s")
    value, floor, least = statistics.median(ours), statistics.median(bare), min(answered)
    return [
        Figure(
            f"{GROUPS * EACH} messages over {GROUPS} groups", value, "s", floor, "15 of 20 groups unanswered",
            "all, <= 1.5 x bare",
            least == GROUPS * EACH and value <= 1.5 * floor,
            f"{least} of {GROUPS * EACH} seen by the agent and answered, {max(containers)} containers, host RSS then "
            f"{max(rss):.0f} MB; rounds: "
            + ", ".join(f"{a:.1f}/{b:.1f} s" for a, b in zip(ours, bare, strict=True)),
        )
    ]  # fmt: skip


def _answered(household: Household) -> int:
    """How many of the messages stand in a prompt with an accepted result; 0 while an answer is still on its way."""
    if any(household.home.outbox.glob("*.json")):
        return 0
    return sum(len(_asked(household, folder)) for folder in household.folders if household.delivered_bytes(folder))


def _asked(household: Household, folder: str) -> set[str]:
    """The messages that were consumed by the agent in prompts with an accepted result."""
    found: set[str] = set()
    for run in household.runs(folder):
        try:
            record = json.loads((run / "run.json").read_bytes())
        except (FileNotFoundError, ValueError):
            continue
        for claim in record["claims"]:
            if claim["state"] == "finished" and not claim["broken"]:
                text = json.loads((run / "in" / f"{claim['n']:06d}.json").read_bytes())["text"]
                found |= set(re.findall(rf"{folder} asks \d+;", html.unescape(text)))
    return found


def _is_over(household: Household) -> bool:
    """No run waits for a result."""
    for folder in household.folders:
        for run in household.runs(folder):
            claims = json.loads((run / "run.json").read_bytes())["claims"]
            if any(claim["state"] != "finished" for claim in claims):
                return False
    return True


def _bare(household: Household) -> float:
    """Seconds from the first `docker run` to the last result of the bare turns."""
    replays = []
    for folder in household.folders:
        runs = household.runs(folder)
        prompts: list[Path] = [path for run in runs for path in sorted((run / "in").glob("[0-9]*.json"))]
        replays.append((Bare(household, runs[0], prompts), len(prompts)))

    def play(replay: Bare, prompts: int) -> float:
        replay.start()
        answered = 0
        done = 0.0
        while answered < prompts:
            done = replay.events.wait("result")
            answered += len(replay.events.last["uuids"])
        replay.close()
        return done

    start = time.time()
    try:
        with ThreadPoolExecutor(CONTAINERS) as pool:
            return max(pool.map(lambda pair: play(*pair), replays)) - start
    finally:
        for replay, _ in replays:
            replay.remove()
