"""Commands that only look: messages, runs, sessions, cursor. Right, on one line where a file is broken, and without a
trace in the home."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.cli import main
from nanoclaw.models import Line
from nanoclaw.paths import PROJECT, Home
from nanoclaw.runs.records import Claim, Run
from nanoclaw.stores.cursors import Cursor, Retry
from nanoclaw.stores.lines import to_json
from nanoclaw.stores.sessions import Session
from nanoclaw.stores.transcripts import Position
from tests.support.parts import CONFIG, Parts, message, new_run

Capture = pytest.CaptureFixture[str]
BERLIN = CONFIG.replace("UTC", "Europe/Berlin")


def command(capture: Capture, *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    out, err = capture.readouterr()
    return code, out, err


def text(capture: Capture, *arguments: str) -> str:
    code, out, _ = command(capture, *arguments)
    assert code == 0
    return out


def value(capture: Capture, *arguments: str) -> Any:
    return json.loads(text(capture, *arguments, "--json"))


def make_run(parts: Parts, run_id: str, **fields: Any) -> Path:
    """A run's directory with its record; ``fields`` of the record."""
    folder = run_id.rsplit("-", 3)[0]
    run: Run = replace(new_run(run_id, folder, f"local:{folder}"), **fields)

    def fill(draft: Path) -> None:
        for part in ("in", "out"):
            (draft / part).mkdir()

    return parts.records.create(run, fill)


# -- messages ----------------------------------------------------------------------------------------------------------


def test_the_last_messages_in_order_and_in_local_time(home: Home, capsys: Capture) -> None:
    parts = Parts(home, BERLIN)
    assert "Nothing was said" in text(capsys, "messages")
    photo = {"kind": "photo", "name": "cat.jpg", "path": "attachments/cat.jpg"}
    voice = {"kind": "voice", "name": "", "problem": "larger than 20 MB"}
    for number in range(1, 6):
        parts.say(f"number {number}", timestamp="2026-07-01T09:30:00Z")
    parts.say("two\nlines", attachments=(photo, voice))
    out = text(capsys, "messages", "-n", "3")
    assert [line for line in out.splitlines() if "number" in line] == [
        f"2026-07-01 11:30:00  Owner: number {number}" for number in (4, 5)
    ]
    assert "\n    lines\n" in out and "[photo cat.jpg: attachments/cat.jpg]" in out and "[voice: larger" in out
    assert [line["seq"] for line in value(capsys, "messages", "-n", "3")] == [4, 5, 6]
    assert value(capsys, "messages", "-n", "1")[0]["attachments"] == [photo, voice]


def test_messages_across_segments_and_broken_lines(home: Home, capsys: Capture) -> None:
    parts = Parts(home)
    chat = home.chat("local:main")
    chat.mkdir()
    for segment in (1, 3, 5):
        lines = [to_json(Line(seq, "", message(f"m{seq}"))) for seq in (segment, segment + 1)]
        (chat / f"{segment:010d}.jsonl").write_bytes(lines[0] + b"{torn\n" + lines[1])
    assert parts.transcripts.last("local:main").seq == 6
    assert [line["seq"] for line in value(capsys, "messages", "-n", "4")] == [3, 4, 5, 6]
    assert [line["seq"] for line in value(capsys, "messages", "-n", "99")] == [1, 2, 3, 4, 5, 6]


def test_what_others_wrote_cannot_act_on_the_terminal(home: Home, capsys: Capture) -> None:
    parts = Parts(home)
    parts.say("\x1b[2J\x9b\u202egone\r\x07", sender_name="\x1b[31mEve\nOwner")
    out = text(capsys, "messages")
    assert not set(out) & set("\x1b\x9b\u202e\r\x07") and "\\x1b[2J" in out and len(out.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["messages", "--group"], ["cursor", "show"], ["runs", "list", "--group"]])
