"""Hosts with a bug: two writes in the wrong order, a check left out, a word not said. The crash test must find each.

A planted host is started as ``python -c PROGRAM run`` with ``PROGRAM`` from ``program``: it changes the product in
its own process only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from nanoclaw import router
from nanoclaw.channels import local
from nanoclaw.channels.telegram_send import Sender
from nanoclaw.cli import main
from nanoclaw.delivery import Delivery
from nanoclaw.faults import reach
from nanoclaw.handover import Handover
from nanoclaw.notices import Notices
from nanoclaw.stores.journal import Journal
from nanoclaw.stores.outbox import Outbox


def cursor_first() -> None:
    """The cursor moves before the claim is on disk: a crash in between loses the messages."""

    def hand(self: Any, group: Any, claim: Callable[..., None]) -> Any:
        with self._locks.hold("cursor", group.folder):
            cursor, view = self._refreshed(group)
            batch = view.batch(cursor)
            if batch is None:
                return None
            self._cursors.put(group.folder, replace(cursor.at(batch.place), note=None))
            reach("cursor-moved")
            claim(batch, router.compose(batch.lines, batch.omitted, self._settings.config, cursor.note), cursor)
            return batch

    Handover.hand = hand  # type: ignore[method-assign]


def unlink_first() -> None:
    """A reply leaves the outbox before its channel and the transcript have it: a crash in between loses it."""
    send = Delivery._send

    def planted(self: Any, reply: Any, now: float) -> bool:
        self.outbox._path(reply).unlink(missing_ok=True)
        return send(self, reply, now)

    Delivery._send = planted  # type: ignore[method-assign]


def keys_forgotten() -> None:
    """The local channel does not look which keys its far side has: a reply is delivered again after a crash."""
    local._tail_keys = lambda fd: set()


def send_first() -> None:
    """``sending`` is written when the platform was asked, not before: a crash in between sends it again, unseen."""
    mark, taken = Outbox.mark_sending, Outbox.taken

    def planted(self: Any, reply: Any, platform_id: str | None) -> Any:
        mark(self, reply)
        return taken(self, reply, platform_id)

    Outbox.mark_sending = lambda self, reply: replace(reply, state="sending")  # type: ignore[method-assign]
    Outbox.taken = planted  # type: ignore[method-assign]


def telegram_twice() -> None:
    """Each message goes to Telegram twice, without any crash."""
    post = Sender._post

    def planted(self: Any, *arguments: Any) -> Any:
        post(self, *arguments)
        return post(self, *arguments)

    Sender._post = planted  # type: ignore[method-assign]


def notes_lost() -> None:
    """Nobody hears of a reply that was given up: not the owner, not its agent, not the journal's reader."""
    event = Journal.event
    Notices.gave_up = lambda self, reply, reason: None  # type: ignore[method-assign]
    Journal.event = lambda self, kind, **known: kind == "failed" or event(self, kind, **known)  # type: ignore


PLANTS: dict[str, tuple[Callable[[], None], str]] = {
    "cursor-first": (cursor_first, "cursor-moved"),
    "unlink-first": (unlink_first, "sent"),
    "keys-forgotten": (keys_forgotten, "sent"),
    "send-first": (send_first, "telegram"),
    "telegram-twice": (telegram_twice, "telegram"),
    "notes-lost": (notes_lost, "reply-failed"),
}
"""Each with the step, or the way of killing (``kills``), that shows it."""


def program(name: str) -> Sequence[str]:
    """The interpreter's arguments for a host with this plant."""
    return ("-c", f"from tests.crash.plants import start; start({name!r})")


def start(name: str) -> None:
    PLANTS[name][0]()
    sys.exit(main())
