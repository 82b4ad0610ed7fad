"""The reception: what of a message that comes in is kept, and where; what attachments may do to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from nanoclaw import reception
from nanoclaw.channels.base import FetchFailed
from nanoclaw.paths import Home
from nanoclaw.reception import FETCH_TRIES, Reception
from nanoclaw.stores import chats
from nanoclaw.stores.chats import Chats
from nanoclaw.stores.journal import Journal
from tests.support.home import put
from tests.support.parts import Parts, message

PHOTO = {"kind": "photo", "name": "cat.jpg", "size": 5, "mime": "image/jpeg", "file_id": "platform's own"}


class Desk:
    """A reception with a platform: ``answers`` is what each fetch gives, the last one for ever."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.parts = Parts(home)
        self.answers: list[bytes | Exception] = [b"image"]
        self.fetched: list[str] = []
        self.changed: list[str] = []
        self.discovered = 0
        self.journal = Journal(home.logs)
        self.reception = Reception(
            *(home, self.parts.settings, self.parts.transcripts, self.parts.chats, self.journal, self._fetch),
            obey=lambda group, message: None,
            changed=self.changed.append,
            discovered=self._new_chat,
        )

    def _fetch(self, jid: str, attachment: Mapping[str, Any]) -> Iterator[bytes]:
        self.fetched.append(str(attachment["file_id"]))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        yield b""
        if isinstance(answer, Exception):
            raise answer
        yield from (answer[:3], answer[3:])

    def _new_chat(self) -> None:
        self.discovered += 1

    def hand_in(self, text: str = "hello", jid: str = "local:main", **fields: Any) -> None:
        self.reception.deliver(message(text, jid, **fields), "The chat")

    def stored(self, jid: str = "local:main") -> list[dict[str, Any]]:
        found = [path.read_bytes().splitlines() for path in sorted(self.home.chat(jid).glob("*.jsonl"))]
        return [json.loads(line) for lines in found for line in lines]

    def attachments(self) -> Path:
        return self.home.groups / "main" / "attachments"


@pytest.fixture
def desk(home: Home) -> Desk:
    return Desk(home)


def test_a_message_is_stored_once(desk: Desk) -> None:
    for _ in range(2):
        desk.hand_in(id="m1")
    assert [line["id"] for line in desk.stored()] == ["m1"]
    assert desk.changed == ["main", "main"], "the first one's news may not have got through"
    assert desk.discovered == 1 and desk.parts.chats.all()["local:main"]["name"] == "The chat"


def test_of_a_chat_that_nobody_registered_only_its_name_is_kept(desk: Desk) -> None:
    desk.hand_in("my secret", "tg:99", attachments=(PHOTO,))
    assert desk.parts.chats.all()["tg:99"]["channel"] == "tg" and desk.discovered == 1
    assert desk.fetched == [] and desk.changed == []
    desk.journal.close()
    for path in [p for p in desk.home.root.rglob("*") if p.is_file()]:
        assert b"my secret" not in path.read_bytes(), path


@pytest.mark.parametrize(("mode", "stored"), [("drop", []), ("trigger", ["from a stranger"])])
def test_the_allowlist(desk: Desk, mode: str, stored: list[str]) -> None:
    rule = {"default": {"allow": ["friend"], "mode": mode}, "chats": {}}
    put(desk.home.sender_allowlist, json.dumps(rule))
    put(desk.home.group_file("far"), 'jid = "tg:5"\n')
    desk.hand_in("from a stranger", "tg:5", sender="stranger", attachments=() if stored else (PHOTO,))
    assert [line["text"] for line in desk.stored("tg:5")] == stored
    assert desk.fetched == [] and bool(desk.changed) == bool(stored)
    desk.hand_in("from a friend", "tg:5", sender="friend")
    assert [line["text"] for line in desk.stored("tg:5")] == [*stored, "from a friend"]


def test_an_attachment_is_kept_in_the_groups_folder(desk: Desk) -> None:
    desk.hand_in(id="7", attachments=(PHOTO,))
    (line,) = desk.stored()
    (about,) = line["attachments"]
    path = desk.home.groups / "main" / about["path"]
    assert about == {
        "kind": "photo",
        "name": "cat.jpg",
        "size": 5,
        "mime": "image/jpeg",
        "path": "attachments/7-cat.jpg",
    }
    assert path.read_bytes() == b"image" and [p.name for p in path.parent.iterdir()] == ["7-cat.jpg"]
    desk.hand_in(id="7", attachments=(PHOTO,))
    assert len(desk.fetched) == 1, "a duplicate is not fetched again"


def test_no_file_is_written_over_another(desk: Desk) -> None:
    desk.attachments().mkdir(parents=True)
    (desk.attachments() / "7-cat.jpg").write_text("the agent's own")
    desk.hand_in(id="7", attachments=(PHOTO, PHOTO))
    assert [a["path"] for a in desk.stored()[0]["attachments"]] == [
        "attachments/7-cat-2.jpg",
        "attachments/7-cat-3.jpg",
    ]
    assert (desk.attachments() / "7-cat.jpg").read_text() == "the agent's own"


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "a\0b\n.jpg", "." * 300, "ä" * 300 + ".jpg", "", "x." + "y" * 300]
)
def test_any_name_becomes_one_component(desk: Desk, name: str) -> None:
    desk.hand_in(id="../7", attachments=({**PHOTO, "name": name},))
    (path,) = desk.attachments().iterdir()
    assert desk.stored()[0]["attachments"][0]["path"] == f"attachments/{path.name}"
    assert path.read_bytes() == b"image" and path.name.isprintable() and not path.name.startswith(".")


