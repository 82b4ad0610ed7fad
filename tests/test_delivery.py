"""Delivery with a real local channel, and with one that fails as platforms do: in order, once, nothing held up."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.channels.base import Channel, FetchFailed, Limits, Outgoing, SendFailed, State
from nanoclaw.channels.local import LocalChannel
from nanoclaw.delivery import IDLE_SECONDS, Delivery
from nanoclaw.paths import Home
from nanoclaw.stores import transcripts as transcripts_module
from nanoclaw.stores.outbox import Reply
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

    limits = Limits(text=40)
    state = State("connected")

    def start(self, deliver: Callable[..., None], changed: Callable[[State], None]) -> None: ...

    def stop(self) -> None: ...

    def typing(self, jid: str) -> None: ...

    def fetch(self, attachment: Mapping[str, Any]) -> Iterator[bytes]:
        raise FetchFailed("none")

    def send(self, message: Outgoing) -> str:
        self.asked.append(message.key)
        if message.key in self.trouble:
            raise self.trouble[message.key]
        self.sent.append((message.jid, message.text))
        return f"p{len(self.sent)}"


class Both:
    """The deliveries of both channels, in turn, as their threads would."""

    def __init__(self, *deliveries: Delivery) -> None:
        self._deliveries = deliveries

    def turn(self, now: float) -> float:
        return min(delivery.turn(now) for delivery in self._deliveries)


class House:
    """A home's delivery; ``restart`` for the next host's."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.flaky = Flaky()
        self.policy = "resend"
        self.told: list[tuple[str, str]] = []
        self.gave_up: Callable[[Reply, str], None] = lambda reply, reason: self.told.append((reply.id, reason))
        self.restart()

    def restart(self) -> None:
        self.parts = Parts(self.home)
        self.local = LocalChannel(self.home.local)
        outbox, transcripts = self.parts.outbox, self.parts.transcripts
        channels: tuple[Channel, ...] = (self.local, self.flaky)
        self.made = made = [
            Delivery(
                *(outbox, transcripts, channel, self.parts.journal, lambda: "Andy", lambda: self.policy),
                gave_up=lambda reply, reason: self.gave_up(reply, reason),
            )
            for channel in channels
        ]
        self.delivery = Both(*made)

    def put(self, *ids: str, jid: str = "local:main") -> None:
        for reply_id in ids:
            self.parts.outbox.put(reply_id, jid, "main", f"text {reply_id}", WHEN, "run-1")

    def put_text(self, reply_id: str, text: str) -> None:
        self.parts.outbox.put(reply_id, "flaky:1", "main", text, WHEN, "run-1")

    def far_side(self, name: str = "main") -> list[str]:
        return [line["text"] for line in lines_of(self.home.local / f"{name}.jsonl")]

    def journal(self, event: str) -> list[dict[str, Any]]:
        lines = [line for path in self.home.logs.glob("journal-*.jsonl") for line in lines_of(path)]
        return [line for line in lines if line["event"] == event]

    def failed(self, reply_id: str) -> dict[str, Any]:
        return dict(json.loads((self.home.outbox / "failed" / f"{reply_id}.json").read_bytes()))

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
    assert sorted(os.listdir(house.home.outbox)) == ["failed", "files"]
    house.delivery.turn(1.0)
    assert house.far_side() == ["text r-1", "text r-2"]


def test_a_crash_while_sending_sends_again_under_the_same_key(house: House) -> None:
    house.put("r-1")
    reply = house.parts.outbox.mark_sending(house.parts.outbox.heads()[0])
    house.local.send(Outgoing(reply.jid, reply.text, reply.id))
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
    assert sorted(os.listdir(house.home.outbox)) == ["failed", "files"]


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


def test_a_wait_that_the_platform_asks_for_uses_up_no_try(house: House) -> None:
    house.flaky.trouble["r-1"] = SendFailed("too many requests", retry_after=17.0)
    house.put("r-1", jid="flaky:1")
    now = 0.0
    for _ in range(20):
        assert house.delivery.turn(now) == 17.0
        now += 17.0
    del house.flaky.trouble["r-1"]
    house.delivery.turn(now)
    assert house.near_side("flaky:1") == ["r-1"]


