"""The Messages API from its far side: what a request holds, and blocks to messages and server-sent events.

It covers what the agent's SDK uses (text, tool use, streaming, token counts, errors), not the API's whole surface.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
FOLDED_IN = "The user sent a new message while you were working"


@dataclass(frozen=True)
class Text:
    """A content block of text."""

    text: str


@dataclass(frozen=True)
class ToolUse:
    """A content block that asks the client to run a tool."""

    name: str
    input: dict[str, Any]
    id: str = field(default_factory=lambda: f"toolu_{uuid.uuid4().hex[:24]}")


Block = Text | ToolUse


@dataclass(frozen=True)
class Error:
    """An answer that is an HTTP error, in the API's shape."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "scripted error"


def error_body(status: int, message: str) -> dict[str, Any]:
    """An error in the API's shape; its type follows from the status."""
    return {"type": "error", "error": {"type": ERROR_TYPES.get(status, "api_error"), "message": message}}


def tokens(value: Any) -> int:
    """About how many tokens a JSON value is: four characters each."""
    return len(json.dumps(value, ensure_ascii=False)) // 4


def input_tokens(body: dict[str, Any]) -> int:
    """The tokens of a request: what count_tokens says and what ``usage.input_tokens`` of its answer is."""
    return tokens([body.get(key) for key in ("system", "messages", "tools")])


def texts_of(content: Any) -> list[str]:
    """The texts of a message's ``content``, which is a string or a list of blocks."""
    if isinstance(content, str):
        return [content]
    return [block["text"] for block in content or () if isinstance(block, dict) and block.get("type") == "text"]


def user_texts(body: dict[str, Any]) -> list[str]:
    """What was handed to the agent as a user's words, oldest first, without the CLI's own reminders.

    A prompt that came in during a turn is shown to the model as a system message with a preface; it is found too.
    """
    return [
        text
        for message in body.get("messages", [])
        for text in texts_of(message.get("content"))
        if (message.get("role") == "user" and not text.lstrip().startswith("<system-reminder>"))
        or (message.get("role") == "system" and text.startswith(FOLDED_IN))
    ]


def tool_results(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The tool results in the request's last user message: ``tool_use_id``, ``text``, ``is_error`` of each."""
    asked = [message for message in body.get("messages", []) if message.get("role") == "user"]
    content = asked[-1].get("content") if asked else []
    return [
        {
            "tool_use_id": block.get("tool_use_id", ""),
            "text": "\n".join(texts_of(block.get("content"))),
            "is_error": bool(block.get("is_error")),
        }
        for block in (content if isinstance(content, list) else ())
        if block.get("type") == "tool_result"
    ]


def _content(block: Block) -> dict[str, Any]:
    if isinstance(block, Text):
        return {"type": "text", "text": block.text}
    return {"type": "tool_use", "id": block.id, "name": block.name, "input": block.input}


def _end(body: dict[str, Any], content: list[dict[str, Any]]) -> dict[str, Any]:
    """How an answer of ``content`` ends: its stop reason and what it used."""
    called = any(block["type"] == "tool_use" for block in content)
    used = {"input_tokens": input_tokens(body), "output_tokens": sum(map(tokens, content))}
    return {"stop_reason": "tool_use" if called else "end_turn", "stop_sequence": None, "usage": used}


def message_of(body: dict[str, Any], blocks: Iterable[Block]) -> dict[str, Any]:
    """The whole (not streamed) answer to the request ``body``."""
    content = [_content(block) for block in blocks]
    head = {"id": f"msg_{uuid.uuid4().hex[:24]}", "type": "message", "role": "assistant", "model": body.get("model")}
    return head | {"content": content} | _end(body, content)


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def events_of(body: dict[str, Any], blocks: Iterable[Block]) -> Iterator[bytes]:
    """The streamed answer, one server-sent event at a time. ``blocks`` is drawn lazily: a generator may wait."""
    yield _event("message_start", message=message_of(body, []) | {"stop_reason": None})
    content = []
    for index, block in enumerate(blocks):
        content.append(_content(block))
        if isinstance(block, Text):
            empty: dict[str, Any] = {"text": ""}
            delta = {"type": "text_delta", "text": block.text}
        else:
            empty = {"input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block.input)}
        yield _event("content_block_start", index=index, content_block=content[-1] | empty)
        yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    end = _end(body, content)
    yield _event("message_delta", usage=end.pop("usage"), delta=end)
    yield _event("message_stop")
