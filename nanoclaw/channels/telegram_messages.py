"""What Telegram sends, as a Message of ours. Pure: no network, no files.

The shapes are those of https://core.telegram.org/bots/api#message; what has another shape is Malformed, never a crash.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from nanoclaw.models import Message

T = TypeVar("T")
Table = dict[str, Any]

MAX_QUOTED = 1000
"""Characters kept of a message that is replied to."""

_ATTACHMENTS = {
    "document": ("file", "file"),
    "voice": ("voice", "voice.ogg"),
    "audio": ("audio", "audio.mp3"),
    "video": ("video", "video.mp4"),
    "video_note": ("video", "video.mp4"),
}
"""What we call them, and the name of one that came without."""

_SERVICE = re.compile(
    r"(new_chat_|left_chat_|delete_chat_|group_chat_|supergroup_chat_|channel_chat_|chat_owner_|message_auto_delete|"
    r"migrate_|pinned_message|successful_payment|refunded_payment|users_shared|chat_shared|connected_website|"
    r"write_access|passport_data|proximity_alert|boost_added|chat_background|forum_topic_|general_forum_|"
    r"giveaway_created|giveaway_completed|video_chat_|voice_chat_|web_app_data|paid_message_price|direct_message_price)"
)
"""Fields of messages that nobody wrote: joins, new titles, pins …"""


class Malformed(ValueError):
    """An update of a shape that the Bot API does not have."""


@dataclass(frozen=True)
class Bot:
    """Who we are, as getMe says."""

    id: int
    name: str


def message_id(number: int, bot: Bot) -> str:
    """In private chats each bot counts for itself, so the number alone would take another bot's messages for known."""
    return f"{number}@{bot.id}"


def need(table: Table, key: str, kind: type[T]) -> T:
    """A field that must be there; raises Malformed."""
    value = table.get(key)
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise Malformed(f"{key}: {'missing' if value is None else type(value).__name__}")
    return value


def may(table: Table, key: str, kind: type[T], default: T) -> T:
    """A field that may be absent, but not of another type; raises Malformed."""
    return default if table.get(key) is None else need(table, key, kind)


def parse(message: Table, bot: Bot) -> tuple[Message, str] | None:
    """A message and the name of its chat; None for a service message. Raises Malformed."""
    chat = need(message, "chat", dict)
    text, attachments = _content(message)
    if not text and not attachments:
        if any(_SERVICE.match(key) for key in message):
            return None
        text = "[unsupported message]"
    sender, sender_name, is_bot = _author(message)
    try:
        time = datetime.fromtimestamp(need(message, "date", int), UTC).isoformat()
    except (OverflowError, OSError, ValueError) as error:
        raise Malformed(f"date: {error}") from None
    found = Message(
        id=message_id(need(message, "message_id", int), bot),
        jid=f"tg:{need(chat, 'id', int)}",
        sender=sender,
        sender_name=sender_name,
        # "/stop@our_bot" is a command to us; one to another bot is text.
        text=re.sub(rf"^\s*(/\w+)@{re.escape(bot.name)}\b", r"\1", text, flags=re.IGNORECASE),
        timestamp=time,
        is_bot=is_bot,
        reply_to=_quoted(message, bot),
        attachments=tuple(attachments),
        addressed=re.match(rf"\s*@{re.escape(bot.name)}\b", text, re.IGNORECASE) is not None,
    )
    return found, _name(chat)


def asks_chat_id(message: Table, bot: Bot) -> bool:
    """Whether it is the command /chatid, to us or to any bot."""
    text = may(message, "text", str, "")
    return re.fullmatch(rf"/chatid(@{re.escape(bot.name)})?", text.strip(), re.IGNORECASE) is not None


def chat_id_answer(message: Table) -> tuple[int, str]:
    """The answer to /chatid, with its chat: what a person needs to register it. Raises Malformed."""
    chat = need(message, "chat", dict)
    number = need(chat, "id", int)
    jid = f"tg:{number}"
    return number, (
        f"{jid}\nchat: {may(chat, 'type', str, 'unknown')} “{_name(chat)}”\nyou: {_author(message)[0]}\n"
        f"To register it: python3 nanoclaw.py groups add FOLDER --jid {jid}"
    )