def test_a_channel_out_of_service_uses_up_no_try(house: House) -> None:
    house.flaky.state = State("sign-in needed", "the token was refused")
    house.flaky.trouble["r-1"] = SendFailed("401")
    house.put("r-1", jid="flaky:1")
    now = 0.0
    for _ in range(20):
        now += house.delivery.turn(now)
    house.flaky.trouble.clear()
    house.delivery.turn(now)
    assert house.near_side("flaky:1") == ["r-1"]


def test_a_long_reply_goes_in_parts_and_a_crash_repeats_no_delivered_part(house: House) -> None:
    text = "\n".join(f"line {number} of a long reply" for number in range(4))
    house.parts.outbox.put("r-1", "flaky:1", "main", text, WHEN, "run-1", quote="7")
    house.flaky.trouble["r-1.3"] = SendFailed("down")
    house.delivery.turn(0.0)
    assert house.flaky.asked == ["r-1.1", "r-1.2", "r-1.3"]
    house.flaky.trouble.clear()
    house.restart()
    house.delivery.turn(0.0)
    assert house.flaky.asked == ["r-1.1", "r-1.2", "r-1.3", "r-1.3", "r-1.4"]
    assert "".join(text for _, text in house.flaky.sent).split() == text.split()
    assert house.near_side("flaky:1") == ["r-1"]
    (line, _), *_ = house.parts.transcripts.since("flaky:1", Position())
    assert (line.message.text, line.message.platform_id) == (text, "p4")


def test_a_delivery_that_is_taken_out_of_service_ends_between_two_parts(house: House) -> None:
    text = "\n".join(f"line {number} of a long reply" for number in range(3))
    house.put_text("r-1", text)
    take = house.flaky.send

    def send(message: Outgoing) -> str:
        house.made[1].turns.halt()
        return take(message)

    house.flaky.send = send  # type: ignore[method-assign]
    house.delivery.turn(0.0)
    assert house.flaky.asked == ["r-1.1"]
    house.flaky.send = take  # type: ignore[method-assign]
    house.restart()
    house.delivery.turn(0.0)
    assert house.flaky.asked == ["r-1.1", "r-1.1", "r-1.2", "r-1.3"] or house.flaky.asked == ["r-1.1", "r-1.2", "r-1.3"]
    assert house.near_side("flaky:1") == ["r-1"]


def test_a_file_goes_along_and_its_copy_goes_when_it_is_delivered(house: House) -> None:
    (house.parts.outbox.files / "r-1").write_bytes(b"content")
    house.parts.outbox.put("r-1", "local:main", "main", "look", WHEN, "run-1", file="a.txt")
    house.delivery.turn(0.0)
    (line,) = lines_of(house.home.local / "main.jsonl")
    assert Path(line["file"]).read_bytes() == b"content" and line["file"].endswith("a.txt")
    assert os.listdir(house.parts.outbox.files) == []


def test_a_text_too_long_for_a_caption_goes_first_and_only_once(house: House) -> None:
    house.flaky.limits = Limits(text=40, caption=10)
    (house.parts.outbox.files / "r-1").write_bytes(b"content")
    house.parts.outbox.put("r-1", "flaky:1", "main", "longer than 10", WHEN, quote="7", file="a.txt")
    take, files = house.flaky.send, []

    def send(message: Outgoing) -> str:
        files.append((message.text, message.file is not None, message.quote))
        return take(message)

    house.flaky.send = send  # type: ignore[method-assign]
    house.flaky.trouble["r-1.2"] = SendFailed("down")
    house.delivery.turn(0.0)
    house.flaky.trouble.clear()
    house.restart()
    house.delivery.turn(0.0)
    assert files == [("longer than 10", False, "7"), ("", True, None), ("", True, None)]
    assert house.near_side("flaky:1") == ["r-1"]


# -- was it taken? -----------------------------------------------------------------------------------------------------

LONG = "\n".join(f"line {number} of a long reply" for number in range(3))
CUT = SendFailed("the connection was cut", uncertain=True)


