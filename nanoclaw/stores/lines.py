"""A line of a transcript: one JSON object, as people read it with jq."""

from __future__ import annotations

import json
from typing import Any

from nanoclaw.models import Line, Message


def to_json(line: Line) -> bytes:
    """A line as it stands in the file; optional fields only where they apply."""
    message = line.message
    value: dict[str, Any] = {
        "seq": line.seq,
        "id": message.id,
        "sender": message.sender,
        "sender_name": message.sender_name,
        "text": message.text,
        "timestamp": message.timestamp,
        "received": line.received,
        "is_bot": message.is_bot,
    }
    if message.from_me:
        value["from_me"] = True
    if message.reply_to:
        value["reply_to"] = message.reply_to
    if message.attachments:
        value["attachments"] = list(message.attachments)
    if message.run:
        value["run"] = message.run
    if message.addressed:
        value["addressed"] = True
    if message.platform_id:
        value["platform_id"] = message.platform_id
    if message.command:
        value["command"] = message.command
    # A lone surrogate (a platform's broken text) cannot be encoded: it becomes U+FFFD, so that the line stays UTF-8.
    text = json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.encode() + b"\n"


def from_json(data: bytes, jid: str) -> Line | None:
    """The line in ``data``, None where it is none."""
    try:
        value = json.loads(data)
        seq = value["seq"]
        if not isinstance(seq, int) or isinstance(seq, bool) or seq < 1:
            return None
        reply_to = value.get("reply_to")
        attachments = value.get("attachments")
        message = Message(
            id=str(value["id"]),
            jid=jid,
            sender=str(value.get("sender", "")),
            sender_name=str(value.get("sender_name", "")),
            text=str(value.get("text", "")),
            timestamp=str(value.get("timestamp", "")),
            from_me=bool(value.get("from_me")),
            is_bot=bool(value.get("is_bot")),
            reply_to={str(k): str(v) for k, v in reply_to.items()} if isinstance(reply_to, dict) else None,
            attachments=tuple(a for a in attachments if isinstance(a, dict)) if isinstance(attachments, list) else (),
            run=str(value["run"]) if value.get("run") else None,
            addressed=bool(value.get("addressed")),
            platform_id=str(value["platform_id"]) if value.get("platform_id") else None,
            command=str(value["command"]) if value.get("command") else None,
        )
        return Line(seq, str(value.get("received", "")), message)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
