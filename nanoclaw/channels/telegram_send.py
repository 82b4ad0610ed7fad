"""What goes to Telegram, and the files that are fetched from it. Any thread.

Limit: the Bot API has no idempotency key, so a message whose sending was cut off after Telegram took it arrives twice
when it is tried again. Such a failure is called uncertain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nanoclaw.channels.base import FetchFailed, Outgoing, SendFailed
from nanoclaw.channels.telegram_api import MAX_DOWNLOAD, Api, TelegramError
from nanoclaw.channels.telegram_messages import without_lone_surrogates
from nanoclaw.channels.text import to_html

MAX_CAPTION = 1024
"""UTF-16 units."""
MAX_FILE = 50_000_000
"""Bytes that a bot may send."""
MAX_PHOTO = 10_000_000
"""Bytes; a larger picture goes as a file."""
TOKEN_CURE = "put the token that @BotFather gives for your bot into .env as TELEGRAM_BOT_TOKEN"


class Sender:
    """Sends for one bot. ``token_problem``: why nothing can be sent, "" where it can."""

    def __init__(self, api: Api, token_problem: str) -> None:
        self._api = api
        self._token_problem = token_problem

    def send(self, message: Outgoing) -> str:
        """The platform's id of the message; raises SendFailed."""
        chat = _chat(message.jid)
        if self._token_problem:
            raise SendFailed(f"{self._token_problem}: {TOKEN_CURE}")
        parameters: dict[str, Any] = {"chat_id": chat}
        if chat < 0 and (quote := re.fullmatch(r"([0-9]{1,18})@[0-9]+", message.quote or "")):
            parameters["reply_parameters"] = {"message_id": int(quote[1]), "allow_sending_without_reply": True}
        text = without_lone_surrogates(message.text)
        try:
            if message.file is not None:
                return self._send_file(message, parameters, text)
            if not text.strip():
                raise SendFailed("the message is empty", permanent=True)
            return self._post("sendMessage", parameters, "text", text)
        except TelegramError as error:
            raise _send_failure(error) from None

    def _send_file(self, message: Outgoing, parameters: dict[str, Any], text: str) -> str:
        name, data = without_lone_surrogates(message.file_name), self._read(message)
        if name.lower().endswith((".jpg", ".jpeg", ".png")) and len(data) <= MAX_PHOTO:
            try:
                return self._post("sendPhoto", parameters, "caption", text, {"photo": (name, data)})
            except TelegramError as error:  # a picture that Telegram does not show, such as a very long one
                if error.code != 400 or not re.search("PHOTO|IMAGE", str(error)):
                    raise
        return self._post("sendDocument", parameters, "caption", text, {"document": (name, data)})

    def _read(self, message: Outgoing) -> bytes:
        assert message.file is not None
        try:
            if message.file.stat().st_size > MAX_FILE:
                raise SendFailed(f"{message.file_name} is larger than the 50 MB that a bot may send", permanent=True)
            return message.file.read_bytes()
        except OSError as error:
            gone = isinstance(error, FileNotFoundError)
            raise SendFailed(f"{message.file_name}: {error.strerror}", permanent=gone) from None

    def _post(
        self,
        method: str,
        parameters: Mapping[str, Any],
        field: str,
        text: str,
        files: Mapping[str, tuple[str, bytes]] | None = None,
    ) -> str:
        """Send ``text`` as HTML in ``field``, plain where Telegram cannot read that. Returns the message's id."""
        html = to_html(text)
        try:
            formatted = {field: html, "parse_mode": "HTML"} if html.strip() else {field: text}
            sent = self._api.call(method, {**parameters, **formatted}, files)
        except TelegramError as error:
            if error.code != 400 or not re.search("can't parse entities|empty", str(error)):
                raise
            sent = self._api.call(method, {**parameters, field: text}, files)
        return str(sent.get("message_id", "")) if isinstance(sent, dict) else ""

    def typing(self, jid: str) -> None:
        """Show that an answer is being written; fails silently."""
        try:
            self._api.call("sendChatAction", {"chat_id": _chat(jid), "action": "typing"}, read=3.0)
        except (TelegramError, SendFailed):
            return

    def fetch(self, attachment: Mapping[str, Any]) -> Iterator[bytes]:
        """The content of an attachment, in pieces; raises FetchFailed."""
        too_large = FetchFailed("it is larger than the 20 MB that Telegram gives to bots", permanent=True)
        if (attachment.get("size") or 0) > MAX_DOWNLOAD:
            raise too_large
        try:
            found = self._api.call("getFile", {"file_id": attachment.get("id")})
        except TelegramError as error:
            if "too big" in str(error):
                raise too_large from None
            raise FetchFailed(str(error), permanent=error.code in (400, 403)) from None
        path = found.get("file_path") if isinstance(found, dict) else None
        if not isinstance(path, str):
            raise FetchFailed("Telegram names no place to fetch it from", permanent=True)
        read = 0
        try:
            for piece in self._api.download(path):
                read += len(piece)
                if read > MAX_DOWNLOAD:
                    raise too_large
                yield piece
        except TelegramError as error:
            raise FetchFailed(str(error), permanent=400 <= error.code < 429) from None


def _chat(jid: str) -> int:
    number = jid.removeprefix("tg:")
    if not re.fullmatch(r"-?[0-9]{1,18}", number):
        raise SendFailed(f"{jid} is not an address of Telegram (tg:NUMBER)", permanent=True)
    return int(number)


def _send_failure(error: TelegramError) -> SendFailed:
    if error.migrated_to is not None:
        cure = f"the group's address has changed: set its jid to tg:{error.migrated_to}"
        return SendFailed(f"{error}; {cure}", permanent=True)
    if error.code in (401, 404):
        return SendFailed(f"{error}: {TOKEN_CURE}")
    permanent = error.code in (400, 403, 413)
    return SendFailed(str(error), permanent, error.retry_after, error.uncertain)
