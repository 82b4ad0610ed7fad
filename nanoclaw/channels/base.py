"""What every channel is to the host, and the host to it. The contract in words: README.md beside this file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from nanoclaw.models import Message

StateName = Literal["connecting", "connected", "sign-in needed", "error"]


@dataclass(frozen=True)
class State:
    """How a channel stands. ``detail``: one line for a person, with the cure, where it is not connected."""

    name: StateName
    detail: str = ""


@dataclass(frozen=True)
class Limits:
    """What the platform can do. ``text``: UTF-16 code units in one message, None: any number. ``typing``: seconds after
    which a typing indicator must be renewed, None: there is none. ``file``: bytes of a file, 0: none can be sent.
    ``caption``: UTF-16 code units beside a file, None: as in any message."""

    text: int | None = None
    typing: float | None = None
    file: int = 0
    caption: int | None = None


@dataclass(frozen=True)
class Outgoing:
    """One message to the platform: a whole reply, or a part of a long one that fits ``Limits.text``.

    ``key`` is the same at each try of the same part. ``quote``: the id of the person's message that it answers.
    ``file``: a file to send, named ``file_name``; ``text`` is its caption then.
    """

    jid: str
    text: str
    key: str
    quote: str | None = None
    file: Path | None = None
    file_name: str = ""


class SendFailed(Exception):
    """A message was not taken. ``permanent``: trying again is useless. ``retry_after``: seconds that the platform asks
    for, None where it said nothing. ``uncertain``: it left, and no answer says whether the platform took it."""

    def __init__(
        self, reason: str, permanent: bool = False, retry_after: float | None = None, uncertain: bool = False
    ) -> None:
        super().__init__(reason)
        self.permanent = permanent
        self.retry_after = retry_after
        self.uncertain = uncertain


class FetchFailed(Exception):
    """An attachment cannot be had. ``permanent``: it never can be (too large, gone)."""

    def __init__(self, reason: str, permanent: bool = False) -> None:
        super().__init__(reason)
        self.permanent = permanent


Deliver = Callable[[Message, str], None]
"""Hand in a message and the name of its chat. When it returns, the message is durable (or was known, or is of no
registered chat). Attachments come without ``path``: the host calls ``Channel.fetch`` for those it wants. It raises
FetchFailed, OSError or UserError where the message must be handed in again later."""


@dataclass(frozen=True)
class Connection:
    """What a channel is made of. ``settings``: its table [channels.NAME], checked; what is not set is absent.
    ``secrets``: those of .env by key. ``state_file``: a JSON file of its own (read_json/write_json of files.atomic)."""

    settings: Mapping[str, Any]
    secrets: Mapping[str, str]
    state_file: Path


class Channel(Protocol):
    """``prefix``: the JIDs it serves start with it. ``takes_keys``: a send with a key that the platform has is a
    no-op, so that a reply whose sending was interrupted may be sent again. Thread-safe: ``send``, ``typing`` and
    ``fetch`` are called from other threads than those that ``start`` began."""

    prefix: str
    takes_keys: bool
    limits: Limits

    def start(self, deliver: Deliver, changed: Callable[[State], None]) -> None:
        """Connect, on threads of its own; return at once. ``changed``: the state is another one now (any thread)."""

    def send(self, message: Outgoing) -> str | None:
        """Returns the platform's id of the message when the platform took it; raises SendFailed."""

    def typing(self, jid: str) -> None:
        """Show for ``limits.typing`` seconds that an answer is being written. Fails silently."""

    def fetch(self, attachment: Mapping[str, Any]) -> Iterator[bytes]:
        """The content of an attachment that came in, in pieces; raises FetchFailed."""

    @property
    def state(self) -> State: ...

    @property
    def caught_up(self) -> bool:
        """What was written before the start is handed in (``run --once`` waits for that)."""

    def stop(self) -> None:
        """Let the threads end; returns within 2 s."""