def test_an_unknown_group_is_told_the_known_ones(home: Home, capsys: Capture, arguments: list[str]) -> None:
    Parts(home)
    code, out, err = command(capsys, *arguments, "taem")
    assert (code, out) == (1, "") and len(err.splitlines()) == 1
    assert "'taem'" in err and "main, team" in err


# -- runs --------------------------------------------------------------------------------------------------------------


def test_runs_of_all_groups_in_the_order_of_time(home: Home, capsys: Capture) -> None:
    parts = Parts(home)
    assert "no run" in text(capsys, "runs", "list")
    first = "team-20261122-093000-000"
    make_run(parts, first, status="judged", outcome="finished", replies=2, cost_usd=0.25,
             started="2026-11-22T09:30:00Z", ended="2026-11-22T09:30:12.500Z")  # fmt: skip
    make_run(parts, "main-20261122-093001-000", status="started")
    make_run(parts, "old-20261122-093002-000")
    broken = make_run(parts, "main-20261122-093003-000")
    (broken / "run.json").write_text("{")
    (home.runs / "team-20261122-093004-000").mkdir()
    (home.runs / ".new-main-20261122-093005-000").mkdir()
    found = value(capsys, "runs", "list")
    assert [one["run"].split("-")[2] for one in found] == [f"09300{n}" for n in range(5)]
    created = "2026-11-22T09:30:00Z"
    expected: dict[str, Any] = {
        "run": first,
        "group": "team",
        "created": created,
        "status": "judged",
        "outcome": "finished",
    }
    expected |= {"seconds": 12.5, "prompts": 0, "replies": 2, "cost_usd": 0.25}
    assert found[0] == expected
    assert "not valid JSON" in found[3]["problem"] and "run.json" in found[4]["problem"]
    out = text(capsys, "runs", "list")
    assert len(out.splitlines()) == 6 and "12.5 s" in out and "$0.2500" in out
    assert [one["run"] for one in value(capsys, "runs", "list", "-n", "1", "--group", "main")] == [broken.name]
    assert value(capsys, "runs", "list", "--group", "old"), "a group that is gone has its runs still"


def test_all_that_is_known_of_a_run(home: Home, capsys: Capture) -> None:
    parts = Parts(home)
    claims = [
        Claim(1, "a", Position(3), Position(7), "finished"),
        Claim(2, "b", Position(7), Position(8), "finished", broken=True),
    ]
    directory = make_run(parts, "main-20261122-093000-000", status="judged", claims=claims, accepted_through=4)
    (directory / "command.sh").write_text("exec docker run …")
    (directory / "out" / "000001.json").write_text("{}")
    (directory / "stderr.log").write_text("".join(f"line {n}\n" for n in range(5000)) + "the \x1b[31mlast\n")
    found = value(capsys, "runs", "show", directory.name)
    assert found["prompts"] == [
        {"n": 1, "from": 4, "through": 7, "state": "finished"},
        {"n": 2, "from": 8, "through": 8, "state": "broken off"},
    ]
    assert found["events"] == 4 and found["record"]["status"] == "judged"
    assert {str(directory / "out" / "000001.json"), found["command"]} <= {one["path"] for one in found["files"]}
    assert found["stderr"][-1] == "the \x1b[31mlast" and len(found["stderr"]) == 20
    out = text(capsys, "runs", "show", directory.name)
    assert "\x1b" not in out and "last" in out and "messages 4 to 7" in out and str(directory / "command.sh") in out


def test_a_hostile_run_directory_is_shown_all_the_same(home: Home, capsys: Capture) -> None:
    directory = make_run(Parts(home), "main-20261122-093000-000")
    deep = directory / "out"
    for _ in range(60):
        deep = deep / ("d" * 50)
        os.makedirs(deep)
    for number in range(700):
        (directory / "out" / f"\x1b{number}").touch()
    (directory / "out" / "link").symlink_to("/nowhere")
    assert len(value(capsys, "runs", "show", directory.name)["files"]) == 500


