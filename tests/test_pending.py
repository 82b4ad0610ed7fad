"""What waits in a chat: all wakers, capped context, the omitted counted, across restarts and changed settings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nanoclaw.config.senders import CLOSED, EVERYBODY, Rule, Senders
from nanoclaw.models import Config, Group
from nanoclaw.paths import Home
from nanoclaw.pending import STORE_SKIPPED_EVERY, Batch, Pending
from nanoclaw.stores import transcripts
from nanoclaw.stores.cursors import Cursor
from nanoclaw.stores.transcripts import Position, Transcripts
from tests.support.parts import Parts, message

TEAM = Group("team", "local:team", "Team")
THREE = Config(max_messages_per_prompt=3)


class Chat:
    """A view of the team's chat, that can be forgotten and made again."""

    def __init__(self, parts: Parts) -> None:
        self.transcripts = parts.transcripts
        self.cursor = Cursor()
        self.view = Pending(self.transcripts)

    def hear(self, *texts: str, jid: str = "local:team") -> None:
        for text in texts:
            self.transcripts.append(message(text, jid, is_bot=text.startswith("bot")))

    def look(
        self, config: Config = THREE, group: Group = TEAM, fresh: bool = False, senders: Senders = EVERYBODY
    ) -> Batch | None:
        if fresh:
            self.view = Pending(self.transcripts)
        self.cursor = self.view.refresh(group, config, self.cursor, senders)
        return self.view.batch(self.cursor)


@pytest.fixture
def chat(home: Home) -> Chat:
    return Chat(Parts(home))


def shown(batch: Batch | None) -> tuple[list[str], int]:
    assert batch is not None
    return [line.message.text for line in batch.lines], batch.omitted


def test_context_waits_until_somebody_wakes(chat: Chat) -> None:
    chat.hear("one", "two")
    assert chat.look() is None
    assert not chat.view.wakes()
    chat.hear("@Andy three", "four")
    batch = chat.look()
    assert shown(batch) == (["one", "two", "@Andy three", "four"], 0)
    assert batch is not None and (batch.first, batch.place.seq, len(batch.wakers)) == (1, 4, 1)
    assert chat.view.wakes(2) and not chat.view.wakes(3)


def test_the_cap_is_for_context_only(chat: Chat) -> None:
    wakers = [f"@Andy {number}" for number in range(6)]
    chat.hear("a", "b", "c", *wakers, "d", "e")
    assert shown(chat.look()) == (["c", *wakers, "d", "e"], 2)
    chat.hear("f", "g")
    assert shown(chat.look()) == ([*wakers, "e", "f", "g"], 4)
    assert shown(chat.look(fresh=True)) == ([*wakers, "e", "f", "g"], 4)


def test_the_assistants_own_lines_are_neither_shown_nor_counted(chat: Chat) -> None:
    chat.hear("a", "bot 1", "bot 2", "bot 3", "bot 4", "@Andy", "bot 5")
    batch = chat.look()
    assert shown(batch) == (["a", "@Andy"], 0)
    assert batch is not None and batch.place.seq == 7, "the next prompt starts behind them"


def test_a_cap_that_changes_is_in_force_at_once(chat: Chat) -> None:
    chat.hear(*"abcdef", "@Andy")
    assert shown(chat.look()) == (["d", "e", "f", "@Andy"], 3)
    assert shown(chat.look(Config(max_messages_per_prompt=5))) == ([*"bcdef", "@Andy"], 1)
    assert shown(chat.look(Config(max_messages_per_prompt=1))) == (["f", "@Andy"], 5)
    assert shown(chat.look(Config(max_messages_per_prompt=0))) == (["@Andy"], 6)
    assert shown(chat.look()) == (["d", "e", "f", "@Andy"], 3)


