"""A stop that stops, whatever the agent does; /new, /compact and /status; a runner that gives no sign of life."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from nanoclaw.commands.stop_alone import stop_without_host
from tests.e2e.conftest import living
from tests.support.engine_proxy import EngineProxy, engine_socket
from tests.support.home import HomeUnderTest, Script, in_turn
from tests.support.scripted_model import Hang, ToolUse
from tests.support.waiting import wait_for

CANCELLED = "Stopped. 1 message is cancelled."


@pytest.fixture
def at_work(house: HomeUnderTest, script: Script) -> HomeUnderTest:
    """A host whose agent of group g waits for its model without end."""
    script.on("long work", in_turn(Hang()))
    house.group("g")
    house.start()
    house.drop("g", "long work")
    house.model.wait_for_requests(1)
    return house


def assert_gone(house: HomeUnderTest, folder: str = "g") -> None:
    (run,) = house.wait_judged(folder)
    assert (run["outcome"], run["claims"][0]["state"]) == ("stopped", "cancelled")
    assert house.containers(folder) == []
    (event,) = house.journal("stopped", folder)
    assert event["runs"] == [run["id"]] and event["confirmed"] is True


@pytest.mark.parametrize("how", ["file", "all", "chat", "hurry", "command", "owner elsewhere"])
def test_every_way_to_stop(at_work: HomeUnderTest, how: str) -> None:
    house, state = at_work, at_work.home.state
    if how == "owner elsewhere":
        house.group("main", "is_main = true")
        house.drop("main", "/stop g")
    elif how == "command":
        done = house.run("stop", "g")
        assert done.returncode == 0 and "1 message" in done.stdout, done
    elif how in ("chat", "hurry"):
        house.drop("g", "/stop" if how == "chat" else " /STOP!! now please", id="cmd")
    else:
        (state / ("STOP" if how == "all" else "STOP-g")).touch()
    assert house.wait_said("g") == [CANCELLED]
    assert_gone(house)
    wait_for(lambda: not list(state.glob("STOP*")), 5, "the file gone")
    if how == "owner elsewhere":
        assert house.wait_said("main") == ["Stopping g."]
    house.drop("g", "hello")
    assert house.wait_said("g", 2)[1] == "echo: hello"
    (prompt,) = house.prompts(">hello<")
    assert (
        "long work" not in prompt
        and "stopped your previous turn" in prompt
        and "STOP" not in prompt.upper().replace("STOPPED", "")
    )
    assert house.cursor("g")["cancelled"] == [[1, 1]]


def test_a_stop_reaches_an_agent_that_loops_in_a_tool(house: HomeUnderTest, script: Script) -> None:
    loop = {"command": "trap '' TERM INT HUP; while :; do :; done", "timeout": 600000}
    script.on("loop", in_turn(ToolUse("Bash", loop)))
    house.group("g")
    house.start()
    house.drop("g", "loop")
    (name,) = wait_for(house.containers, 60, "a container")
    wait_for(lambda: "while :" in house.docker("top", name, "-eo", "pid,args"), 60, "the loop")
    began = time.monotonic()
    house.drop("g", "/stop")
    wait_for(lambda: not house.containers(), 30, "the container's end")
    print(f"/stop → container gone and removed: {time.monotonic() - began:.2f} s")
    assert house.wait_said("g") == [CANCELLED]
    assert_gone(house)


def test_a_stop_is_before_every_queue(house: HomeUnderTest, script: Script) -> None:
    house.configure(max_concurrent_containers=1)
    script.on("long work", in_turn(Hang()))
    for folder in ("a", "b", "c"):
        house.group(folder)
    house.start()
    house.drop("a", "long work")
    house.model.wait_for_requests(1)
    house.drop("b", "wait")
    house.drop("c", "wait, too")
    wait_for(lambda: house.journal("limited", "c"), 30, "a full queue")
    house.drop("b", "/stop")
    assert house.wait_said("b") == [CANCELLED]
    assert house.runs("b") == [] and house.said("a") == []
    house.drop("a", "/stop")
    assert house.wait_said("a") == [CANCELLED]
    assert house.wait_said("c") == ["echo: wait, too"]
    house.drop("a", "/stop")
    assert house.wait_said("a", 2)[1] == "Nothing was running here."


def test_who_may_stop(house: HomeUnderTest) -> None:
    house.configure(owners=["555"])
    house.group("g")
    house.start()
    for sender in ("666", "555"):
        house.drop("g", "/stop", sender=sender, id=f"stop-{sender}")
    # What is dropped into the inbox is the owner's own hand, whatever it says of its sender.
    assert house.wait_said("g", 2) == ["Nothing was running here."] * 2


def test_a_stop_while_the_host_is_away(at_work: HomeUnderTest) -> None:
    """The next host obeys before it starts anything, and so does kill -9 between any two steps."""
    house = at_work
    house.stop(signal.SIGKILL)
    house.drop("g", "and this waits")
    (house.home.state / "STOP-g").touch()
    house.start()
    assert house.wait_said("g") == ["Stopped. 2 messages are cancelled."]
    assert_gone(house)
    house.drop("g", "and this came later")
    assert house.wait_said("g", 2)[1] == "echo: and this came later"


@pytest.mark.parametrize(
    "step", ["stop-asked", "stop-cancelled", "stopped", "run-ended", "container-removed", "settled", "told"]
)
def test_kill_9_amid_a_stop(at_work: HomeUnderTest, step: str) -> None:
    house = at_work
    house.stop(signal.SIGKILL)
    house.environment["NANOCLAW_FAULT"] = step
    house.drop("g", "/stop", id="cmd")
    house.spawn("run").wait(30)
    del house.environment["NANOCLAW_FAULT"]
    house.start()
    assert house.wait_said("g")[0].startswith("Stopped.")
    (run,) = house.wait_judged("g")
    assert run["outcome"] == "stopped" and house.containers() == []
    house.drop("g", "hello")
    said = wait_for(lambda: "echo: hello" in house.said("g") and house.said("g"), 60, "the next answer")
    # Asked for anew, because the crash came before the command was stored: obeyed again, when nothing runs any more.
    # The next host finds what was cut off before the crash: it does not count that again.
    first, *rest = [text for text in said if text != "Nothing was running here."]
    assert first in (CANCELLED, "Stopped.") and rest == ["echo: hello"]


def test_a_stop_without_a_host(at_work: HomeUnderTest) -> None:
    house = at_work
    house.stop(signal.SIGKILL)
    (event,) = stop_without_host(house.home, "g")
    assert event["confirmed"] is True and event["cancelled"] == 1
    assert house.containers(all_states=False) == []
    house.start()
    assert_gone_later(house)
    house.drop("g", "hello")
    assert house.wait_said("g")[-1] == "echo: hello"


def assert_gone_later(house: HomeUnderTest) -> None:
    (run,) = house.wait_judged("g")
    assert run["outcome"] == "stopped" and house.containers("g") == []


@pytest.fixture
def behind_proxy(engine: str, agent_image: str) -> Iterator[tuple[HomeUnderTest, EngineProxy]]:
    socket = engine_socket()
    if socket is None:
        pytest.skip("the engine has no Unix socket")
    with living(engine) as house, EngineProxy(house.home.root / "e", socket) as proxy:
        house.environment["DOCKER_HOST"] = proxy.url
        yield house, proxy


def test_a_stop_while_the_engine_hangs(behind_proxy: tuple[HomeUnderTest, EngineProxy]) -> None:
    house, proxy = behind_proxy
    script = house.model.rule
    assert isinstance(script, Script)
    script.on("long work", in_turn(Hang()))
    house.group("g")
    house.start()
    house.drop("g", "long work")
    house.model.wait_for_requests(1)
    proxy.stall()
    house.drop("g", "/stop")
    (said,) = house.wait_said("g")
    assert "does not say yet" in said and "discarded" in said
    wait_for(lambda: house.model.hangups, 10, "the agent cut off from its model")
    (event,) = house.journal("stopped", "g")
    assert event["confirmed"] is False
    assert house.containers(all_states=False), "it lives still, cut off"
    proxy.resume()
    (run,) = house.wait_judged("g")
    assert run["outcome"] == "stopped" and house.containers() == []
    assert house.wait_said("g", 2) == [said, "It is dead now: its container is gone."]
    house.drop("g", "hello")
    assert house.wait_said("g", 3)[2] == "echo: hello"


def test_new_and_status(house: HomeUnderTest) -> None:
    house.group("g")
    house.start()
    house.drop("g", "one")
    assert house.wait_said("g") == ["echo: one"]
    house.drop("g", "/status")
    assert "g:" in house.wait_said("g", 2)[1]
    house.drop("g", "/new")
    assert house.wait_said("g", 3)[2] == "A fresh conversation begins with the next message."
    house.wait_judged("g")
    house.drop("g", "two")
    assert house.wait_said("g", 4)[3] == "echo: two"
    first, second = house.runs("g")
    assert second["session"] is None and second["new_session"] != first["new_session"]


def test_compact(house: HomeUnderTest) -> None:
    house.group("g")
    house.start()
    house.drop("g", "/compact")
    assert house.wait_said("g") == ["There is no conversation to compact."]
    house.drop("g", "one")
    assert house.wait_said("g", 2)[1] == "echo: one"
    house.drop("g", "/compact")
    house.wait_judged("g", 2)
    said = house.wait_said("g", 4)
    print(said)
    house.drop("g", "two")
    assert house.wait_said("g", 5)[4] == "echo: two"


def test_a_runner_without_a_sign_of_life_is_noticed(house: HomeUnderTest, script: Script) -> None:
    script.on("long work", in_turn(Hang()))
    house.group("g")
    house.start()
    house.drop("g", "long work")
    house.model.wait_for_requests(1)
    (name,) = house.containers()
    began = time.monotonic()
    rows = [row.split(None, 1) for row in house.docker("top", name, "-eo", "pid,args").splitlines()]
    runners = [int(pid) for pid, program in rows if program.startswith("python3")]
    for pid in runners:
        os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: house.journal("silent", "g"), 40, "the silence noticed")
    print(f"noticed after {time.monotonic() - began:.1f} s")
    for pid in runners:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: "Heartbeat is back" in house.log(), 30, "the heart")
    house.drop("g", "/stop")
    assert house.wait_said("g") == [CANCELLED]


@pytest.mark.parametrize("kind", ["directory", "full directory", "fifo", "dangling link", "capitals"])
def test_whatever_is_called_stop_stops(at_work: HomeUnderTest, kind: str) -> None:
    house, path = at_work, at_work.home.state / "STOP-g"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "capitals":
        (house.home.state / "STOP-G").touch()
    else:
        path.mkdir()
        if kind == "full directory":
            (path / "x").touch()
    assert house.wait_said("g") == [CANCELLED]
    assert_gone(house)
    wait_for(lambda: not list(house.home.state.glob("STOP*")), 5, "it goes")
    house.drop("g", "hello")
    assert house.wait_said("g", 2)[1] == "echo: hello"
    house.drop("g", "/stop")
    assert house.wait_said("g", 3)[2] in ("Stopped.", "Nothing was running here.")
    wait_for(lambda: not list(house.home.state.glob("STOP*")), 5, "it goes again")


def test_an_agent_whose_record_is_broken_is_stopped(at_work: HomeUnderTest) -> None:
    house = at_work
    house.stop(signal.SIGKILL)
    (run,) = house.runs("g")
    record = house.home.runs / run["id"] / "run.json"
    whole = record.read_bytes()
    record.write_bytes(whole[:-20])
    house.start()
    (house.home.state / "STOP-g").touch()
    wait_for(lambda: not house.containers(all_states=False), 20, "the container's end")
    (event,) = wait_for(lambda: house.journal("stopped", "g"), 10, "the event")
    assert event["runs"] == [run["id"]] and event["confirmed"] is True
    house.stop()
    record.write_bytes(whole)
    house.start()
    (judged,) = house.wait_judged("g")
    assert judged["outcome"] == "stopped"
