"""End to end: the real host, engine and SDK; only the model is scripted, and the far side of the chat is a file."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nanoclaw.runs.local_process import agent_python
from tests.support.home import HomeUnderTest, Script
from tests.support.scripted_model import ScriptedModel


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.docker)


@contextmanager
def living(engine: str, runtime: str = "docker") -> Iterator[HomeUnderTest]:
    """A home with its scripted model. At the end nothing of it is left, and the host must not have met a bug."""
    if runtime == "process":
        agent_python(print)  # installed at its first use, which may take longer than any deadline here
    root = Path(tempfile.mkdtemp(prefix="nc-", dir="/tmp")).resolve()
    with ScriptedModel(Script()) as model:
        house = HomeUnderTest(root, model, engine, runtime)
        try:
            yield house
        finally:
            house.remove()
            log = house.log()
            if keep := os.environ.get("NANOCLAW_KEEP_HOMES"):
                shutil.copytree(
                    root, Path(keep) / root.name, symlinks=True, ignore=lambda d, names: [n for n in names if n == "s"]
                )
            shutil.rmtree(root)
    assert not re.search(r"Traceback|by a bug", log), log


@pytest.fixture
def house(engine: str, agent_image: str) -> Iterator[HomeUnderTest]:
    """A home of the test's own, without a group; its host is not started."""
    with living(engine) as made:
        yield made


@pytest.fixture
def script(house: HomeUnderTest) -> Script:
    """What the model of ``house`` answers."""
    rule = house.model.rule
    assert isinstance(rule, Script)
    return rule
