"""The router: which messages wake an agent, what its prompt says, what of its answer a person sees. Pure functions
(SPEC 2).

The prompt is an XML envelope. Everything that a person or a platform wrote is escaped; control characters that XML
does not know are replaced, so that no text can leave its element.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from html import escape
from typing import Any
from zoneinfo import ZoneInfo

from nanoclaw.config.senders import EVERYBODY, Senders
from nanoclaw.config.senders import is_owner as is_owner
from nanoclaw.models import Config, Group, Line, Message

_INTERNAL = re.compile(r"<(/?)internal>", re.IGNORECASE)
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@lru_cache(maxsize=1024)
def _trigger(word: str) -> re.Pattern[str]:
    return re.compile(rf"\s*{re.escape(word.strip())}(?!\w)", re.IGNORECASE)


def why_asleep(message: Message, group: Group, config: Config, senders: Senders = EVERYBODY) -> str | None:
    """None if the message may wake the group's agent, else the reason why not."""
    if message.is_bot:
        return "it is a bot's own message"
    if message.command:
        return f"the host itself obeyed it (/{message.command})"
    if group.requires_trigger and not group.is_main and not message.addressed:
        word = group.trigger or f"@{config.assistant_name}"
        if not _trigger(word).match(message.text):
            return f"no {word} at the start"
    denied = senders.why_denied(message, config)
    return denied[0] if denied else None


def without_trigger(text: str, group: Group, config: Config) -> str:
    """A message's text without the trigger word at its start."""
    found = _trigger(group.trigger or f"@{config.assistant_name}").match(text)
    return text[found.end() :] if found else text


def is_context(message: Message) -> bool:
    """May a message stand in a prompt? The assistant's own words do not: its session has them; nor what was for the
    host."""
    return not (message.is_bot or message.command)


def compose(lines: Sequence[Line], omitted: int, config: Config, note: str | None = None) -> str:
    """The prompt: a context element, then the messages in order of arrival. ``omitted``: older ones that were left
    out."""
    parts = [f"<context timezone={_attribute(config.timezone)}/>"]
    if note:
        parts.append(f"<note>{_text(note)}</note>")
    parts.append("<messages>")
    if omitted:
        parts.append(f'<omitted count="{omitted}">{omitted} older messages are not shown</omitted>')
    parts += [_element(line.message, config.timezone) for line in lines]
    parts.append("</messages>")
    return "\n".join(parts)


def _element(message: Message, timezone: str) -> str:
    sender = message.sender_name or message.sender
    attributes = f"sender={_attribute(sender)} time={_attribute(local_time(message.timestamp, timezone))}"
    quoted = ""
    if message.reply_to:
        attributes += f" reply_to={_attribute(message.reply_to.get('id', ''))}"
        if text := message.reply_to.get("text"):
            author = message.reply_to.get("sender_name") or message.reply_to.get("sender", "")
            quoted = f"<quoted_message from={_attribute(author)}>{_text(text)}</quoted_message>"
    attached = "".join(map(_attachment, message.attachments))
    return f"<message {attributes}>{quoted}{attached}{_text(message.text)}</message>"


def _attachment(attachment: Mapping[str, Any]) -> str:
    """``path`` is relative to the group's folder; ``problem`` says why there is no file."""
    keys = ("kind", "name", "path", "problem")
    shown = (f"{key}={_attribute(str(attachment[key]))}" for key in keys if attachment.get(key))
    return f"<attachment {' '.join(shown)}/>"


def local_time(timestamp: str, timezone: str) -> str:
    """An ISO 8601 time in the configured zone, to the minute; what is no time is shown as it came."""
    zone = ZoneInfo(timezone)
    try:
        moment = datetime.fromisoformat(timestamp)
        moment = moment.replace(tzinfo=zone) if moment.tzinfo is None else moment.astimezone(zone)
    except (ValueError, OverflowError):
        return timestamp
    return moment.strftime("%Y-%m-%d %H:%M")


def visible(text: str) -> str:
    """What remains of an answer for people: <internal>…</internal> is cut out, also one within another, an
    unclosed one to the end. A closing tag that closes nothing is text."""
    kept: list[str] = []
    depth = start = 0
    for tag in _INTERNAL.finditer(text):
        closing = bool(tag[1])
        if depth == 0 and not closing:
            kept.append(text[start : tag.start()])
        if depth or not closing:
            depth += -1 if closing else 1
            start = tag.end()
    return "".join([*kept, "" if depth else text[start:]]).strip()


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def _text(text: str) -> str:
    return escape(_clean(text), quote=False)


def _attribute(text: str) -> str:
    escaped = escape(_clean(text))
    return '"' + re.sub("[\n\r\t]", lambda found: f"&#{ord(found[0])};", escaped) + '"'
