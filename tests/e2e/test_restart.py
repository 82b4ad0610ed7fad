"""The host ends, by SIGTERM or kill -9, at every place where it hurts: nothing is lost, nothing is answered twice."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import living
from tests.support.home import HomeUnderTest, Script, hang_once
from tests.support.scripted_model import message_texts, user_texts
from tests.support.waiting import wait_for


@pytest.fixture(params=["docker", "process"])
def house(request: pytest.FixtureRequest, engine: str, agent_image: str) -> Iterator[HomeUnderTest]:
    """Every test here holds on both runtimes."""
    with living(engine, request.param) as made:
        made.group("g")
        made.start()
        yield made


def events(house: HomeUnderTest, kind: str) -> list[dict[str, Any]]:
    """The events that the runners wrote so far."""
    found = [json.loads(path.read_text()) for path in sorted(house.home.runs.glob("*/out/[0-9]*.json"))]
    return [event for event in found if event["type"] == kind]


def end_agent(house: HomeUnderTest, number: int) -> None:
    """Let a person end the agent of the newest run, behind the host's back."""
    run = house.runs("g")[-1]
    if house.runtime == "docker":
        house.docker("kill", "--signal", str(number), run["container"])
    elif number == signal.SIGTERM:
        os.kill(_pid(run), number)
    else:
        os.killpg(_pid(run), number)
    wait_for(lambda: not lives(house), 30, "the agent's end")


