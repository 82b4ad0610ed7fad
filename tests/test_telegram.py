"""The Telegram channel against a loopback server that speaks the Bot API and its faults."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.channels import telegram, telegram_api
from nanoclaw.channels.base import Connection, FetchFailed, Outgoing, SendFailed, State
from nanoclaw.channels.telegram import TelegramChannel
from nanoclaw.channels.telegram_api import Api, TelegramError
from nanoclaw.files.atomic import read_json
from nanoclaw.models import Message
from tests.support.telegram_server import BOT, TelegramServer
from tests.support.waiting import wait_for


class Host:
    """The host's side of a channel: what it was handed, and the states it was told."""

    def __init__(self, server: TelegramServer, state_file: Path) -> None:
        self.server = server
        self.state_file = state_file
        self.messages: list[Message] = []
        self.chats: list[str] = []
        self.states: list[State] = []
        self.refuse: Callable[[Message], None] = lambda message: None
        self.channel = self.another()

    def another(self, token: str | None = None) -> TelegramChannel:
        secrets = {"TELEGRAM_BOT_TOKEN": self.server.token if token is None else token}
        return TelegramChannel(Connection({"api_url": self.server.url}, secrets, self.state_file))

    def deliver(self, message: Message, chat: str) -> None:
        self.refuse(message)
        self.messages.append(message)
        self.chats.append(chat)

    def start(self, *awaited: str) -> None:
        self.channel.start(self.deliver, self.states.append)
        self.wait_state(*(awaited or ("connected",)))

    def wait_state(self, *names: str) -> State:
        wait_for(lambda: self.channel.state.name in names, 10, f"state {names}, it is {self.channel.state}")
        return self.channel.state

    def wait_messages(self, count: int) -> list[Message]:
        wait_for(lambda: len(self.messages) >= count, 10, f"{count} messages, there are {self.messages}")
        return self.messages

    def restart(self) -> None:
        self.channel.stop()
        self.channel = self.another()
        self.start()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(telegram, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(telegram, "SIGN_IN_PAUSE", 0.05)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with TelegramServer() as server:
        made = Host(server, tmp_path / "telegram.json")
        yield made
        made.channel.stop()


def out(text: str, jid: str = "tg:42", **fields: Any) -> Outgoing:
    return Outgoing(jid, text, "key-1", **fields)


# Receiving


def test_messages_come_in_with_all_that_the_host_wants_to_know(host: Host) -> None:
    host.start()
    first = host.server.message(42, "hello", name="Ann")
    author = {"id": 9, "first_name": "Bo", "last_name": "Li"}
    quoted = {"message_id": 5, "chat": {"id": -1001}, "from": author, "caption": "x" * 2000}
    host.server.message(-1001, f"@{BOT['username'].upper()} help", user=43, reply_to_message=quoted)
    private, group = host.wait_messages(2)
    assert (private.id, private.jid, private.sender, private.sender_name) == (
        f"{first}@{BOT['id']}",
        "tg:42",
        "42",
        "Ann",
    )
    assert private.timestamp == "2026-09-21T14:13:20+00:00"
    assert (private.addressed, private.is_bot, private.from_me, private.reply_to) == (False, False, False, None)
    assert group.addressed and group.jid == "tg:-1001"
    assert group.reply_to == {"id": f"5@{BOT['id']}", "sender_name": "Bo Li", "text": "x" * 1000}
    assert host.chats == ["Ann", "Group 1001"]
    assert host.server.calls("getUpdates")[0]["allowed_updates"] == ["message"]


def test_each_kind_of_content_has_its_form(host: Host) -> None:
    sizes = [{"file_id": "s", "width": 90, "height": 60}, {"file_id": "l", "width": 900, "height": 600, "file_size": 7}]
    say = host.server.message
    say(42, caption="look", photo=sizes)
    say(42, document={"file_id": "d", "file_name": "../a.pdf", "mime_type": "application/pdf", "file_size": 5})
    say(42, voice={"file_id": "v", "mime_type": "audio/ogg"})
    say(42, sticker={"file_id": "t", "emoji": "🙂"})
    say(42, location={"latitude": 52.5, "longitude": 13.4}, venue={"title": "Café", "address": "Road 1"})
    say(42, contact={"first_name": "Bo", "phone_number": "+49"})
    say(42, poll={"question": "When?", "options": [{"text": "now"}, {"text": "never"}]})
    say(42, hologram={"depth": 3})
    say(-5, new_chat_members=[{"id": 1}])
    say(-5, "anonymous", sender_chat={"id": -5, "title": "Us"}, **{"from": {"id": 1087968824, "is_bot": True}})
    say(-5, "from a bot", **{"from": {"id": 8, "is_bot": True, "first_name": "Robo"}})
    host.start()
    got = host.wait_messages(10)
    assert got[0].text == "look"
    assert got[0].attachments == ({"kind": "photo", "name": "photo.jpg", "size": 7, "id": "l", "mime": "image/jpeg"},)
    assert got[1].attachments[0]["name"] == "../a.pdf" and got[1].attachments[0]["kind"] == "file" and got[1].text == ""
    assert got[2].attachments == ({"kind": "voice", "name": "voice.ogg", "size": 0, "id": "v", "mime": "audio/ogg"},)
    assert [message.text for message in got[3:8]] == [
        "[sticker 🙂]",
        "[location Café Road 1: 52.5, 13.4]",
        "[contact Bo +49]",
        "[poll When?: now / never]",
        "[unsupported message]",
    ]
    assert [(m.sender, m.sender_name, m.is_bot) for m in got[8:]] == [("-5", "Us", False), ("8", "Robo", True)]


def test_a_malformed_update_stops_no_other(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    nested: list[Any] = []
    for _ in range(600):
        nested = [nested]
    for strange in (
        {"message": []},
        {"message": {"text": "no chat"}},
        {"message": {"chat": {"id": "42"}, "message_id": 1, "date": 1, "text": "x"}},
        {"message": {"chat": {"id": 42}, "message_id": 1, "date": 10**18, "text": "x"}},
        {"message": {"chat": {"id": 42}, "message_id": 1, "date": 1, "text": {"a": 1}}},
        {"message": {"text": "/chatid"}},
        {"message": nested},
        {"edited_message": {"text": "edits are ignored"}},
        "not an object",
        {"update_id": "seven"},
    ):
        host.server.push(strange)
    host.server.message(42, "lone \ud83d surrogate \ud83d\ude42")
    host.server.message(42, "x" * 100_000)
    host.start()
    texts = [message.text for message in host.wait_messages(2)]
    assert texts == ["lone \N{REPLACEMENT CHARACTER} surrogate 🙂", "x" * 100_000]
    host.server.message(42, "the next")
    assert host.wait_messages(3)[2].text == "the next"
    assert len({record.getMessage() for record in caplog.records if "Passed over" in record.getMessage()}) == 8


def test_what_the_host_could_not_store_comes_again_in_order(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    tries: list[str] = []

    def full_disk(message: Message) -> None:
        tries.append(message.text)
        if message.text == "two" and tries.count("two") < 4:
            raise OSError(28, "No space left on device")

    host.refuse = full_disk
    for text in ("one", "two", "three"):
        host.server.message(42, text)
    host.start()
    assert [message.text for message in host.wait_messages(3)] == ["one", "two", "three"]
    assert tries == ["one", "two", "two", "two", "two", "three"]
    assert caplog.text.count("Message not stored") == 1


def test_the_offset_is_stored_after_the_messages_and_used_by_the_next_host(host: Host) -> None:
    seen: list[Any] = []
    host.refuse = lambda message: seen.append(read_json(host.state_file))
    host.start()
    host.server.message(42, "one")
    host.wait_messages(1)
    last = wait_for(lambda: read_json(host.state_file), 5, "the offset on disk")
    assert seen == [None] and last == {"bot": BOT["id"], "api_url": host.server.url, "offset": 1002}
    host.channel.stop()
    host.server.message(42, "two")
    host.restart()
    assert [message.text for message in host.wait_messages(2)] == ["one", "two"]
    host.server.wait_calls("getMe", 2)


@pytest.mark.parametrize("content", ['{"bot": 1, "offset": 5000}', '{"bot": 7000001, "offset": "x"}', '{"bot": '])
def test_another_bots_offset_and_a_broken_file_lose_nothing(host: Host, content: str) -> None:
    host.state_file.write_text(content)
    host.server.message(42, "one")
    host.start()
    host.wait_messages(1)
    host.server.message(42, "two")
    assert [message.text for message in host.wait_messages(2)] == ["one", "two"]
    if not content.endswith("}"):
        assert host.state_file.read_text() == content, "a file that does not parse is never overwritten"


def test_chatid_is_answered_here_and_not_delivered(host: Host) -> None:
    host.start()
    host.server.message(-1001, f"/chatid@{BOT['username']}", user=43)
    answer = host.server.wait_sent(1)[0]
    assert answer["chat_id"] == -1001
    for part in ("tg:-1001", "supergroup", "Group 1001", "43", "nanoclaw.py groups add FOLDER --jid tg:-1001"):
        assert part in answer["text"]
    host.server.message(-1001, "/chatid@another_bot")
    assert [message.text for message in host.wait_messages(1)] == ["/chatid@another_bot"]


# How it stands


@pytest.mark.parametrize("token", ["", "secret words", None])
def test_a_missing_or_refused_token_is_the_owners_business(host: Host, token: str | None) -> None:
    host.server.revoked = True
    host.channel = host.another(token)
    host.start("sign-in needed")
    assert "BotFather" in host.channel.state.detail and "TELEGRAM_BOT_TOKEN" in host.channel.state.detail
    if token is None:
        host.server.revoked = False
        host.wait_state("connected")


def test_a_second_poller_and_a_webhook_are_named(host: Host) -> None:
    host.server.webhook = True
    host.start("error")
    assert "webhook" in host.channel.state.detail
    host.server.webhook = False
    host.server.message(42, "ends the poll")
    host.wait_state("connected")
    host.server.fail("getUpdates", 409, "Conflict: terminated by other getUpdates request", times=3)
    host.server.message(42, "wakes the poll")
    wait_for(lambda: any("two installations" in state.detail for state in host.states), 5, "the conflict")
    host.server.message(42, "on")
    host.wait_messages(3)


def test_two_installations_on_one_token_both_learn_it(host: Host) -> None:
    host.start()
    host.server.wait_calls("getUpdates", 2)
    other = host.another()
    other.start(lambda message, chat: None, lambda state: None)
    wait_for(lambda: any(state.name == "error" for state in host.states), 5, "the conflict")
    other.stop()


@pytest.mark.parametrize("how", ["status", "cut", "garbage"])
def test_a_lost_connection_comes_back_by_itself(host: Host, how: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    host.start()
    host.server.fail("getUpdates", 502, "Bad Gateway", how=how, times=4)
    host.server.message(42, "wakes the poll")
    host.wait_messages(1)
    wait_for(lambda: len(host.states) >= 3, 10, "the way back")
    assert [state.name for state in host.states] == ["connected", "connecting", "connected"]
    host.server.message(42, "after it")
    host.wait_messages(2)
    assert f"Connected channel=telegram bot=@{BOT['username']}" in caplog.text
    assert caplog.text.count("Connection closed channel=telegram") == 1


def test_nobody_answers_and_the_token_is_in_no_word_of_it(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    host.server.fail("getMe", 400, f"Bad Request: what is {host.server.token}?")
    host.server.fail("getMe", how="cut")
    host.start()
    host.server.close()
    host.wait_state("connecting")
    with pytest.raises(SendFailed) as failed:
        host.channel.send(out("hello"))
    assert not failed.value.permanent
    error: BaseException | None = failed.value
    words = [caplog.text, repr(host.channel), *(state.detail for state in host.states)]
    while error is not None:
        words.append(repr(error))
        error = error.__context__
    assert host.server.token not in " ".join(words)
    assert "urllib3" in caplog.text, "the log of urllib3 was looked at"


def test_the_wait_that_telegram_asks_for_is_kept(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telegram, "FIRST_PAUSE", 3600.0)
    monkeypatch.setattr(telegram, "LONGEST_PAUSE", 3600.0)
    host.server.fail("getUpdates", 429, "Too Many Requests: retry after 0", retry_after=0)
    host.start("connecting", "connected")
    host.wait_state("connected")  # our own pause would be an hour
    assert any("Too Many Requests" in state.detail for state in host.states)


def test_stopping_abandons_the_poll_and_what_it_brings(host: Host) -> None:
    host.start()
    host.server.wait_calls("getUpdates", 2)
    host.channel.stop()
    host.server.message(42, "for the next host")
    host.restart()
    assert [message.text for message in host.wait_messages(1)] == ["for the next host"]
    host.channel.stop()
    assert len(host.messages) == 1


# Sending


def test_a_reply_is_formatted_and_quotes_only_in_groups(host: Host) -> None:
    sent_id = host.channel.send(out("**a** < `b`", quote=f"7@{BOT['id']}"))
    host.channel.send(out("in a group", jid="tg:-1001", quote=f"7@{BOT['id']}"))
    host.channel.send(out("of the inbox", jid="tg:-1001", quote="inbox-7"))
    private, group, other = host.server.sent
    assert sent_id == str(private["message_id"])
    assert private["html"] == "<b>a</b> &lt; <code>b</code>" and private["text"] == "a < b"
    assert private["reply_to"] is None and other["reply_to"] is None
    assert group["reply_to"] == {"message_id": 7, "allow_sending_without_reply": True}


def test_what_telegram_cannot_parse_goes_plain(host: Host) -> None:
    host.server.fail("sendMessage", 400, "Bad Request: can't parse entities: Unsupported start tag")
    host.channel.send(out("**a**"))
    host.channel.send(out("```\n```"))
    host.channel.send(out("half \ud83d of a pair"))
    assert [(one["html"], one["text"]) for one in host.server.sent[:2]] == [(None, "**a**"), (None, "```\n```")]
    assert host.server.sent[2]["text"] == "half \N{REPLACEMENT CHARACTER} of a pair"


@pytest.mark.parametrize(
    ("code", "description", "parameters", "permanent", "words"),
    [
        (429, "Too Many Requests: retry after 5", {"retry_after": 5}, False, "retry"),
        (400, "Bad Request: chat not found", {}, True, "chat not found"),
        (403, "Forbidden: bot was blocked by the user", {}, True, "blocked"),
        (403, "Forbidden: bot was kicked from the group chat", {}, True, "kicked"),
        (400, "Bad Request: group chat was upgraded", {"migrate_to_chat_id": -1007}, True, "tg:-1007"),
        (401, "Unauthorized", {}, False, "TELEGRAM_BOT_TOKEN"),
        (502, "Bad Gateway", {}, False, "Bad Gateway"),
    ],
)
def test_a_refused_reply_says_whether_to_try_again(
    host: Host, code: int, description: str, parameters: dict[str, Any], permanent: bool, words: str
) -> None:
    host.server.fail("sendMessage", code, description, **parameters)
    with pytest.raises(SendFailed, match=words) as failed:
        host.channel.send(out("hello"))
    assert failed.value.permanent is permanent
    assert failed.value.retry_after == parameters.get("retry_after")
    assert host.channel.send(out("hello")), "and the next one goes"


@pytest.mark.parametrize("jid", ["tg:", "tg:@name", "tg:1/../2", "dc:5"])
def test_an_address_that_is_none_fails_for_good(host: Host, jid: str) -> None:
    with pytest.raises(SendFailed) as failed:
        host.channel.send(out("hello", jid=jid))
    assert failed.value.permanent
    host.channel.typing(jid)


def test_files_go_with_their_caption_and_pictures_as_pictures(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\r\n--\x00data\r\n")
    host.channel.send(out("*the* report", file=path, file_name="Bericht ä.pdf", jid="tg:-5", quote=f"3@{BOT['id']}"))
    host.channel.send(out("", file=path, file_name="a.PNG"))
    host.server.fail("sendPhoto", 400, "Bad Request: PHOTO_INVALID_DIMENSIONS")
    host.channel.send(out("tall", file=path, file_name="b.jpg"))
    report, picture, tall = host.server.sent
    assert report["file"] == ("Bericht ä.pdf", b"\r\n--\x00data\r\n") and report["html"] == "<i>the</i> report"
    assert report["reply_to"]["message_id"] == 3
    assert picture["method"] == "sendPhoto" and picture["text"] == ""
    assert tall["method"] == "sendDocument" and tall["text"] == "tall"
    path.unlink()
    with pytest.raises(SendFailed) as failed:
        host.channel.send(out("", file=path, file_name="a.pdf"))
    assert failed.value.permanent


@pytest.mark.parametrize(
    ("fault", "uncertain"),
    [
        ({"how": "cut"}, True),
        ({"how": "garbage"}, True),
        ({"code": 500, "description": "Internal Server Error"}, False),
        ({"code": 502, "description": "Bad Gateway"}, True),
        ({"code": 504, "description": "Gateway Timeout"}, True),
        ({"code": 429, "description": "Too Many Requests", "retry_after": 1}, False),
        ({"code": 400, "description": "Bad Request: chat not found"}, False),
    ],
)
@pytest.mark.parametrize("with_file", [False, True])
def test_whether_telegram_may_have_taken_it(
    host: Host, tmp_path: Path, fault: dict[str, Any], uncertain: bool, with_file: bool
) -> None:
    (tmp_path / "x").write_bytes(b"data")
    host.server.fail("sendDocument" if with_file else "sendMessage", **fault)
    with pytest.raises(SendFailed) as failed:
        host.channel.send(out("hello", file=tmp_path / "x", file_name="x.bin") if with_file else out("hello"))
    assert failed.value.uncertain is uncertain and not host.server.sent


def test_no_answer_in_time_is_uncertain(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telegram_api.Api.call, "__defaults__", (None, 0.2))
    host.server.fail("sendMessage", how="hang")
    with pytest.raises(SendFailed, match="did not answer in time") as failed:
        host.channel.send(out("hello"))
    assert failed.value.uncertain


@pytest.mark.parametrize("status", [302, 403, 407, 429, 503])
def test_a_proxys_word_for_telegrams(status: int) -> None:
    """What it refused did not get there; whether what it could not answer did, nobody knows."""
    with pytest.raises(TelegramError) as failed:
        Api("http://localhost", "1:x")._result(status, b"<html>")
    assert failed.value.uncertain is (status == 503)


def test_what_never_left_is_not_uncertain(host: Host) -> None:
    host.server.close()
    with pytest.raises(SendFailed, match="cannot be reached") as failed:
        host.channel.send(out("hello"))
    assert not failed.value.uncertain
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections, and speaks no TLS
        threading.Thread(target=lambda: deaf.accept()[0].close(), daemon=True).start()
        api = Api(f"https://127.0.0.1:{deaf.getsockname()[1]}", host.server.token)
        with pytest.raises(TelegramError) as cut:
            api.call("sendMessage", {"chat_id": 1, "text": "hello"})
    assert not cut.value.uncertain


def test_a_connection_that_was_long_unused_is_not_used_for_sending(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted, accept = [], host.server._server.get_request

    def get_request() -> Any:
        accepted.append(1)
        return accept()

    monkeypatch.setattr(host.server._server, "get_request", get_request)
    host.channel.send(out("one"))
    host.channel.send(out("two"))
    assert len(accepted) == 1
    monkeypatch.setattr(telegram_api, "KEEP_SECONDS", 0.0)
    host.channel.send(out("three"))
    assert len(accepted) == 2 and len(host.server.sent) == 3


def test_typing_is_shown_and_fails_silently(host: Host) -> None:
    host.channel.typing("tg:42")
    host.server.fail("sendChatAction", how="cut")
    host.channel.typing("tg:42")
    assert [call["action"] for call in host.server.calls("sendChatAction")] == ["typing", "typing"]


# Fetching


def test_an_attachment_is_fetched_in_pieces(host: Host) -> None:
    data = bytes(range(256)) * 2000
    attachment = {"id": host.server.add_file(data), "size": len(data)}
    pieces = list(host.channel.fetch(attachment))
    assert b"".join(pieces) == data and len(pieces) > 1


def test_what_cannot_be_fetched_says_so(host: Host) -> None:
    for attachment in (
        {"id": "a", "size": 21 << 20},
        {"id": host.server.add_file(b"x", "big", size=21 << 20), "size": 0},
    ):
        with pytest.raises(FetchFailed, match="20 MB") as failed:
            list(host.channel.fetch(attachment))
        assert failed.value.permanent
    with pytest.raises(FetchFailed) as failed:
        list(host.channel.fetch({"id": "unknown"}))
    assert failed.value.permanent
    file = {"id": host.server.add_file(b"x"), "size": 1}
    host.server.fail("file", how="cut")
    with pytest.raises(FetchFailed) as failed:
        list(host.channel.fetch(file))
    assert not failed.value.permanent
    assert list(host.channel.fetch(file)) == [b"x"]
