"""Fixtures of the whole suite: a throw-away home, the container engine, the agent's image.

No test sees the real home: both of its variables point into temporary directories from the start.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from nanoclaw.paths import PROJECT, Home

AGENT_IMAGE = "nanoclaw-agent:latest"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test logged may hold half a character (of a file's name): no process can tell that to another."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "replace").decode()) for name, text in report.sections]
    return report


def engine_problem() -> str:
    """Why no engine can be used, "" where one can."""
    docker = shutil.which("docker")
    if docker is None:
        return "docker is not installed"
    asked = subprocess.run(
        [docker, "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True, timeout=30, check=False
    )
    return "" if asked.returncode == 0 else (asked.stderr.strip().splitlines() or ["docker does not answer"])[-1]


@pytest.fixture(scope="session")
def engine() -> str:
    """The docker client's absolute path. Without an engine: skipped, or failed where NANOCLAW_REQUIRE_DOCKER=1."""
    problem = engine_problem()
    if problem and os.environ.get("NANOCLAW_REQUIRE_DOCKER") == "1":
        pytest.fail(f"NANOCLAW_REQUIRE_DOCKER=1, and no engine answers: {problem}")
    if problem:
        pytest.skip(f"no engine: {problem}")
    docker = shutil.which("docker")
    assert docker is not None
    return docker


@pytest.fixture(scope="session")
def agent_image(engine: str) -> str:
    """The agent's image, built where the engine does not have it."""
    if subprocess.run([engine, "image", "inspect", AGENT_IMAGE], capture_output=True, check=False).returncode:
        built = subprocess.run(
            [sys.executable, str(PROJECT / "nanoclaw.py"), "build"], capture_output=True, text=True, check=False
        )
        assert built.returncode == 0, f"build failed:\n{built.stdout[-2000:]}\n{built.stderr[-2000:]}"
    return AGENT_IMAGE


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary directory whose path is short enough for a Unix socket below it (pytest's own is not)."""
    path = Path(tempfile.mkdtemp(prefix="nc-", dir="/tmp")).resolve()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def home(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty home with state/ and groups/, found by commands through the environment too."""
    made = Home(short_path / "home", short_path / "config")
    for directory in (made.state, made.groups, made.user_config):
        directory.mkdir(parents=True)
    monkeypatch.setenv("NANOCLAW_HOME", str(made.root))
    monkeypatch.setenv("NANOCLAW_CONFIG_DIR", str(made.user_config))
    return made


@pytest.fixture(autouse=True)
def _no_real_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test without the fixture ``home`` finds none: not the project's, not the person's own."""
    monkeypatch.setenv("NANOCLAW_HOME", str(tmp_path / "no-home"))
    monkeypatch.setenv("NANOCLAW_CONFIG_DIR", str(tmp_path / "no-config"))
