"""Transcripts on real files: what a crash, a person's editor and another process leave, and what reading costs."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from pathlib import Path

import pytest

from nanoclaw.files.locks import Locks
from nanoclaw.paths import Home
from nanoclaw.stores import transcripts
from nanoclaw.stores.transcripts import Position, Transcripts
from tests.support.parts import lines_of, message

JID = "local:main"
START = Position()


@pytest.fixture
def chat(home: Home) -> Transcripts:
    return again(home)


def again(home: Home) -> Transcripts:
    """As the next host, or another process, sees it."""
    return Transcripts(home, Locks())


def segments(home: Home) -> list[Path]:
    return sorted(home.chat(JID).glob("*.jsonl"))


def texts(chat: Transcripts, position: Position = START) -> list[str]:
    return [line.message.text for line, _ in chat.since(JID, position)]


def seqs(chat: Transcripts, position: Position = START) -> list[int]:
    return [line.seq for line, _ in chat.since(JID, position)]


def fill(chat: Transcripts, *words: str) -> None:
    for word in words:
        assert chat.append(message(word, id=f"id-{word}")) is not None


def edit(path: Path, content: str) -> None:
    """As most editors save: another inode under the same name."""
    draft = path.with_name(".draft")
    draft.write_text(content)
    draft.rename(path)


def written(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True)


def test_a_line_is_for_people_with_jq(home: Home, chat: Transcripts) -> None:
    reply = {"id": "7", "text": "what?"}
    chat.append(
        message("höllo \ud800", id="a", reply_to=reply, attachments=({"name": "x.png"},), is_bot=True, run="r-1")
    )
    chat.append(message("plain", id="b"))
    full, plain = lines_of(segments(home)[0])
    assert full.pop("received").endswith("Z")
    assert full == {
        "seq": 1,
        "id": "a",
        "sender": "owner",
        "sender_name": "Owner",
        "text": "höllo \ufffd",
        "timestamp": "2026-11-22T09:30:00Z",
        "is_bot": True,
        "reply_to": reply,
        "run": "r-1",
        "attachments": [{"name": "x.png"}],
    }
    assert list(plain) == ["seq", "id", "sender", "sender_name", "text", "timestamp", "received", "is_bot"]
    assert "höllo" in segments(home)[0].read_text(), "readable, not escaped"
    read = [line.message for line, _ in again(home).since(JID, START)]
    assert read[0].attachments == ({"name": "x.png"},) and read[0].reply_to == reply and read[0].run == "r-1"


@pytest.mark.parametrize(
    "left", ['{"seq": 3, "id": "x", "te', '{"seq": 3, "id": "x", "text": "whole"}', "\x00\x00\x00"]
)
def test_a_torn_last_line_costs_nothing_but_itself(home: Home, chat: Transcripts, left: str) -> None:
    fill(chat, "a", "b")
    with segments(home)[0].open("a") as file:
        file.write(left)
    fill(again(home), "c")
    whole = ["whole"] if left.endswith("}") else []
    assert texts(again(home)) == ["a", "b", *whole, "c"]
    assert texts(chat) == ["a", "b", *whole, "c"], "the host that lives sees it too"
    assert written(segments(home)[0])[-2] == left + "\n"


def test_broken_lines_are_skipped_and_named(home: Home, chat: Transcripts, caplog: pytest.LogCaptureFixture) -> None:
    fill(chat, "a")
    broken = [
        *(
            "",
            "not json",
            "[1]",
            "null",
            '{"seq": 2}',
            '{"id": "x"}',
            '{"seq": "2", "id": "x"}',
            '{"seq": true, "id": "x"}',
        ),
        *('{"seq": 0, "id": "x"}', '{"seq": -5, "id": "x"}', "[" * 5000, '{"seq": 2.5, "id": "x"}', "9" * 6000),
    ]
    with segments(home)[0].open("ab") as file:
        file.write("\n".join(broken).encode() + b"\n\xff\xfe\x00\n")
    with caplog.at_level(logging.WARNING, "nanoclaw"):
        fill(chat, "b")
        assert texts(chat) == ["a", "b"]
        first = len(caplog.records)
        assert texts(chat) == ["a", "b"]
    assert first == len(broken), "each once: the empty line is none, the binary one is"
    assert len(caplog.records) == first
    assert seqs(chat) == [1, 2]


def test_seqs_that_do_not_increase_are_skipped_and_gaps_are_legal(home: Home, chat: Transcripts) -> None:
    fill(chat, "a", "b", "c", "d")
    path = segments(home)[0]
    a, b, c, d = written(path)
    later = json.dumps({**json.loads(d), "seq": 90, "id": "id-late", "text": "late"}) + "\n"
    edit(path, a + c + b + a + d + later)
    assert texts(chat) == ["a", "c", "d", "late"]
    fill(chat, "e")
    assert seqs(chat) == [1, 3, 4, 90, 91]
    assert texts(again(home), Position(4)) == ["late", "e"]


def test_a_number_is_never_given_twice_while_the_host_lives(home: Home, chat: Transcripts) -> None:
    fill(chat, "a", "b", "c")
    place = chat.last(JID)
    path = segments(home)[0]
    edit(path, "".join(written(path)[:1]))
    fill(chat, "d")
    assert seqs(chat) == [1, 4]
    assert texts(chat, place) == ["d"], "who had read to the end finds what is new"
    path.unlink()
    fill(chat, "e")
    shutil.rmtree(home.chat(JID))
    fill(chat, "f")
    assert texts(chat, place) == ["f"]
    assert seqs(chat) == [6]


def test_a_number_is_never_given_twice_by_the_next_host(home: Home, chat: Transcripts) -> None:
    fill(chat, "a", "b", "c")
    shutil.rmtree(home.chat(JID))
    next_one = again(home)
    next_one.number_behind(JID, 3)
    next_one.number_behind(JID, 1)
    fill(next_one, "d")
    assert seqs(next_one) == [4]


def test_nothing_readable_left_still_counts_on(home: Home, chat: Transcripts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcripts, "SEGMENT_BYTES", 400)
    fill(chat, *"abcd")
    last = segments(home)[-1]
    edit(last, "x" * 500)
    fill(again(home), "e")
    assert int(segments(home)[-1].stem) > int(last.stem), "a full segment is left, also one that cannot be read"
    assert texts(again(home))[-1] == "e"
    for path in segments(home):
        edit(path, "garbage\n")
    place = chat.last(JID)
    fill(again(home), "f")
    assert texts(again(home), place) == ["f"]


def test_positions_are_hints(home: Home, chat: Transcripts) -> None:
    fill(chat, *"abcdef")
    path = segments(home)[0]
    places = {line.message.text: place for line, place in chat.since(JID, START)}
    third = places["c"]
    for wrong in (
        Position(3, third.segment, third.offset - 1),
        Position(3, third.segment, third.offset + 1),
        Position(3, third.segment, places["d"].offset),
        Position(3, third.segment, places["b"].offset),
        Position(3, third.segment, 10**9),
        Position(3, 99, third.offset),
        Position(3),
    ):
        assert texts(chat, wrong) == ["d", "e", "f"], wrong
    lines = written(path)
    edit(path, "# a remark of mine\n" + "".join(lines))
    assert texts(chat, third) == ["d", "e", "f"]
    edit(path, "".join(lines[1:]))
    assert texts(chat, third) == ["d", "e", "f"]
    shorter = lines[0].replace('"a"', '"' + "a" * 80 + '"') + "".join(lines[1:])
    edit(path, shorter)
    assert texts(chat, third) == ["d", "e", "f"]


def test_an_edit_in_place_is_seen(home: Home, chat: Transcripts) -> None:
    fill(chat, *"abc")
    path = segments(home)[0]
    lines = written(path)
    with path.open("r+") as file:
        file.truncate(len(lines[0].encode()))
    assert texts(chat) == ["a"]
    edit(path, "".join(lines))
    assert texts(chat) == ["a", "b", "c"]
    assert not chat.contains(JID, "id-z") and chat.contains(JID, "id-c")
    edit(path, "".join(lines).replace("id-c", "id-z"))
    assert chat.contains(JID, "id-z") and not chat.contains(JID, "id-c"), "also of the same size"


def test_rotation(home: Home, chat: Transcripts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcripts, "SEGMENT_BYTES", 600)
    words = [str(number) for number in range(1, 21)]
    fill(chat, *words)
    names = [int(path.stem) for path in segments(home)]
    assert len(names) > 3
    assert names == [lines_of(path)[0]["seq"] for path in segments(home)], "named by their first seq"
    for number, (_, place) in enumerate(chat.since(JID, START), 1):
        assert texts(again(home), place) == words[number:]
        assert texts(again(home), Position(number)) == words[number:]
    last = chat.last(JID)
    fill(again(home), "other", "another")
    assert texts(chat, last) == ["other", "another"]
    segments(home)[0].unlink()
    assert texts(chat, last) == ["other", "another"]
    assert seqs(chat)[0] == names[1]


def test_another_process_appends_and_rotates(home: Home, chat: Transcripts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcripts, "SEGMENT_BYTES", 600)
    other = again(home)
    for number in range(1, 40):
        fill((chat, other)[number % 2], str(number))
    assert seqs(chat) == seqs(other) == list(range(1, 40))
    assert chat.append(message("again", id="id-38")) is None
    assert other.append(message("again", id="id-39")) is None


def test_a_duplicate_is_stored_once(home: Home, chat: Transcripts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcripts, "REMEMBERED_IDS", 5)
    monkeypatch.setattr(transcripts, "SEGMENT_BYTES", 600)
    fill(chat, *"abcdefgh")
    for reader in (chat, again(home)):
        assert reader.append(message("x", id="id-h")) is None
        assert reader.append(message("x", id="id-d")) is None, "the fifth from the end"
        assert reader.contains(JID, "id-d") and not reader.contains(JID, "id-c")
    other = again(home)
    assert other.append(message("x", "local:team", id="id-h")) is not None, "ids are a chat's own"
    fill(other, "i")
    assert not other.contains(JID, "id-d"), "remembered is what is among the last"


def test_what_cannot_be_written_is_not_there(home: Home, chat: Transcripts, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(chat, "a")
    real = os.write

    def half(fd: int, data: bytes) -> int:
        real(fd, data[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transcripts.os, "write", half)
    with pytest.raises(OSError, match="No space"):
        chat.append(message("b", id="id-b"))
    monkeypatch.undo()
    assert not chat.contains(JID, "id-b")
    fill(chat, "b", "c")
    assert texts(chat) == texts(again(home)) == ["a", "b", "c"]


def test_many_threads(home: Home, chat: Transcripts) -> None:
    def write(name: str) -> None:
        for number in range(25):
            chat.append(message(f"{name}{number}", JID if number % 2 else f"local:{name}"))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seqs(chat) == list(range(1, 8 * 12 + 1))
    assert all(len(again(home).since(f"local:{name}", START)) == 13 for name in "abcdefgh")


def test_more_chats_than_are_kept_open(home: Home, chat: Transcripts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcripts, "OPEN_CHATS", 2)
    for number in range(9):
        chat.append(message(str(number), f"local:{number % 4}", id=str(number)))
    assert [len(chat.since(f"local:{number}", START)) for number in range(4)] == [3, 2, 2, 2]
    assert chat.append(message("x", "local:0", id="8")) is None


@pytest.mark.parametrize("size", [1_000, 100_000])
def test_what_is_new_costs_the_same_in_a_long_chat(home: Home, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    directory = home.chat(JID)
    directory.mkdir(parents=True)
    line = '{"seq": %d, "id": "%d", "text": "' + "x" * 60 + '"}\n'
    for first in range(1, size + 1, 10_000):
        last = min(first + 9_999, size)
        (directory / f"{first:010d}.jsonl").write_text("".join(line % (n, n) for n in range(first, last + 1)))
    chat = again(home)
    place = chat.last(JID)
    assert place.seq == size
    fill(chat, "new", "newer")
    parsed: list[bytes] = []
    real = transcripts.from_json

    def counted(data: bytes, jid: str) -> object:
        parsed.append(data)
        return real(data, jid)

    monkeypatch.setattr(transcripts, "from_json", counted)
    assert texts(chat, place) == ["new", "newer"]
    assert len(parsed) == 3, "the two, and the one that the hint ends at"
    assert texts(chat, chat.last(JID)) == []
    assert len(parsed) == 3
