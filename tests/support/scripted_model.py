"""The model's far side in tests: a real Messages API endpoint on loopback that answers by a test's function.

    def rule(request: dict) -> Reply:                       # the request's body
        if tool_results(request):
            return "done"
        return ToolUse("Write", {"file_path": "/workspace/group/a", "content": "b"})

    with ScriptedModel(rule) as model:
        ... model.url ...
        model.wait_for_requests(2)

A rule returns a string, a block, a sequence of blocks, an ``Error``, a ``Hang`` (no answer until the client hangs up)
or a ``Gate``. A generator of blocks may wait on an event between them: what it yielded before is streamed already.
"""

from __future__ import annotations

import html
import re
import select
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from nanoclaw.gateway.connections import end_connection
from nanoclaw.gateway.endpoint import Endpoint, Request
from nanoclaw.gateway.messages_api import (
    Block,
    Error,
    Text,
    ToolUse,
    tool_results,
    user_texts,
)

__all__ = ["Error", "Gate", "Hang", "Reply", "ScriptedModel", "Text", "ToolUse", "echo", "last_user_text"]
__all__ += ["message_texts", "tool_results", "user_texts"]

_MESSAGE = re.compile(r"<message\b[^>]*>(.*?)</message>", re.DOTALL)


@dataclass(frozen=True)
class Hang:
    """Says nothing until the client hangs up, which ``ScriptedModel.hangups`` then counts, or the model is closed."""


@dataclass(frozen=True)
class Gate:
    """Waits for ``event`` (at most ``deadline`` seconds), then answers ``reply``. Closing the model opens it."""

    event: threading.Event
    reply: Any = "the gate is open"
    deadline: float = 120.0


Reply = str | Block | Iterable[Block] | Error | Hang | Gate


def last_user_text(request: dict[str, Any]) -> str:
    """The newest text a user sent: a whole prompt, with its envelope."""
    return next(iter(reversed(user_texts(request))), "")


def message_texts(prompt: str) -> list[str]:
    """The unescaped texts of the <message> elements of a prompt."""
    return [html.unescape(text) for text in _MESSAGE.findall(prompt)]


def echo(request: dict[str, Any]) -> Reply:
    """The default rule: ``echo: `` and the text of the last message."""
    prompt = last_user_text(request)
    return f"echo: {(message_texts(prompt) or [prompt])[-1]}"


@dataclass
class ScriptedModel:
    """A context manager; ``url`` is the base URL, ``requests`` what came, ``hangups`` how many clients left early."""

    rule: Callable[[dict[str, Any]], Reply] = echo
    requests: list[Request] = field(default_factory=list)
    hangups: int = 0
    url: str = ""

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._gates: list[threading.Event] = []
        self._hanging: list[socket.socket] = []
        self._endpoint = Endpoint(self._answer)

    def __enter__(self) -> Self:
        self.url = self._endpoint.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._changed:
            for gate in self._gates:
                gate.set()
            for connection in self._hanging:
                end_connection(connection)
        self._endpoint.stop()

    def bodies(self) -> list[dict[str, Any]]:
        """The bodies of all requests so far."""
        return [request.body for request in self.requests]

    def wait_for_requests(self, count: int, deadline: float = 60.0) -> list[Request]:
        """The requests as soon as there are ``count``; an AssertionError after ``deadline`` seconds."""
        self._wait(lambda: len(self.requests) >= count, f"{count} requests", deadline)
        return list(self.requests)

    def wait_for_hangups(self, count: int, deadline: float = 60.0) -> None:
        """Return when ``count`` clients have hung up on a ``Hang``; an AssertionError after ``deadline`` seconds."""
        self._wait(lambda: self.hangups >= count, f"{count} hang-ups", deadline)

    def _wait(self, done: Callable[[], bool], what: str, deadline: float) -> None:
        with self._changed:
            if not self._changed.wait_for(done, deadline):
                raise AssertionError(
                    f"no {what} in {deadline} s: {len(self.requests)} requests, {self.hangups} hang-ups"
                )

    def _answer(self, request: Request) -> Iterable[Block] | Error:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        return self._resolve(self.rule(request.body), request)

    def _resolve(self, reply: Reply, request: Request) -> Iterable[Block] | Error:
        if isinstance(reply, Gate):
            with self._changed:
                self._gates.append(reply.event)
            reply.event.wait(reply.deadline)
            return self._resolve(reply.reply, request)
        if isinstance(reply, Hang):
            self._hang(request.connection)
            return Error(503)
        if isinstance(reply, str):
            return [Text(reply)]
        return [reply] if isinstance(reply, Text | ToolUse) else reply

    def _hang(self, connection: socket.socket) -> None:
        with self._changed:
            self._hanging.append(connection)
        select.select([connection], [], [])
        with self._changed:
            self._hanging.remove(connection)
            self.hangups += 1
            self._changed.notify_all()
