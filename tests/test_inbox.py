"""The inbox on a real directory: what is a message, what not yet, what never will be; each once, nothing lost."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanoclaw.files.watch import Watcher
from nanoclaw.inbox import AGAIN_SECONDS, Inbox
from nanoclaw.models import Message
from nanoclaw.paths import Home
from nanoclaw.stores.transcripts import Position
from nanoclaw.turns import RESCAN_AT_MOST, RESCAN_SECONDS
from tests.support.parts import Parts
from tests.support.waiting import wait_for


class Box:
    """An inbox that stores into real transcripts. ``crash``: raise between storing a message and its file going."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.parts = Parts(home)
        self.crash = False
        self.inbox = Inbox(home, lambda: self.parts.settings.groups, self._deliver)
        self.now = time.time() + 1.0
        self.inbox.turn(self.now)
        self.directory = home.inbox / "main"

    def _deliver(self, message: Message, name: str) -> None:
        self.parts.transcripts.append(message)
        if self.crash:
            raise OSError("killed here")

    def turn(self, later: float = 0.0) -> float:
        self.now = time.time() + 1.0 + later
        return self.inbox.turn(self.now)

    def stored(self, jid: str = "local:main") -> list[Message]:
        return [line.message for line, _ in self.parts.transcripts.since(jid, Position())]

    def texts(self) -> list[str]:
        return [message.text for message in self.stored()]

    def left(self) -> list[str]:
        return sorted(os.listdir(self.directory))

    def refused(self) -> dict[str, str]:
        """File names set aside, with the reason beside each."""
        errors = self.home.ipc / "errors"
        reasons = [path for path in errors.iterdir() if path.name.endswith(".reason")]
        assert all(os.path.lexists(path.with_suffix("")) for path in reasons)
        return {path.stem.partition("-main-")[2].partition("-")[2]: path.read_text() for path in reasons}


@pytest.fixture
def box(home: Home) -> Box:
    return Box(home)


def test_plain_files_are_messages_in_the_order_of_arrival(box: Box) -> None:
    for age, name in ((30, "z.txt"), (20, "a.md"), (10, "B.TXT")):
        path = box.directory / name
        path.write_text(f"text of {name}\r\n\n")
        os.utime(path, (time.time() - age,) * 2)
    (box.directory / "bom.txt").write_bytes(b"\xef\xbb\xbfbom")
    assert RESCAN_SECONDS <= box.turn() <= RESCAN_AT_MOST
    assert box.texts() == ["text of z.txt", "text of a.md", "text of B.TXT", "bom"]
    assert box.left() == []
    first = box.stored()[0]
    assert (first.jid, first.sender, first.sender_name) == ("local:main", "owner", "Owner")
    assert first.id.startswith("inbox-") and first.timestamp.endswith("Z") and not first.is_bot


