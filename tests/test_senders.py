"""Sender allowlist: strict reading with lines, who is denied and how, whom it never touches."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nanoclaw.config.senders import CLOSED, EVERYBODY, Rule, Senders, is_owner, load_senders
from nanoclaw.config.strict import FileProblems
from nanoclaw.models import Config
from tests.support.parts import message

CONFIG = Config(owners=("42", "tg:555"))
NOBODY = Senders(Rule(frozenset()))


def load(directory: Path, source: str) -> Senders:
    path = directory / "sender-allowlist.json"
    path.write_text(source)
    return load_senders(path)


def test_the_typescript_editions_file(tmp_path: Path) -> None:
    chats = {
        "tg:-100": {"allow": ["7", "8"], "mode": "trigger"},
        "123@g.us": {"allow": [], "mode": "drop"},
        "local:open": {"allow": "*", "mode": "drop"},
    }
    text = json.dumps({"default": {"allow": ["7"], "mode": "drop"}, "chats": chats, "logDenied": False})
    made = load(tmp_path, text)
    assert made == Senders(
        Rule(frozenset({"7"}), "drop"),
        {
            "tg:-100": Rule(frozenset({"7", "8"}), "trigger"),
            "123@g.us": Rule(frozenset(), "drop"),
            "local:open": Rule(None, "drop"),
        },
        log_denied=False,
    )
    assert load(tmp_path, '{"default": {"allow": "*", "mode": "trigger"}}') == EVERYBODY


DEFAULT = '{"default": {"allow": "*", "mode": "trigger"},\n'
ALLOW = 'expected "*" (everybody) or a list of sender ids like ["555", "777"]'


@pytest.mark.parametrize(
    ("source", "problems"),
    [
        ("", ["1: not valid JSON: Expecting value: line 1 column 1 (char 0)"]),
        ("[]", ["the file: expected a table, found []"]),
        ("{}", ["1: default: expected a table, found nothing"]),
        ('{"default": {}}', [f"1: default.allow: {ALLOW}, found nothing",
                             "1: default.mode: expected one of trigger, drop, found nothing"]),
        ('{"default":\n{"allow": [555],\n"mode": "Drop"}}', [
            f"2: default.allow: {ALLOW}, found [555]",
            '3: default.mode: expected one of trigger, drop, found "Drop"',
        ]),
        ('{"default": {"allow": ["*"], "mode": "drop"}}', [f'1: default.allow: {ALLOW}, found ["*"]']),
        (DEFAULT + '"chat": {}}', ["2: unknown key 'chat'; did you mean 'chats'?"]),
        (DEFAULT + '"chats": []}', ["2: chats: expected a table, found []"]),
        (DEFAULT + '"chats": {\n"team": {"allow": "*", "mode": "drop"}}}', [
            '3: chats: expected a chat\'s address like "local:main" or "tg:12345", found "team"'
        ]),
        # A jid with dots in it has its lines, too.
        (DEFAULT + '"chats": {"tg:1": {"allow": "*", "mode": "drop"},\n"1@g.us": {\n"alow": [],\n"allow": 5,\n'
         '"mode": "drop"}}}', [
            "4: unknown key 'alow' in [chats.1@g.us]; did you mean 'allow'?",
            f"5: chats.1@g.us.allow: {ALLOW}, found 5",
        ]),
        (DEFAULT + '"logDenied": "no"}', ['2: logDenied: expected true or false, found "no"']),
        (DEFAULT + '"chats": {"tg:1": {}, "tg:1": {}}}', [
            "not valid JSON: the key 'tg:1' stands twice in one object"
        ]),
        ('{"a": ' * 100_000, None),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_its_line(tmp_path: Path, source: str, problems: list[str] | None) -> None:
    with pytest.raises(FileProblems) as caught:
        load(tmp_path, source)
    said = [f"{p.line}: {p.text}" if p.line else p.text for p in caught.value.problems]
    assert problems is None or said == problems


def test_only_a_file_that_is_not_there_lets_everybody_in(tmp_path: Path) -> None:
    path = tmp_path / "sender-allowlist.json"
    assert load_senders(path) is EVERYBODY
    assert load_senders(tmp_path / "no" / "where") is EVERYBODY
    path.symlink_to("nowhere")
    with pytest.raises(FileProblems):
        load_senders(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(FileProblems):
        load_senders(path)


def test_who_is_denied_and_how() -> None:
    senders = Senders(Rule(frozenset({"7"}), "drop"), {"tg:-1": Rule(frozenset({"8"})), "tg:-2": Rule(None, "drop")})

    def asked(jid: str, sender: str) -> tuple[str, str] | None:
        return senders.why_denied(message("hi", jid, sender=sender), CONFIG)

    assert asked("tg:-9", "7") is asked("tg:-1", "8") is asked("tg:-2", "anybody") is None
    assert asked("tg:-1", "7") == ("sender 7 is not in the allowlist for tg:-1", "trigger")
    assert asked("tg:-9", "8") == ("sender 8 is not in the allowlist for tg:-9", "drop")
    assert asked("tg:-9", "") is not None
    broken = CLOSED.why_denied(message("hi", "tg:-9", sender="7"), CONFIG)
    assert broken is not None and "broken" in broken[0] and broken[1] == "trigger", "stored, not dropped"


@pytest.mark.parametrize("senders", [NOBODY, CLOSED])
def test_whom_no_allowlist_denies(senders: Senders) -> None:
    for exempt in (
        message("hi", "tg:1", sender="42"),
        message("hi", "tg:1", sender="555"),
        message("hi", "tg:1", sender="9", from_me=True),
        message("hi", "tg:1", sender="9", is_bot=True, run="main-1"),
        message("hi", "local:team", sender="9"),
    ):
        assert senders.why_denied(exempt, CONFIG) is None
    for other in (
        message("hi", "tg:1", sender="9"),
        message("hi", "tg:1", sender="9", is_bot=True),
        message("hi", "dc:1", sender="555"),
        message("hi", "1@g.us", sender="555"),
    ):
        assert senders.why_denied(other, CONFIG) is not None


def test_owners() -> None:
    for jid, sender, owner in (
        ("tg:1", "555", True),
        ("dc:1", "555", False),
        ("dc:1", "42", True),
        ("tg:1", "5550", False),
        ("tg", "555", False),
        ("tg:1", "", False),
        ("local:main", "x", True),
    ):
        assert is_owner(message("hi", jid, sender=sender), CONFIG) is owner
    assert is_owner(message("hi", "tg:1", sender="9", from_me=True), Config())
