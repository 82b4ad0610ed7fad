"""The walk of ``setup`` to the first Telegram chat: make a bot, store its token, see who writes to it first.

It never confirms an update: what is written meanwhile, the host reads as its first message. It never takes a chat as
main without the person's word, for anybody may write to a bot first. The token stands in no text that is shown.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from nanoclaw.config.env import load_environment
from nanoclaw.config.settings import load_config
from nanoclaw.config.values import CONTROL
from nanoclaw.errors import UserError
from nanoclaw.files.home_lock import HomeLock

if TYPE_CHECKING:
    from nanoclaw.commands.setup import Setup

API = "https://api.telegram.org"
TOKEN = "TELEGRAM_BOT_TOKEN"
FIRST_MESSAGE_SECONDS = 300.0
POLL_SECONDS = 20
CONNECT_SECONDS = 10.0
EXPLANATION = """\
A Telegram bot takes a minute:
  1. In Telegram, write /newbot to @BotFather; choose a name, and a user name that ends in "bot".
  2. For groups: write /setprivacy to @BotFather and choose Disable, else the bot sees only what begins with /.
  3. @BotFather answers with the bot's token. Paste it here; it is not shown."""
BY_HAND = "Write /chatid to the bot while the host runs: it answers with the command that registers the chat."


class _Refused(Exception):
    """The Bot API's or the network's answer in a few words, without the token."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def walk(setup: Setup) -> tuple[str, str] | None:
    """Put the channel in service; returns the JID and name of the chat that is to be main, None: none was chosen.
    UserError: no token that Telegram knows."""
    settings = load_config(setup.home.config_file).channels.get("telegram")
    url = os.environ.get("TELEGRAM_API_URL") or (settings or {}).get("api_url") or API
    token, bot = _token(setup, url)
    if settings is None:
        import tomlkit

        table = tomlkit.inline_table()
        table.update({} if url == API else {"api_url": url})
        setup.set_config("telegram", table)
    if setup.yes:
        setup.say(f"@{bot}: {BY_HAND}")
        return None
    lock = HomeLock(setup.home.state)
    if not lock.acquire():
        setup.say(f"A host runs already. {BY_HAND}")
        return None
    lock.release()
    found = _first_chat(setup, url, token, bot)
    if found is None:
        setup.say(BY_HAND)
        return None
    sender, name = found
    owners = load_config(setup.home.config_file).owners
    if sender not in owners:
        setup.set_config("owners", [*owners, sender])
    return f"tg:{sender}", name


def _token(setup: Setup, url: str) -> tuple[str, str]:
    """A token that works, stored, and the user name of its bot."""
    stored = load_environment(setup.home.env_file).secrets.get(TOKEN, "")
    token = "" if setup.force else stored
    if token:
        setup.note_kept(setup.home.env_file, "it holds the bot's token; --force replaces it")
    token = token or setup.secret_of_environment(TOKEN) or stored * setup.yes
    while True:
        if not token and setup.yes:
            raise UserError(f"There is no token for Telegram: ${TOKEN} is not set.", "Set it, or use --chat local.")
        if not token:
            setup.say(EXPLANATION)
            token = setup.secret("Token:")
            continue
        try:
            me = _call(url, token, "getMe")
            bot = _shown(me.get("username") if isinstance(me, dict) else "")
            break
        except _Refused as refused:
            unknown = refused.code in (401, 404)
            problem = "Telegram does not know this token" if unknown else f"Telegram cannot be asked: {refused}"
            if setup.yes or not unknown:
                raise UserError(f"{problem}.", "Run setup again when that is mended.") from None
            setup.say(f"{problem}.")
            token = ""
    if token != stored:
        setup.put_secret(TOKEN, token)
    return token, bot


def _first_chat(setup: Setup, url: str, token: str, bot: str) -> tuple[str, str] | None:
    """The id and the name of the person whose private chat with the bot is to be main."""
    setup.say(f"Now write anything to @{bot} in Telegram (waiting for {FIRST_MESSAGE_SECONDS / 60:g} minutes) ...")
    seen: set[str] = set()
    deadline, pause = time.monotonic() + FIRST_MESSAGE_SECONDS, threading.Event()
    while (left := deadline - time.monotonic()) > 0:
        try:
            updates = _call(url, token, "getUpdates", timeout=int(min(left, POLL_SECONDS)), allowed_updates=["message"])
        except _Refused as refused:
            if refused.code == 409:
                setup.say(f"{refused}. Stop what else reads this bot's messages (or its webhook), or make another bot.")
                return None
            updates = []
        fresh = [person for person in map(_person, updates) if person and person[0] not in seen]
        for sender, name in fresh:
            seen.add(sender)
            if setup.confirm(
                f"{name} (tg:{sender}) wrote. Is that you, to be the owner, with this chat as main?", yes=False
            ):
                return sender, name
        if not fresh:
            pause.wait(min(1.0, left))  # what is not confirmed comes again at once
    setup.say("Nobody wrote.")
    return None


def _person(update: Any) -> tuple[str, str] | None:
    """Who wrote a message in a private chat."""
    try:
        message = update["message"]
        if message["chat"]["type"] != "private" or message["from"]["is_bot"]:
            return None
        person = message["from"]
        name = _shown(" ".join(str(person.get(key) or "") for key in ("first_name", "last_name")))
        return str(int(person["id"])), name or "Main"
    except (KeyError, TypeError, ValueError):
        return None


def _shown(text: object) -> str:
    """What a stranger chose, fit for a terminal and for a settings file."""
    return CONTROL.sub("", str(text or "")).encode("utf-8", "replace").decode().strip()[:100]


def _call(url: str, token: str, method: str, **parameters: Any) -> Any:
    """``result`` of a method of the Bot API; raises _Refused."""
    import requests

    try:
        wait = (CONNECT_SECONDS, parameters.get("timeout", 0) + CONNECT_SECONDS)
        answer = requests.post(f"{url}/bot{token}/{method}", json=parameters, timeout=wait)
        body = answer.json()
    except (requests.RequestException, ValueError) as error:  # its text holds the URL, and that the token
        raise _Refused(0, type(error).__name__) from None
    if not isinstance(body, dict) or not body.get("ok"):
        description = body.get("description") if isinstance(body, dict) else ""
        raise _Refused(answer.status_code, _shown(description) or f"status {answer.status_code}")
    return body.get("result")
