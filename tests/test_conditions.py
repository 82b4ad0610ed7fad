"""What holds back every run: on a real home, with the test's own clocks and an engine that the test breaks."""

from __future__ import annotations

import os
import threading
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nanoclaw import conditions as module
from nanoclaw.conditions import LONGEST_HOLD, LONGEST_WAIT, PROBE_SECONDS, Conditions, Held
from nanoclaw.errors import UserError
from nanoclaw.paths import Home
from nanoclaw.runs.judge import VERDICTS
from nanoclaw.runs.launch import Runtimes
from nanoclaw.stores.held import HeldFile
from nanoclaw.stores.settings import Settings
from tests.support.parts import Parts
from tests.support.waiting import wait_for

CONFIG = 'timezone = "UTC"\n[container]\nruntime = "docker"\n'
KEY = "ANTHROPIC_API_KEY=sk-ant-api03-{}\n"
WALL = 1_800_000_000.0
DEADLINE = 30.0


class Engine(Runtimes):
    """The far side: what it says to the probe. ``hangs`` while it is not set."""

    def __init__(self) -> None:
        super().__init__()
        self.says: tuple[str, UserError] | None = None
        self.answers = threading.Event()
        self.answers.set()
        self.asked = 0

    def of(self, name: str) -> Engine:  # type: ignore[override]
        return self

    def why_unavailable(self, image: str, project: Path) -> tuple[str, UserError] | None:
        self.asked += 1
        assert self.answers.wait(DEADLINE)
        return self.says


class Place:
    def __init__(self, home: Home) -> None:
        self.home = home
        self.engine = Engine()
        self.wall = WALL
        self.changes: list[Held | None] = []
        self.settings: Settings = Parts(home, CONFIG).settings
        self.save_env("one")
        self.conditions = self.another()

    def another(self) -> Conditions:
        return Conditions(self.home, self.settings, self.engine, self.changes.append, lambda: self.wall)

    def save_env(self, key: str, at: float = WALL - 1000) -> None:
        self.home.env_file.write_text(KEY.format(key))
        os.utime(self.home.env_file, (at, at))

    def hold(self, cause: str, now: float, until: float | None = None) -> None:
        self.conditions.hold(replace(VERDICTS[cause], until=until), now)

    def account(self) -> str:
        """Of the .env as it stands, as another host would note it."""
        noted: list[Held | None] = []
        other = Conditions(self.home, self.settings, self.engine, noted.append, lambda: self.wall)
        other.hold(VERDICTS["credential"], 0.0)
        assert noted[0] is not None
        return noted[0].account

    def why_not(self, now: float) -> str | None:
        verdict = self.conditions.why_not(now)
        return verdict.cause if verdict else None

    def causes(self) -> list[str | None]:
        return [held.cause if held else None for held in self.changes]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    one = Place(Home(tmp_path / "home", tmp_path / "config"))
    yield one
    one.engine.answers.set()


def test_a_rate_limit_holds_until_the_platforms_time(place: Place) -> None:
    place.hold("rate_limit", 100.0, WALL + 3600)
    (held,) = place.changes
    assert held is not None and replace(held, account="") == Held("rate_limit", "", WALL, WALL + 3600)
    assert len(held.account) == 16
    assert place.why_not(100.0 + 3599) == "rate_limit" and place.conditions.next_look() == 3700.0
    place.conditions.poke()
    assert place.why_not(3699.0) == "rate_limit", "a group's file that is saved does not end it"
    assert place.why_not(3700.0) is None and place.conditions.next_look() is None
    assert place.causes() == ["rate_limit", None]


def test_a_time_far_ahead_is_looked_at_after_a_day(place: Place) -> None:
    place.hold("rate_limit", 0.0, WALL + 7 * 86400)
    assert [held and held.until for held in place.changes] == [WALL + 7 * 86400]
    assert place.why_not(LONGEST_WAIT - 1) == "rate_limit" and place.why_not(LONGEST_WAIT) is None