def crash_within(house: House, part: str) -> None:
    """The host dies while the platform takes a part."""

    class Killed(BaseException):
        pass

    take = house.flaky.send

    def send(message: Outgoing) -> str:
        taken = take(message)
        if message.key == part:
            raise Killed
        return taken

    house.flaky.send = send  # type: ignore[method-assign]
    with pytest.raises(Killed):
        house.delivery.turn(0.0)
    house.flaky.send = take  # type: ignore[method-assign]
    house.restart()


@pytest.mark.parametrize("how", ["crash", "cut"])
def test_hold_sets_aside_what_may_have_been_taken_and_the_next_goes_on(house: House, how: str) -> None:
    house.policy = "hold"
    house.put_text("r-1", LONG)
    house.put("r-2", jid="flaky:1")
    if how == "crash":
        crash_within(house, "r-1.2")
    else:
        house.flaky.trouble["r-1.2"] = CUT
    house.delivery.turn(0.0)
    kept = house.failed("r-1")
    assert "it may not have arrived (part 2 of 3)" in kept["reason"]
    assert "`outbox retry r-1`" in kept["reason"] and "`outbox drop r-1`" in kept["reason"]
    assert house.told == [("r-1", kept["reason"])] and kept["sent"] == 1
    assert house.flaky.asked == ["r-1.1", "r-1.2", "r-2"] and house.near_side("flaky:1") == ["r-2"]
    assert [(e["part"], e["parts"], e["policy"]) for e in house.journal("uncertain")] == [(2, 3, "hold")]
    house.flaky.trouble.clear()
    house.parts.outbox.retry("r-1")
    house.delivery.turn(1.0)
    assert house.flaky.asked[3:] == ["r-1.2", "r-1.3"] and house.near_side("flaky:1") == ["r-2", "r-1"]


@pytest.mark.parametrize("how", ["crash", "cut"])
def test_resend_repeats_only_the_part_in_doubt_and_says_so(house: House, how: str) -> None:
    house.put_text("r-1", LONG)
    if how == "crash":
        crash_within(house, "r-1.2")
    else:
        house.flaky.trouble["r-1.2"] = CUT
        house.delivery.turn(0.0)
        house.flaky.trouble.clear()
    house.delivery.turn(5.0)
    assert house.flaky.asked == ["r-1.1", "r-1.2", "r-1.2", "r-1.3"]
    assert [(e["part"], e["parts"], e["policy"]) for e in house.journal("uncertain")] == [(2, 3, "resend")]
    assert [e["part"] for e in house.journal("sending")] == [1, 2, 2, 3]
    (done,) = house.journal("delivered")
    assert (done["platform_id"], done["parts"]) == (f"p{len(house.flaky.sent)}", 3)


def test_what_was_surely_refused_is_not_held_after_a_crash(house: House) -> None:
    house.policy = "hold"
    house.put("r-1", jid="flaky:1")
    house.flaky.trouble["r-1"] = SendFailed("refused")
    house.delivery.turn(0.0)
    house.flaky.trouble.clear()
    house.restart()
    house.delivery.turn(0.0)
    assert house.near_side("flaky:1") == ["r-1"] and house.told == []


def test_where_the_channel_takes_keys_nothing_is_uncertain(house: House) -> None:
    house.policy = "hold"
    house.put("r-1")
    house.parts.outbox.mark_sending(house.parts.outbox.heads()[0])
    house.restart()
    house.delivery.turn(0.0)
    assert house.far_side() == ["text r-1"] and house.journal("uncertain") == house.journal("sending") == []


def test_what_may_have_been_taken_is_not_repeated_to_a_platform_that_is_away(house: House) -> None:
    house.put("r-1", jid="flaky:1")
    crash_within(house, "r-1")
    house.flaky.state = State("connecting")
    now = 0.0
    for _ in range(20):
        now += house.delivery.turn(now)
    assert house.flaky.asked == ["r-1"] and now <= 20.0
    house.flaky.state = State("connected")
    house.delivery.turn(now)
    assert house.flaky.asked == ["r-1", "r-1"]
    assert house.near_side("flaky:1") == ["r-1"]


