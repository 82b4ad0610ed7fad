"""A long life of the host: ``python3 nanoclaw.py test -m nightly``."""

from __future__ import annotations

import pytest

from tests.bench.figures import table
from tests.bench.soak import soak

pytestmark = [pytest.mark.nightly, pytest.mark.docker]


@pytest.mark.usefixtures("agent_image")
def test_half_an_hour_of_work_leaves_the_host_as_it_was() -> None:
    figures = soak()
    print(table(figures))
    assert all(figure.met for figure in figures), table(figures)