@pytest.mark.parametrize(("step", "still"), [(-3600.0, "rate_limit"), (0.0, "rate_limit"), (3600.0, None)])
def test_clock_steps(place: Place, step: float, still: str | None) -> None:
    """Put back: no longer than it was. Put forward, or the machine slept: it is tried, at worst once in vain."""
    place.hold("rate_limit", 0.0, WALL + 1800)
    place.wall += step
    assert place.why_not(60.0) == still
    place.wall += 60
    assert place.why_not(1800.0) is None


def test_what_nobody_sees_is_tried_ever_more_seldom(place: Place) -> None:
    waits, now = [], 0.0
    for _ in range(9):
        place.hold("network", now)
        waits.append((place.conditions.next_look() or 0.0) - now)
        now += waits[-1]
        assert place.why_not(now) is None
    assert waits == sorted(waits) and waits[0] < 30 and waits[-1] == LONGEST_HOLD
    place.conditions.worked()
    place.hold("network", now)
    assert (place.conditions.next_look() or 0.0) - now == waits[0]


def test_a_platform_that_says_now_each_time_is_not_hammered(place: Place) -> None:
    for _ in range(8):
        place.hold("rate_limit", 0.0, WALL)
    assert (place.conditions.next_look() or 0.0) == LONGEST_HOLD


def test_the_longer_of_two_holds_counts(place: Place) -> None:
    place.hold("credential", 0.0)
    place.hold("network", 0.0)
    assert place.why_not(1e6) == "credential"


@pytest.mark.parametrize("cause", ["credential", "rate_limit"])
@pytest.mark.parametrize("how", ["another", "touched"])
def test_an_edit_of_env_ends_what_the_account_is_held_for(place: Place, cause: str, how: str) -> None:
    place.hold(cause, 0.0, WALL + 9000 if cause == "rate_limit" else None)
    assert place.why_not(5000.0) == cause
    place.save_env("two" if how == "another" else "one", WALL)
    assert place.why_not(5000.0) is None
    assert place.causes() == [cause, None]


def test_a_restart_does_not_ask_again(place: Place) -> None:
    place.hold("rate_limit", 0.0, WALL + 600)
    (noted,) = place.changes
    assert noted is not None
    place.wall += 100
    place.conditions = place.another()
    place.conditions.restore(noted, 7.0)
    verdict = place.conditions.why_not(7.0)
    assert verdict is not None and (verdict.cause, verdict.until) == ("rate_limit", WALL + 600)
    assert place.why_not(507.0) is None
    assert place.changes[1:] == [None], "what stands in the file is not written again"


@pytest.mark.parametrize(
    ("held", "saved", "expected"),
    [
        (Held("credential", "", WALL - 60, None), WALL - 1000, "credential"),
        (Held("credential", "", WALL - 60, None), WALL - 10, None),
        (Held("rate_limit", "", WALL - 60, WALL - 1), WALL - 1000, None),
        (Held("rate_limit", "", WALL - 60, WALL + 60), WALL - 10, None),
        (Held("engine", "", WALL - 60, None), WALL - 1000, None),
        (Held("what a later version knows", "", WALL - 60, WALL + 60), WALL - 1000, None),
    ],
)
def test_what_is_restored(place: Place, held: Held, saved: float, expected: str | None) -> None:
    place.save_env("one", saved)
    place.conditions.restore(replace(held, account=place.account()), 0.0)
    assert place.causes() == ([] if expected else [None]), "what does not hold any more leaves the file"
    assert place.why_not(0.0) == expected


@pytest.mark.parametrize("how", ["another credential", "another server", "offline", "an earlier version's file"])
def test_another_account_is_tried_although_env_is_old(place: Place, how: str) -> None:
    """A file that was moved into place, or a clock that was set back."""
    account = "" if how.endswith("file") else place.account()
    place.save_env("two" if how == "another credential" else "one")
    if how == "another server":
        place.home.env_file.write_text(KEY.format("one") + "ANTHROPIC_BASE_URL=http://localhost:1\n")
        os.utime(place.home.env_file, (WALL - 1000, WALL - 1000))
    if how == "offline":
        place.home.config_file.write_text(CONFIG + "[model]\noffline = true\n")
    place.settings = Parts(place.home).settings
    account = place.account() if how == "offline" else account  # the model that stands in has none that is refused
    place.conditions = place.another()
    place.conditions.restore(Held("credential", "", WALL - 60, None, account), 0.0)
    assert place.why_not(0.0) is None


