"""A thousand kills: ``python3 nanoclaw.py test -m nightly``."""

from __future__ import annotations

import random

import pytest

from tests.crash.run import crash

pytestmark = [pytest.mark.nightly, pytest.mark.docker]


@pytest.mark.usefixtures("agent_image")
def test_a_thousand_kills_lose_nothing_and_double_nothing() -> None:
    seed = random.randrange(1_000_000)
    tally, report = crash(1000, seed, say=lambda text: print(text, flush=True))
    assert sum(tally.kills.values()) >= 1000 and not tally.unreached(), f"seed {seed}: {tally}"
    assert report.ok, f"seed {seed}: {report}"
