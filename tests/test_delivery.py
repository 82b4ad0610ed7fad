"""Delivery with a real local channel, and with one that fails as platforms do: in order, once, nothing held up."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nanoclaw.channels.base import Channel, Deliver, SendFailed
from nanoclaw.channels.local import LocalChannel
from nanoclaw.delivery import IDLE_SECONDS, Delivery
from nanoclaw.paths import Home
from nanoclaw.stores.transcripts import Position
from tests.support.parts import Parts, lines_of

WHEN = "2026-11-22T09:30:00.000Z"


class Flaky:
    """A platform: takes what is not in ``trouble``, else raises that. ``sent``: what it took, with the key."""

    prefix = "flaky:"
    takes_keys = False

    def __init__(self) -> None:
        self.trouble: dict[str, Exception] = {}
        self.asked: list[str] = []
        self.sent: list[tuple[str, str]] = []

    def start(self, deliver: Deliver) -> None: ...

    def stop(self) -> None: ...

    def send(self, jid: str, text: str, key: str) -> None:
        self.asked.append(key)
        if key in self.trouble:
            raise self.trouble[key]
        self.sent.append((jid, text))


class House:
    """A home's delivery; ``restart`` for the next host's."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.flaky = Flaky()
        self.restart()

    def restart(self) -> None:
        self.parts = Parts(self.home)
        self.local = LocalChannel(self.home.local)
        channels: dict[str, Channel] = {"local:": self.local, "flaky:": self.flaky}
        outbox, transcripts = self.parts.outbox, self.parts.transcripts
        self.delivery = Delivery(outbox, transcripts, channels, self.parts.journal, lambda: "Andy")

    def put(self, *ids: str, jid: str = "local:main") -> None:
        for reply_id in ids:
            self.parts.outbox.put(reply_id, jid, "main", f"text {reply_id}", WHEN, "run-1")

    def far_side(self, name: str = "main") -> list[str]:
        return [line["text"] for line in lines_of(self.home.local / f"{name}.jsonl")]

    def near_side(self, jid: str = "local:main") -> list[str]:
        return [line["id"] for path in sorted(self.home.chat(jid).glob("*.jsonl")) for line in lines_of(path)]


@pytest.fixture
def house(home: Home) -> House:
    return House(home)


def test_a_reply_goes_out_and_into_the_transcript(house: House) -> None:
    house.put("r-1", "r-2")
    assert house.delivery.turn(0.0) == IDLE_SECONDS
    assert house.far_side() == ["text r-1", "text r-2"]
    (line, _), _ = house.parts.transcripts.since("local:main", Position())
    assert (line.message.id, line.message.run, line.message.sender_name) == ("r-1", "run-1", "Andy")
    assert line.message.is_bot and line.message.from_me and line.message.timestamp == WHEN
    assert os.listdir(house.home.outbox) == ["failed"]
    house.delivery.turn(1.0)
    assert house.far_side() == ["text r-1", "text r-2"]


def test_a_crash_while_sending_sends_again_under_the_same_key(house: House) -> None:
    house.put("r-1")
    reply = house.parts.outbox.mark_sending(house.parts.outbox.heads()[0])
    house.local.send(reply.jid, reply.text, reply.id)
    house.restart()
    house.delivery.turn(0.0)
    assert house.far_side() == ["text r-1"], "its far side has the key"
    assert house.near_side() == ["r-1"]
    assert house.parts.outbox.heads() == []


def test_a_crash_before_the_channel_took_it(house: House) -> None:
    house.put("r-1")
    house.parts.outbox.mark_sending(house.parts.outbox.heads()[0])
    house.restart()
    house.delivery.turn(0.0)
    assert house.far_side() == ["text r-1"]


def test_what_the_transcript_has_is_not_sent(house: House) -> None:
    house.put("r-1", "r-2", jid="flaky:1")
    house.delivery.turn(0.0)
    house.restart()
    house.put("r-1", "r-2", "r-3", jid="flaky:1")
    house.parts.outbox.mark_sending(house.parts.outbox.heads()[0])
    house.restart()
    house.delivery.turn(0.0)
    assert house.flaky.asked == ["r-1", "r-2", "r-3"]
    assert house.near_side("flaky:1") == ["r-1", "r-2", "r-3"]
    assert os.listdir(house.home.outbox) == ["failed"]


def test_a_failing_head_is_tried_again_then_set_aside_and_the_next_goes_on(house: House) -> None:
    house.flaky.trouble["r-1"] = SendFailed("the platform is down")
    house.put("r-1", "r-2", jid="flaky:1")
    house.put("r-3", jid="flaky:2")
    now, asked_at = 0.0, []
    while now < 155.0:
        asked = len(house.flaky.asked)
        wait = house.delivery.turn(now)
        asked_at += [now] * (house.flaky.asked[asked:].count("r-1"))
        assert 0.0 < wait <= IDLE_SECONDS
        now += wait
    assert asked_at == [0.0, 5.0, 15.0, 35.0, 75.0]
    assert house.flaky.sent == [("flaky:2", "text r-3")], "another chat does not wait"
    house.delivery.turn(now)
    assert (now, house.flaky.asked.count("r-1")) == (155.0, 6)
    assert house.flaky.sent == [("flaky:2", "text r-3"), ("flaky:1", "text r-2")]
    kept = json.loads((house.home.outbox / "failed" / "r-1.json").read_bytes())
    assert kept["reason"] == "the platform is down"
    assert house.near_side("flaky:1") == ["r-2"]


