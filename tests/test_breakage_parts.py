"""What breaks around the house, where parts tell it better than a whole host (tests/e2e/test_breakage.py): clocks that
step, times that platforms give, directories that may not be read, a full inotify table, what a failing turn says."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from nanoclaw.inbox import Inbox
from nanoclaw.ipc.desk import KINDS
from nanoclaw.ipc.scripts import ScriptDesks
from nanoclaw.models import Message
from nanoclaw.paths import PROJECT, Home
from nanoclaw.rounds import Rounds
from nanoclaw.runs.claims import settle
from nanoclaw.runs.judge import RETRY_SECONDS, VERDICTS
from nanoclaw.runs.processes import run
from nanoclaw.turns import RESCAN_SECONDS, Turns
from nanoclaw.waiting import WaitingGroups
from tests.support.home import put
from tests.support.parts import Parts, new_run

HOUR = 3600.0
STEPS = pytest.mark.parametrize("step", [-HOUR, HOUR], ids=["an hour back", "an hour on"])


@pytest.fixture
def parts(home: Home) -> Parts:
    return Parts(home)


# -- clocks ------------------------------------------------------------------------------------------------------------


@STEPS
@pytest.mark.parametrize("when", ["before the failure", "after it"])
def test_a_retry_waits_for_no_clock(parts: Parts, step: float, when: str) -> None:
    """In whatever way the clock went, the retry comes within its time, or at once."""
    wall = time.time()
    waiting = WaitingGroups(parts.settings, parts.handover, parts.errands)
    waiting.ready(wall)
    if when == "before the failure":
        wall += step
    parts.say("hello")
    failed = new_run()
    parts.offer(failed)
    failed.claims[0].state = "consumed"
    parts.handover.settle(failed, VERDICTS["crash"], settle(failed.claims), wall)
    waiting.news(["main"])
    ready, wait = waiting.ready(wall)
    assert ready == [] and 0 < wait <= RETRY_SECONDS[0]
    if when == "after it":
        wall += step
    ready, _ = waiting.ready(wall + wait)
    assert [one.folder for one in ready] == ["main"]


@STEPS
def test_rescans_wait_for_no_clock(parts: Parts, step: float) -> None:
    wall = time.time()
    waiting = WaitingGroups(parts.settings, parts.handover, parts.errands)
    waiting.ready(wall)
    rounds, groups = Rounds(parts.home.inbox), {"main": 1}
    parts.home.inbox.mkdir(exist_ok=True)
    rounds.due(groups, wall)
    rounds.again("main", wall + 1.0)
    parts.say("hello")  # and nobody tells
    ready, wait = waiting.ready(wall + step)
    assert [one.folder for one in ready] == ["main"] and wait <= RESCAN_SECONDS
    assert rounds.due(groups, wall + step) == ["main"]
    assert rounds.wait(wall + step) <= RESCAN_SECONDS


@STEPS
def test_files_dropped_before_a_step_are_taken_after_it(parts: Parts, step: float) -> None:
    taken: list[Message] = []
    inbox = Inbox(parts.home, lambda: parts.settings.groups, lambda message, name: taken.append(message))
    inbox.turn(time.time())
    put(parts.home.inbox / "main" / "a.txt", "hello")
    inbox.turn(time.time() + step)
    inbox.turn(time.time() + step + RESCAN_SECONDS)
    assert [message.text for message in taken] == ["hello"]


def test_the_way_of_a_message_knows_no_time(parts: Parts) -> None:
    """Two of one second, and one that comes late with an older time: all are handed over, in the order of arrival."""
    parts.say("first", timestamp="2026-11-22T09:30:00Z")
    parts.say("of the same second", timestamp="2026-11-22T09:30:00Z")
    batch = parts.offer(new_run())
    assert batch is not None and [line.message.text for line in batch.lines] == ["first", "of the same second"]
    parts.say("late, and older", timestamp="2026-11-22T09:29:57Z")
    parts.say("from tomorrow", timestamp="2026-11-23T09:29:57Z")
    parts.say("from today", timestamp="2026-11-22T09:31:00Z")
    assert parts.handover.waits_until(parts.group()) == 0.0
    batch = Parts(parts.home).offer(new_run("main-20261122-093001-000"))
    assert batch is not None
    assert [line.message.text for line in batch.lines] == ["late, and older", "from tomorrow", "from today"]


@STEPS
def test_a_run_made_after_a_step_has_a_name_of_its_own(parts: Parts, step: float) -> None:
    now = datetime.now()
    first = parts.records.new_id("main", now)
    parts.records.create(new_run(first), lambda draft: None)
    again = parts.records.new_id("main", now)
    stepped = parts.records.new_id("main", datetime.fromtimestamp(now.timestamp() + step))
    assert len({first, again, stepped}) == 3
    assert parts.records.prune(7 * 86400.0, time.time() + step) == []


# -- files -------------------------------------------------------------------------------------------------------------


@contextmanager
def nobody(home: Home) -> Iterator[None]:
    """As a user who is not root, whom the home belongs to."""
    if os.getuid() != 0:
        yield
        return
    for path in [home.root.parent, home.root, *home.root.rglob("*")]:
        shutil.chown(path, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_an_inbox_that_may_not_be_read_holds_up_no_other(parts: Parts) -> None:
    taken: list[str] = []
    inbox = Inbox(parts.home, lambda: parts.settings.groups, lambda message, name: taken.append(message.text))
    inbox.turn(time.time())
    for folder in ("main", "team"):
        put(parts.home.inbox / folder / "a.txt", folder)
    shut = parts.home.inbox / "main"  # the first in the order of names
    with nobody(parts.home):
        shut.chmod(0)
        try:
            inbox.turn(time.time() + RESCAN_SECONDS)
            assert taken == ["team"]
        finally:
            shut.chmod(0o700)
        inbox.turn(time.time() + 2 * RESCAN_SECONDS)
        assert taken == ["team", "main"]


def test_a_turn_that_is_held_up_says_so_once_an_episode(caplog: pytest.LogCaptureFixture) -> None:
    left = [OSError(28, "No space left on device")] * 3 + [None] + [OSError(28, "No space left on device")]

    def turn() -> float:
        if (error := left.pop(0)) is not None:
            raise error
        return 1.0

    turns = Turns("Inbox", turn)
    with caplog.at_level(logging.ERROR, "nanoclaw"):
        for _ in range(5):
            turns.guarded_turn()
    assert len([r for r in caplog.records if "held up" in r.getMessage()]) == 2


WITHOUT_INOTIFY = """
import sys, pathlib
from nanoclaw.files.watch import Watcher
watcher = Watcher()
watcher.start()
watcher.add(pathlib.Path(sys.argv[1]), print, recursive=True, deletions=True)
watcher.remove(pathlib.Path(sys.argv[1]))
watcher.stop()
print("went on")
"""


def test_a_watcher_without_a_single_inotify_instance(tmp_path: Path) -> None:
    """Other programs of the same user may have them all: no reason not to start."""
    limit = 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"'
    argv = ["unshare", "-Ur", "sh", "-c", limit, "sh", sys.executable, "-c"]
    if shutil.which("unshare") is None or subprocess.run([*argv, ""], capture_output=True).returncode:
        pytest.skip("no user namespace can be made here")
    done = subprocess.run([*argv, WITHOUT_INOTIFY, tmp_path], cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout == "went on\n", done.stderr
    assert done.stderr.count("No file events") == 1


# -- commands ----------------------------------------------------------------------------------------------------------


def test_the_cause_need_not_stand_in_the_last_line() -> None:
    """docker tells first that the image is not there, then that it cannot be pulled, then how to get help."""
    said = "Unable to find image 'x' locally\ndocker: Error response from daemon: no route.\nSee 'docker run --help'."
    done = run(["sh", "-c", f'printf "%s\\n" "{said}" >&2; exit 125'], 10.0)
    assert done.words == "Unable to find image 'x' locally docker: Error response from daemon: no route."
    assert run(["sh", "-c", "exit 3"], 10.0).words == "exit code 3"
    assert len(run(["sh", "-c", "head -c 5000 /dev/zero | tr '\\0' x"], 10.0).words) == 1000


@pytest.mark.parametrize("kind", KINDS)
def test_a_sparse_file_of_500_mb_is_not_read(parts: Parts, kind: str) -> None:
    scripts = ScriptDesks(parts.office())
    scripts.turn(time.time())
    path = parts.home.ipc / "main" / kind / "huge.json"
    path.touch()
    os.truncate(path, 500_000_000)
    scripts.touched(str(path))
    scripts.turn(time.time())
    answer = json.loads((parts.home.ipc / "main" / "answers" / "huge.json").read_bytes())
    assert answer["ok"] is False and "larger than" in answer["error"]
