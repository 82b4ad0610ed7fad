"""What was refused: kept with its reason, listed, put back, deleted; whatever it is called and whoever made it."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.cli import main
from nanoclaw.errors import UserError
from nanoclaw.inbox import Inbox
from nanoclaw.paths import Home
from nanoclaw.stores import refused
from tests.support.parts import Parts

Capture = pytest.CaptureFixture[str]
REQUEST = b'{"type": "message"}'


def command(capture: Capture, *arguments: str) -> tuple[int, str, str]:
    code = main(["ipc", "errors", *arguments])
    out, err = capture.readouterr()
    return code, out, err


def value(capture: Capture, *arguments: str) -> Any:
    code, out, _ = command(capture, *arguments, "--json")
    assert code == 0
    return json.loads(out)


def put(home: Home, called: str = "x.json", data: bytes = REQUEST, folder: str = "main") -> refused.Refused:
    came_from = f"state/ipc/{folder}/messages/{called}"
    path = refused.put(home, "ipc", "chatJid: expected a text", came_from, data=data)
    return next(found for found in refused.listed(home) if found.path == path)


def in_errors(home: Home) -> list[str]:
    return sorted(os.listdir(home.ipc / "errors"))


def test_what_is_refused_lies_there_with_its_reason(home: Home, capsys: Capture) -> None:
    assert value(capsys, "list") == []
    made = put(home)
    assert made.path.read_bytes() == REQUEST
    reason = made.path.with_name(made.name + ".reason").read_text()
    assert reason.splitlines()[:2] == ["chatJid: expected a text", "from: state/ipc/main/messages/x.json"]
    (one,) = value(capsys, "list")
    assert one["name"] == made.name and one["size"] == len(REQUEST) and one["time"].endswith("Z")
    assert (one["reason"], one["from"]) == ("chatJid: expected a text", "state/ipc/main/messages/x.json")
    assert value(capsys, "show", made.name)["content"] == REQUEST.decode()


def test_a_dropped_file_goes_the_whole_way_and_back(home: Home, capsys: Capture) -> None:
    parts = Parts(home)
    inbox = Inbox(home, lambda: parts.settings.groups, lambda message, name: None)
    inbox.turn(time.time())
    dropped = home.inbox / "main" / "note.json"
    dropped.write_text('{"txt": "hello"}')
    inbox.turn(time.time() + 10.0)
    assert not dropped.exists()
    (one,) = value(capsys, "list")
    assert one["name"].startswith("inbox-main-") and one["name"].endswith("-note.json")
    dropped.write_text("another one, meanwhile")
    code, out, _ = command(capsys, "retry", one["name"])
    assert code == 0 and str(dropped.parent) in out
    assert sorted(path.read_text() for path in dropped.parent.glob("*.json")) == [
        "another one, meanwhile",
        '{"txt": "hello"}',
    ]
    assert in_errors(home) == []


@pytest.mark.parametrize(
    "came_from",
    [
        *("state/config.toml", "state/inbox/main", "state/ipc/main/answers/x.json", "state/inbox/errors/x.json"),
        *("state/inbox/../x.json", "state/ipc/../messages/x.json", "/state/inbox/main/x.json", "state/inbox/main/.x"),
        *("state/inbox/main/..", "state/inbox/main/sub/x.json", ""),
    ],
)
def test_it_is_put_back_only_where_people_drop_things(home: Home, came_from: str) -> None:
    kept = refused.put(home, "ipc", "no", came_from, data=REQUEST)
    before = sorted(home.root.rglob("*"))
    with pytest.raises(UserError):
        refused.retry(home, kept.name)
    assert sorted(home.root.rglob("*")) == before


@pytest.mark.parametrize("verb", ["show", "retry", "drop"])
def test_names_of_the_command_line_are_no_paths(home: Home, capsys: Capture, verb: str) -> None:
    made = put(home)
    (home.ipc / "x").write_text("not refused")
    for name in ("../x", "", ".", "..", f"./{made.name}", f"{made.name}.reason", str(made.path)):
        code, out, err = command(capsys, verb, name)
        assert (code, out) == (1, "") and len(err.splitlines()) == 1 and "no refused file" in err
    assert len(in_errors(home)) == 2 and (home.ipc / "x").exists()


def test_any_name_is_kept_beside_the_others(home: Home, capsys: Capture) -> None:
    names = ["x.json", "x.json", "a\nb.json", "x.json.reason", "é" * 127, "x" * 255, "\udcff.json", ".hidden", "-", "/"]
    contents = [str(number).encode() for number, _ in enumerate(names)]
    for name, content in zip(names, contents, strict=True):
        put(home, name, content)
    found = refused.listed(home)
    assert [one.path.read_bytes() for one in found] == contents
    assert all(len(os.fsencode(one.path.name)) <= 200 and one.reason == "chatJid: expected a text" for one in found)
    assert len({one["name"] for one in value(capsys, "list")}) == len(names)
    for one in found:
        assert command(capsys, "drop", one.name)[0] == 0
    assert in_errors(home) == []


def test_of_what_a_container_made_a_thousand_are_kept(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    errors = home.ipc / "errors"
    errors.mkdir(parents=True)
    for number in range(refused.KEPT):
        (errors / f"agent-main-{1790000000 + number}-x.json").touch()

    def put_one(origin: str, folder: str, bounded: bool) -> Path:
        place = f"state/ipc/{folder}/tasks/y.json"
        return refused.put(home, origin, "no", place, data=REQUEST, bounded=bounded)

    with caplog.at_level(logging.ERROR, "nanoclaw"):
        target = put_one("agent", "main", True)
    assert not target.exists() and len(in_errors(home)) == refused.KEPT
    assert "agent-main" in caplog.text and "1000" in caplog.text
    assert put_one("agent", "other", True).exists(), "another group's"
    assert put_one("ipc", "main", False).exists(), "a person's are all kept"


def test_what_cannot_be_moved_leaves_nothing_behind(home: Home, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        refused.put(home, "ipc", "no", "state/ipc/main/tasks/x.json", move=tmp_path / "gone")
    assert in_errors(home) == []


def test_what_is_shown_cannot_act_on_the_terminal(home: Home, capsys: Capture, tmp_path: Path) -> None:
    hostile = put(home, "x.json", b"\x1b]0;owned\x07\r\x9b\xe2\x80\xae" + b"y" * 20_000)
    _, out, _ = command(capsys, "show", hostile.name)
    assert not set(out) & set("\x1b\x07\r\x9b\u202e") and "\\x1b]0;owned\\x07" in out
    assert len(out) < 12_000 and "bytes more" in out
    (tmp_path / "secret").write_text("secret")
    (link := tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(fifo := tmp_path / "fifo")
    for move in (link, fifo):
        kept = refused.put(home, "ipc", "not a regular file", "state/ipc/main/tasks/l", move=move)
        code, out, _ = command(capsys, "show", kept.name)
        assert code == 0 and "secret" not in out and "no content" in out


def test_a_reason_alone_and_a_file_alone_are_listed(home: Home, capsys: Capture) -> None:
    made = put(home)
    made.path.unlink()
    (home.ipc / "errors" / "stray.txt").write_text("a person's")
    shown = {one["name"]: one for one in value(capsys, "list")}
    assert shown[made.name]["size"] is None and "no reason" in shown["stray.txt"]["reason"]
    code, _, err = command(capsys, "retry", made.name)
    assert code == 1 and "not kept" in err
    assert command(capsys, "drop", made.name)[0] == 0
    assert in_errors(home) == ["stray.txt"]