def test_no_answer_for_ever_is_given_up_also_while_the_channel_has_trouble(house: House) -> None:
    house.flaky.state = State("error", "another program polls this bot")
    house.flaky.trouble["r-1"] = CUT
    house.put("r-1", jid="flaky:1")
    now = 0.0
    while now < 200.0:
        now += house.delivery.turn(now)
    assert house.flaky.asked == ["r-1"] * 6
    assert house.failed("r-1")["reason"].startswith("the connection was cut; it may not have arrived")


def test_a_full_disk_after_the_platform_took_it_sends_nothing_twice(house: House) -> None:
    house.policy = "hold"
    house.put_text("r-1", LONG)
    chat, take = house.home.chat("flaky:1"), house.flaky.send

    def send(message: Outgoing) -> str:
        if message.key == "r-1.3":  # from here on its transcript cannot be written
            chat.rmdir()
            chat.write_text("no directory")
        return take(message)

    house.flaky.send = send  # type: ignore[method-assign]
    house.delivery.turn(0.0)
    assert len(house.flaky.asked) == 3
    chat.unlink()
    house.delivery.turn(5.0)
    assert house.near_side("flaky:1") == ["r-1"] and len(house.flaky.asked) == 3


# -- giving up ---------------------------------------------------------------------------------------------------------


def test_a_crash_while_people_are_told_tells_them_again_and_never_not_at_all(house: House) -> None:
    house.flaky.trouble["r-1"] = SendFailed("no such chat", permanent=True)
    house.put("r-1", "r-2", jid="flaky:1")
    tell, calls = house.gave_up, []

    def dies(reply: Reply, reason: str) -> None:
        calls.append(reply.id)
        raise OSError("disk full")

    house.gave_up = dies
    house.delivery.turn(0.0)
    assert calls == ["r-1"] and not (house.home.outbox / "failed" / "r-1.json").exists()
    house.gave_up = tell
    house.flaky.trouble.clear()
    house.restart()
    house.delivery.turn(0.0)
    assert house.told == [("r-1", "no such chat")] and house.failed("r-1")["reason"] == "no such chat"
    assert house.near_side("flaky:1") == ["r-2"], "it was told to have failed: it is not sent"
    house.restart()
    house.delivery.turn(0.0)
    assert len(house.told) == 1


def test_a_notice_that_fails_makes_no_notice(house: House) -> None:
    house.flaky.trouble["notice-r-1"] = SendFailed("no such chat", permanent=True)
    house.put("notice-r-1", jid="flaky:1")
    house.delivery.turn(0.0)
    assert house.told == [] and house.failed("notice-r-1")


def test_tries_are_counted_over_restarts_and_shown(house: House) -> None:
    house.flaky.trouble["r-1"] = SendFailed("down")
    house.put("r-1", jid="flaky:1")
    for _ in range(6):
        house.delivery.turn(0.0)
        house.restart()
    assert house.flaky.asked == ["r-1"] * 6 and house.failed("r-1")["tries"] == 6
    assert house.told == [("r-1", "down")]


def test_a_reply_that_is_dropped_while_it_is_sent_ends_there(house: House) -> None:
    house.put_text("r-1", LONG)
    house.put("r-2", jid="flaky:1")
    take = house.flaky.send

    def send(message: Outgoing) -> str:
        if message.key == "r-1.2":
            house.parts.outbox.drop("r-1")
        return take(message)

    house.flaky.send = send  # type: ignore[method-assign]
    house.delivery.turn(0.0)
    assert house.flaky.asked == ["r-1.1", "r-1.2", "r-2"] and house.near_side("flaky:1") == ["r-2"]
    assert sorted(os.listdir(house.home.outbox)) == ["failed", "files"]


