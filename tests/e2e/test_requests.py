"""Requests of real agents and of scripts, and the commands, with a living host and without one."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from typing import Any

import pytest

from tests.support.home import HomeUnderTest, Script
from tests.support.scripted_model import Gate, Reply, ToolUse, tool_results
from tests.support.waiting import wait_for


def test_what_an_agent_says_while_it_works_over_a_killed_host(house: HomeUnderTest, script: Script) -> None:
    """Its message is there before its answer; each is delivered once."""
    done = threading.Event()

    def rule(request: dict[str, Any]) -> Reply:
        if tool_results(request):
            return Gate(done, "it is done")
        return ToolUse("mcp__nanoclaw__send_message", {"text": "on it"})

    script.on("long work", rule)
    house.group("g")
    house.start()
    house.drop("g", "long work")
    assert house.wait_said("g") == ["on it"]
    house.model.wait_for_requests(2)
    house.stop(signal.SIGKILL)
    house.start()
    done.set()
    assert house.wait_said("g", 2) == ["on it", "it is done"]
    house.drop("g", "and now?")
    assert house.wait_said("g", 3) == ["on it", "it is done", "echo: and now?"]
    assert len(house.runs("g")) == 1


def test_an_agent_is_told_that_another_chat_is_not_its_own(house: HomeUnderTest, script: Script) -> None:
    def rule(request: dict[str, Any]) -> Reply:
        if results := tool_results(request):
            return f"I was told: {results[0]['text']}"
        return ToolUse("mcp__nanoclaw__send_message", {"text": "psst", "chat_jid": "local:main"})

    script.on("tell main", rule)
    house.group("main", "is_main = true")
    house.group("g")
    house.start()
    house.drop("g", "tell main")
    (said,) = house.wait_said("g")
    assert "The host refused" in said and "only the main group" in said and house.said("main") == []
    listed = json.loads(house.run("ipc", "errors", "list", "--json").stdout)
    assert "only the main group" in listed[0]["reason"]


def test_a_script_that_echoes_a_request(house: HomeUnderTest) -> None:
    """As a person types it: not atomic, and no agent is started for it."""
    house.group("main", "is_main = true")
    house.start()
    echo = """echo '{"type":"message","chatJid":"local:main","text":"hi"}' > state/ipc/main/messages/x.json"""
    for count in (1, 2):
        subprocess.run(["sh", "-c", echo], cwd=house.home.root, check=True)
        assert house.wait_said("main", count) == ["hi"] * count
    assert house.runs() == []
    assert json.loads((house.home.ipc / "main" / "answers" / "x.json").read_bytes())["ok"]


def command(house: HomeUnderTest, *arguments: str) -> Any:
    done = house.run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("alive", [True, False])
def test_commands_beside_a_host_and_without_one(house: HomeUnderTest, alive: bool) -> None:
    """Without one, what they asked for stands on disk: the next host does it."""
    house.group("main", "is_main = true")
    house.start()
    house.drop("main", "hello")
    house.wait_said("main")
    if not alive:
        house.stop()

    def up() -> None:
        if house.host is None:
            house.start()

    def down() -> None:
        if not alive:
            house.stop()

    command(house, "send", "--group", "main", "from a command")
    up()
    assert house.wait_said("main", 2) == ["echo: hello", "from a command"]
    down()
    command(house, "sessions", "clear", "main")
    up()
    house.wait_judged("main")
    house.drop("main", "afresh")
    assert house.wait_said("main", 3)[-1] == "echo: afresh"
    assert [run["session"] for run in house.runs("main")] == [None, None], "a fresh session, not the cleared one"
    down()
    command(house, "runs", "again", house.runs("main")[0]["id"])
    up()
    assert house.wait_said("main", 4)[-1] == "echo: hello"
    assert [bool(run["errand"]) for run in house.runs("main")] == [False, False, True]
    down()
    command(house, "groups", "add", "team", "--jid", "local:team", "--no-trigger")
    up()
    wait_for(lambda: (house.home.inbox / "team").is_dir(), 30, "the new group taken up")
    house.drop("team", "new here")
    assert house.wait_said("team") == ["echo: new here"]
    down()
    command(house, "groups", "remove", "team")
    up()
    wait_for(lambda: not house.containers("team", all_states=False), 30, "its agent stopped")
    assert (house.home.groups / "team" / "CLAUDE.md").exists(), "its files stay"


def test_a_cursor_is_reset_beside_a_host_and_without_one(house: HomeUnderTest) -> None:
    house.group("main", "is_main = true")
    house.configure("idle_timeout = 1")
    house.start()
    house.drop("main", "hello")
    house.wait_said("main")
    assert command(house, "cursor", "reset", "main", "--to", "0")["handed"] == 0
    assert house.wait_said("main", 2) == ["echo: hello"] * 2
    house.wait_judged("main")
    house.stop()
    assert command(house, "cursor", "reset", "main", "--to", "0")["handed"] == 0
    house.start()
    assert house.wait_said("main", 3) == ["echo: hello"] * 3