def test_what_can_never_be_sent_is_set_aside_at_once(house: House) -> None:
    house.flaky.trouble["r-1"] = SendFailed("no such chat", permanent=True)
    house.put("r-1", "r-2", jid="flaky:1")
    house.delivery.turn(0.0)
    assert house.flaky.asked == ["r-1", "r-2"]
    assert (house.home.outbox / "failed" / "r-1.json").exists()


@pytest.mark.parametrize("bug", [KeyError("x"), OSError("x"), RuntimeError("x")])
def test_a_bug_in_one_channel_holds_up_no_other(house: House, bug: Exception) -> None:
    house.flaky.trouble["r-1"] = bug
    house.put("r-1", jid="flaky:1")
    house.put("r-2")
    assert house.delivery.turn(0.0) == 5.0
    assert house.far_side() == ["text r-2"]
    del house.flaky.trouble["r-1"]
    house.delivery.turn(5.0)
    assert house.flaky.sent == [("flaky:1", "text r-1")]


def test_a_chat_without_a_channel_waits_and_holds_up_no_other(house: House) -> None:
    house.put("r-1", jid="tg:1")
    house.put("r-2")
    house.delivery.turn(0.0)
    assert house.far_side() == ["text r-2"]
    assert [reply.id for reply in house.parts.outbox.heads()] == ["r-1"]


def test_a_local_name_that_is_no_file_name_is_set_aside(house: House) -> None:
    house.put("r-1", jid="local:.hidden")
    house.put("r-2")
    now = 0.0
    for _ in range(8):
        now += house.delivery.turn(now)
    assert house.far_side() == ["text r-2"]
    assert (house.home.outbox / "failed" / "r-1.json").exists()


# -- the local channel -------------------------------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path: Path) -> Callable[[], LocalChannel]:
    """Call it for the channel as the next host makes it."""

    def again() -> LocalChannel:
        channel = LocalChannel(tmp_path)
        channel.start(lambda message, name: None)
        return channel

    return again


def test_a_key_is_taken_once_also_after_a_restart(local: Callable[[], LocalChannel]) -> None:
    first = local()
    path = first.path("local:a")
    first.send("local:a", "one\ntwo ö \ud800", "k1")
    first.send("local:a", "again", "k1")
    local().send("local:a", "again", "k1")
    first.send("local:b", "other chat", "k1")
    assert [(line["key"], line["text"]) for line in lines_of(path)] == [("k1", "one\ntwo ö ?")]
    assert len(lines_of(first.path("local:b"))) == 1
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_torn_last_line_is_completed(local: Callable[[], LocalChannel]) -> None:
    path = local().path("local:a")
    local().send("local:a", "one", "k1")
    with path.open("ab") as file:
        file.write(b'{"key": "k2", "te')
    local().send("local:a", "two", "k2")
    first, torn, second = path.read_bytes().splitlines()
    assert (json.loads(first)["key"], torn, json.loads(second)["key"]) == ("k1", b'{"key": "k2", "te', "k2")


def test_keys_are_looked_for_in_the_tail(local: Callable[[], LocalChannel]) -> None:
    path = local().path("local:a")
    local().send("local:a", "old", "k0")
    with path.open("a") as file:
        for number in range(30):
            file.write(json.dumps({"key": f"f{number}", "text": "x" * 50_000}) + "\n[]\nnot json\n")
    size = path.stat().st_size
    for key in ("f29", "f20"):
        local().send("local:a", "again", key)
    assert path.stat().st_size == size
    local().send("local:a", "new", "k1")
    assert path.read_bytes().endswith(b'"text": "new"}\n')


def test_a_far_side_that_cannot_be_written_is_a_failed_send(local: Callable[[], LocalChannel]) -> None:
    channel = local()
    channel.path("local:a").mkdir()
    with pytest.raises(SendFailed) as failed:
        channel.send("local:a", "text", "k1")
    assert not failed.value.permanent
    channel.path("local:a").rmdir()
    channel.send("local:a", "text", "k1")
    assert len(lines_of(channel.path("local:a"))) == 1


def test_a_full_disk_costs_no_line(local: Callable[[], LocalChannel], monkeypatch: pytest.MonkeyPatch) -> None:
    channel, real = local(), os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    channel.send("local:a", "text", "k1")
    assert [line["text"] for line in lines_of(channel.path("local:a"))] == ["text"]