def test_the_file_survives_a_restart_and_tells_no_secret(place: Place) -> None:
    file = HeldFile(place.home)
    place.hold("credential", 0.0)
    file.write(place.changes[0])
    assert file.read() == place.changes[0] and "sk-ant" not in (place.home.state / "held.json").read_text()
    place.conditions = place.another()
    place.conditions.restore(file.read() or Held("none", "", 0, None), 0.0)
    assert place.why_not(0.0) == "credential"
    (place.home.state / "held.json").unlink()
    (place.home.state / "held.json").symlink_to("held.json")
    assert file.read() is None


def test_an_engine_that_is_away_is_looked_for_and_told_once(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.engine.says = ("engine", UserError("Docker is not running.", "Start it."))
    for now in (0.0, PROBE_SECONDS, 2 * PROBE_SECONDS):
        assert place.why_not(now) == "engine" and place.why_not(now + 1) == "engine"
    assert place.engine.asked == 3
    assert place.changes == [Held("engine", "Docker is not running. Start it.", WALL, None)]
    assert caplog.text.count("Messages wait") == 1
    place.engine.says = None
    place.conditions.poke()
    assert place.why_not(2 * PROBE_SECONDS + 1) is None and place.causes() == ["engine", None]


def test_an_engine_that_hangs_is_asked_by_one_question_only(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENGINE_SECONDS", 0.01)
    monkeypatch.setattr(module, "STILL_SECONDS", 0.01)
    place.engine.answers.clear()
    for now in range(0, 500, 10):
        assert place.why_not(float(now)) == "engine"
    assert place.engine.asked == 1 and place.causes() == ["engine"]
    (probe,) = [thread for thread in threading.enumerate() if thread.name == "engine probe"]
    place.engine.answers.set()
    probe.join(DEADLINE)
    assert place.why_not(500.0) is None


def test_a_hold_that_comes_while_the_engine_is_asked_is_not_lost(place: Place) -> None:
    place.engine.answers.clear()
    seen: list[str | None] = []
    asking = threading.Thread(target=lambda: seen.append(place.why_not(0.0)))
    asking.start()
    wait_for(lambda: place.engine.asked == 1, DEADLINE, "the engine is asked")
    place.hold("rate_limit", 0.0, WALL + 60)
    place.engine.answers.set()
    asking.join(DEADLINE)
    assert seen == ["rate_limit"] and place.why_not(59.0) == "rate_limit"


def test_an_image_that_vanished_is_seen_although_it_was_there(place: Place) -> None:
    assert place.why_not(0.0) is None and place.engine.asked == 1
    place.engine.says = ("image", UserError("The image is not there.", "Build it."))
    place.hold("image", 10.0)
    place.conditions.poke()
    assert place.why_not(10.0) == "image"
    place.engine.says = None
    assert place.why_not(10.0 + PROBE_SECONDS) is None


def test_a_full_disk(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where what is held cannot be noted: it is noted when there is room."""
    usage = namedtuple("usage", "free")
    free = [1]
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(free[0]))
    noted = place.changes.append

    def changed(held: Held | None) -> None:
        if free[0] == 1:
            raise OSError(28, "No space left on device")
        noted(held)

    place.conditions = Conditions(place.home, place.settings, place.engine, changed, lambda: place.wall)
    assert place.why_not(0.0) == "disk" and place.changes == []
    free[0] = 2
    assert place.why_not(1.0) == "disk" and place.causes() == ["disk"]
    free[0] = 10**9
    assert place.why_not(PROBE_SECONDS) is None and place.causes() == ["disk", None]


def test_no_credential_and_a_broken_env_file(place: Place) -> None:
    place.home.env_file.unlink()
    assert place.why_not(0.0) == "no_credential"
    place.home.env_file.write_text("ANTHROPIC_API_KEY\n")
    os.utime(place.home.env_file, (WALL, WALL))
    place.conditions.poke()
    assert place.why_not(1.0) == "env_file"
    place.save_env("one", WALL + 1)
    place.conditions.poke()
    assert place.why_not(2.0) is None
