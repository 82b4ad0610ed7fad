"""``outbox``: what waits and what failed is shown, put back, deleted; without a host, by the command itself."""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.cli import main
from nanoclaw.files.home_lock import HomeLock
from nanoclaw.ipc import scripts
from nanoclaw.models import Message
from nanoclaw.paths import Home
from nanoclaw.stores.outbox import Reply
from nanoclaw.stores.sessions import Session
from tests.support.parts import Parts, lines_of
from tests.support.waiting import wait_for

Capture = pytest.CaptureFixture[str]
WHEN = "2026-11-22T09:30:00.000Z"


@pytest.fixture
def parts(home: Home) -> Parts:
    return Parts(home)


def command(capture: Capture, *arguments: str) -> tuple[int, str, str]:
    code = main(["outbox", *arguments])
    out, err = capture.readouterr()
    return code, out, err


def value(capture: Capture, *arguments: str) -> Any:
    code, out, err = command(capture, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def put(parts: Parts, name: str, folder: str = "main", failed: bool = True, file: str | None = None) -> Path:
    """A reply whose first part went; returns its file."""
    if file:
        (parts.outbox.files / name).write_bytes(b"content")
    parts.outbox.put(name, f"tg:{folder}", folder, f"text of {name}", WHEN, file=file)
    reply = parts.outbox.taken(parts.outbox.find(name), "p1")
    parts.outbox.tried(reply, "blocked \x1b[2J by the user", 3, False)
    if failed:
        parts.outbox.given_up(parts.outbox.giving_up(parts.outbox.find(name), "blocked \x1b[2J by the user"))
    return parts.home.outbox / ("failed" if failed else ".") / f"{name}.json"


def waiting(home: Home) -> list[Reply]:
    """As the next host finds it."""
    return Parts(home).outbox.heads()


def test_what_is_not_delivered_is_shown(home: Home, parts: Parts, capsys: Capture) -> None:
    assert value(capsys, "list") == [] and command(capsys, "list")[1] == "Nothing waits.\n"
    put(parts, "r-1", file="a.txt")
    put(parts, "r-2", "team", failed=False)
    (home.outbox / "failed" / "odd.json").write_text("{")
    second, odd, first = value(capsys, "list")
    assert (second["reply"], second["group"], second["state"], second["tries"]) == ("r-2", "team", "ready", 3)
    assert (first["state"], first["parts_sent"], first["file"]) == ("failed", 1, "a.txt")
    assert first["reason"].startswith("blocked") and first["age"] >= 0 and "text" not in first
    assert odd["reply"] == "odd" and "odd.json:1" in odd["problem"]
    _, out, _ = command(capsys, "list")
    assert "\x1b" not in out and "text of" not in out
    assert re.search(r"(?m)^odd +broken +outbox/failed/odd\.json:1: not valid JSON \(.*\)$", out)
    assert value(capsys, "show", "r-1")["text"] == "text of r-1"
    code, out, err = command(capsys, "show", "nothing")
    assert (code, out) == (1, "") and err.startswith("nanoclaw: There is no reply 'nothing'") and err.count("\n") == 1


@pytest.mark.parametrize(("option", "sent"), [([], 1), (["--from-start"], 0)])
def test_a_failed_one_is_put_back(home: Home, parts: Parts, capsys: Capture, option: list[str], sent: int) -> None:
    failed = put(parts, "r-1", "team", file="a.txt")
    assert value(capsys, "retry", "r-1", *option) == {"reply": "r-1", "group": "team"}
    (again,) = waiting(home)
    assert (again.id, again.state, again.sent, again.tries, again.reason) == ("r-1", "ready", sent, 0, None)
    assert not failed.exists() and (home.outbox / "files" / "r-1").read_bytes() == b"content"


def test_what_is_in_doubt_is_said_in_a_line_and_its_cure_once(parts: Parts, capsys: Capture) -> None:
    for name in ("r-1", "r-2"):
        put(parts, name)
        parts.outbox.retry(name)
        cure = f"`outbox retry {name}` goes on there, `outbox drop {name}` forgets it"
        reason = f"it may not have arrived (part 2 of 3); {cure}"
        parts.outbox.given_up(parts.outbox.giving_up(parts.outbox.find(name), reason))
    _, out, _ = command(capsys, "list")
    assert out.count("it may not have arrived (part 2 of 3)\n") == 2 and out.count("`outbox retry") == 1
    assert "`outbox retry r-1`" in command(capsys, "show", "r-1")[1]


def test_who_puts_one_back_is_told_what_it_waits_for(home: Home, parts: Parts, capsys: Capture) -> None:
    put(parts, "r-1")
    assert command(capsys, "retry", "r-1")[1] == "r-1 is sent when a host runs and its channel is connected.\n"
    lock = HomeLock(home.state)
    put(parts, "r-2")
    assert lock.acquire()
    try:
        answering = threading.Thread(target=answer_one, args=(home,))
        answering.start()
        out = command(capsys, "retry", "r-2")[1]
        answering.join()
    finally:
        lock.release()
    assert out == "r-2 is sent as soon as its channel is connected.\n"


def answer_one(home: Home) -> None:
    """As a living host does."""
    wait_for(lambda: list((home.ipc / "main" / "tasks").glob("*.json")), 10, "the request")
    scripts.handle_one(home, "main")


def test_what_was_delivered_meanwhile_is_not_put_back(home: Home, parts: Parts, capsys: Capture) -> None:
    failed = put(parts, "r-1", "team")
    parts.transcripts.append(Message("r-1", "tg:team", "andy", "Andy", "text", WHEN, is_bot=True))
    code, _, err = command(capsys, "retry", "r-1")
    assert code == 1 and err.startswith("nanoclaw: r-1 was delivered.") and err.count("\n") == 1
    assert failed.exists() and waiting(home) == []


@pytest.mark.parametrize("failed", [True, False])
def test_one_is_dropped_with_its_file_and_the_journal_says_so(
    home: Home, parts: Parts, capsys: Capture, failed: bool
) -> None:
    path = put(parts, "r-1", "team", failed, file="a.txt")
    assert path.exists()
    assert value(capsys, "drop", "r-1") == {"reply": "r-1", "group": "team"}
    assert not path.exists() and os.listdir(home.outbox / "files") == [] and waiting(home) == []
    lines = [line for journal in home.logs.glob("journal-*.jsonl") for line in lines_of(journal)]
    assert [(line["reply"], line["folder"]) for line in lines if line["event"] == "reply_dropped"] == [("r-1", "team")]


def test_main_decides_where_nobody_else_can(home: Home, parts: Parts, capsys: Capture) -> None:
    """Of a group that is gone, and of a file that does not say whose it is."""
    put(parts, "r-1", "gone")
    odd = home.outbox / "failed" / "odd.json"
    odd.write_text("{")
    assert value(capsys, "drop", "odd") == {"reply": "odd", "group": None} and not odd.exists()
    assert value(capsys, "retry", "r-1")["group"] == "gone" and [reply.id for reply in waiting(home)] == ["r-1"]


def ask(home: Home, asker: str, **request: Any) -> dict[str, Any]:
    """What a script is answered that drops a request, with no host."""
    tasks = home.ipc / asker / "tasks"
    tasks.mkdir(parents=True, exist_ok=True)
    (tasks / "x.json").write_text(json.dumps(request))
    scripts.handle_one(home, asker)
    return dict(json.loads((home.ipc / asker / "answers" / "x.json").read_bytes()))


@pytest.mark.parametrize("kind", ["retry_reply", "drop_reply"])
def test_a_group_decides_about_its_own_only_and_main_about_all(home: Home, parts: Parts, kind: str) -> None:
    put(parts, "r-main")
    put(parts, "r-team", "team")
    assert "not of team" in ask(home, "team", type=kind, reply="r-main")["error"]
    assert ask(home, "team", type=kind, reply="r-team")["ok"]
    assert ask(home, "main", type=kind, reply="r-main")["ok"]


def test_compact_is_an_errand_where_there_is_a_session(home: Home, parts: Parts) -> None:
    assert "team has no session to compact" in ask(home, "team", type="compact", folder="team")["error"]
    parts.sessions.put("team", Session("s-1"))
    done = ask(home, "team", type="compact", folder="team")
    (errand,) = Parts(home).errands.all()
    assert (errand.id, errand.folder, errand.text, errand.kind) == (done["errand"], "team", "/compact", "compact")
