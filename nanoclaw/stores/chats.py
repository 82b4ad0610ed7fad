"""Known chats: the metadata of every chat that ever wrote, so that it can be found and registered. Texts are not
kept here."""

from __future__ import annotations

from typing import Any

from nanoclaw.files.atomic import BrokenFile, JsonFile
from nanoclaw.files.locks import Locks
from nanoclaw.paths import Home

MOST = 2000
"""So many chats are known: strangers can make any number of them write to a bot. The longest silent one goes."""


class Chats:
    """state/chats.json: ``{jid: {"name", "channel", "first_seen", "last_seen"}}``."""

    def __init__(self, home: Home, locks: Locks) -> None:
        self._file = JsonFile(home.state / "chats.json")
        self._locks = locks

    def saw(self, jid: str, name: str, channel: str, when: str) -> bool:
        """Remember a chat, writing once an hour at most; True when it is new or has another name. Never in a message's
        way: a broken file is left."""
        with self._locks.hold("chats"):
            try:
                chats = self._file.read() or {}
                known = chats.get(jid)
                known = known if isinstance(known, dict) else {}
                if known.get("name") == name and _last_seen(known)[:13] == when[:13]:
                    return False
                others = {key: value for key, value in chats.items() if key != jid}
                while len(others) >= MOST:
                    others.pop(min(others, key=lambda key: _last_seen(others[key])))
                first = known.get("first_seen", when)
                seen = {"name": name, "channel": channel, "first_seen": first, "last_seen": when}
                self._file.write({**others, jid: seen})
                return known.get("name") != name
            except BrokenFile:
                return False

    def all(self) -> dict[str, dict[str, Any]]:
        """All known chats by JID, those that wrote last first; empty where the file is broken."""
        with self._locks.hold("chats"):
            try:
                chats = self._file.read() or {}
            except BrokenFile:
                return {}
        found = {jid: chat for jid, chat in chats.items() if isinstance(chat, dict)}
        return dict(sorted(found.items(), key=lambda pair: _last_seen(pair[1]), reverse=True))


def _last_seen(chat: Any) -> str:
    return str(chat.get("last_seen") or chat.get("first_seen") or "") if isinstance(chat, dict) else ""
