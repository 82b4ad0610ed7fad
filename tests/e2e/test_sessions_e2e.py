"""Sessions from run to run: what is resumed, what is not, and what a failed run leaves of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import living
from tests.support.home import HomeUnderTest, Script, put
from tests.support.scripted_model import Error, Gate, Hang, ToolUse, tool_results
from tests.support.waiting import wait_for

REFUSED = Error(400, headers={"x-should-retry": "false"})


@pytest.fixture(scope="module")
def house(engine: str, agent_image: str) -> Iterator[HomeUnderTest]:
    with living(engine) as made:
        made.start()
        yield made


@pytest.fixture
def folder(house: HomeUnderTest, request: pytest.FixtureRequest) -> Iterator[str]:
    """A group of the test's own. Its container closes when the group goes."""
    name = request.node.name.removeprefix("test_")[:60]
    yield house.group(name)
    house.configure()
    house.home.group_file(name).unlink()
    wait_for(lambda: all(run["status"] == "judged" for run in house.runs(name)), 30, "the container's end")


def close(house: HomeUnderTest, folder: str, count: int = 1) -> dict[str, Any]:
    """Let the group's container end by being idle; returns the record of its newest run, of ``count``."""
    house.configure('idle_timeout = "0.1s"')
    run = house.wait_judged(folder, count)[-1]
    house.configure()
    return run


def stored(house: HomeUnderTest, folder: str) -> dict[str, Any] | None:
    path = house.home.sessions / f"{folder}.json"
    return json.loads(path.read_bytes()) if path.exists() else None


def transcript(house: HomeUnderTest, folder: str, session: str) -> Path:
    (path,) = (house.home.sessions / folder / "projects").glob(f"*/{session}.jsonl")
    return path


def test_a_newer_branch_is_not_resumed(house: HomeUnderTest, script: Script, folder: str) -> None:
    """A subagent that finishes after the answer adds to the transcript; its container is killed in the turn that
    follows. The next run goes on behind the answer."""
    answered = threading.Event()

    def main(request: dict[str, Any]) -> Any:
        if "the hole is dug" in json.dumps(request["messages"]):
            return Hang()
        if tool_results(request):
            return "the main answer"
        task = {"description": "d", "prompt": "dig deep", "subagent_type": "general-purpose", "run_in_background": True}
        return ToolUse("Agent", task)

    script.on("the hole is dug", main)
    script.on("start digging", main)
    script.on("dig deep", lambda request: Gate(answered, "the hole is dug"))
    house.drop(folder, "start digging")
    assert house.wait_said(folder) == ["the main answer"]
    answered.set()

    def told() -> bool:
        return any("the hole is dug" in json.dumps(body["messages"]) for body in house.model.bodies())

    wait_for(told, 60, "the turn after the subagent")
    first = house.runs(folder)[0]
    house.docker("kill", first["container"])
    first = house.wait_judged(folder)[0]
    lines = transcript(house, folder, first["new_session"]).read_text().splitlines()
    place = next(n for n, line in enumerate(lines) if first["new_anchor"] in line and '"assistant"' in line)
    assert any("the hole is dug" in line for line in lines[place + 1 :]), "the transcript has a newer branch"

    house.drop(folder, "what did you say")
    house.wait_said(folder, 2)
    assert house.runs(folder)[1]["anchor"] == first["new_anchor"]
    said = json.dumps(house.model.bodies()[-1]["messages"])
    assert "the main answer" in said and "the hole is dug" not in said


def test_a_failed_run_changes_no_session(house: HomeUnderTest, script: Script, folder: str) -> None:
    seen: list[dict[str, Any] | None] = []

    def fails(times: int) -> Callable[[dict[str, Any]], Any]:
        """Until so many runs of the group have failed; what is stored then is noted."""

        def rule(request: dict[str, Any]) -> Any:
            if len([run for run in house.runs(folder) if run["error"]]) < times:
                return REFUSED
            seen.append(stored(house, folder))
            return "recovered"

        return rule

    script.on("fail at once", fails(1))
    script.on("fail later", fails(2))
    house.drop(folder, "fail at once")
    wait_for(lambda: house.said(folder).count("recovered") == 1, 60, "the retry")
    assert seen == [None], "the id of the failed run was not stored"
    first = close(house, folder, 2)
    house.drop(folder, "fail later")
    wait_for(lambda: house.said(folder).count("recovered") == 2, 60, "the second retry")
    assert seen[1] == {"session": first["new_session"], "anchor": first["new_anchor"]}
    sessions = [(run["session"], run["anchor"]) for run in house.runs(folder)]
    kept = (first["new_session"], first["new_anchor"])
    assert sessions == [(None, None), (None, None), kept, kept], "nor did the failure clear the one that was good"
    assert f"Stale session detected — clearing for next retry group={folder}" not in house.log()


def test_a_lost_transcript_costs_one_retry(house: HomeUnderTest, folder: str) -> None:
    house.drop(folder, "one")
    house.wait_said(folder)
    lost = close(house, folder)["new_session"]
    transcript(house, folder, lost).unlink()
    house.drop(folder, "two")
    assert house.wait_said(folder, 2) == ["echo: one", "echo: two"]
    assert f"Stale session detected — clearing for next retry group={folder}" in house.log()
    found = close(house, folder, 3)["new_session"]
    assert [run["session"] for run in house.runs(folder)] == [None, lost, None]
    assert (stored(house, folder) or {})["session"] == found != lost


def test_a_large_session_rotates(house: HomeUnderTest, folder: str) -> None:
    house.drop(folder, "tea is good")
    house.wait_said(folder)
    old = close(house, folder)["new_session"]
    house.configure(session_max_bytes="1kB")
    house.drop(folder, "what was it about")
    house.wait_said(folder, 2)
    run = house.runs(folder)[1]
    assert (run["session"], run["rotated_from"]) == (None, old)
    assert f"Session rotated group={folder} session={old} bytes=" in house.log()
    (archived,) = (house.home.groups / folder / "conversations").glob("*.md")
    assert "tea is good" in archived.read_text()
    body = house.model.bodies()[-1]
    assert f"/workspace/group/conversations/{archived.name}" in json.dumps(body["system"])
    assert "tea is good" not in json.dumps(body["messages"])
    run = close(house, folder, 2)
    assert stored(house, folder) == {"session": run["new_session"], "anchor": run["new_anchor"]}
    house.drop(folder, "go on")
    house.wait_said(folder, 3)
    assert house.runs(folder)[2]["session"] == run["new_session"] != old


def test_a_compaction_is_answered_and_resumed(house: HomeUnderTest, script: Script, folder: str) -> None:
    script.on("<summary>", lambda request: "<analysis>a</analysis><summary>It was about tea.</summary>")
    house.drop(folder, "tea is good")
    house.wait_said(folder)
    close(house, folder)
    house.stop()
    errand = {"id": "c", "folder": folder, "text": "/compact", "created": 1.0, "origin": "test", "kind": "compact"}
    put(house.home.state / "errands" / "c.json", json.dumps(errand))
    house.start()
    assert house.wait_said(folder, 2)[1] == "Compacted."
    run = close(house, folder, 2)
    assert stored(house, folder) == {"session": run["new_session"], "anchor": run["new_anchor"]}
    house.drop(folder, "what was it about")
    house.wait_said(folder, 3)
    said = json.dumps(house.model.bodies()[-1]["messages"])
    assert "It was about tea." in said and "tea is good" not in said