def test_json_files_may_say_who_and_when(box: Box) -> None:
    value = {"text": "hi\n", "id": "x1", "sender": "42", "sender_name": "Bob", "timestamp": "2026-11-21T08:00:00+01:00"}
    (box.directory / "1.json").write_text(json.dumps(value))
    box.turn()
    (box.directory / "2.json").write_text(json.dumps({**value, "text": "again"}))
    box.turn()
    (message,) = box.stored()
    assert (message.id, message.sender, message.sender_name) == ("x1", "42", "Bob")
    assert (message.text, message.timestamp) == ("hi\n", "2026-11-21T08:00:00+01:00")
    assert box.left() == [], "the same id is stored once, and its file goes"
    (box.directory / "3.json").write_text('{"text": "t", "sender": "42"}')
    box.turn()
    assert box.stored()[-1].sender_name == "42"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"\xff\xfe\x00x", "not UTF-8"),
        ("a.txt", b"a\0b", "binary"),
        ("a.txt", b"x" * 2_000_000, "larger than"),
        ("a.txt", b" \n\t\n", "text is empty"),
        ("a.png", b"\x89PNG", "ends in"),
        ("a", b"text", "ends in"),
        ("a.text", b"text", "ends in"),
        ("a.json", b"[1]", "JSON object"),
        ("a.json", b'"text"', "JSON object"),
        ("a.json", b'{"text": 7}', "text: expected a text"),
        ("a.json", b'{"text": ""}', 'expected a "text"'),
        ("a.json", b'{"text": " "}', "text is empty"),
        ("a.json", b'{"text": "x", "timestamp": "yesterday"}', "ISO 8601"),
        ("a.json", b"{}", 'expected a "text"'),
        ("a.json", b'{"text": "t", "sendr": "x"}', "'sendr'"),
        ("a.json", b'{"text": "t", "id": null}', "id: expected a text"),
        ("a.json", b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_what_can_never_be_a_message_is_set_aside(box: Box, name: str, content: bytes, reason: str) -> None:
    (box.directory / name).write_bytes(content)
    os.utime(box.directory / name, (time.time() - 60,) * 2)
    (box.directory / "good.txt").write_text("good")
    assert RESCAN_SECONDS <= box.turn() <= RESCAN_AT_MOST
    assert box.texts() == ["good"]
    assert box.left() == []
    (told,) = box.refused().values()
    assert reason in told
    kept = [path for path in (box.home.ipc / "errors").iterdir() if not path.name.endswith(".reason")]
    assert [path.read_bytes() for path in kept] == [content], "nothing is lost"


def test_what_is_no_file_is_set_aside(box: Box, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("not for the agent")
    (box.directory / "link.txt").symlink_to(tmp_path / "secret")
    (box.directory / "dangling.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(box.directory / "fifo.txt")
    (box.directory / "dir.txt").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(box.directory / "s.txt"))
    (box.directory / "good.txt").write_text("good")
    box.turn()
    assert box.texts() == ["good"]
    assert box.left() == []
    assert sorted(box.refused()) == ["dangling.txt", "dir.txt", "fifo.txt", "link.txt", "s.txt"]
    assert (tmp_path / "secret").exists()


def test_half_written_and_empty_files_are_given_time(box: Box) -> None:
    (box.directory / "half.json").write_text('{"text": "ha')
    (box.directory / "empty.txt").touch()
    (box.directory / "good.txt").write_text("good")
    assert box.turn() == AGAIN_SECONDS
    assert box.texts() == ["good"]
    (box.directory / "half.json").write_text('{"text": "half"}')
    (box.directory / "empty.txt").write_text("no longer")
    box.turn()
    assert sorted(box.texts()) == ["good", "half", "no longer"]


def test_half_written_and_empty_files_are_set_aside_in_the_end(box: Box) -> None:
    (box.directory / "half.json").write_text('{"text": "ha')
    (box.directory / "empty.txt").touch()
    assert box.turn(later=3.0) == AGAIN_SECONDS
    assert AGAIN_SECONDS < box.turn(later=10.0) <= RESCAN_SECONDS
    refused = box.refused()
    assert "not valid JSON" in refused["half.json"] and "empty" in refused["empty.txt"]


def test_a_file_that_is_open_for_writing_is_not_touched(box: Box) -> None:
    with (box.directory / "slow.txt").open("w") as writer:
        for word in ("one ", "two "):
            writer.write(word)
            writer.flush()
            assert box.turn(later=60.0) == AGAIN_SECONDS
        assert box.stored() == []
        writer.write("three")
    assert RESCAN_SECONDS <= box.turn() <= RESCAN_AT_MOST
    assert box.texts() == ["one two three"]


def test_editors_leavings_are_not_read(box: Box) -> None:
    names = [".a.txt.swp", ".hidden.txt", "a.txt~", "a.tmp", "a.txt.part", ".#a.txt"]
    for name in names:
        (box.directory / name).write_text("not mine")
    box.turn(later=60.0)
    assert box.stored() == [] and box.left() == sorted(names) and box.refused() == {}


@pytest.mark.parametrize("suffix", [".txt", ".xyz"])
def test_any_name_will_do(box: Box, suffix: str) -> None:
    names = ["ünïcödé ☃", "-rf *", "a\nb", "ö" * 120, "x" * 250, "日本" * 40, "日本語" * 27]
    for name in names:
        (box.directory / (name + suffix)).write_text(name)
    undecodable = os.fsencode(box.directory) + b"/\xff\xfe" + suffix.encode()
    with open(undecodable, "w") as file:
        file.write("undecodable")
    assert RESCAN_SECONDS <= box.turn() <= RESCAN_AT_MOST
    if suffix == ".txt":
        assert sorted(box.texts()) == sorted([*names, "undecodable"])
    else:
        assert len(list((box.home.ipc / "errors").glob("*.reason"))) == len(names) + 1
    assert box.left() == []


def test_a_crash_between_storing_and_unlinking_stores_once(box: Box) -> None:
    (box.directory / "a.txt").write_text("a")
    (box.directory / "b.json").write_text('{"text": "b", "id": "mine"}')
    box.crash = True
    for _ in range(2):
        box.turn()
    later = Box(box.home)
    assert later.texts() == ["a", "b"] and later.left() == []
    (later.directory / "a.txt").write_text("a")
    later.turn()
    assert later.texts() == ["a", "b", "a"], "the same text in a new file is a new message"


def test_an_inbox_of_no_group_waits_and_is_said_once(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    stray = box.home.inbox / "nobody"
    stray.mkdir()
    (stray / "a.txt").write_text("hello")
    with caplog.at_level(logging.ERROR, "nanoclaw"):
        for _ in range(3):
            box.turn()
    (said,) = [record.getMessage() for record in caplog.records]
    assert "inbox/nobody" in said and "groups add nobody" in said
    box.home.group_file("nobody").write_text('jid = "local:nobody"\n')
    box.parts.settings.refresh()
    box.turn()
    assert [message.text for message in box.stored("local:nobody")] == ["hello"]


def test_a_file_where_the_directory_belongs_holds_up_nobody(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    Parts(home)
    (home.inbox / "main").write_text("echo hello > state/inbox/main, before the directory was there")
    (home.inbox / "team").mkdir()
    (home.inbox / "team" / "a.txt").write_text("hello")
    box = Box(home)
    assert [message.text for message in box.stored("local:team")] == ["hello"]
    assert "must be a directory" in caplog.text
    assert (home.inbox / "main").is_file()


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    made = Watcher()
    made.start()
    yield made
    made.stop()


def test_plain_echo_reaches_the_agent_while_the_thread_runs(box: Box, watcher: Watcher) -> None:
    watcher.add(box.home.inbox, lambda path: box.inbox.turns.poke(), recursive=True)
    thread = threading.Thread(target=box.inbox.turns.run)
    thread.start()
    try:
        subprocess.run(["sh", "-c", "echo hello > 1.txt; echo moved > .2; mv .2 2.md"], check=True, cwd=box.directory)
        wait_for(lambda: sorted(box.texts()) == ["hello", "moved"], 10.0, "both messages")
    finally:
        box.inbox.turns.halt()
        thread.join()


def test_copies_that_keep_their_times_are_messages_of_their_own(box: Box) -> None:
    path = box.directory / "again.txt"
    for _ in range(5):
        path.write_text("the same")
        os.utime(path, (1_700_000_000.0,) * 2)
        box.turn()
        assert not path.exists()
    assert box.texts() == ["the same"] * 5
