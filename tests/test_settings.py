"""Settings in force: changes at once, what is wrong never, what an editor does in between not either."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable

import pytest

from nanoclaw.config.senders import CLOSED, EVERYBODY, Rule
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import SETTLE_SECONDS, write_bytes
from nanoclaw.files.locks import Locks
from nanoclaw.paths import Home
from nanoclaw.stores.cursors import Cursor, Cursors
from nanoclaw.stores.settings import Settings
from tests.support.waiting import wait_for

MAIN = 'jid = "local:main"\nis_main = true\n'
TEAM = 'jid = "local:team"\n'
KEY = "ANTHROPIC_API_KEY=sk-ant-api03-one\n"


@pytest.fixture
def settings(home: Home) -> Settings:
    home.group_files.mkdir()
    home.config_file.write_text('assistant_name = "One"\n')
    home.group_file("main").write_text(MAIN)
    home.group_file("team").write_text(TEAM)
    home.env_file.write_text(KEY)
    return Settings(home)


def rules(**chats: object) -> str:
    return json.dumps({"default": {"allow": "*", "mode": "trigger"}, "chats": chats})


def age(*paths: os.PathLike[str]) -> None:
    """Make a file's last change older than an editor's half-save."""
    for path in paths:
        os.utime(path, (time.time() - 10.0,) * 2)


def within(settings: Settings, true: Callable[[], bool], what: str) -> None:
    wait_for(lambda: settings.refresh() is None or true(), 10 * SETTLE_SECONDS, what)


def test_changes_are_in_force_at_once(settings: Settings, home: Home) -> None:
    assert not settings.refresh() and not settings.unsettled
    before = settings.groups
    home.config_file.write_text('assistant_name = "Two"\n')
    assert settings.refresh()
    assert settings.config.assistant_name == "Two"
    assert settings.groups is before, "what did not change is the same"
    write_bytes(home.group_file("team"), b'jid = "local:team"\ntrigger = "@Bob"\n')
    write_bytes(home.group_file("new"), b'jid = "local:new"\n')
    assert settings.refresh() and not settings.refresh()
    assert settings.groups["team"].trigger == "@Bob"
    assert list(settings.groups) == ["main", "new", "team"]
    found = settings.group_of("local:new")
    assert found is not None and found.folder == "new" and settings.group_of("local:x") is None
    home.env_file.write_text("ANTHROPIC_API_KEY=sk-ant-api03-two\n")
    credential = settings.environment.credential
    assert credential is not None and credential.secret.endswith("two")


@pytest.mark.parametrize("content", ["assistant_name = ", 'assistent_name = "Two"', "assistant_name = 7", "\0"])
def test_the_last_good_config_stays(
    settings: Settings, home: Home, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    home.config_file.write_text(content)
    age(home.config_file)
    with caplog.at_level(logging.INFO, "nanoclaw"):
        assert not settings.refresh() and not settings.refresh()
    assert settings.config.assistant_name == "One"
    assert [p.path for p in settings.problems] == [str(home.config_file)]
    assert len(caplog.records) == 1, "said once"
    home.config_file.write_text('assistant_name = "Two"\n')
    assert settings.refresh()
    assert settings.config.assistant_name == "Two" and settings.problems == []


def test_the_sender_allowlist_is_in_force_at_once_and_its_last_good_rules_stay(
    settings: Settings, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    assert settings.senders is EVERYBODY
    home.user_config.mkdir(exist_ok=True)
    home.sender_allowlist.write_text(rules(**{"tg:1": {"allow": ["7"], "mode": "drop"}}))
    assert settings.refresh() and not settings.refresh()
    good = settings.senders
    assert good.chats == {"tg:1": Rule(frozenset({"7"}), "drop")}
    home.sender_allowlist.write_text(rules(**{"tg:1": {"allow": [7], "mode": "drop"}}))
    age(home.sender_allowlist)
    assert settings.refresh() and not settings.refresh()
    assert settings.senders == good.narrowed() and settings.senders.chats == good.chats
    assert settings.senders.default.allow == frozenset(), "one of everybody may be whom it was to keep out now"
    assert [p.path for p in settings.problems] == [str(home.sender_allowlist)]
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == [
        "Settings refused, whom the allowlist does not name must wait"
    ]
    home.sender_allowlist.write_text(rules())
    assert settings.refresh() and settings.senders.chats == {} and settings.problems == []
    home.sender_allowlist.unlink()
    within(settings, lambda: settings.senders is EVERYBODY, "no file, no limits")


def test_an_allowlist_that_was_never_right_lets_only_owners_wake(
    settings: Settings, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    home.user_config.mkdir(exist_ok=True)
    home.sender_allowlist.write_text('{"default": ')
    age(home.sender_allowlist)
    for reread in (settings, Settings(home)):
        reread.refresh()
        assert reread.senders == CLOSED and len(reread.problems) == 1
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == [
        "Settings refused, whom the allowlist does not name must wait"
    ] * 2
    home.sender_allowlist.write_text(rules())
    assert settings.refresh() and not settings.senders.closed and settings.problems == []


def test_a_bad_group_stands_alone(settings: Settings, home: Home) -> None:
    home.group_file("team").write_text("jid = 7\n")
    home.group_file("bad").write_text("is_main = true\n")
    home.group_file("twin").write_text(TEAM)
    home.group_file("free").write_text('jid = "local:free"\n')
    age(*home.group_files.iterdir())
    assert settings.refresh()
    assert list(settings.groups) == ["free", "main", "team"]
    assert sorted({os.path.basename(p.path) for p in settings.problems}) == ["bad.toml", "team.toml", "twin.toml"]
    home.group_file("bad").unlink()
    within(settings, lambda: not any("bad" in p.path for p in settings.problems), "the problem goes with its file")


@pytest.mark.parametrize("text", [TEAM + "is_main = true\n", MAIN.replace("is_main = true\n", "")])
def test_a_hand_edit_takes_neither_the_rank_nor_the_chat_of_main(settings: Settings, home: Home, text: str) -> None:
    """Of two that want the same, the one in force stays, whatever its name; the other stays as it was."""
    home.group_file("a").write_text(TEAM.replace("team", "a"))
    settings.refresh()
    before = dict(settings.groups)
    assert before["main"].is_main and "a" in before
    home.group_file("a").write_text(text.replace("team", "a"))
    age(home.group_file("a"))
    settings.refresh()
    assert settings.groups == before
    assert [os.path.basename(problem.path) for problem in settings.problems] == ["a.toml"]


def test_the_first_reading_of_the_config_raises_and_of_a_group_does_not(home: Home) -> None:
    home.group_files.mkdir()
    home.group_file("main").write_text("jid = ")
    age(home.group_file("main"))
    made = Settings(home)
    assert made.groups == {} and len(made.problems) == 1
    home.config_file.write_text("nonsense")
    with pytest.raises(UserError, match=r"config\.toml"):
        Settings(home)


@pytest.mark.parametrize("half", ["", "assistant_name", None])
def test_an_editors_half_save_of_the_config_is_waited_out(settings: Settings, home: Home, half: str | None) -> None:
    if half is None:
        home.config_file.rename(home.config_file.with_name("config.toml~"))
    else:
        home.config_file.write_text(half)
    assert not settings.refresh()
    assert settings.unsettled, "look again soon"
    assert settings.config.assistant_name == "One" and settings.problems == []
    home.config_file.write_text('assistant_name = "Two"\n')
    assert settings.refresh() and not settings.unsettled
    assert settings.config.assistant_name == "Two"


@pytest.mark.parametrize("half", ["", "jid", None])
def test_an_editors_half_save_of_a_group_is_waited_out(settings: Settings, home: Home, half: str | None) -> None:
    path = home.group_file("team")
    if half is None:
        path.rename(path.with_name("team.toml~"))
    else:
        path.write_text(half)
    assert not settings.refresh()
    assert settings.unsettled and "team" in settings.groups and settings.problems == []
    path.write_text('jid = "local:team"\ntrigger = "@Bob"\n')
    assert settings.refresh() and not settings.unsettled
    assert settings.groups["team"].trigger == "@Bob"


@pytest.mark.parametrize("half", ["", None])
def test_an_editors_half_save_of_the_credential_is_waited_out(settings: Settings, home: Home, half: str | None) -> None:
    assert settings.environment.credential is not None
    if half is None:
        home.env_file.unlink()
    else:
        home.env_file.write_text(half)
    assert settings.environment.credential is not None
    home.env_file.write_text(KEY.replace("one", "two"))
    credential = settings.environment.credential
    assert credential is not None and credential.secret.endswith("two")


def test_what_stays_empty_or_away_is_believed(settings: Settings, home: Home) -> None:
    assert settings.environment.credential is not None
    home.group_file("team").unlink()
    home.config_file.write_text("")
    home.env_file.write_text("")
    within(settings, lambda: "team" not in settings.groups, "the group is removed")
    within(settings, lambda: settings.config.assistant_name == "Andy", "an empty config is all defaults")
    wait_for(lambda: settings.environment.credential is None, 5.0, "the credential is gone")
    assert not settings.refresh() and not settings.unsettled and settings.problems == []
    home.group_file("team").write_text(TEAM)
    assert settings.refresh() and "team" in settings.groups


def test_no_files_are_all_defaults_at_once(home: Home) -> None:
    made = Settings(home)
    assert made.config.assistant_name == "Andy" and made.groups == {} and made.environment.credential is None
    assert not made.refresh() and not made.unsettled


def test_a_copy_does_not_put_out_the_group_that_is_in_service(settings: Settings, home: Home) -> None:
    home.cursors.mkdir(exist_ok=True)
    (home.cursors / "main.json").write_text('{"handed": 1, "done": 1}')
    home.group_file("aaa").write_text(MAIN)
    within(settings, lambda: bool(settings.problems), "the copy refused")
    assert "aaa.toml" in str(settings.problems[0])
    for reread in (settings, Settings(home)):
        assert reread.groups["main"].is_main and "aaa" not in reread.groups


def test_a_cursor_that_another_hand_wrote_is_noticed_once(home: Home) -> None:
    home.cursors.mkdir()
    cursors, path = Cursors(home, Locks()), home.cursors / "main.json"
    cursors.put("main", Cursor(jid="local:main"))
    assert not cursors.is_foreign("main"), "it is our own"
    for edit in (lambda: path.write_text('{"handed": 3, "done": 3}'), path.unlink):
        edit()
        assert cursors.is_foreign("main") and not cursors.is_foreign("main")
    cursors.put("main", Cursor(jid="local:main"))
    assert not cursors.is_foreign("main")
    assert Cursors(home, Locks()).is_foreign("main"), "who wrote it before this host is not known"