@pytest.mark.parametrize("what", ["link", "file", "link to nowhere"])
def test_what_a_container_planted_is_not_followed(desk: Desk, what: str, tmp_path: Path) -> None:
    desk.attachments().parent.mkdir()
    if what == "file":
        desk.attachments().write_text("")
    else:
        desk.attachments().symlink_to(tmp_path / ("" if what == "link" else "nowhere"))
    desk.hand_in(attachments=(PHOTO,))
    (line,) = desk.stored()
    assert "path" not in line["attachments"][0] and "attachments" in line["attachments"][0]["problem"]
    assert list(tmp_path.iterdir()) == [] and line["text"] == "hello"


def test_a_draft_that_the_container_takes_away_keeps_no_message_waiting(desk: Desk) -> None:
    """One that does so for ever would make its platform hand in the same message for ever."""

    def robbed(jid: str, attachment: Mapping[str, Any]) -> Iterator[bytes]:
        yield b"image"
        for path in desk.attachments().iterdir():
            path.unlink()

    desk.reception.fetch = robbed
    desk.hand_in(attachments=(PHOTO,))
    assert "problem" in desk.stored()[0]["attachments"][0]


def test_a_network_that_fails_twice(desk: Desk) -> None:
    desk.answers = [FetchFailed("timed out"), FetchFailed("timed out"), b"image"]
    for _ in range(2):
        with pytest.raises(FetchFailed):
            desk.hand_in(id="7", attachments=(PHOTO,))
        assert desk.stored() == [] and list(desk.attachments().iterdir()) == []
    desk.hand_in(id="7", attachments=(PHOTO,))
    assert desk.stored()[0]["attachments"][0]["path"] == "attachments/7-cat.jpg"


@pytest.mark.parametrize("good", [0, 2])
def test_a_network_that_fails_for_ever(desk: Desk, good: int) -> None:
    """The text does not wait for ever; what was fetched before is not fetched again."""
    desk.answers = [b"image"] * good + [FetchFailed("timed out")]
    photos = tuple({**PHOTO, "file_id": str(number)} for number in range(good + 1))
    for _ in range(FETCH_TRIES - 1):
        with pytest.raises(FetchFailed):
            desk.hand_in(id="7", attachments=photos)
    desk.hand_in(id="7", attachments=photos)
    (line,) = desk.stored()
    assert [a.get("problem") for a in line["attachments"]] == [None] * good + ["timed out"]
    assert desk.fetched == [*map(str, range(good)), *[str(good)] * FETCH_TRIES]
    assert len(list(desk.attachments().iterdir())) == good


def test_what_never_can_be_had_is_said_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.answers = [FetchFailed("too large for bots", permanent=True)]
    desk.hand_in(id="1", attachments=(PHOTO,))
    monkeypatch.setattr(reception, "ATTACHMENT_BYTES", 4)
    desk.answers = [b"image"]
    desk.hand_in(id="2", attachments=(PHOTO,))
    problems = [line["attachments"][0]["problem"] for line in desk.stored()]
    assert problems == ["too large for bots", "larger than 4 bytes"]
    assert list(desk.attachments().iterdir()) == []


def test_known_chats_are_bounded(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest silent one goes; a chat that is seen again is news only with another name."""
    monkeypatch.setattr(chats, "MOST", 3)
    parts = Parts(home)
    known = Chats(home, parts.locks)
    for number in range(5):
        assert known.saw(f"tg:{number}", "x", "tg", f"2026-11-22T09:3{number}:00Z")
    assert list(known.all()) == ["tg:4", "tg:3", "tg:2"]
    assert not known.saw("tg:2", "x", "tg", "2026-11-22T11:30:00Z") and next(iter(known.all())) == "tg:2"
    assert known.saw("tg:2", "renamed", "tg", "2026-11-22T11:30:00Z")
    before = "{broken"
    (home.state / "chats.json").write_text(before)
    assert not known.saw("tg:9", "x", "tg", "2026-11-22T12:30:00Z"), "never in a message's way"
    assert (home.state / "chats.json").read_text() == before


def test_a_broken_folder_costs_the_attachment_and_not_the_message(desk: Desk) -> None:
    """Else one group's trouble would stop its platform: what was not stored comes again, and nothing behind it."""
    folder = desk.home.groups / "main"
    folder.parent.mkdir(exist_ok=True)
    if folder.exists():
        folder.rename(folder.with_name("away"))
    folder.write_text("a file where the folder belongs")
    desk.hand_in("look", attachments=(PHOTO,))
    (line,) = desk.stored()
    assert line["text"] == "look" and line["attachments"][0]["problem"] and "path" not in line["attachments"][0]