def lives(house: HomeUnderTest) -> bool:
    """Does the agent of the newest run live?"""
    if house.runtime == "docker":
        return bool(house.containers(all_states=False))
    try:
        state = Path(f"/proc/{_pid(house.runs('g')[-1])}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _pid(run: dict[str, Any]) -> int:
    return int(run["container_id"].partition(":")[0])


def asked(house: HomeUnderTest, text: str) -> int:
    """How often a text stands in the last conversation that the model saw."""
    return sum(message_texts(prompt).count(text) for prompt in user_texts(house.model.bodies()[-1]))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_next_host_adopts_an_agent_in_mid_turn(house: HomeUnderTest, script: Script, number: int) -> None:
    script.on("long work", hang_once())
    house.drop("g", "long work")
    house.model.wait_for_requests(1)
    assert house.stop(number) == (0 if number == signal.SIGTERM else -number)
    assert house.said("g") == [] and lives(house), "the agent goes on"
    house.start()
    assert house.wait_said("g") == ["echo: long work"]
    house.drop("g", "next")
    assert house.wait_said("g", 2) == ["echo: long work", "echo: next"]
    assert len(house.runs("g")) == 1, "the living container was adopted"
    assert asked(house, "long work") == asked(house, "next") == 1


def test_kill_9_with_a_follow_up_just_offered(house: HomeUnderTest, script: Script) -> None:
    """Its claim is on disk, the cursor is not behind it yet."""
    script.on("long work", hang_once())
    house.drop("g", "long work")
    house.model.wait_for_requests(1)
    cursor = house.home.cursors / "g.json"
    before = cursor.read_bytes()
    house.drop("g", "and this, too")
    wait_for(lambda: list(house.home.runs.glob("*/in/000002.json")), 10, "the follow-up offered")
    house.stop(signal.SIGKILL)
    cursor.write_bytes(before)
    house.start()
    wait_for(lambda: house.cursor("g").get("done", 0) >= 2 and house.said("g"), 60, "both done")
    house.drop("g", "the last")
    wait_for(lambda: "echo: the last" in house.said("g"), 60, "the last answer")
    said = house.said("g")
    assert said.count("echo: and this, too") == 1 and len(said) == len(set(said))
    assert asked(house, "long work") == asked(house, "and this, too") == 1
    assert len(house.runs("g")) == 1


def test_what_an_agent_said_while_nobody_listened_is_delivered(house: HomeUnderTest) -> None:
    """A host that cannot write its outbox does not accept the answer; then it dies, then the agent ends."""
    aside = house.home.outbox.rename(house.home.state / "outbox-aside")
    house.drop("g", "hello")
    wait_for(lambda: events(house, "result"), 60, "the agent's answer")
    house.stop(signal.SIGKILL)
    aside.rename(house.home.outbox)
    end_agent(house, signal.SIGTERM)
    calls = len(house.model.requests)
    house.start()
    assert house.wait_said("g") == ["echo: hello"]
    (run,) = house.wait_judged("g")
    assert run["outcome"] == "finished" and not house.containers()
    house.drop("g", "are you the same?")
    assert house.wait_said("g", 2)[1] == "echo: are you the same?"
    assert asked(house, "hello") == 1 and len(house.model.requests) == calls + 1


def test_a_delivered_answer_is_not_delivered_again(house: HomeUnderTest) -> None:
    """The far side has it, the host died before it could note that."""
    house.drop("g", "hello")
    house.wait_said("g")
    house.stop(signal.SIGKILL)
    answer = house.transcript("g")[1]
    sending = {"id": answer["id"], "jid": "local:g", "folder": "g", "text": answer["text"], "created": "", "order": 1}
    reply = house.home.outbox / f"{answer['id']}.json"
    reply.write_text(json.dumps({**sending, "run": answer["run"], "state": "sending"}))
    chat = next(house.home.chat("local:g").glob("*.jsonl"))
    chat.write_bytes(b"".join(chat.read_bytes().splitlines(keepends=True)[:1]))
    house.start()
    wait_for(lambda: not reply.exists(), 30, "the reply settled")
    assert house.wait_said("g") == ["echo: hello"]


def test_an_agent_killed_in_mid_turn_is_tried_again(house: HomeUnderTest, script: Script) -> None:
    script.on("long work", hang_once())
    house.drop("g", "long work")
    house.model.wait_for_requests(1)
    end_agent(house, signal.SIGKILL)
    assert house.wait_said("g", 2) == ["The agent was killed.", "echo: long work"]
    first, second = house.runs("g")
    assert first["outcome"] == "killed" and first["exit_code"] == 137
    assert len(house.prompts("long work")) == 2 and second["claims"][0]["state"] == "finished"


@pytest.mark.parametrize("house", ["docker"], indirect=True)
@pytest.mark.parametrize("left", ["absent", "created", "at work"])
def test_a_claim_without_a_container(house: HomeUnderTest, left: str) -> None:
    """kill -9 between the claim and the container: the command that starts it died too, before or after the first half
    of its work, or it is still at work."""
    assert house.host is not None
    house.drop("g", "hello")
    clients = wait_for(lambda: _children(house.host.pid), 10, "the command that starts the container")
    house.host.send_signal(signal.SIGSTOP)
    for pid in clients:
        os.kill(pid, signal.SIGSTOP if left == "at work" else signal.SIGKILL)
    house.stop(signal.SIGKILL)
    if left != "at work":
        for name in house.containers():
            house.docker("rm", "-f", name)
    if left == "created":
        (command,) = house.home.runs.glob("*/command.sh")
        arguments = command.read_text().replace("\\\n", "").partition(" -d ")[2]
        house.docker("create", *shlex.split(arguments))
        assert house.containers()
    house.start()
    if left == "at work":
        house.drop(house.group("other"), "meanwhile")
        house.wait_said("other")  # time enough for a host that would not wait for the command
        for pid in clients:
            os.kill(pid, signal.SIGCONT)
    assert house.wait_said("g") == ["echo: hello"]
    assert len(house.prompts("hello")) == len(house.containers("g")) == 1
    assert len(house.runs("g")) == (1 if left == "at work" else 2)


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid=,args="], capture_output=True, text=True, check=False)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "docker run " in line]


def test_an_idle_agent_ended_behind_the_hosts_back(house: HomeUnderTest) -> None:
    """Not an error: the next message gets a new container, with the same session."""
    house.drop("g", "first")
    house.wait_said("g")
    end_agent(house, signal.SIGTERM)
    (run,) = house.wait_judged("g")
    assert run["outcome"] == "finished"
    house.drop("g", "second")
    assert house.wait_said("g", 2) == ["echo: first", "echo: second"]
    assert asked(house, "first") == 1
