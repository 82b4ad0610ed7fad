"""The outbox on disk: order, states, what an earlier host left."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable

import pytest

from nanoclaw.files.locks import Locks
from nanoclaw.paths import Home
from nanoclaw.stores.outbox import Outbox

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
    first.failed(first.heads()[0], "no such chat")
    assert heads(first) == heads(outbox()) == []
    kept = json.loads((home.outbox / "failed" / "r-1.json").read_bytes())
    assert (kept["text"], kept["reason"]) == ("text", "no such chat")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"id": "bad"}',
        '{"id": "other", "jid": "j", "folder": "f", "text": "t", "created": "c", "order": 1}',
    ],
)
def test_a_broken_file_is_left_and_stops_no_other(
    outbox: Callable[[], Outbox], home: Home, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    outbox().put("good", "local:a", "main", "text", WHEN)
    (home.outbox / "bad.json").write_text(content)
    (home.outbox / ".draft.json").write_text("{")
    with caplog.at_level(logging.ERROR, "nanoclaw"):
        assert heads(outbox()) == [("local:a", "good", "ready")]
    assert [record for record in caplog.records if "bad.json" in record.getMessage()]
    assert sorted(os.listdir(home.outbox)) == [".draft.json", "bad.json", "failed", "files", "good.json"]


def test_a_text_that_is_no_utf_8_is_kept(outbox: Callable[[], Outbox]) -> None:
    outbox().put("r-1", "local:a", "main", "half \ud800", WHEN)
    assert [reply.text for reply in outbox().heads()] == ["half ?"]
