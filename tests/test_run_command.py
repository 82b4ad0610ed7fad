"""``run`` by a service manager that starts it again and again: it waits when it would only fail again."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from nanoclaw.commands.run import backoff_seconds
from nanoclaw.paths import PROJECT, Home
from nanoclaw.stores.home import make_home, note_host, read_host_file
from tests.support.waiting import wait_for

NOW = 1_000_000.0
CODE = "import sys; from nanoclaw.cli import main; sys.exit(main(['run']))"
GOOD = '[container]\nruntime = "process"\n[model]\noffline = true\n'


@pytest.mark.parametrize(
    ("starts", "waits"),
    [
        # When the last hosts began, in s before now, and whether they ended cleanly; the wait.
        ([], 0),
        ([(60, False), (30, False)], 0),
        ([(90, False), (60, False), (30, False)], 5),
        ([(120, False), (90, False), (60, False), (30, False)], 10),
        ([(30 * n, False) for n in range(8, 0, -1)], 60),
        ([(90, True), (60, False), (30, False)], 0),
        ([(90, False), (60, False), (30, True)], 0),
        ([(400, False), (60, False), (30, False)], 0),
        ([(900, False), (600, False), (301, False)], 0),
        ([(600, False), (400, False), (200, False)], 5),
        ([(-3500, False), (-3540, False), (-3570, False)], 0),  # the clock was set back
        ([(-10, False), (30, False), (20, False), (10, False)], 5),
    ],
)
def test_how_long_to_wait(starts: list[tuple[float, bool]], waits: float) -> None:
    assert backoff_seconds([(NOW - ago, clean) for ago, clean in starts], NOW) == waits


@pytest.fixture
def ready(home: Home) -> Home:
    make_home(home)
    home.config_file.write_text(GOOD)
    return home


@contextmanager
def run(stdin: int = subprocess.DEVNULL, **variables: str) -> Iterator[subprocess.Popen[str]]:
    env = {key: value for key, value in os.environ.items() if key != "NANOCLAW_RESTART_BACKOFF"}
    process = subprocess.Popen(
        [sys.executable, "-c", CODE], env=env | variables, stdin=stdin, stderr=subprocess.PIPE, text=True, cwd=PROJECT
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline()


def starts(home: Home) -> list[dict[str, Any]]:
    return list(read_host_file(home).get("starts", ()))


def in_a_loop(home: Home) -> None:
    """Leave what hosts leave that do not come up, without a wait."""
    home.config_file.write_text("assistant_name = 7\n")
    for number in range(3):
        with run() as process:
            assert "assistant_name" in first_line(process) and process.wait(20) == 1
        assert [one["clean"] for one in starts(home)] == [False] * (number + 1)


def test_a_host_that_cannot_start_again_and_again_waits_until_its_settings_change(ready: Home) -> None:
    in_a_loop(ready)
    with run() as process:
        assert "waiting 5 s" in (line := first_line(process)) and "NANOCLAW_RESTART_BACKOFF=0" in line
        assert len(starts(ready)) == 3, "it has not begun"
        ready.config_file.write_text(GOOD)
        while "Host started" not in first_line(process):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
        assert process.returncode == 0
    assert [one["clean"] for one in starts(ready)] == [False, False, False, True]
    with run() as process:
        assert "waiting" not in first_line(process), "a clean end ends the loop"


def test_sigterm_ends_the_wait(ready: Home) -> None:
    in_a_loop(ready)
    with run() as process:
        assert "waiting" in first_line(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == -signal.SIGTERM
    assert len(starts(ready)) == 3


def test_a_person_and_a_test_do_not_wait(ready: Home) -> None:
    in_a_loop(ready)
    with run(NANOCLAW_RESTART_BACKOFF="0") as process:
        assert "assistant_name" in first_line(process)
    ours, theirs = pty.openpty()
    try:
        with run(stdin=theirs) as process:
            assert "assistant_name" in first_line(process)
    finally:
        os.close(ours)
        os.close(theirs)


def test_kill_9_is_an_unclean_end(ready: Home) -> None:
    with run() as process:
        wait_for(lambda: starts(ready), 20, "the start")
        process.kill()
        process.wait()
    assert [one["clean"] for one in starts(ready)] == [False]


@pytest.mark.parametrize("broken", [[1, 2, 3, 4], {"at": 1}, [{"at": "x"}] * 4, "starts"])
def test_a_host_file_that_a_person_broke_costs_neither_a_wait_nor_the_start(ready: Home, broken: object) -> None:
    note_host(ready, starts=broken)
    with run() as process:
        assert "waiting" not in first_line(process)
        wait_for(lambda: starts(ready) != broken, 20, "the start")
    assert [one["clean"] for one in starts(ready)] == [False]
