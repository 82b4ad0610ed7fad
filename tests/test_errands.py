"""Errands, and what a run's worker does with its agent's requests: rights that end while it works, a host that dies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.ipc.scripts import handle_one
from nanoclaw.paths import Home
from nanoclaw.runs.runtime import Look
from nanoclaw.stores import refused
from nanoclaw.stores.errands import Errands
from nanoclaw.stores.sessions import Session
from tests.support.home import put
from tests.support.parts import MAIN
from tests.support.waiting import wait_for
from tests.test_worker import Runner, Scene


@pytest.fixture
def scene(home: Home) -> Iterator[Scene]:
    made = Scene(home)
    yield made
    made.close()


@pytest.fixture
def runner(scene: Scene) -> Runner:
    """The agent of main, at work on its first prompt."""
    scene.parts.say("hello")
    return scene.start()


def ask(runner: Runner, name: str = "x.json", **fields: Any) -> Path:
    path = runner.directory / "ipc" / "messages" / name
    put(path, json.dumps({"type": "message", "chatJid": "local:main", "text": "from the tool", **fields}))
    return path


def answer(runner: Runner, name: str = "x.json") -> dict[str, Any]:
    return dict(json.loads((runner.directory / "in" / "answers" / name).read_bytes()))


def save_main(scene: Scene, text: str | None) -> None:
    """A person saves (None: deletes) the group's file; return when it is in force."""
    path = scene.home.group_file("main")
    if text is None:
        path.unlink()
    else:
        put(path, text)
    settings, before = scene.parts.settings, scene.parts.settings.groups
    wait_for(lambda: settings.refresh() or settings.groups is not before, 5, "the settings")


# -- errands -----------------------------------------------------------------------------------------------------------


def test_an_errand_waits_over_a_restart_until_a_run_has_it(home: Home) -> None:
    errands = Errands(home)
    errands.put("b", "main", "first", "again main-1")
    errands.put("a", "main", "second", "again main-2")
    errands.put("a", "main", "the same id again", "again main-2")
    errands.put("c", "team", "other", "again team-1")
    (home.state / "errands" / "broken.json").write_text("{")
    (home.state / "errands" / "foreign.json").write_text('{"x": 1}')
    after = Errands(home)
    after.load()
    assert [e.text for e in sorted(after.all(), key=lambda e: e.created)] == ["first", "second", "other"]
    first = after.first("main")
    assert first is not None and first.text == "first" and after.first("nobody") is None
    after.remove("b")
    after.remove("b")
    again = Errands(home)
    again.load()
    second = again.first("main")
    assert second is not None and second.text == "second"
    assert (home.state / "errands" / "broken.json").read_text() == "{", "what a person may mend is left alone"


# -- requests of a living run ------------------------------------------------------------------------------------------


def test_what_the_agent_said_while_it_worked_comes_before_its_answer(scene: Scene, runner: Runner) -> None:
    path = ask(runner)
    runner.answer(1)
    scene.at(1.0)
    scene.parts.outbox.load()
    assert [r.text for r in scene.parts.outbox.heads()] == ["from the tool"] and not path.exists()
    assert sorted(scene.replies()) == ["answer", "from the tool"]
    assert answer(runner)["ok"]


def test_an_agent_that_said_something_and_then_dies_is_not_asked_again(scene: Scene, runner: Runner) -> None:
    """What it did had an effect that its people saw (ARCHITECTURE 4)."""
    runner.consume(1)
    scene.at(1.0)
    ask(runner)
    scene.at(2.0)
    scene.ended(Look("exited", 137), 3.0)
    (claim,) = scene.parts.records.load(scene.run.id).claims
    assert (claim.state, claim.broken) == ("finished", True) and scene.waits() == []


def test_a_request_that_lay_there_when_the_agent_ended_is_done(scene: Scene, runner: Runner) -> None:
    runner.answer(1)
    path = ask(runner)
    half = runner.directory / "ipc" / "tasks" / "half.json"
    half.write_text('{"type": "lis')
    scene.ended(Look("exited", 0))
    assert sorted(scene.replies()) == ["answer", "from the tool"] and not path.exists() and not half.exists()
    assert [kept.came_from for kept in refused.listed(scene.home)] == ["state/ipc/main/tasks/half.json"]


