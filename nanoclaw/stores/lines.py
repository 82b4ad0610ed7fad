"""A line of a transcript: one JSON object, as people read it with jq."""

from __future__ import annotations

import json
from typing import Any

from nanoclaw.models import Line, Message

_TEXTS = ("sender", "sender_name", "text", "timestamp")
_WHERE_THEY_APPLY = ("from_me", "reply_to", "attachments", "run", "addressed", "platform_id", "command")


def to_json(line: Line) -> bytes:
    """A line as it stands in the file; optional fields only where they apply."""
    message = line.message
    value: dict[str, Any] = {"seq": line.seq, "id": message.id}
    value |= {name: getattr(message, name) for name in _TEXTS}
    value |= {"received": line.received, "is_bot": message.is_bot}
    value |= {name: found for name in _WHERE_THEY_APPLY if (found := getattr(message, name))}
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
        found: dict[str, Any] = {name: str(value.get(name, "")) for name in _TEXTS}
        found |= {name: bool(value.get(name)) for name in ("from_me", "is_bot", "addressed")}
        found |= {name: str(value[name]) for name in ("run", "platform_id", "command") if value.get(name)}
        if isinstance(reply_to := value.get("reply_to"), dict):
            found["reply_to"] = {str(k): str(v) for k, v in reply_to.items()}
        if isinstance(attachments := value.get("attachments"), list):
            found["attachments"] = tuple(a for a in attachments if isinstance(a, dict))
        return Line(seq, str(value.get("received", "")), Message(id=str(value["id"]), jid=jid, **found))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