def test_a_delivered_reply_is_known_over_segments(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcripts_module, "SEGMENT_BYTES", 500)
    names = [f"r-{number}" for number in range(30)]
    house.put(*names, jid="flaky:1")
    old = house.parts.outbox.heads()[0]
    house.delivery.turn(0.0)
    assert len(list(house.home.chat("flaky:1").glob("*.jsonl"))) > 5
    (house.home.outbox / "r-0.json").write_text(json.dumps({**vars(old), "state": "sending"}))
    house.restart()
    house.delivery.turn(0.0)
    assert house.flaky.asked == names and not (house.home.outbox / "r-0.json").exists()


def test_a_reply_that_makes_a_bug_holds_up_its_own_chat_only(house: House) -> None:
    house.put("r-1", jid="flaky:1")
    house.put("r-2", jid="flaky:2")
    contains = house.parts.transcripts.contains

    def bug(jid: str, message_id: str) -> bool:
        if message_id == "r-1":
            raise ZeroDivisionError
        return contains(jid, message_id)

    house.parts.transcripts.contains = bug  # type: ignore[method-assign]
    assert house.delivery.turn(0.0) == 5.0
    assert house.near_side("flaky:2") == ["r-2"]


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
        channel.start(lambda message, name: None, lambda state: None)
        return channel

    return again


def test_a_key_is_taken_once_also_after_a_restart(local: Callable[[], LocalChannel]) -> None:
    first = local()
    path = first.path("local:a")
    first.send(Outgoing("local:a", "one\ntwo ö \ud800", "k1"))
    first.send(Outgoing("local:a", "again", "k1"))
    local().send(Outgoing("local:a", "again", "k1"))
    first.send(Outgoing("local:b", "other chat", "k1"))
    assert [(line["key"], line["text"]) for line in lines_of(path)] == [("k1", "one\ntwo ö ?")]
    assert len(lines_of(first.path("local:b"))) == 1
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_torn_last_line_is_completed(local: Callable[[], LocalChannel]) -> None:
    path = local().path("local:a")
    local().send(Outgoing("local:a", "one", "k1"))
    with path.open("ab") as file:
        file.write(b'{"key": "k2", "te')
    local().send(Outgoing("local:a", "two", "k2"))
    first, torn, second = path.read_bytes().splitlines()
    assert (json.loads(first)["key"], torn, json.loads(second)["key"]) == ("k1", b'{"key": "k2", "te', "k2")


def test_keys_are_looked_for_in_the_tail(local: Callable[[], LocalChannel]) -> None:
    path = local().path("local:a")
    local().send(Outgoing("local:a", "old", "k0"))
    with path.open("a") as file:
        for number in range(30):
            file.write(json.dumps({"key": f"f{number}", "text": "x" * 50_000}) + "\n[]\nnot json\n")
    size = path.stat().st_size
    for key in ("f29", "f20"):
        local().send(Outgoing("local:a", "again", key))
    assert path.stat().st_size == size
    local().send(Outgoing("local:a", "new", "k1"))
    assert path.read_bytes().endswith(b'"text": "new"}\n')


def test_the_machines_trouble_is_waited_out(house: House) -> None:
    """A directory that is away, as a disk that is full: no try is used up."""
    aside = house.home.local.rename(house.home.state / "aside")
    house.put("r-1")
    now = 0.0
    for _ in range(20):
        now += house.delivery.turn(now)
    assert house.told == [] and house.parts.outbox.heads()[0].tries == 0
    aside.rename(house.home.local)
    house.delivery.turn(now)
    assert house.far_side() == ["text r-1"]


def test_a_far_side_that_cannot_be_written_is_a_failed_send(local: Callable[[], LocalChannel]) -> None:
    channel = local()
    channel.path("local:a").mkdir()
    with pytest.raises(SendFailed) as failed:
        channel.send(Outgoing("local:a", "text", "k1"))
    assert not failed.value.permanent
    channel.path("local:a").rmdir()
    channel.send(Outgoing("local:a", "text", "k1"))
    assert len(lines_of(channel.path("local:a"))) == 1


def test_a_full_disk_costs_no_line(local: Callable[[], LocalChannel], monkeypatch: pytest.MonkeyPatch) -> None:
    channel, real = local(), os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    channel.send(Outgoing("local:a", "text", "k1"))
    assert [line["text"] for line in lines_of(channel.path("local:a"))] == ["text"]
