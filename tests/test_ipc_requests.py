"""Requests: what one object may say, and who may ask for what."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nanoclaw.ipc.handlers import HANDLERS
from nanoclaw.ipc.policy import PERMITTED, Asker, why_refused
from nanoclaw.ipc.requests import FIELDS, BadRequest, HalfWritten, Request, parse

MESSAGE = {"type": "message", "chatJid": "local:main", "text": "hi"}
REGISTER = {"type": "register_group", "jid": "tg:1", "name": "Family", "folder": "family"}


def of(**fields: Any) -> bytes:
    """A message, with these fields; None: without them."""
    return json.dumps({key: item for key, item in {**MESSAGE, **fields}.items() if item is not None}).encode()


def registering(**fields: Any) -> bytes:
    return json.dumps({**REGISTER, **fields}).encode()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (of(), Request("message", "local:main", None, {"text": "hi"})),
        (b"\xef\xbb\xbf" + of(), Request("message", "local:main", None, {"text": "hi"})),
        (of(text="a\nb", sender="Bob"), Request("message", "local:main", None, {"text": "a\nb", "sender": "Bob"})),
        (of(timestamp="2026", groupFolder="x", createdBy=1), Request("message", "local:main", None, {"text": "hi"})),
        (b'{"type": "list_tasks"}', Request("list_tasks")),
        (b'{"type": "reset_cursor", "folder": "team", "to": 0}', Request("reset_cursor", None, "team", {"to": 0})),
        (b'{"type": "clear_session", "folder": "team"}', Request("clear_session", None, "team")),
        (b'{"type": "compact", "folder": "team"}', Request("compact", None, "team")),
        (b'{"type": "run_again", "run": "main-1"}', Request("run_again", None, None, {"run": "main-1"})),
        (b'{"type": "retry_reply", "reply": "r", "from_start": true}',
         Request("retry_reply", None, None, {"reply": "r", "from_start": True})),
        (b'{"type": "drop_reply", "reply": "r"}', Request("drop_reply", None, None, {"reply": "r"})),
    ],
)  # fmt: skip
def test_a_request(data: bytes, expected: Request) -> None:
    assert parse(data) == expected


def test_a_group_to_register_keeps_its_container_settings() -> None:
    mount = {"hostPath": "~/docs", "containerPath": "docs", "readonly": False}
    asked = parse(registering(containerConfig={"timeout": 60000, "additionalMounts": [mount]}))
    assert asked.values["containerConfig"] == {"timeout": 60000, "additionalMounts": (mount,)}
    assert asked.values["folder"] == "family" and asked.folder is None, "the new group is not whom it acts on"


@pytest.mark.parametrize("data", [b"", b"  \n", b'{"type": "mess', of()[:-1], b"{" * 100, b"nul"])
def test_half_written(data: bytes) -> None:
    with pytest.raises(HalfWritten):
        parse(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[1]", "expected a JSON object"),
        (b'"text"', "expected a JSON object"),
        (b"null", "expected a JSON object"),
        (b'{"type": "message", "text": "\xff"}', "not UTF-8"),
        (b"[" * 10_000 + b"]" * 10_000, "nested too deeply"),
        (b'{"type":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "nested too deeply"),
        (b"{}", "type: expected one of message, file,"),
        (b'{"type": ["message"]}', "type: expected one of"),
        (b'{"type": "mesage"}', "type: expected one of"),
        (of(chatJid=None), "chatJid: expected a chat's address"),
        (of(chatJid=7), "chatJid: expected a chat's address"),
        (of(chatJid="nobody"), "chatJid: expected a chat's address"),
        (of(text=None), "text: expected a text that is not empty, found nothing"),
        (of(text={"a": 1}), "text: expected a text that is not empty, found a table"),
        (of(text=""), "text: expected a text that is not empty"),
        (of(text=" \n"), "text: expected a text that is not empty"),
        (of(sender="a\nb"), "sender: expected text on one line"),
        (of(txt="hi"), "unknown key 'txt'; did you mean 'text'?"),
        (of(type="file", text=None, path=None), "path: expected text"),
        (of(type="file", text=None, path="a\nb"), "path: expected text on one line"),
        (registering(isMain=True), "isMain: only the owner"),
        (registering(is_main=False), "isMain: only the owner"),
        *[(registering(folder=folder), "folder: expected a group's folder")
          for folder in ("..", "a/b", "../x", ".x", "f\u0430mily", "\uff46", "a" * 65, "global", "Errors", "a b")],
        (registering(folder=7), "folder: expected text"),
        (registering(requiresTrigger="no"), "requiresTrigger: expected true or false"),
        (registering(containerConfig=[]), "containerConfig: expected a table"),
        (registering(containerConfig={"timeout": True}), "containerConfig.timeout: expected milliseconds"),
        (registering(containerConfig={"additionalMounts": [{"hostPath": "/x"}]}), "containerPath: expected text"),
        (b'{"type": "reset_cursor", "folder": "team", "to": -1}', "to: expected the number of a message"),
        (b'{"type": "reset_cursor", "folder": "team", "to": true}', "to: expected the number of a message"),
        (b'{"type": "reset_cursor", "folder": "team"}', "to: expected the number of a message"),
        (b'{"type": "schedule_task", "prompt": "x", "schedule_type": "often", "schedule_value": "1"}',
         "schedule_type: expected one of cron, interval, once"),
    ],
)  # fmt: skip
def test_no_request(data: bytes, words: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse(data)
    assert words in str(refused.value) and len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("where", [b'{"type":%s}', b'{"type":"message","chatJid":"local:main","text":%s}'])
def test_any_depth_is_refused_and_no_bug(where: bytes) -> None:
    """Just below the JSON reader's own limit, whoever looks at the value may meet theirs."""
    for depth in range(850, 1000):
        with pytest.raises(BadRequest):
            parse(where % (b"[" * depth + b"]" * depth))


