"""The outbox on disk: order, states, what an earlier host left."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable

import pytest

from nanoclaw.errors import UserError
from nanoclaw.files.locks import Locks
from nanoclaw.paths import Home
from nanoclaw.stores.outbox import Dropped, Outbox

WHEN = "2026-11-22T09:30:00.000Z"


@pytest.fixture
def outbox(home: Home) -> Callable[[], Outbox]:
    """Call it for the outbox as the next host finds it."""
    home.outbox.mkdir()

    def again() -> Outbox:
        made = Outbox(home, Locks())
        made.load()
        return made

    return again


def heads(outbox: Outbox) -> list[tuple[str, str, str]]:
    return [(reply.jid, reply.id, reply.state) for reply in outbox.heads()]


def test_the_oldest_of_each_chat_also_after_a_restart(outbox: Callable[[], Outbox]) -> None:
    first = outbox()
    for number, jid in enumerate(["local:b", "local:a", "local:b", "local:a"]):
        first.put(f"z{9 - number}", jid, "main", str(number), WHEN)
    second = outbox()
    second.put("a0", "local:a", "main", "4", WHEN)
    assert heads(first) == [("local:b", "z9", "ready"), ("local:a", "z8", "ready")]
    assert heads(second) == heads(first)
    second.delivered(second.heads()[1])
    assert heads(second) == heads(outbox()) == [("local:b", "z9", "ready"), ("local:a", "z6", "ready")]


def test_an_id_is_taken_once(outbox: Callable[[], Outbox]) -> None:
    first = outbox()
    first.put("r-1", "local:a", "main", "text", WHEN, "r")
    sending = first.mark_sending(first.heads()[0])
    for view in (first, outbox()):
        view.put("r-1", "local:a", "main", "other", "later")
        assert [(r.text, r.state, r.run) for r in view.heads()] == [("text", "sending", "r")]
    first.delivered(sending)
    first.delivered(sending)
    assert outbox().heads() == []


def test_what_failed_is_kept_with_its_reason(outbox: Callable[[], Outbox], home: Home) -> None:
    first = outbox()
    first.put("r-1", "local:a", "main", "text", WHEN)
    failing = first.giving_up(first.heads()[0], "no such chat")
    assert heads(outbox()) == [("local:a", "r-1", "failed")], "not before somebody was told"
    first.given_up(failing)
    assert heads(first) == heads(outbox()) == []
    kept = json.loads((home.outbox / "failed" / "r-1.json").read_bytes())
    assert (kept["text"], kept["reason"]) == ("text", "no such chat")
    first.put("r-1", "local:a", "main", "text", WHEN)
    assert heads(first) == [], "its run is read again after a crash: it failed already"


def test_a_retried_one_goes_before_what_was_said_later_but_not_between_two_parts(outbox: Callable[[], Outbox]) -> None:
    first = outbox()
    for name in ("r-1", "r-2", "r-3"):
        first.put(name, "tg:1", "main", name, WHEN)
    for _ in range(2):
        first.given_up(first.giving_up(first.taken(first.mark_sending(first.heads()[0]), "p1"), "no"))
    second = outbox()
    second.put("r-4", "tg:1", "main", "r-4", WHEN)
    second.mark_sending(second.heads()[0])
    second.retry("r-2", from_start=True)
    second.retry("r-1", from_start=True)
    last, order = outbox(), []
    while last.heads():
        order += last.heads()
        last.delivered(order[-1])
    assert [reply.id for reply in order] == ["r-3", "r-1", "r-2", "r-4"]
    assert {(reply.sent, reply.reason, reply.tries) for reply in order} == {(0, None, 0)}


def test_the_order_of_a_failed_one_is_not_given_again(outbox: Callable[[], Outbox]) -> None:
    first = outbox()
    for name in ("r-1", "r-2", "r-3"):
        first.put(name, "tg:1", "main", name, WHEN)
        first.given_up(first.giving_up(first.heads()[0], "no"))
    second = outbox()
    second.put("r-4", "tg:1", "main", "r-4", WHEN)
    second.retry("r-3")
    assert heads(second) == [("tg:1", "r-3", "ready")]


def test_each_retry_is_another_round(outbox: Callable[[], Outbox], home: Home) -> None:
    """A file of an earlier version has none yet."""
    first = outbox()
    first.put("r-1", "tg:1", "main", "text", WHEN)
    path = home.outbox / "r-1.json"
    old = json.loads(path.read_text())
    assert old.pop("rounds") == 0
    path.write_text(json.dumps(old))
    for expected in (1, 2):
        first = outbox()
        first.given_up(first.giving_up(first.heads()[0], "no"))
        first.retry("r-1")
        first.retry("r-1")
        assert [reply.rounds for view in (first, outbox()) for reply in view.heads()] == [expected, expected]


def test_parts_that_went_are_kept_by_a_retry(outbox: Callable[[], Outbox]) -> None:
    first = outbox()
    first.put("r-1", "tg:1", "main", "text", WHEN)
    part = first.mark_sending(first.taken(first.mark_sending(first.heads()[0]), "p1"))
    first.given_up(first.giving_up(part, "no"))
    first.retry("r-1")
    first.retry("r-1")
    for view in (first, outbox()):
        (again,) = view.heads()
        assert (again.state, again.sent, again.platform_id) == ("ready", 1, "p1")


@pytest.mark.parametrize("failed", [False, True])
def test_a_dropped_one_takes_its_file_along_and_comes_back_by_nothing(
    outbox: Callable[[], Outbox], home: Home, failed: bool
) -> None:
    first = outbox()
    (home.outbox / "files" / "r-1").write_bytes(b"content")
    first.put("r-1", "tg:1", "main", "text", WHEN, file="a.txt")
    sending = first.mark_sending(first.heads()[0])
    if failed:
        first.given_up(first.giving_up(sending, "no"))
    first.drop("r-1")
    for late in (first.mark_sending, lambda reply: first.tried(reply, "no", 1, False)):
        with pytest.raises(Dropped):
            late(sending)
    first.delivered(first.taken(sending, None))
    assert sorted(os.listdir(home.outbox)) == ["failed", "files"]
    assert os.listdir(home.outbox / "files") == os.listdir(home.outbox / "failed") == []
    for ask in (first.find, first.retry, first.drop):
        with pytest.raises(UserError, match="There is no reply 'r-1'"):
            ask("r-1")


def test_a_name_is_looked_up_and_never_a_path(outbox: Callable[[], Outbox], home: Home) -> None:
    (home.state / "x.json").write_text("{}")
    for ask in (outbox().drop, outbox().retry):
        with pytest.raises(UserError, match="There is no reply"):
            ask("../../x")
    assert (home.state / "x.json").exists()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"id": "bad"}',
        '{"id": "other", "jid": "j", "folder": "f", "text": "t", "created": "c", "order": 1}',
        '{"id": "bad", "jid": 7, "folder": "f", "text": "t", "created": "c", "order": 1}',
        '{"id": "bad", "jid": "", "folder": "f", "text": "t", "created": "c", "order": 1}',
        '{"id": "bad", "jid": "j", "folder": "f", "text": "t", "created": "c", "order": true}',
        '{"id": "bad", "jid": "j", "folder": "f", "text": "t", "created": "c", "order": 1, "sent": "2"}',
        '{"id": "bad", "jid": "j", "folder": "f", "text": "t", "created": "c", "order": 1, "state": "sent"}',
    ],
)
def test_a_broken_file_is_set_aside_and_stops_no_other(
    outbox: Callable[[], Outbox], home: Home, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    outbox().put("good", "local:a", "main", "text", WHEN)
    (home.outbox / "bad.json").write_text(content)
    (home.outbox / ".draft.json").write_text("{")
    with caplog.at_level(logging.ERROR, "nanoclaw"):
        assert heads(outbox()) == [("local:a", "good", "ready")]
    assert [record for record in caplog.records if "bad.json" in record.getMessage()]
    assert sorted(os.listdir(home.outbox)) == [".draft.json", "failed", "files", "good.json"]
    kept = home.outbox / "failed" / "bad.json"
    assert kept.read_text() == content
    with pytest.raises(UserError, match=r"bad\.json"):
        outbox().retry("bad")
    assert kept.read_text() == content, "nothing is written to it"
    mended = {"id": "bad", "jid": "local:a", "folder": "main", "text": "t", "created": "c", "order": 0}
    kept.write_text(json.dumps(mended))
    last = outbox()
    last.retry("bad")
    assert heads(last) == [("local:a", "bad", "ready")] and not kept.exists()


def test_what_cannot_be_read_is_left_and_stops_no_other(outbox: Callable[[], Outbox], home: Home) -> None:
    outbox().put("good", "local:a", "main", "text", WHEN)
    (home.outbox / "odd.json").mkdir()
    os.mkfifo(home.outbox / "pipe.json")
    assert heads(outbox()) == [("local:a", "good", "ready")] and (home.outbox / "odd.json").is_dir()


def test_a_text_that_is_no_utf_8_is_kept(outbox: Callable[[], Outbox]) -> None:
    outbox().put("r-1", "local:a", "main", "half \ud800", WHEN)
    assert [reply.text for reply in outbox().heads()] == ["half ?"]
