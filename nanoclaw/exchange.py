"""The exchange: which channels are in service, as config.toml and .env say now. Each has a thread that delivers its
replies; one thread shows that somebody writes.

What stands in ``state/channels.json`` is how each channel stood last, for status and doctor.
"""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nanoclaw.channels.base import Channel, Connection, Deliver, FetchFailed, State
from nanoclaw.channels.local import LocalChannel
from nanoclaw.delivery import Delivery
from nanoclaw.files.atomic import write_json
from nanoclaw.moments import utc_now
from nanoclaw.paths import Home
from nanoclaw.stores.outbox import Outbox
from nanoclaw.stores.settings import Settings
from nanoclaw.turns import Turns

log = logging.getLogger("nanoclaw")

# The table [channels.NAME] of config.toml → its class, imported when it is first asked for.
CHANNELS = {"telegram": "nanoclaw.channels.telegram:TelegramChannel"}
JOIN_SECONDS = 2.0
TELL_AGAIN_SECONDS = 600.0
"""The owner hears of the same trouble of a channel so often at most."""
NOBODY_SECONDS = 3600.0


@dataclass(frozen=True)
class Line:
    """A channel in service. ``made_of``: what it was made of; another one is made when that changes."""

    channel: Channel
    delivery: Delivery
    thread: threading.Thread
    made_of: object


