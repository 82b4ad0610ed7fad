"""Requests as typed values: one object of a file becomes one of these, or a sentence that says what is wrong with it.

Field names are those of the TypeScript edition (SPEC 6). What a file says of its own origin is not read: the directory
is the identity.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from nanoclaw.config import values
from nanoclaw.config.strict import Expected, Keys, Required, conform
from nanoclaw.errors import UserError
from nanoclaw.paths import check_folder

IGNORED = ("timestamp", "groupFolder", "sourceGroup", "createdBy", "chat_jid")
"""What other editions' files say of their origin or time."""
REASON_CHARACTERS = 1000


class BadRequest(Exception):
    """The object is no request; the text says why, on one line."""


class HalfWritten(Exception):
    """It does not parse, and may be completed yet."""


@dataclass(frozen=True)
class Request:
    """``kind`` is the file's ``type``. ``jid``, ``folder``: whom it acts on, None where it is about the asker's own
    group or the whole house. ``values``: its other fields, checked."""

    kind: str
    jid: str | None = None
    folder: str | None = None
    values: dict[str, Any] = field(default_factory=dict)


def _words(value: object) -> str:
    """Text of any length with something in it."""
    if not isinstance(value, str) or not value.strip():
        raise Expected("a text that is not empty")
    return value


def _maybe(value: object) -> str:
    if not isinstance(value, str):
        raise Expected("a text")
    return value


def _whole(value: Any) -> Any:
    """The value without lone surrogates, which JSON can carry and UTF-8 cannot: they become U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return {_whole(key): _whole(item) for key, item in value.items()} if isinstance(value, dict) else value


def _folder(value: object) -> str:
    try:
        return check_folder(values.text(value))
    except UserError as error:
        raise Expected(f"a group's folder: {error.fix}") from None


def _place(value: object) -> object:
    if value not in ("end", "answer") and not (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        raise Expected('the number of a message, "end" or "answer"')
    return value


def _milliseconds(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= 86_400_000 * 30:
        raise Expected("milliseconds (a whole number, more than 0, at most 30 days)")
    return value


_TASK: Keys = {"taskId": Required(values.text)}
_SCHEDULE: Keys = {
    "prompt": _words,
    "schedule_type": values.one_of("cron", "interval", "once"),
    "schedule_value": _words,
    "targetJid": values.jid,
    "context_mode": values.one_of("group", "isolated"),
    "script": _words,
}
_MOUNT: Keys = {
    "hostPath": Required(values.text),
    "containerPath": Required(values.text),
    "readonly": values.boolean,
}
FIELDS: dict[str, Keys] = {
    "message": {"chatJid": Required(values.jid), "text": Required(_words), "sender": values.text},
    "file": {"chatJid": Required(values.jid), "path": Required(values.text), "caption": _maybe},
    "schedule_task": {
        **_SCHEDULE,
        "prompt": Required(_words),
        "schedule_type": Required(values.one_of("cron", "interval", "once")),
        "schedule_value": Required(_words),
        "taskId": values.text,
    },
    "update_task": {**_SCHEDULE, **_TASK},
    **dict.fromkeys(("pause_task", "resume_task", "cancel_task"), _TASK),
    "list_tasks": {},
    "register_group": {
        "jid": Required(values.jid),
        "name": Required(values.text),
        "folder": Required(_folder),
        "trigger": values.text,
        "requiresTrigger": values.boolean,
        "containerConfig": {"timeout": _milliseconds, "additionalMounts": [_MOUNT]},
    },
    "refresh_groups": {},
    "list_groups": {},
    "reset_cursor": {"folder": Required(_folder), "to": Required(_place)},
    "clear_session": {"folder": Required(_folder)},
    "compact": {"folder": Required(_folder)},
    "run_again": {"run": Required(values.text)},
    "retry_reply": {"reply": Required(values.text), "from_start": values.boolean},
    "drop_reply": {"reply": Required(values.text)},
}


def parse(data: bytes) -> Request:
    """The request in a file. Raises HalfWritten (empty, or no JSON yet), BadRequest."""
    try:
        return _request(_whole(json.loads(data.decode("utf-8-sig"))))
    except UnicodeDecodeError:
        raise BadRequest("not UTF-8 text") from None
    except RecursionError:
        raise BadRequest("JSON nested too deeply") from None
    except ValueError as error:
        raise HalfWritten("empty" if not data.strip() else f"not valid JSON: {error}") from None


def _request(value: object) -> Request:
    if not isinstance(value, dict):
        raise BadRequest('expected a JSON object like {"type": "message", "chatJid": "local:main", "text": "hi"}')
    kind = value.pop("type", None)
    if not isinstance(kind, str) or kind not in FIELDS:
        raise BadRequest(f"type: expected one of {', '.join(FIELDS)}; found {json.dumps(kind, default=str)[:60]}")
    if "isMain" in value or "is_main" in value:
        raise BadRequest("isMain: only the owner makes a group the main one, in its file")
    try:
        found = conform({key: item for key, item in value.items() if key not in IGNORED}, FIELDS[kind])
    except Expected as error:
        raise BadRequest(f"{kind}: {error}"[:REASON_CHARACTERS]) from None
    jid = found.pop("chatJid", None) or found.pop("targetJid", None)
    folder = found.pop("folder", None) if kind in ("reset_cursor", "clear_session", "compact") else None
    return Request(kind, jid, folder, found)
