"""One conversation with the agent: prompts go to the SDK's client, what comes back becomes events.

Turns also start unasked (a background subagent or command has finished), so messages are read for ever, and a result
says itself which prompts it answers.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from agent import bounded, check_home, options
from archive import archive_rotated
from claude_agent_sdk import (
    AssistantMessage,
    ClaudeSDKClient,
    Message,
    ResultMessage,
    SystemMessage,
    TextBlock,
    UserMessage,
)
from protocol import Failure, RunFiles

MAX_UNANSWERED = 32  # a result names at most 64 prompts
MAX_RESULT = 1_000_000  # bytes of UTF-8
TURN_DUE = 2.0  # s; a finished background task starts a turn about 40 ms later, or none at all

STALE_SESSION = re.compile(r"no conversation found|ENOENT.*\.jsonl|session\b.*\bnot found", re.IGNORECASE | re.DOTALL)
UNKNOWN_ANCHOR = "No message found with message.uuid"
SYNTHETIC = "<synthetic>"  # the model of what the CLI says itself; it is no message to resume at
COMMAND_OUTPUT = "<local-command-stdout>"
# A compaction that the model's far side refused is a good result to the CLI; these refusals are the host's to judge.
PASSING = re.compile(r"API Error:\D{0,40}(401|403|429|5\d\d)\b")


class Conversation:
    """Use: ``connect()``; ``push()`` as prompts come, ``check()`` after each wake-up; ``close()``."""

    def __init__(self, files: RunFiles) -> None:
        self._files = files
        self._client: ClaudeSDKClient | None = None
        self._reader: asyncio.Task[None] | None = None
        # The CLI's uuid of a prompt -> the host's. The CLI silently skips a uuid that its transcript holds already,
        # as after a retry, so each push makes its own.
        self._unanswered: dict[str, str] = {}
        self._running = False
        self._turn_due = False
        self._background = False
        self._state: str | None = None
        self._ending = False
        self._result_seen = asyncio.Event()
        self._anchor: str | None = files.settings.get("anchor")
        self._archived: Path | None = None
        self._command: str | None = None  # the CLI's uuid of the prompt that it is to obey (not `verbatim`)
        self._compacted = False
        self._remark = ""  # what the CLI itself said last

    @property
    def settled(self) -> bool:
        """Nothing pushed is unanswered, no turn runs or is about to. Background tasks may."""
        return not (self._unanswered or self._running or self._turn_due)

    @property
    def awaits_command(self) -> bool:
        """The prompt that the CLI is to obey has not come yet."""
        return self._command is None and not self._files.settings.get("verbatim", True)

    @property
    def room(self) -> int:
        """How many prompts may be pushed now."""
        return MAX_UNANSWERED - len(self._unanswered)

    async def connect(self) -> None:
        """Start the CLI and resume the session, if there is one. Raises Failure."""
        check_home()
        self._archived = await asyncio.to_thread(archive_rotated, self._files.settings)
        try:
            await self._connect(self._anchor)
        except Failure as failure:
            if self._anchor is None or UNKNOWN_ANCHOR not in failure.text:
                raise
            print(f"The session has no message {self._anchor}: resumed at its end.", file=sys.stderr)
            await self._connect(None)
        self._reader = asyncio.create_task(self._read())
        self._reader.add_done_callback(lambda _: self._files.wake.set())

    async def _connect(self, anchor: str | None) -> None:
        self._client = ClaudeSDKClient(options(self._files, anchor, self._archived))
        try:
            await self._client.connect()
        except Exception as error:
            raise _failure_of(error) from error

    async def push(self, prompts: list[dict[str, Any]]) -> None:
        """Hand prompts to the agent; `consumed` is on disk before the first byte of them is. Raises Failure."""
        assert self._client is not None
        self._files.emit("consumed", uuids=[prompt["uuid"] for prompt in prompts])
        named = {str(uuid.uuid4()): prompt for prompt in prompts}
        self._unanswered.update({name: prompt["uuid"] for name, prompt in named.items()})
        if self.awaits_command:
            self._command = next(iter(named))

        async def messages() -> AsyncIterator[dict[str, Any]]:
            for name, prompt in named.items():
                message = {"role": "user", "content": prompt["text"]}
                verbatim = {} if name == self._command else {"client_composed": True}
                yield {"type": "user", "message": message, "parent_tool_use_id": None, "uuid": name, **verbatim}

        try:
            await self._client.query(messages())
        except Exception as error:
            raise _failure_of(error) from error

    def check(self) -> None:
        """Raise the Failure that ended the reading, if it has ended."""
        if self._reader is not None and self._reader.done():
            self._reader.result()

    async def interrupt(self, patience: float) -> None:
        """Break off the turn within 2 x ``patience`` s: it is reported neither as a result nor as an error."""
        assert self._client is not None
        self._ending = True
        self._result_seen.clear()
        try:
            await asyncio.wait_for(self._client.interrupt(), patience)
            await asyncio.wait_for(self._result_seen.wait(), patience)
        except Exception as error:
            print(f"interrupt: {error!r}", file=sys.stderr)

    async def close(self, patience: float) -> None:
        """End the CLI within ``patience`` s; what outlives that is terminated when this process exits."""
        self._ending = True
        if self._background:
            patience = min(patience, 1.0)  # the CLI would wait for them
        if self._client is not None:
            try:
                await asyncio.wait_for(self._client.disconnect(), patience)
            except Exception as error:
                print(f"disconnect: {error!r}", file=sys.stderr)
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        assert self._client is not None
        try:
            async for message in self._client.receive_messages():
                self._take(message)
        except Failure:
            raise
        except Exception as error:
            raise _failure_of(error) from error
        raise Failure("sdk", "The agent's process has ended by itself.")

    def _take(self, message: Message) -> None:
        if isinstance(message, AssistantMessage):
            if message.model == SYNTHETIC:
                self._remark = " ".join(block.text for block in message.content if isinstance(block, TextBlock))
            elif message.parent_tool_use_id is None and message.error is None and message.uuid:
                self._anchor = message.uuid
        elif isinstance(message, UserMessage):
            # A compaction that was asked for is followed by no assistant's message: what it printed is the chain's end.
            if self._anchor is None and self._compacted and str(message.content).startswith(COMMAND_OUTPUT):
                self._anchor = message.uuid
        elif isinstance(message, ResultMessage):
            self._take_result(message)
        elif isinstance(message, SystemMessage):
            self._take_state(message.subtype, message.data)

    def _take_result(self, message: ResultMessage) -> None:
        if message.is_error:
            if not self._ending:
                text = message.result or "; ".join(message.errors or []) or f"The turn ended: {message.subtype}."
                raise _failure(text, message.api_error_status, message.terminal_reason)
        else:
            names = message.user_message_uuids or [message.user_message_uuid or ""]
            text = message.result or ""
            if self._command in names:
                text = self._of_compaction(text)
            answered = [self._unanswered.pop(name) for name in names if name in self._unanswered]
            self._files.emit(
                "result",
                uuids=answered,
                text=bounded(text, MAX_RESULT),
                # A session in which nothing was said is not kept by the CLI.
                session=message.session_id if self._anchor or self._files.settings.get("session") else None,
                anchor=self._anchor,
                usage=message.usage,
                cost_usd=message.total_cost_usd,
            )
        self._result_seen.set()
        self._report_state()

    def _of_compaction(self, text: str) -> str:
        """What the chat is told of it. Raises Failure where the model refused for a reason that passes."""
        if self._compacted:
            return "Compacted."
        if self._files.settings.get("rotated_from"):
            kept = f"it is archived in {self._archived}" if self._archived else "it could not be archived"
            return f"The conversation had grown too large to be compacted: a fresh one begins, {kept}."
        text = text or self._remark or "Nothing was compacted."
        if passing := PASSING.search(text):
            raise Failure("api", text, int(passing[1]))
        return text.removeprefix("Error: ")

    def _take_state(self, subtype: str, data: dict[str, Any]) -> None:
        if subtype == "compact_boundary" and data.get("parent_tool_use_id") is None:
            self._compacted, self._anchor = True, None  # the old anchor may lie before it
        elif subtype == "session_state_changed":
            self._running = data.get("state") != "idle"
            self._turn_due = False
        elif subtype == "background_tasks_changed":
            finished = self._background and not data.get("tasks")
            self._background = bool(data.get("tasks"))
            if finished and not self._running:
                self._turn_due = True
                asyncio.get_running_loop().call_later(TURN_DUE, self._no_turn_came)
        elif subtype == "api_retry":
            print(f"API retry: {json.dumps(data)[:1000]}", file=sys.stderr)
        self._report_state()

    def _no_turn_came(self) -> None:
        self._turn_due = False
        self._report_state()

    def _report_state(self) -> None:
        state = "idle" if self.settled and not self._background else "running"
        if state != self._state and not self._ending:
            self._state = state
            self._files.emit("state", state=state)
        self._files.wake.set()


def _failure(text: str, status: int | None, terminal_reason: str | None) -> Failure:
    if status is not None or terminal_reason == "api_error":
        return Failure("api", text, status)
    return Failure("stale_session" if STALE_SESSION.search(text) else "sdk", text)


def _failure_of(error: Exception) -> Failure:
    text = str(error) or repr(error)
    return _failure(text, getattr(error, "api_error_status", None), getattr(error, "terminal_reason", None))
