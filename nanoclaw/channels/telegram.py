"""The Telegram channel: a bot, asked for its messages by long polling, on one thread.

Limits: a bot sees no message that was written before it came into a group, and in groups only those that its privacy
mode lets through (BotFather: /setprivacy). Telegram keeps what was not asked for 24 hours.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nanoclaw.channels.base import Connection, Deliver, FetchFailed, Limits, Outgoing, State
from nanoclaw.channels.telegram_api import Api, TelegramError
from nanoclaw.channels.telegram_messages import (
    Bot,
    Malformed,
    asks_chat_id,
    chat_id_answer,
    cleaned,
    may,
    need,
    parse,
)
from nanoclaw.channels.telegram_send import MAX_CAPTION, MAX_FILE, TOKEN_CURE, Sender
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import JsonFile
from nanoclaw.models import Message

log = logging.getLogger("nanoclaw")

POLL_SECONDS = 25
FIRST_PAUSE, LONGEST_PAUSE, SIGN_IN_PAUSE = 1.0, 30.0, 60.0
"""Seconds until the next try: doubled from the first to the longest; until a refused token is looked at again."""


class TelegramChannel:
    """See ``Channel``. JIDs are ``tg:<chat id>``; a sender is the number of its user."""

    prefix = "tg:"
    takes_keys = False
    limits = Limits(text=4096, typing=5.0, file=MAX_FILE, caption=MAX_CAPTION)

    def __init__(self, connection: Connection) -> None:
        token = connection.secrets.get("TELEGRAM_BOT_TOKEN", "").strip()
        self._token_problem = ""
        if not Api.is_token(token):
            self._token_problem = "this is no bot's token" if token else "no token"
        self._url = connection.settings.get("api_url", "https://api.telegram.org")
        self._api = Api(self._url, "none" if self._token_problem else token)
        self._sender = Sender(self._api, self._token_problem)
        self._file = JsonFile(connection.state_file)
        self._state = State("connecting")
        self._told: str | None = None
        self.caught_up = False
        self._failures = 0
        self._held_up = 0
        self._bot: Bot | None = None
        self._offset: int | None = None
        self._stopped = threading.Event()
        self._polling = False
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> State:
        return self._state

    # Receiving, all on one thread

    def start(self, deliver: Deliver, changed: Callable[[State], None]) -> None:
        self._deliver, self._changed = deliver, changed
        self._thread = threading.Thread(target=self._run, name="telegram", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """A poll that runs is abandoned: what it brings is not confirmed, so it comes again."""
        self._stopped.set()
        if self._thread is not None and not self._polling:
            self._thread.join(1.5)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                pause = self._guarded_turn()
            except Exception:
                log.exception("Telegram held up by a bug")
                pause = LONGEST_PAUSE
            self._stopped.wait(pause)

    def _guarded_turn(self) -> float:
        try:
            return self._turn()
        except TelegramError as error:
            return self._failed(error)

    def _turn(self) -> float:
        """One poll and what it brought. Returns the seconds to wait before the next; raises TelegramError."""
        if self._token_problem:
            raise TelegramError(self._token_problem, 401)
        if self._bot is None:
            self._sign_in()
        updates = self._poll()
        if self._stopped.is_set():
            return 0.0
        self._failures = 0
        self._set(State("connected"))
        before, stored = self._offset, True
        for update in updates:
            stored = self._take(update)
            if not stored or self._stopped.is_set():
                break
        if self._offset != before:
            self._keep_offset()
        self.caught_up = self.caught_up or not updates
        if not stored or (updates and self._offset == before):
            self._held_up += 1
            return _pause(self._held_up)
        self._held_up = 0
        return 0.0

    def _sign_in(self) -> None:
        me = self._api.call("getMe", {})
        try:
            bot = Bot(need(me, "id", int), need(me, "username", str)) if isinstance(me, dict) else None
        except Malformed:
            bot = None
        if bot is None:
            raise TelegramError("the answer to getMe has another shape")
        try:
            kept = self._file.read() or {}
        except (OSError, UserError) as error:
            log.warning("Telegram starts without its offset: %s", error)
            kept = {}
        offset, same = kept.get("offset"), (kept.get("bot"), kept.get("api_url")) == (bot.id, self._url)
        self._offset = offset if same and type(offset) is int else None
        self._bot = bot

    def _poll(self) -> list[Any]:
        # The first poll returns at once, so that the state is known; after a conflict only a whole one proves that
        # nobody else polls.
        timeout = POLL_SECONDS if self._state.name in ("connected", "error") else 0
        parameters = {"timeout": timeout, "allowed_updates": ["message"]}
        if self._offset is not None:
            parameters["offset"] = self._offset
        self._polling = True
        try:
            updates = self._api.call("getUpdates", parameters, read=timeout + 15)
        finally:
            self._polling = False
        if not isinstance(updates, list):
            raise TelegramError("the answer to getUpdates has another shape")
        return updates

    def _take(self, update: Any) -> bool:
        """Hand in one update. False: it must come again."""
        number = update.get("update_id") if isinstance(update, dict) else None
        if type(number) is not int:
            log.warning("Passed over a malformed update channel=telegram")
            return True
        try:
            found = self._read(cleaned(update))
        except FetchFailed as error:
            log.info("channel=telegram: %s", error)
            return False
        except Exception as error:  # whatever a stranger sent must not stop the others
            bug = not isinstance(error, Malformed | RecursionError)
            log.warning("Passed over a malformed update channel=telegram update=%d: %s", number, error, exc_info=bug)
            found = None
        try:
            if found is not None:
                self._deliver(*found)
        except Exception as error:
            bug = not isinstance(error, OSError | UserError | FetchFailed)
            if not self._held_up:
                text = "Message not stored, asked for again channel=telegram update=%d: %s"
                log.error(text, number, error, exc_info=bug)
            return False
        self._offset = number + 1  # they come in order; after a quiet week they begin anew at any number
        return True

    def _read(self, update: dict[str, Any]) -> tuple[Message, str] | None:
        """What an update brings for the host. Raises Malformed."""
        assert self._bot is not None
        message = may(update, "message", dict, {})  # absent: of a kind that an earlier program had asked for
        if not message or not asks_chat_id(message, self._bot):
            return parse(message, self._bot) if message else None
        chat, answer = chat_id_answer(message)
        try:
            self._api.call("sendMessage", {"chat_id": chat, "text": answer}, read=10.0)
        except TelegramError as error:
            if error.retry_after is not None:
                raise FetchFailed(f"/chatid is answered later: {error}") from None
            log.warning("/chatid not answered channel=telegram: %s", error)
        return None

    def _keep_offset(self) -> None:
        assert self._bot is not None
        try:
            self._file.write({"bot": self._bot.id, "api_url": self._url, "offset": self._offset})
        except (OSError, UserError) as error:
            # Harmless while we live; a restart gets some messages again, and the host knows them.
            log.warning("Telegram's offset not stored: %s", error)

    # How it stands

    def _failed(self, error: TelegramError) -> float:
        """Note why Telegram does not give us messages. Returns the seconds until the next try."""
        if self._stopped.is_set():
            return 0.0
        if error.code in (401, 404):  # 404: a token of another form
            self._bot = None
            self._set(State("sign-in needed", f"{error}: {TOKEN_CURE}"))
            return SIGN_IN_PAUSE
        if error.code == 409:
            cure = "another program polls this bot: are there two installations on one token? Stop one"
            if "webhook" in str(error):
                cure = "a webhook is set for this bot, so it cannot be polled: remove it (deleteWebhook)"
            self._set(State("error", cure))
        else:
            self._set(State("connecting", f"{error}; trying again"))
        self._failures += 1
        return _pause(self._failures) if error.retry_after is None else error.retry_after

    def _set(self, state: State) -> None:
        """Each change is told to the host; the log has one line an episode."""
        before, self._state = self._state, state
        if state.name != self._told and not (state.name == "connecting" and self._told not in (None, "connected")):
            if state.name == "connected":
                log.info("Connected channel=telegram bot=@%s", self._bot.name if self._bot else "")
            else:
                lost = before.name == "connected"
                log.warning("%s channel=telegram %s", "Connection closed" if lost else "Not connected", state.detail)
            self._told = state.name
        if state != before:
            self._changed(state)

    # Sending and fetching, from any thread

    def send(self, message: Outgoing) -> str | None:
        return self._sender.send(message) or None

    def typing(self, jid: str) -> None:
        self._sender.typing(jid)

    def fetch(self, attachment: Mapping[str, Any]) -> Iterator[bytes]:
        return self._sender.fetch(attachment)


def _pause(failures: int) -> float:
    """Seconds until the next try, after so many failures in a row."""
    return float(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures - 1, 10)))
