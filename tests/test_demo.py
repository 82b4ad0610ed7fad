"""The demo, as a newcomer starts it: what it shows, that it can fail, and that nothing of it runs afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanoclaw.paths import PROJECT
from tests.support.waiting import wait_for

SECONDS = 240.0


class Demo:
    """A demo that runs in a process of its own. ``said`` grows as its output is read."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        argv = [sys.executable, str(PROJECT / "nanoclaw.py"), "demo", *arguments]
        env = {**os.environ, **variables, "PYTHONUNBUFFERED": "1"}
        self.said = ""
        self.process = subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def until(self, pattern: str) -> re.Match[str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if found := re.search(pattern, line):
                return found
        pytest.fail(f"the demo ended without {pattern!r}:\n{self.said}")

    def end(self) -> int:
        rest, _ = self.process.communicate(timeout=SECONDS)
        self.said += rest
        return self.process.returncode

    @property
    def home(self) -> Path:
        found = re.search(r"home of its own, (/tmp/nanoclaw-demo-\w+);", self.said)
        assert found, self.said
        return Path(found[1])

    def containers(self, engine: str) -> str:
        """What the engine still has of this demo."""
        label = json.loads((self.home / "state" / "home.json").read_text())["id"]
        argv = [engine, "ps", "--all", "--quiet", "--filter", f"label=nanoclaw.home={label}"]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def demos() -> Iterator[list[Demo]]:
    """The demos of a test: ended, and their files removed, when it is over."""
    started: list[Demo] = []
    yield started
    for demo in started:
        if demo.process.poll() is None:
            demo.process.kill()
        demo.end()
        with contextlib.suppress(AssertionError):
            shutil.rmtree(demo.home, ignore_errors=True)


def check_its_files(demo: Demo) -> None:
    """The paths that it names at the end are there, and hold what it showed."""
    listing = demo.said.partition("All of that is in files:")[2]
    listed = {Path(path) for path in re.findall(r"^   \S.*? (/tmp/\S+)$", listing, re.MULTILINE)}
    assert len(listed) >= 8 and all(path.is_relative_to(demo.home) and path.exists() for path in listed)
    (transcript,) = (path for path in listed if path.suffix == ".jsonl" and path.parent.parent.name == "messages")
    lines = [json.loads(line) for line in transcript.read_text().splitlines()]
    runs = [line["run"] for line in lines if line["is_bot"]]
    assert len(lines) == 8 and runs[0] == runs[1] == runs[2] != runs[3]
    assert "Mia" in lines[-1]["text"]
    records = [json.loads((demo.home / "state" / "runs" / run / "run.json").read_text()) for run in (runs[0], runs[3])]
    assert records[1]["session"] == records[0]["new_session"] is not None
    assert (demo.home / "groups" / "main" / "shopping.txt").read_text() == "milk\n"


@pytest.mark.docker
def test_a_newcomer_sees_the_whole_conversation(
    engine: str, agent_image: str, demos: list[Demo], tmp_path: Path
) -> None:
    demos.append(demo := Demo("--runtime", "docker", HOME=str(tmp_path)))
    assert demo.end() == 0, demo.said
    check_its_files(demo)
    assert "WITHOUT ISOLATION" not in demo.said
    assert demo.containers(engine) == ""
    assert not (tmp_path / ".config" / "nanoclaw").exists() and not Path(os.environ["NANOCLAW_HOME"]).exists()


def test_without_an_engine_it_says_why_and_shows_it_without_isolation(demos: list[Demo], tmp_path: Path) -> None:
    for name, words in (("docker", "dial unix /var/run/docker.sock: permission denied"), ("podman", "cannot connect")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{words}' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    demos.append(demo := Demo(PATH=f"{tmp_path}:{os.environ['PATH']}"))
    assert demo.end() == 0, demo.said
    assert "Docker is running, but permission is denied" in demo.said
    assert "Podman is not running (cannot connect)" in demo.said
    assert demo.said.index("WITHOUT ISOLATION") < demo.said.index("you  >")
    check_its_files(demo)
    pids = [path.read_text().partition(":")[0] for path in demo.home.glob("state/runs/*/pid")]
    assert len(pids) == 2 and not any(Path("/proc", pid).exists() for pid in pids)


def test_a_runtime_that_is_asked_for_by_name_has_no_substitute(demos: list[Demo], tmp_path: Path) -> None:
    demos.append(demo := Demo("--runtime", "docker", DOCKER_HOST=f"unix://{tmp_path}/none"))
    assert demo.end() == 1
    assert "Docker is not" in demo.said and "home of its own" not in demo.said


@pytest.mark.docker
def test_it_fails_when_the_agent_is_not_the_living_one(engine: str, agent_image: str, demos: list[Demo]) -> None:
    demos.append(demo := Demo("--runtime", "docker"))
    container = demo.until(r"Container (\S+), started for this")[1]
    demo.process.send_signal(signal.SIGSTOP)
    subprocess.run([engine, "rm", "--force", container], capture_output=True, check=True)
    demo.process.send_signal(signal.SIGCONT)
    assert demo.end() == 1, demo.said
    assert "The demo failed. Expected: " in demo.said
    assert demo.containers(engine) == ""


@pytest.mark.docker
def test_when_it_is_interrupted_no_container_is_left(engine: str, agent_image: str, demos: list[Demo]) -> None:
    demos.append(demo := Demo("--runtime", "docker"))
    demo.until("started for this")
    demo.process.send_signal(signal.SIGINT)
    assert demo.end() == 130, demo.said
    assert f"Its files are in {demo.home}" in demo.said
    assert demo.containers(engine) == ""


@pytest.mark.docker
def test_a_container_that_is_about_to_start_is_not_left_either(
    engine: str, agent_image: str, demos: list[Demo]
) -> None:
    demos.append(demo := Demo("--runtime", "docker"))
    demo.until("you  >")
    wait_for(lambda: list(demo.home.glob("state/runs/*/start.lock")), SECONDS, "a command that starts a container")
    demo.process.send_signal(signal.SIGTERM)
    assert demo.end() == 130, demo.said
    assert demo.containers(engine) == ""
