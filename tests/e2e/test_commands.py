"""``run``, ``run --once`` and ``chat``: who is the host, who waits for whom, and what a terminal sees."""

from __future__ import annotations

import signal
import subprocess
import threading

from nanoclaw.paths import PROJECT
from tests.support.home import HomeUnderTest, Script
from tests.support.scripted_model import Gate, Hang
from tests.support.waiting import wait_for


def test_a_second_host_is_refused_in_one_line(house: HomeUnderTest) -> None:
    house.group("g")
    house.start()
    second = house.run("run")
    assert second.returncode == 1 and second.stdout == ""
    (line,) = second.stderr.splitlines()
    assert "Another host" in line and f"pid {house.host.pid}" in line and "kill -TERM" in line  # type: ignore[union-attr]
    once = house.run("run", "--once")
    assert (once.returncode, once.stdout, once.stderr) == (0, "", "")
    house.drop("g", "hello")
    assert house.wait_said("g") == ["echo: hello"], "the first host was not disturbed"


def test_once_works_off_what_is_pending(house: HomeUnderTest) -> None:
    """Through the launcher, as cron calls it."""
    for folder in ("a", "b"):
        house.group(folder)
        house.drop(folder, f"for {folder}")
    done = house.run("run", "--once", program=[str(PROJECT / "nanoclaw.py")])
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert house.wait_said("a") == ["echo: for a"] and house.wait_said("b") == ["echo: for b"]
    assert not house.containers() and {run["outcome"] for run in house.runs()} == {"finished"}
    assert not list(house.home.gateway.iterdir())
    again = house.run("run", "--once")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "") and len(house.runs()) == 2


def test_chat_beside_a_host(house: HomeUnderTest) -> None:
    house.group("main", "is_main = true")
    house.start()
    done = house.run("chat", "hello there")
    assert (done.returncode, done.stdout, done.stderr) == (0, "echo: hello there\n", "")
    assert house.transcript("main")[0]["text"] == "hello there"
    talk = subprocess.run(
        house.command("chat"), env=house.env(), input="one\n", capture_output=True, text=True, timeout=60, check=False
    )
    assert (talk.returncode, talk.stdout) == (0, "echo: one\n")
    assert len(house.runs()) == 1
    house.group("team", "")
    asleep = house.run("chat", "--group", "team", "nobody is asked")
    assert asleep.returncode == 1 and "no @Andy at the start" in asleep.stderr


def test_chat_is_the_host_while_it_lasts(house: HomeUnderTest, script: Script) -> None:
    """``run`` waits for it, then adopts its container; nobody is answered twice."""
    house.group("main", "is_main = true")
    opened = threading.Event()
    script.on("wait for me", lambda request: Gate(opened, "here I am"))
    chat = house.spawn("chat", "wait for me")
    house.model.wait_for_requests(1)
    host = house.spawn("run")
    assert host.stderr is not None
    assert host.stderr.readline().startswith("Waiting for `chat`")
    once = house.run("run", "--once")
    assert (once.returncode, once.stderr) == (0, "")
    opened.set()
    assert chat.communicate(timeout=60) == ("here I am\n", "") and chat.returncode == 0
    wait_for(lambda: house.log().count("Host started") == 2, 30, "the waiting host")
    house.drop("main", "and now?")
    assert house.wait_said("main", 2) == ["here I am", "echo: and now?"]
    assert len(house.runs()) == 1, "the chat's container was adopted"
    host.send_signal(signal.SIGTERM)
    assert host.wait(10) == 0


def test_chat_goes_on_when_its_host_ends(house: HomeUnderTest, script: Script) -> None:
    """A chat beside a host becomes the host itself when that one dies."""
    house.group("main", "is_main = true")
    replies = iter([Hang()])
    script.on("who answers", lambda request: next(replies, "the second host"))
    house.start()
    chat = house.spawn("chat", "who answers")
    house.model.wait_for_requests(1)
    house.stop(signal.SIGKILL)
    assert chat.communicate(timeout=60)[0] == "the second host\n"
    assert len(house.runs()) == 1


def test_ctrl_c_reaches_no_container(house: HomeUnderTest, script: Script) -> None:
    house.group("g")
    replies = iter([Hang()])
    script.on("long work", lambda request: next(replies, "done after all"))
    house.start()
    house.drop("g", "long work")
    house.model.wait_for_requests(1)
    assert house.stop(signal.SIGINT) == 0
    assert len(house.containers(all_states=False)) == 1
    done = house.run("run", "--once")
    assert done.returncode == 0 and house.wait_said("g") == ["done after all"]
    assert not house.containers()