def test_the_next_host_takes_what_the_last_one_left(scene: Scene, runner: Runner) -> None:
    path = ask(runner)
    other = scene.adopt()
    scene.at(1.0)
    assert scene.replies() == ["from the tool"] and not path.exists() and answer(other)["ok"]


def test_a_main_that_is_none_any_more(scene: Scene, runner: Runner) -> None:
    """It is stopped, and a request that it put before that has the rights of now."""
    assert answer(_main_asks(scene, runner, "before.json"), "before.json")["ok"]
    save_main(scene, 'jid = "local:main"\n')
    assert not answer(_main_asks(scene, runner, "after.json"), "after.json")["ok"]
    assert "stop" in scene.engine.calls
    assert scene.replies() == ["from the tool"]


def test_a_group_that_became_main_gives_its_old_run_no_new_right(home: Home) -> None:
    home.group_files.mkdir(parents=True, exist_ok=True)
    scene = Scene(home)
    try:
        save_main(scene, 'jid = "local:main"\nrequires_trigger = false\n')
        scene.parts.say("hello")
        runner = scene.start()
        save_main(scene, MAIN)
        assert "only the main group" in answer(_main_asks(scene, runner, "x.json"))["error"]
        assert "stop" not in scene.engine.calls
    finally:
        scene.close()


def _main_asks(scene: Scene, runner: Runner, name: str) -> Runner:
    ask(runner, name, chatJid="local:team")
    scene.at(1.0)
    return runner


def test_a_group_whose_file_is_deleted_while_its_agent_works(scene: Scene, runner: Runner) -> None:
    """Its request is refused with the reason, and kept: registered again, it can be put back and is done."""
    save_main(scene, None)
    ask(runner)
    scene.at(1.0)
    assert "main is not registered (any more)" in answer(runner)["error"] and "stop" in scene.engine.calls
    (kept,) = refused.listed(scene.home)
    save_main(scene, MAIN)
    assert refused.retry(scene.home, kept.name) == scene.home.ipc / "main" / "messages" / "x.json"
    handle_one(scene.home, "main")
    assert scene.replies() == ["from the tool"]


def test_a_session_that_was_cleared_does_not_come_back_with_the_next_result(scene: Scene, runner: Runner) -> None:
    runner.answer(1, session="old")
    scene.at(1.0)
    assert scene.parts.sessions.get("main") == Session("old", "a-1")
    scene.parts.sessions.clear("main", scene.run.id)
    scene.worker.close()
    scene.parts.say("more")
    scene.at(2.0)
    assert len(runner.prompts()) == 1 and runner.is_told_to_close()
    runner.write("result", uuids=[], text="late", session="old", anchor="a-2")
    scene.at(3.0)
    assert scene.parts.sessions.get("main") is None and "late" in scene.replies()
    scene.adopt()
    assert scene.parts.sessions.get("main") is None, "nor when the next host takes the run over"


def test_a_session_cleared_without_a_host_does_not_come_back_with_the_run_that_the_next_host_adopts(
    scene: Scene, runner: Runner
) -> None:
    runner.answer(1, session="old")
    scene.at(1.0)
    put(scene.home.ipc / "main" / "tasks" / "c.json", json.dumps({"type": "clear_session", "folder": "main"}))
    handle_one(scene.home, "main")
    scene.adopt()
    scene.at(1.0)
    assert scene.parts.sessions.get("main") is None and runner.is_told_to_close()


def test_a_cursor_reset_without_a_host_stays_when_the_next_host_adopts_the_run(scene: Scene, runner: Runner) -> None:
    runner.answer(1)
    scene.at(1.0)
    put(scene.home.ipc / "main" / "tasks" / "c.json", json.dumps({"type": "reset_cursor", "folder": "main", "to": 0}))
    handle_one(scene.home, "main")
    other = scene.adopt()
    scene.at(1.0)
    assert len(other.prompts()) == 2, "message 1 is handed over again"
