"""The exchange: channels come and go with their settings, and one that fails stops no other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import pytest

from nanoclaw import exchange
from nanoclaw.channels.base import Connection, Deliver, FetchFailed, Limits, Outgoing, State
from nanoclaw.delivery import Delivery
from nanoclaw.exchange import NOBODY_SECONDS, Exchange
from nanoclaw.files.atomic import write_bytes
from nanoclaw.paths import Home
from nanoclaw.stores.journal import Journal
from tests.support.parts import CONFIG, Parts
from tests.support.waiting import wait_for


class Telegraph:
    """A channel whose far side is this test."""

    prefix = "tg:"
    takes_keys = True
    made: ClassVar[list[Telegraph]] = []
    breaks: str = ""

    def __init__(self, connection: Connection) -> None:
        if self.breaks == "made":
            raise RuntimeError("a bug")
        self.connection = connection
        self.limits = Limits(typing=5.0)
        self.state = State("connecting")
        self.sent: list[str] = []
        self.typed: list[str] = []
        self.stopped = False
        Telegraph.made.append(self)

    def start(self, deliver: Deliver, changed: Callable[[State], None]) -> None:
        if self.breaks == "started":
            raise RuntimeError("a bug")
        self._changed = changed

    def stand(self, name: Any, detail: str = "") -> None:
        self.state = State(name, detail)
        self._changed(self.state)

    def send(self, message: Outgoing) -> str | None:
        self.sent.append(message.text)
        return None

    def typing(self, jid: str) -> None:
        self.typed.append(jid)

    def fetch(self, attachment: Mapping[str, Any]) -> Iterator[bytes]:
        yield b"content"

    def stop(self) -> None:
        self.stopped = True


class House:
    """An exchange in service, and what it told the owner."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.parts = Parts(home)
        self.told: list[tuple[str, str]] = []
        self.working: list[str] = []
        journal = Journal(home.logs)
        self.exchange = Exchange(
            *(home, self.parts.settings, self.parts.outbox),
            lambda channel: Delivery(self.parts.outbox, self.parts.transcripts, channel, journal, lambda: "Andy"),
            lambda: self.working,
            lambda name, state: self.told.append((name, state.detail)),
        )
        self.exchange.start(lambda message, name: None)

    def configure(self, table: str = "", token: str = "1:a") -> None:
        """Save config.toml and .env, as a person does; the dispatcher calls ``reconcile`` then."""
        write_bytes(self.home.config_file, (CONFIG + table).encode())
        write_bytes(self.home.env_file, f"TELEGRAM_BOT_TOKEN={token}\n".encode())
        self.parts.settings.refresh()
        self.exchange.reconcile()

    def states(self) -> dict[str, Any]:
        return dict(json.loads((self.home.state / "channels.json").read_bytes()))


@pytest.fixture
def house(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(exchange, "CHANNELS", {"telegram": f"{__name__}:Telegraph"})
    monkeypatch.setattr(Telegraph, "made", [])
    made = House(home)
    yield made
    made.exchange.stop()


TABLE = "[channels.telegram]\n"


def test_a_channel_comes_and_goes_with_its_table(house: House) -> None:
    house.parts.outbox.put("r1", "tg:1", "team", "waits", "now")
    house.exchange.poke()
    assert Telegraph.made == [] and not house.exchange.serves("tg:1") and house.exchange.settled()
    house.configure(TABLE)
    (channel,) = Telegraph.made
    assert channel.connection.secrets["TELEGRAM_BOT_TOKEN"] == "1:a"
    wait_for(lambda: channel.sent == ["waits"], 5, "the waiting reply")
    assert list(house.exchange.fetch("tg:1", {})) == [b"content"]
    channel.stand("connected")
    assert house.states()["telegram"]["state"] == "connected"
    house.configure("", "1:a")
    assert channel.stopped and not house.exchange.serves("tg:1") and house.exchange.serves("local:main")
    assert "telegram" not in house.states(), "status and doctor must not show what is out of service"
    channel.stand("error", "too late")
    assert "telegram" not in house.states() and house.told == []
    with pytest.raises(FetchFailed) as failed:
        house.exchange.fetch("tg:1", {})
    assert failed.value.permanent


def test_another_token_makes_another_channel_and_nothing_else_does(house: House) -> None:
    house.configure(TABLE)
    house.configure(TABLE)
    assert len(Telegraph.made) == 1
    house.configure(TABLE, "2:b")
    first, second = Telegraph.made
    assert first.stopped and not second.stopped and second.connection.secrets["TELEGRAM_BOT_TOKEN"] == "2:b"
    second.stand("connected")
    first.stand("error", "of the old one")
    assert house.states()["telegram"]["state"] == "connected" and house.told == []


def test_the_owner_is_told_once_an_episode(house: House) -> None:
    house.configure(TABLE)
    (channel,) = Telegraph.made
    for name, detail in (
        ("error", "no network"),
        ("connecting", ""),
        ("error", "no network"),
        ("sign-in needed", "the token is refused"),
        ("sign-in needed", "the token is refused"),
        ("connected", ""),
        ("error", "no network"),
    ):
        channel.stand(name, detail)
    assert [detail for _, detail in house.told] == ["no network", "the token is refused"], "what comes and goes, too"
    assert house.states()["telegram"]["detail"] == "no network"


def test_the_last_states_stay_when_the_host_ends(house: House) -> None:
    house.configure(TABLE)
    Telegraph.made[0].stand("error", "no network")
    house.exchange.stop()
    assert house.states()["telegram"]["detail"] == "no network"


@pytest.mark.parametrize("when", ["made", "started"])
def test_a_channel_with_a_bug_stops_nothing_else(house: House, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    monkeypatch.setattr(Telegraph, "breaks", when)
    house.configure(TABLE)
    assert not house.exchange.serves("tg:1") and house.exchange.serves("local:main")
    assert house.told == [("telegram", "it cannot be used (RuntimeError: a bug)")]
    monkeypatch.setattr(Telegraph, "breaks", "")
    house.configure(TABLE, "2:b")
    assert house.exchange.serves("tg:1")


def test_typing_is_shown_where_somebody_works_and_nowhere_else(house: House) -> None:
    house.configure(TABLE)
    (channel,) = Telegraph.made
    show = house.exchange._show_typing
    channel.stand("connected")
    assert show() == NOBODY_SECONDS and channel.typed == []
    house.working = ["tg:1", "local:main"]
    assert 0.5 <= show() < 5.0 and channel.typed == ["tg:1"]
    channel.stand("error", "no network")
    show()
    assert channel.typed == ["tg:1"]
    house.working = []
    assert show() == NOBODY_SECONDS


def test_typing_begins_when_work_begins(house: House) -> None:
    house.configure(TABLE)
    (channel,) = Telegraph.made
    channel.stand("connected")
    house.working = ["tg:1"]
    house.exchange.typing.poke()
    wait_for(lambda: channel.typed, 5, "the indicator")