def test_a_trigger_that_changes_is_in_force_at_once(chat: Chat) -> None:
    chat.hear("a", "@Bob b")
    assert chat.look() is None
    assert shown(chat.look(group=replace(TEAM, trigger="@Bob")))[0] == ["a", "@Bob b"]
    assert chat.look() is None
    assert shown(chat.look(replace(THREE, assistant_name="Bob")))[0] == ["a", "@Bob b"]
    assert chat.look(group=replace(TEAM, requires_trigger=False)) is not None


def test_senders_and_owners_that_change_are_in_force_at_once(chat: Chat) -> None:
    group, nobody = replace(TEAM, jid="tg:-100"), Senders(Rule(frozenset()))
    chat.hear("a", "@Andy b", jid="tg:-100")
    assert chat.look(group=group, senders=nobody) is None
    assert shown(chat.look(group=group, senders=EVERYBODY))[0] == ["a", "@Andy b"]
    assert chat.look(group=group, senders=nobody) is None
    assert shown(chat.look(replace(THREE, owners=("tg:owner",)), group, senders=nobody))[0] == ["a", "@Andy b"]


def test_what_a_broken_allowlist_silenced_waits_however_long_it_was_silent(chat: Chat) -> None:
    group = replace(TEAM, jid="tg:-100")
    chat.hear("@Andy first", *(f"t{number}" for number in range(STORE_SKIPPED_EVERY + 10)), jid="tg:-100")
    assert chat.look(group=group, senders=CLOSED) is None
    assert chat.look(group=group, senders=CLOSED, fresh=True) is None
    assert shown(chat.look(group=group))[0][0] == "@Andy first"


def test_what_is_finished_already_is_not_handed_again(chat: Chat) -> None:
    chat.hear("@Andy 1", "@Andy 2", "@Andy 3", "b")
    chat.cursor = replace(chat.cursor, finished=((2, 3),))
    assert shown(chat.look()) == (["@Andy 1", "b"], 0)
    chat.cursor = replace(chat.cursor, finished=((1, 3),))
    assert chat.look() is None


def test_the_count_of_what_was_skipped_survives_a_restart(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = STORE_SKIPPED_EVERY + 10
    chat.hear(*(f"t{number}" for number in range(silent)))
    assert chat.look() is None
    stored = chat.cursor
    assert stored.skipped == silent - 3 and stored.handed == 0
    assert stored.skipped_place is not None and stored.skipped_place.seq == silent - 3
    chat.hear("x")
    assert chat.look() is None
    assert chat.cursor == stored, "not written again for each message"

    places: list[int] = []
    real = Transcripts.since

    def since(self: Transcripts, jid: str, position: Position) -> object:
        places.append(position.seq)
        return real(self, jid, position)

    monkeypatch.setattr(transcripts.Transcripts, "since", since)
    chat.hear("@Andy now")
    expected = ([f"t{silent - 2}", f"t{silent - 1}", "x", "@Andy now"], silent - 2)
    assert shown(chat.look()) == expected
    assert shown(chat.look(fresh=True)) == expected
    assert places == [silent + 1, silent - 3], "a restart does not read the silent chat again"
    assert shown(chat.look(Config(max_messages_per_prompt=1)))[1] == silent


def test_nothing_is_stored_as_skipped_behind_a_waker(chat: Chat) -> None:
    chat.hear("@Andy", *(f"t{number}" for number in range(STORE_SKIPPED_EVERY + 10)))
    assert chat.look() is not None
    assert chat.cursor.skipped_place is None
    assert shown(chat.look(fresh=True))[0][0] == "@Andy", "a waker is never dropped"


def test_after_a_hand_over_counting_starts_anew(chat: Chat) -> None:
    chat.hear(*"abcdef", "@Andy")
    batch = chat.look()
    assert batch is not None
    chat.cursor = chat.cursor.at(batch.place)
    assert chat.look() is None
    chat.hear("g", "@Andy")
    assert shown(chat.look()) == (["g", "@Andy"], 0)