def _name(who: Table) -> str:
    """The name of a chat or a person."""
    if title := may(who, "title", str, ""):
        return title
    full = f"{may(who, 'first_name', str, '')} {may(who, 'last_name', str, '')}".strip()
    return full or may(who, "username", str, "") or str(need(who, "id", int))


def _author(message: Table) -> tuple[str, str, bool]:
    """Id, name, and whether it is a bot. Who writes as a chat (anonymous administrators, linked channels) comes with
    a bot's account as ``from``: then the chat counts."""
    chat = may(message, "sender_chat", dict, {})
    person = chat or may(message, "from", dict, {}) or need(message, "chat", dict)
    return str(need(person, "id", int)), _name(person), may(person, "is_bot", bool, False)


def _content(message: Table) -> tuple[str, list[Table]]:
    """Text and attachments; for what has no text a few words in brackets."""
    attachments = []
    photos = [photo for photo in may(message, "photo", list, []) if isinstance(photo, dict)]
    if photos:
        largest = max(photos, key=lambda photo: need(photo, "width", int) * need(photo, "height", int))
        attachments.append(_attachment(largest, "photo", "photo.jpg", "image/jpeg"))
    for key, (kind, name) in _ATTACHMENTS.items():
        if found := may(message, key, dict, {}):
            attachments.append(_attachment(found, kind, name, ""))
    text = may(message, "text", str, "") or may(message, "caption", str, "")
    return text or _in_words(message), attachments


def _attachment(found: Table, kind: str, name: str, mime: str) -> Table:
    attachment = {
        "kind": kind,
        "name": may(found, "file_name", str, "") or name,
        "size": may(found, "file_size", int, 0),
        "id": need(found, "file_id", str),
    }
    mime = may(found, "mime_type", str, mime)
    return attachment | ({"mime": mime} if mime else {})


def _in_words(message: Table) -> str:
    if sticker := may(message, "sticker", dict, {}):
        return f"[sticker {may(sticker, 'emoji', str, '')}".rstrip() + "]"
    if place := may(message, "location", dict, {}):
        venue = may(message, "venue", dict, {})
        title = f"{may(venue, 'title', str, '')} {may(venue, 'address', str, '')}".strip()
        at = f"{place.get('latitude')}, {place.get('longitude')}"
        return f"[location {title + ': ' if title else ''}{at}]"
    if contact := may(message, "contact", dict, {}):
        name = f"{may(contact, 'first_name', str, '')} {may(contact, 'last_name', str, '')}".strip()
        return f"[contact {name} {may(contact, 'phone_number', str, '')}]"
    if poll := may(message, "poll", dict, {}):
        options = [need(option, "text", str) for option in may(poll, "options", list, []) if isinstance(option, dict)]
        return f"[poll {may(poll, 'question', str, '')}: {' / '.join(options)}]"
    return ""


def _quoted(message: Table, bot: Bot) -> dict[str, str] | None:
    quoted = may(message, "reply_to_message", dict, {})
    if not quoted or "forum_topic_created" in quoted:  # each message of a forum's topic "replies" to its creation
        return None
    text = may(may(message, "quote", dict, {}), "text", str, "") or _content(quoted)[0]
    return {
        "id": message_id(need(quoted, "message_id", int), bot),
        "sender_name": _author(quoted)[1],
        "text": text[:MAX_QUOTED],
    }


def without_lone_surrogates(text: str) -> str:
    """Text that UTF-8 can hold: pairs of surrogates become their character, lone ones ``\N{REPLACEMENT CHARACTER}``."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def cleaned(value: Any) -> Any:
    """The same for all strings of a JSON value."""
    if isinstance(value, str):
        return without_lone_surrogates(value)
    if isinstance(value, list):
        return [cleaned(one) for one in value]
    if isinstance(value, Mapping):
        return {without_lone_surrogates(key): cleaned(one) for key, one in value.items()}
    return value