@dataclass(eq=False)
class Exchange:
    """``reconcile`` is called at the start and whenever settings changed. ``working``: the JIDs whose agent works now.
    ``tell``: the owner must hear of this (channel's name, state)."""

    home: Home
    settings: Settings
    outbox: Outbox
    delivery_of: Callable[[Channel], Delivery]
    working: Callable[[], list[str]]
    tell: Callable[[str, State], None]

    def __post_init__(self) -> None:
        self._guard = threading.Lock()  # guards _lines, _states and channels.json
        self._lines: dict[str, Line] = {}
        self._states: dict[str, dict[str, str]] = {}
        self._deliver: Deliver | None = None
        self._unserved: set[str] = set()
        self._reconciling = True  # until the channels are there, nobody's replies are without one
        self._ending: dict[str, threading.Thread] = {}
        self._told: dict[tuple[str, str], float] = {}
        self.typing = Turns("Typing", self._show_typing)

    def start(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._put_in_service("local", LocalChannel(self.home.local), None)
        log.info("Connected channel=local")
        self.reconcile()
        threading.Thread(target=self.typing.run, name="typing", daemon=True).start()

    def stop(self) -> None:
        self.typing.halt()
        for name in list(self._lines):
            self._take_out_of_service(name)

    def poke(self) -> None:
        """The outbox has news."""
        for line in self._living():
            line.delivery.turns.poke()
        for reply in self.outbox.heads():
            if not (self._reconciling or self.serves(reply.jid) or reply.jid in self._unserved):
                self._unserved.add(reply.jid)
                log.error("No channel serves %s: replies wait in the outbox group=%s", reply.jid, reply.folder)

    def reconcile(self) -> None:
        """Make the channels those that the settings name."""
        if self._deliver is None:
            return
        tables, secrets = self.settings.config.channels, self.settings.environment.secrets
        wanted = {name: (dict(tables[name]), dict(secrets)) for name in tables if name in CHANNELS}
        self._reconciling = True
        for name, line in list(self._lines.items()):
            if name != "local" and wanted.get(name) != line.made_of:
                self._take_out_of_service(name)
                with self._guard:
                    self._save_states()
                log.info("Connection closed channel=%s: its settings changed", name)
        for name, made_of in wanted.items():
            if name not in self._lines:
                try:
                    self._connect(name, made_of)
                except Exception as error:  # a bug in one channel must not hold up the others
                    log.exception("Channel %s not put in service", name)
                    with self._guard:
                        self._lines.pop(name, None)
                    self._changed(name, State("error", f"it cannot be used ({type(error).__name__}: {error})"))
        self._unserved.clear()
        self._reconciling = False
        self.poke()

    def serves(self, jid: str) -> bool:
        return self._of(jid) is not None

    def fetch(self, jid: str, attachment: Mapping[str, Any]) -> Iterator[bytes]:
        """The content of an attachment; raises FetchFailed."""
        channel = self._of(jid)
        if channel is None:
            raise FetchFailed(f"no channel serves {jid}", permanent=True)
        return channel.fetch(attachment)

    def settled(self) -> bool:
        """Nothing is on its way out that could be sent, and what waited at the platforms is in."""
        sent = not any(self.serves(reply.jid) for reply in self.outbox.heads())
        return sent and not self.behind()

    def behind(self) -> list[str]:
        """The channels that may still bring what was written before they were in service."""
        waited_for = [one.channel for one in self._living() if one.channel.state.name in ("connecting", "connected")]
        return [channel.prefix for channel in waited_for if not channel.caught_up]

    def limit_of_files(self, jid: str) -> int:
        """Bytes of a file that can be sent to a chat."""
        channel = self._of(jid)
        return channel.limits.file if channel is not None else 0

    def _living(self) -> list[Line]:
        with self._guard:
            return list(self._lines.values())

    def _of(self, jid: str) -> Channel | None:
        return next((line.channel for line in self._living() if jid.startswith(line.channel.prefix)), None)

    def _connect(self, name: str, made_of: tuple[dict[str, Any], dict[str, str]]) -> None:
        module, _, kind = CHANNELS[name].partition(":")
        make: Callable[[Connection], Channel] = getattr(importlib.import_module(module), kind)
        self._put_in_service(name, make(Connection(*made_of, self.home.state / f"{name}.json")), made_of)

    def _put_in_service(self, name: str, channel: Channel, made_of: object) -> None:
        assert self._deliver is not None
        delivery, before = self.delivery_of(channel), self._ending.pop(name, None)

        def deliver() -> None:
            if before is not None:
                before.join()  # what it sends at this moment must not be sent twice
            delivery.turns.run()

        thread = threading.Thread(target=deliver, name=f"delivery {name}", daemon=True)
        with self._guard:
            self._lines[name] = Line(channel, delivery, thread, made_of)

        def changed(state: State) -> None:
            line = self._lines.get(name)
            if line is not None and line.channel is channel:  # not of one that was taken out of service
                self._changed(name, state)

        channel.start(self._deliver, changed)
        changed(channel.state)
        thread.start()

    def _take_out_of_service(self, name: str) -> None:
        with self._guard:
            line = self._lines.pop(name)
            self._states.pop(name, None)
        line.delivery.turns.halt()
        line.channel.stop()
        line.thread.join(JOIN_SECONDS)
        if line.thread.is_alive():
            self._ending[name] = line.thread

    def _changed(self, name: str, state: State) -> None:
        with self._guard:
            before = self._states.get(name, {})
            if (before.get("state"), before.get("detail")) == (state.name, state.detail):
                return
            self._states[name] = {"state": state.name, "detail": state.detail, "since": utc_now()}
            # What comes and goes (two hosts on one token) is told once in a while, not each time.
            key, moment = (name, state.detail), time.monotonic()
            is_trouble = state.name in ("error", "sign-in needed")
            must_tell = is_trouble and moment - self._told.get(key, -TELL_AGAIN_SECONDS) >= TELL_AGAIN_SECONDS
            if must_tell:
                self._told[key] = moment
            self._save_states()
        if state.name == "connected":
            self.poke()
        if must_tell:
            self.tell(name, state)

    def _save_states(self) -> None:
        try:
            write_json(self.home.state / "channels.json", self._states)
        except OSError as error:
            log.warning("channels.json not written: %s", error)

    def _show_typing(self) -> float:
        jids = self.working()
        every = [limit for line in self._living() if (limit := line.channel.limits.typing) is not None]
        if not jids or not every:
            return NOBODY_SECONDS
        began = time.monotonic()
        for jid in jids:
            channel = self._of(jid)
            if channel is not None and channel.limits.typing is not None and channel.state.name == "connected":
                channel.typing(jid)
        return max(0.5, min(every) * 0.8 - (time.monotonic() - began))
