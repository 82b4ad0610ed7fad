"""The crash test (``tests/crash``): its short form, its long form at night, and that it finds bugs that are planted."""

from __future__ import annotations

import os
import re

import pytest

from tests.crash.plants import PLANTS
from tests.crash.run import crash, plant_kills

IN_CI = ("cursor-first", "keys-forgotten", "send-first")
FOUND = {
    "cursor-first": r"message k\d+ of \w+ in a finished prompt: 0 times",
    "keys-forgotten": r"reply \S+ at the far side of \w+: 2 times",
    "notes-lost": r"main never heard that (.|\n)*no answered prompt says that ",
    "send-first": r"was sent to family \d+ times, not 1",
    "telegram-twice": r"was sent to family \d+ times, not 1",
    "unlink-first": r"reply \S+ was delivered to \w+ and is not in its transcript",
}
"""What is said of each plant: nothing else would be its own finding."""
KEEP = "NANOCLAW_KEEP_HOMES" in os.environ


def hold(kills: int, seed: int) -> None:
    """Assert that so many kills lost nothing, and that a host was killed at each step."""
    said: list[str] = []
    tally, report = crash(kills, seed, say=said.append, keep=KEEP)
    assert report.ok, f"{said[-1]}\n{report}"
    assert sum(tally.kills.values()) >= kills and not tally.unreached(), tally
    assert report.counts["held"], "on_uncertain = hold never had anything to hold"


def test_sixty_kills_lose_nothing_and_double_nothing(engine: str, agent_image: str) -> None:
    hold(60, seed=4)


@pytest.mark.nightly
def test_a_thousand_kills(engine: str, agent_image: str) -> None:
    hold(1000, seed=44)


@pytest.mark.parametrize("plant", [name if name in IN_CI else pytest.param(name, marks=pytest.mark.nightly)
                                   for name in sorted(PLANTS)])  # fmt: skip
def test_a_planted_bug_is_found(engine: str, agent_image: str, plant: str) -> None:
    _, report = crash(plant_kills(plant), 1, plant, keep=KEEP)
    assert re.search(FOUND[plant], "\n".join(report.lost + report.duplicated)), str(report)
