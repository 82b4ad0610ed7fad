"""The crash test (``tests/crash``): its short form, its long form at night, and that it finds bugs that are planted."""

from __future__ import annotations

import os

import pytest

from tests.crash.plants import PLANTS
from tests.crash.run import crash, plant_kills

KEEP = "NANOCLAW_KEEP_HOMES" in os.environ


def hold(kills: int, seed: int) -> None:
    """Assert that so many kills lost nothing, and that a host was killed at each step."""
    said: list[str] = []
    tally, report = crash(kills, seed, say=said.append, keep=KEEP)
    assert report.ok, f"{said[-1]}\n{report}"
    assert sum(tally.kills.values()) >= kills and not tally.unreached(), tally


def test_sixty_kills_lose_nothing_and_double_nothing(engine: str, agent_image: str) -> None:
    hold(60, seed=4)


@pytest.mark.nightly
def test_a_thousand_kills(engine: str, agent_image: str) -> None:
    hold(1000, seed=44)


@pytest.mark.parametrize("plant", [pytest.param(name, marks=pytest.mark.nightly) if name == "unlink-first" else name
                                   for name in sorted(PLANTS)])  # fmt: skip
def test_a_planted_bug_is_found(engine: str, agent_image: str, plant: str) -> None:
    _, report = crash(plant_kills(plant), 1, plant, keep=KEEP)
    found = {"cursor-first": report.lost, "unlink-first": report.lost, "keys-forgotten": report.duplicated}
    assert found[plant], str(report)
