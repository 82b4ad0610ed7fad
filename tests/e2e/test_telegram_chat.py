"""The first real chat, end to end: a Telegram on loopback, the real host, engine and SDK."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import living
from tests.support.home import KEY, HomeUnderTest, Script, put
from tests.support.scripted_model import Gate, ToolUse, tool_results
from tests.support.telegram_server import BOT, TelegramServer
from tests.support.waiting import wait_for

OWNER, FAMILY = 42, -1001234


class Telegram:
    """A home whose main chat is a private one with the bot, and whose group ``family`` is a group of Telegram."""

    def __init__(self, house: HomeUnderTest, server: TelegramServer) -> None:
        self.house = house
        self.server = server
        house.configure(f'[channels.telegram]\napi_url = "{server.url}"')
        self.token(server.token)
        put(house.home.group_file("main"), f'jid = "tg:{OWNER}"\nname = "Ann"\nis_main = true\n')
        put(house.home.group_file("family"), f'jid = "tg:{FAMILY}"\nname = "Family"\n')

    def token(self, token: str) -> None:
        """Save .env whole: a file without the token in between would be news of its own."""
        lines = [
            f"ANTHROPIC_API_KEY={KEY}",
            f"ANTHROPIC_BASE_URL={self.house.model.url}",
            f"TELEGRAM_BOT_TOKEN={token}",
        ]
        put(self.house.home.env_file, "\n".join([*lines, ""]), 0o600)

    def lines(self, chat: int) -> list[dict[str, Any]]:
        directory = self.house.home.chat(f"tg:{chat}")
        return [
            json.loads(line) for path in sorted(directory.glob("*.jsonl")) for line in path.read_text().splitlines()
        ]

    def prompt(self, marker: str) -> str:
        return wait_for(lambda: self.house.prompts(marker), 60, f"a prompt with {marker}")[0]


@pytest.fixture(scope="module")
def telegram(engine: str, agent_image: str) -> Iterator[Telegram]:
    with living(engine) as house, TelegramServer() as server:
        made = Telegram(house, server)
        house.start()
        yield made


@pytest.fixture
def script(telegram: Telegram) -> Script:
    rule = telegram.house.model.rule
    assert isinstance(rule, Script)
    return rule


def test_a_message_is_answered_with_typing_between(telegram: Telegram, script: Script) -> None:
    gate = Gate(threading.Event(), "**Yes**, `now`")
    script.on("are you there", lambda request: gate)
    before = len(telegram.server.sent)
    telegram.server.message(OWNER, "are you there?", name="Ann")
    typing = telegram.server.wait_calls("sendChatAction", 2, 60)
    assert {call["chat_id"] for call in typing} == {OWNER} and len(telegram.server.sent) == before
    gate.event.set()
    (answer,) = telegram.server.wait_sent(before + 1, 60)[before:]
    assert (answer["chat_id"], answer["text"], answer["html"]) == (OWNER, "Yes, now", "<b>Yes</b>, <code>now</code>")
    wait_for(lambda: [line for line in telegram.lines(OWNER) if line.get("platform_id")], 10, "the answer's line")


def test_in_a_group_only_the_trigger_wakes_and_the_answer_quotes(telegram: Telegram, script: Script) -> None:
    before = len(telegram.server.sent)
    telegram.server.message(FAMILY, "we need bread", name="Bob", user=43)
    asked = telegram.server.message(FAMILY, f"@{BOT['username']} what do we need?", name="Ann")
    (answer,) = telegram.server.wait_sent(before + 1, 60)[before:]
    assert (answer["chat_id"], answer["reply_to"]["message_id"]) == (FAMILY, asked)
    assert "we need bread" in telegram.prompt("what do we need?")
    assert [line.get("addressed", False) for line in telegram.lines(FAMILY)[:2]] == [False, True]


def test_photos_and_files_go_both_ways(telegram: Telegram, script: Script) -> None:
    def rule(request: dict[str, Any]) -> Any:
        if tool_results(request):
            return "There it is."
        return [
            ToolUse("Write", {"file_path": "/workspace/group/out/report.txt", "content": "the report"}),
            ToolUse("mcp__nanoclaw__send_file", {"path": "out/report.txt", "caption": "as asked"}),
        ]

    script.on("send me the report", rule)
    photo = telegram.server.add_file(b"\xff\xd8 a picture", "photos/file_1.jpg")
    before = len(telegram.server.sent)
    sizes = [{"file_id": photo, "file_unique_id": "u", "width": 9, "height": 9, "file_size": 12}]
    telegram.server.message(OWNER, None, caption="send me the report", photo=sizes)
    prompt = telegram.prompt("send me the report")
    path = prompt.partition('path="')[2].partition('"')[0]
    assert path.startswith("attachments/") and 'kind="photo"' in prompt
    kept = telegram.house.home.groups / "main" / path
    assert kept.read_bytes() == b"\xff\xd8 a picture"
    sent = telegram.server.wait_sent(before + 2, 60)[before:]
    assert sent[0]["file"] == ("report.txt", b"the report") and sent[0]["text"] == "as asked"
    assert sent[1]["text"] == "There it is."


def test_a_killed_host_loses_nothing_and_says_nothing_twice(telegram: Telegram, script: Script) -> None:
    first, second = Gate(threading.Event(), "one is done"), Gate(threading.Event(), "two is done")
    script.on("job one", lambda request: first)
    script.on("job two", lambda request: second)
    before = len(telegram.server.sent)
    telegram.server.message(OWNER, "job one")
    telegram.prompt("job one")
    assert telegram.house.host is not None
    telegram.house.stop(signal.SIGKILL)
    telegram.server.message(OWNER, "job two")
    first.event.set()
    second.event.set()
    telegram.house.start()
    telegram.server.wait_sent(before + 2, 60)
    wait_for(lambda: not list(telegram.house.home.outbox.glob("*.json")), 20, "an empty outbox")
    assert sorted(sent["text"] for sent in telegram.server.sent[before:]) == ["one is done", "two is done"]
    ids = [line["id"] for line in telegram.lines(OWNER)]
    assert len(ids) == len(set(ids))


def test_strange_messages_harm_nobody(telegram: Telegram, script: Script) -> None:
    before = len(telegram.server.sent)
    telegram.server.message(777, "the secret of a stranger", name="Stranger", user=777)
    telegram.server.message(OWNER, "half \ud83d of a pair")
    telegram.server.message(OWNER, "x" * 100_000)
    telegram.server.message(OWNER, None, dice={"emoji": "x", "value": 1})
    telegram.server.push({"message": {"chat": "wrong"}})
    telegram.server.push({"edited_message": {"message_id": 1}})
    telegram.server.message(OWNER, "a good one at the end")
    telegram.prompt("a good one at the end")
    wait_for(lambda: not telegram.server.pending, 20, "all updates taken")
    telegram.server.wait_sent(before + 1, 60)
    assert not telegram.house.home.chat("tg:777").exists()
    wait_for(lambda: not list(telegram.house.home.outbox.glob("*.json")), 20, "an empty outbox")
    found = subprocess.run(["grep", "-rl", "secret of a stranger", telegram.house.home.state], capture_output=True)
    assert found.stdout == b"", "no text of an unknown chat is kept"
    chats = json.loads((telegram.house.home.state / "chats.json").read_text())
    assert chats["tg:777"]["name"] == "Stranger"


def test_a_refused_token_is_named_and_a_new_one_cures_it_without_a_restart(telegram: Telegram) -> None:
    house, server = telegram.house, telegram.server
    states = house.home.state / "channels.json"
    telegram.token("7000001:AA-a-wrong-token-that-is-refused-0")

    def state() -> str | None:  # while its settings change, the channel is out of service for a moment
        found: dict[str, dict[str, str]] = json.loads(states.read_text())
        return found.get("telegram", {}).get("state")

    wait_for(lambda: state() == "sign-in needed", 20, "the state")
    doctor = house.run("doctor").stdout
    assert "sign-in needed" in doctor and "BotFather" in doctor
    server.message(OWNER, "written meanwhile")
    telegram.token(server.token)
    assert "written meanwhile" in telegram.prompt("written meanwhile")

    def told() -> list[str]:
        return [sent["text"] for sent in server.sent if "sign-in needed" in sent["text"]]

    wait_for(told, 20, "what the owner is told")
    assert len(told()) == 1
    assert server.token not in house.log() and "a-wrong-token" not in house.log()


def test_run_once_hears_what_was_written_also_when_the_first_call_fails(telegram: Telegram) -> None:
    telegram.house.stop()
    before = len(telegram.server.sent)
    telegram.server.fail("getUpdates", 500, "Internal Server Error")
    telegram.server.message(OWNER, "for cron")
    done = telegram.house.run("run", "--once")
    assert done.returncode == 0, done.stderr
    assert "echo: for cron" in [sent["text"] for sent in telegram.server.sent[before:]]
