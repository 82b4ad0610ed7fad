"""What every channel is to the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from nanoclaw.models import Message

Deliver = Callable[[Message, str], None]
"""Hand in a message and the name of its chat. When it returns, the message is durable (or was known, or is of no
registered chat)."""


class SendFailed(Exception):
    """A reply was not taken. ``permanent``: trying again is useless."""

    def __init__(self, reason: str, permanent: bool = False) -> None:
        super().__init__(reason)
        self.permanent = permanent


class Channel(Protocol):
    """``prefix``: the JIDs it serves start with it. ``takes_keys``: a send with a key that the platform has is a
    no-op, so that a reply whose sending was interrupted may be sent again."""

    prefix: str
    takes_keys: bool

    def start(self, deliver: Deliver) -> None: ...

    def send(self, jid: str, text: str, key: str) -> None:
        """Returns when the platform took it; raises SendFailed."""

    def stop(self) -> None: ...
