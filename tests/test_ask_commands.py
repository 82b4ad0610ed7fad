"""Commands that change something: a living host is asked, and where none lives they do it themselves."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.cli import main
from nanoclaw.commands import asking
from nanoclaw.files.atomic import write_json
from nanoclaw.files.home_lock import HomeLock
from nanoclaw.paths import PROJECT, Home
from nanoclaw.stores.cursors import Cursor
from nanoclaw.stores.sessions import Session
from nanoclaw.stores.transcripts import Position
from tests.support.parts import Parts, new_run
from tests.support.waiting import wait_for

Capture = pytest.CaptureFixture[str]
CLI = "import sys; from nanoclaw.cli import main; sys.exit(main())"
Carry = Callable[[str, dict[str, Any]], dict[str, Any] | None]


def command(capture: Capture, *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    out, err = capture.readouterr()
    return code, out, err


class LivingHost:
    """Holds the home's lock and answers requests as the contract says; ``carry`` makes the answer, None: none."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.carry: Carry = lambda folder, request: {"ok": True}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._lock = HomeLock(home.state)
        assert self._lock.acquire()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        self._end.set()
        self._thread.join()
        self._lock.release()

    def _run(self) -> None:
        while not self._end.wait(0.005):
            for path in [p for p in self.home.ipc.glob("*/*/[!.]*.json") if p.parent.name in ("messages", "tasks")]:
                self._take(path)

    def _take(self, path: Path) -> None:
        directory, request = path.parent.parent, json.loads(path.read_bytes())
        answer = self.carry(directory.name, request)
        if answer is not None:
            self.asked.append((directory.name, request))
            (directory / "answers").mkdir(exist_ok=True)
            write_json(directory / "answers" / path.name, answer)
            path.unlink()


@pytest.fixture
def parts(home: Home) -> Parts:
    return Parts(home)


@pytest.fixture
def host(home: Home, parts: Parts) -> Iterator[LivingHost]:
    made = LivingHost(home)
    yield made
    made.end()


def left(home: Home) -> list[Path]:
    return [path for path in home.ipc.glob("*/*/*") if path.suffix == ".json"]


# -- a host lives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        ("sessions clear team", {"type": "clear_session", "folder": "team"}),
        ("cursor reset team", {"type": "reset_cursor", "folder": "team", "to": "answer"}),
        ("cursor reset team --to end", {"type": "reset_cursor", "folder": "team", "to": "end"}),
        ("cursor reset team --to 41", {"type": "reset_cursor", "folder": "team", "to": 41}),
        ("cursor reset team --to 0", {"type": "reset_cursor", "folder": "team", "to": 0}),
        ("runs again team-20261122-093000-000", {"type": "run_again", "run": "team-20261122-093000-000"}),
        ("send --group team hello", {"type": "message", "chatJid": "local:team", "text": "hello"}),
    ],
)
def test_what_a_living_host_is_asked(
    home: Home, parts: Parts, host: LivingHost, capsys: Capture, line: str, request_: dict[str, Any]
) -> None:
    parts.records.create(new_run("team-20261122-093000-000", "team", "local:team"), lambda draft: None)
    host.carry = lambda folder, request: {"ok": True, "handed": 40, "id": "some-reply"}
    code, out, err = command(capsys, *line.split())
    assert (code, err) == (0, "") and out
    assert host.asked == [("team", request_)]
    wait_for(lambda: not left(home), 10, "request and answer taken away")


def test_a_refusal_is_one_line(home: Home, host: LivingHost, capsys: Capture) -> None:
    host.carry = lambda folder, request: {"ok": False, "error": "the transcript has no message 9."}
    code, out, err = command(capsys, "cursor", "reset", "main", "--to", "9", "--json")
    assert (code, out) == (1, "") and err == "nanoclaw: the transcript has no message 9.\n"
    wait_for(lambda: not left(home), 10, "request and answer taken away")


def test_a_host_that_does_not_answer_keeps_the_request(
    home: Home, host: LivingHost, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "ANSWER_SECONDS", 0.2)
    host.carry = lambda folder, request: None
    code, _, err = command(capsys, "sessions", "clear", "main")
    (request,) = left(home)
    assert code == 1 and len(err.splitlines()) == 1 and str(request) in err and "will be carried out" in err


def test_a_request_survives_the_host_that_dies_with_it(home: Home, parts: Parts, capsys: Capture) -> None:
    parts.sessions.put("main", Session("old"))
    host = LivingHost(home)
    seen = threading.Event()
    host.carry = lambda folder, request: seen.set()

    def die() -> None:
        seen.wait()
        host.end()

    dying = threading.Thread(target=die)
    dying.start()
    code, _, _ = command(capsys, "sessions", "clear", "main")
    dying.join()
    assert code == 0 and parts.sessions.get("main") is None


