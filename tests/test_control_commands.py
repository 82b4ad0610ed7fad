"""``stop``, ``new``, ``compact``: beside a host (a thread that plays it, by the files alone) and without one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from nanoclaw.cli import main
from nanoclaw.commands import control
from nanoclaw.files.home_lock import HomeLock
from nanoclaw.paths import Home
from nanoclaw.stores.sessions import Session
from tests.support.parts import Parts, lines_of, new_run
from tests.support.waiting import wait_for

Capture = pytest.CaptureFixture[str]
RUN = "main-20261122-093000-000"


def event(folder: str, runs: list[str], cancelled: int, confirmed: bool = True) -> dict[str, Any]:
    return {"folder": folder, "runs": runs, "cancelled": cancelled, "confirmed": confirmed, "by": "command"}


@contextmanager
def host(parts: Parts, name: str, *events: dict[str, Any]) -> Iterator[None]:
    """Lives, and takes the stop ``name``: what became of it goes into the journal, then the file goes."""
    lock = HomeLock(parts.home.state)
    assert lock.acquire()
    file = parts.home.state / name

    def obey() -> None:
        wait_for(lambda: file.exists() and json.loads(file.read_bytes())["by"], 10, f"{name} is asked for")
        for one in events:
            parts.journal.event("stopped", **one)
        file.unlink()

    thread = threading.Thread(target=obey)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        lock.release()


def test_stop_tells_what_the_host_says(home: Home, capsys: Capture) -> None:
    parts = Parts(home)
    parts.journal.event("stopped", **event("main", ["main-older"], 7))
    parts.journal.event("spawn", run=RUN, text='"event": "stopped"')
    with host(parts, "STOP-main", event("team", ["team-1"], 1, confirmed=False), event("main", [RUN], 2)):
        assert main(["stop", "main"]) == 0
    assert capsys.readouterr().out == f"main: stopped {RUN} (confirmed dead), 2 messages cancelled.\n"
    with host(parts, "STOP-main", event("main", [], 1)):
        assert main(["stop", "main", "--json"]) == 0
    told = event("main", [], 1)
    assert json.loads(capsys.readouterr().out) == [{key: told[key] for key in control.EVENT_KEYS}]


def test_a_stop_that_is_not_confirmed_has_an_exit_code(home: Home, capsys: Capture) -> None:
    parts = Parts(home)
    with host(parts, "STOP-main", event("main", [RUN], 0, confirmed=False)):
        assert main(["stop", "main"]) == 1
    out = capsys.readouterr().out
    assert "the engine does not answer" in out and "kill pending" in out and RUN in out
    with host(parts, "STOP-main"):
        assert main(["stop", "main"]) == 1
    assert "does not say what became of it" in capsys.readouterr().out


def test_stop_all_tells_of_those_that_did_something(home: Home, capsys: Capture) -> None:
    parts = Parts(home)
    with host(parts, "STOP", event("main", [RUN], 0), event("team", [], 3), event("quiet", [], 0)):
        assert main(["stop", "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"main: stopped {RUN} (confirmed dead), 0 messages cancelled.",
        "team: nothing was running; 3 messages cancelled.",
    ]
    with host(parts, "STOP", event("main", [], 0), event("team", [], 0)):
        assert main(["stop", "--all"]) == 0
    assert capsys.readouterr().out == "Nothing was running, nothing waited.\n"


def test_a_host_that_does_not_take_it_is_told_of(home: Home, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    Parts(home)
    monkeypatch.setattr(control, "STOP_SECONDS", 0.05)
    lock = HomeLock(home.state)
    assert lock.acquire()
    try:
        assert main(["stop", "main"]) == 1
    finally:
        lock.release()
    err = capsys.readouterr().err
    assert "did not take the stop" in err and str(home.state / "STOP-main") in err
    assert (home.state / "STOP-main").exists(), "it is obeyed later"


def test_who_can_be_stopped(home: Home, capsys: Capture) -> None:
    """One whose file is broken, one that is gone while its run lives; else the command says what there is."""
    parts = Parts(home)
    home.group_file("team").write_text("jid = 7\n")
    run = replace(new_run("gone-20261122-093000-000", "gone", "local:gone"), status="started")
    parts.records.create(run, lambda draft: (draft / "in").mkdir())
    for folder in ("team", "gone"):
        with host(parts, f"STOP-{folder}", event(folder, [], 0)):
            assert main(["stop", folder]) == 0
    capsys.readouterr()
    for wrong in ("taem", "../x", ""):
        assert main(["stop", wrong]) == 1
        out, err = capsys.readouterr()
        assert out == "" and repr(wrong) in err and len(err.splitlines()) == 1
    assert not list(home.state.glob("STOP*"))
    for usage in (["stop"], ["stop", "main", "--all"]):
        with pytest.raises(SystemExit) as ended:
            main(usage)
        assert ended.value.code == 2


def test_without_a_host_the_command_stops_itself(home: Home, capsys: Capture) -> None:
    parts = Parts(home)
    for said in ("hello", "are you there?"):
        parts.say(said)
    parts.errands.put("again", "main", "an older prompt", "runs again")
    assert main(["stop", "main", "--json"]) == 0
    told = event("main", [], 2)
    assert json.loads(capsys.readouterr().out) == [{key: told[key] for key in control.EVENT_KEYS}]
    assert not list(home.state.glob("STOP*")) and not list((home.state / "errands").iterdir())
    journal = [one for path in home.logs.glob("journal-*.jsonl") for one in lines_of(path)]
    assert [one["folder"] for one in journal if one["event"] == "stopped"] == ["main"]
    again = Parts(home)
    assert again.handover.waits_until(again.group()) is None, "what was cancelled wakes nobody"
    again.say("a new one")
    assert again.handover.waits_until(again.group()) == 0.0
    assert main(["stop", "--all"]) == 0
    assert "main: nothing was running; 1 message cancelled." in capsys.readouterr().out


def test_a_fresh_conversation(home: Home, capsys: Capture) -> None:
    parts = Parts(home)
    parts.sessions.put("main", Session("a", None))
    assert main(["new", "main"]) == 0
    assert "fresh conversation" in capsys.readouterr().out
    assert Parts(home).sessions.get("main") is None


def test_a_conversation_to_compact(home: Home, capsys: Capture) -> None:
    parts = Parts(home)
    assert main(["compact", "main"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    parts.sessions.put("main", Session("a", None))
    assert main(["compact", "main"]) == 0
    (errand,) = Parts(home).errands.all()
    assert (errand.folder, errand.text, errand.kind) == ("main", "/compact", "compact")
