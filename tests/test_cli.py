"""The command line: what a person reads when something is wrong, and the host's start and end. No engine is needed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nanoclaw import __version__
from nanoclaw.cli import main
from nanoclaw.files.home_lock import HomeLock
from nanoclaw.paths import PROJECT, Home
from nanoclaw.stores.home import make_home, read_host_file, write_host_file
from tests.support.parts import CONFIG, MAIN, TEAM
from tests.support.waiting import wait_for

Capture = pytest.CaptureFixture[str]
CLI = "import sys; from nanoclaw.cli import main; sys.exit(main())"


@pytest.fixture
def ready(home: Home) -> Home:
    """A home that a host can start on."""
    make_home(home)
    home.config_file.write_text(CONFIG)
    home.group_file("main").write_text(MAIN)
    return home


def said(capture: Capture, *arguments: str) -> tuple[int, list[str]]:
    """The exit code and the lines on stderr of one command, which says nothing on stdout."""
    code = main(arguments)
    out, err = capture.readouterr()
    assert out == ""
    return code, err.splitlines()


@contextmanager
def host(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`run` in a process of its own, until the block ends."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", CLI, "run", *arguments], cwd=PROJECT, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def log(home: Home) -> str:
    path = home.logs / "nanoclaw.log"
    return path.read_text() if path.exists() else ""


def test_version_and_usage(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"nanoclaw {__version__}\n"
    for wrong in ([], ["fly"], ["run", "--twice"], ["chat", "a", "b"]):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2 and "usage:" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--help"])
    assert {"run", "chat", "build", "doctor", "demo"} <= set(re.findall(r"^    (\w+)", capsys.readouterr().out, re.M))


@pytest.mark.parametrize("command", [["run"], ["run", "--once"], ["chat", "hello"]])
def test_a_config_that_is_wrong_is_one_line_and_its_cure(ready: Home, capsys: Capture, command: list[str]) -> None:
    ready.config_file.write_text('assistant_name = "Andy"\nassistent = 1\n')
    code, lines = said(capsys, *command)
    assert code == 1 and len(lines) <= 2
    assert f"{ready.config_file}:2:" in lines[0]
    assert HomeLock(ready.state).acquire(), "nothing is left held"


def test_chat_names_the_groups_there_are(ready: Home, capsys: Capture) -> None:
    ready.group_file("team").write_text(TEAM)
    code, lines = said(capsys, "chat", "--group", "taem", "hello")
    assert code == 1 and len(lines) == 1
    assert "'taem'" in lines[0] and "main, team" in lines[0]
    ready.group_file("main").unlink()
    ready.group_file("team").unlink()
    code, lines = said(capsys, "chat", "hello")
    assert code == 1 and "main.toml" in lines[0]
    assert not any(ready.inbox.glob("*/*")), "nothing was sent"


def test_a_second_host_is_refused_in_one_line_and_once_goes_silently(ready: Home, capsys: Capture) -> None:
    lock = HomeLock(ready.state)
    assert lock.acquire()
    write_host_file(ready, "run")
    code, lines = said(capsys, "run")
    assert code == 1 and len(lines) == 1
    assert f"pid {os.getpid()}" in lines[0] and "kill -TERM" in lines[0]
    assert said(capsys, "run", "--once") == (0, [])
    lock.release()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_the_host_starts_and_ends_on_a_signal(ready: Home, sign: signal.Signals) -> None:
    with host() as process:
        wait_for(lambda: "Host started" in log(ready), 10.0, "the start")
        assert read_host_file(ready)["pid"] == process.pid
        process.send_signal(sign)
        out, err = process.communicate(timeout=5.0)
        assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err and "Host stopped" in log(ready)
    assert "groupCount=1" in log(ready) and "Connected channel=local" in log(ready)


def test_run_once_with_nothing_to_do_ends_by_itself(ready: Home) -> None:
    with host("--once") as process:
        out, err = process.communicate(timeout=20.0)
    assert (process.returncode, out, err) == (0, "", "")


def test_a_run_waits_for_a_chat_that_is_the_host(ready: Home) -> None:
    lock = HomeLock(ready.state)
    assert lock.acquire()
    write_host_file(ready, "chat")
    with host() as process:
        assert process.stderr is not None
        assert "Waiting for `chat`" in process.stderr.readline()
        lock.release()
        wait_for(lambda: "Host started" in log(ready), 10.0, "the start")


def test_what_lies_about_in_state_stops_no_host(ready: Home) -> None:
    (ready.runs / "notes.txt").write_text("a person's")
    (ready.runs / "empty").mkdir()
    (ready.runs / "broken").mkdir()
    (ready.runs / "broken" / "run.json").write_text("{")
    (ready.runs / ".new-main-1").mkdir()
    (ready.inbox / "main").write_text("no directory")
    (ready.inbox / "stray.txt").write_text("in no group's directory")
    (ready.outbox / "broken.json").write_text("{")
    (ready.cursors / "main.json").write_text("{")
    (ready.state / "chats.json").write_text("{")
    ready.group_file("bad").write_text("jid = 7")
    os.utime(ready.group_file("bad"), (0, 0))
    with host("--once") as process:
        _, err = process.communicate(timeout=20.0)
    assert "bad.toml:1: jid" in log(ready), "what is wrong at the start is in the log too"
    assert process.returncode == 0 and "Traceback" not in err + log(ready)
    assert sorted(os.listdir(ready.runs)) == ["broken", "empty", "notes.txt"]
    assert (ready.cursors / "main.json").read_text() == "{"