def test_a_reason_stays_short_whatever_is_wrong() -> None:
    many = json.dumps({**MESSAGE, **{f"x{number}": 1 for number in range(60_000)}}).encode()
    for data in (many, of(**{"k" * 900_000: 1}), of(text=["long"] * 100_000)):
        with pytest.raises(BadRequest) as refused:
            parse(data)
        assert len(str(refused.value)) <= 1000


def test_lone_surrogates_never_get_through() -> None:
    assert parse(of(text="a\ud800b")).values["text"] == "a\ufffdb"
    assert parse(of(text="\ud83d\ude00")).values["text"] == "😀"
    for fields in ({"sender": "\ud800"}, {"chatJid": "local:\ud800"}):
        try:
            asked = parse(of(**fields))
        except BadRequest:
            continue
        (str(asked.jid) + json.dumps(asked.values, ensure_ascii=False)).encode()


OWN_BY_ANYBODY = {"message", "file", "list_groups", "list_tasks"} | {
    f"{verb}_task" for verb in ("schedule", "update", "pause", "resume", "cancel")
}
HOUSE = {"register_group", "refresh_groups"}
SCRIPTS = {"reset_cursor", "clear_session", "compact", "run_again", "retry_reply", "drop_reply"}


@pytest.mark.parametrize("kind", sorted(FIELDS))
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("main", [True, False])
@pytest.mark.parametrize("run", [None, "main-1"])
def test_who_may_ask_for_what(kind: str, own: bool, main: bool, run: str | None) -> None:
    if kind in SCRIPTS:
        allowed = run is None and (own or main)
    elif kind in HOUSE:
        allowed = main
    else:
        assert kind in OWN_BY_ANYBODY
        allowed = own or main
    why = why_refused(kind, own, Asker("main", "local:main", main, run))
    assert (why is None) == allowed
    assert why is None or (kind in why and len(why.splitlines()) == 1)


def test_every_kind_has_a_rule_and_a_handler_and_no_other_kind_passes() -> None:
    assert set(FIELDS) == set(PERMITTED) == set(HANDLERS)
    assert why_refused("run_anything", True, Asker("main", "local:main", True)) is not None