@pytest.mark.parametrize("verb", ["show", "again"])
def test_a_run_is_looked_up_and_no_path(home: Home, capsys: Capture, verb: str) -> None:
    parts = Parts(home)
    make_run(parts, "main-20261122-093000-000")
    (home.state / "run.json").write_text("{}")
    for wrong in ("..", "../runs/main-20261122-093000-000", "main-20261122-093000-001", ""):
        code, out, err = command(capsys, "runs", verb, wrong)
        assert (code, out) == (1, "") and len(err.splitlines()) == 1
        assert repr(wrong) in err and "main-20261122-093000-000" in err


# -- sessions, cursor --------------------------------------------------------------------------------------------------


def test_the_session_of_each_group(home: Home, capsys: Capture) -> None:
    parts = Parts(home, groups={name: f'jid = "local:{name}"\n' for name in ("a", "b", "main")})
    parts.sessions.put("a", Session("session-a", "anchor-a"))
    (home.sessions / "b.json").write_text('{"session": 7}')
    a, b, c = value(capsys, "sessions", "list")
    assert (a["folder"], a["session"], a["anchor"]) == ("a", "session-a", "anchor-a") and a["changed"] > 0
    assert "b.json" in b["problem"] and c["session"] is None
    out = text(capsys, "sessions", "list")
    assert len(out.splitlines()) == 4 and "session-a" in out


def test_a_cursor_in_numbers_and_in_words(home: Home, capsys: Capture) -> None:
    parts = Parts(home)
    for said in ("one", "@Andy two", "three", "@Andy four", "five"):
        parts.say(said, "local:team")
    retry = Retry(3, 1790000000.0)
    parts.cursors.put("team", Cursor("local:team", Position(1), 1, retry=retry, said="rate_limit", note="broke off"))
    (one,) = value(capsys, "cursor", "show", "team")
    expected = {"cursor": True, "handed": 1, "done": 1, "last": 5, "waiting": 2, "context": 2}
    assert expected.items() <= one.items()
    assert one["retry"] == {"count": 3, "not_before": 1790000000.0, "kept_through": None}
    out = text(capsys, "cursor", "show", "team")
    for words in (
        "through message 1 of 5",
        "2 wait",
        "failed 3 times",
        "2026-09-21 14:13:20",
        "rate limit",
        "broke off",
    ):
        assert words in out
    parts.cursors.put("team", Cursor("local:team", Position(4), 4, retry=Retry(5, 0.0, 4)))
    out = text(capsys, "cursor", "show", "team")
    assert "did not wake" in out and "next message" in out


def test_cursors_that_are_absent_or_broken(home: Home, capsys: Capture) -> None:
    parts = Parts(home)
    parts.say("hello")
    parts.say("an answer", is_bot=True, run="main-20261122-093000-000")
    parts.say("and now?")
    (home.cursors / "team.json").write_text("{")
    main_, team = value(capsys, "cursor", "show")
    assert (main_["cursor"], main_["handed"], main_["waiting"]) == (False, 2, 1)
    assert "team.json:1" in team["problem"]
    out = text(capsys, "cursor", "show")
    assert "no cursor yet" in out and "team.json:1" in out


# -- all ---------------------------------------------------------------------------------------------------------------


def tree(home: Home) -> dict[str, tuple[int, int]]:
    found = [home.root, *home.root.rglob("*")]
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in found}


def test_looking_leaves_no_trace(home: Home, capsys: Capture) -> None:
    parts = Parts(home)
    parts.say("hello")
    run = make_run(parts, "main-20261122-093000-000").name
    before = tree(home)
    for words in ("messages", "messages --group team", "runs list", f"runs show {run}", "sessions list", "cursor show"):
        text(capsys, *words.split())
    assert tree(home) == before


def test_nothing_heavy_is_imported() -> None:
    modules = ["asking", "send", "messages", "runs", "sessions", "cursor", "ipc_errors"]
    code = "import sys\n" + "\n".join(f"import nanoclaw.commands.{name}" for name in modules)
    code += "\nprint(*(m for m in ('docker', 'watchdog', 'requests', 'nanoclaw.host') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