def test_send_says_what_became_of_it(home: Home, host: LivingHost, capsys: Capture) -> None:
    def deliver(folder: str, request: dict[str, Any]) -> dict[str, Any]:
        if request["text"] == "refuse":
            write_json(home.outbox / "failed" / "r.json", {"id": "r", "reason": "chat not found"})
        else:
            write_json(home.outbox / "slow.json", {"id": "slow"})
            threading.Timer(0.1, (home.outbox / "slow.json").unlink).start()
        return {"ok": True, "id": "r" if request["text"] == "refuse" else "slow"}

    host.carry = deliver
    assert command(capsys, "send", "--group", "main", "hello") == (0, "sent\n", "")
    code, out, err = command(capsys, "send", "--group", "main", "refuse")
    assert (code, out) == (1, "") and "chat not found" in err and "r.json" in err


# -- no host lives -----------------------------------------------------------------------------------------------------


def test_without_a_host_the_command_does_it(home: Home, parts: Parts, capsys: Capture) -> None:
    for _ in range(3):
        parts.say("hello")
    parts.sessions.put("main", Session("old"))
    parts.cursors.put("main", Cursor("local:main", Position(1), 1))
    assert command(capsys, "sessions", "clear", "main")[0] == 0
    assert parts.sessions.get("main") is None
    code, out, _ = command(capsys, "cursor", "reset", "main", "--to", "2", "--json")
    assert code == 0 and json.loads(out) == {"folder": "main", "handed": 2}
    assert (cursor := parts.cursors.get("main")) is not None and cursor.handed == 2
    wait_for(lambda: not left(home), 10, "request and answer taken away")
    assert HomeLock(home.state).acquire(), "the lock is given back"


def test_without_a_host_a_refusal_is_told_and_not_kept(home: Home, parts: Parts, capsys: Capture) -> None:
    code, out, err = command(capsys, "cursor", "reset", "main", "--to", "9")
    assert (code, out) == (1, "") and "no message 9" in err and len(err.splitlines()) == 1
    assert left(home) == [] and not any((home.ipc / "errors").iterdir())


def test_without_a_host_send_waits_in_the_outbox(home: Home, parts: Parts, capsys: Capture) -> None:
    code, out, _ = command(capsys, "send", "--group", "team", "Backup done")
    assert code == 0 and "no host is running" in out
    (reply,) = home.outbox.glob("*.json")
    value = json.loads(reply.read_text())
    assert (value["jid"], value["text"]) == ("local:team", "Backup done")
    code, out, _ = command(capsys, "send", "--group", "team", "again", "--json")
    assert json.loads(out)["state"] == "waiting" and (home.outbox / f"{json.loads(out)['id']}.json").exists()


# -- what is wrong before anybody is asked -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("send --group taem hello", "main, team"),
        ("send --group main", "1 to 900 kB"),
        ("sessions clear taem", "main, team"),
        ("sessions clear ../main", "main, team"),
        ("cursor reset taem", "main, team"),
        ("cursor reset main --to -1", "expected a message's number"),
        ("cursor reset main --to last", "expected a message's number"),
        ("cursor reset main --to 1e3", "expected a message's number"),
        ("cursor reset main --to \u0661", "expected a message's number"),
    ],
)
def test_nobody_is_asked_for_what_cannot_be(home: Home, parts: Parts, capsys: Capture, line: str, told: str) -> None:
    arguments = line.replace("--to ", "--to=").split()
    code, out, err = command(capsys, *arguments, *([""] if line == "send --group main" else []))
    assert (code, out) == (1, "") and len(err.splitlines()) == 1 and told in err
    wait_for(lambda: not left(home), 10, "request and answer taken away")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("grüße\n".encode(), ""),
        (b"\n \n", "1 to 900 kB"),
        (b"x" * 900_001, "1 to 900 kB"),
        ("é".encode() * 450_001, "1 to 900 kB"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_text_from_standard_input(home: Home, parts: Parts, data: bytes, told: str) -> None:
    argv = [sys.executable, "-c", CLI, "send", "--group", "main", "-"]
    done = subprocess.run(argv, input=data, cwd=PROJECT, capture_output=True, timeout=30, check=False)
    kept = [json.loads(path.read_text())["text"] for path in home.outbox.glob("*.json")]
    if told:
        assert done.returncode == 1 and told in done.stderr.decode() and kept == []
    else:
        assert done.returncode == 0 and kept == ["grüße"]
