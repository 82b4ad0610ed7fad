"""Known chats: the metadata of every chat that ever wrote, so that it can be found and registered. Texts are not
kept here."""

from __future__ import annotations

from nanoclaw.files.atomic import BrokenFile, JsonFile
from nanoclaw.files.locks import Locks
from nanoclaw.paths import Home


class Chats:
    """state/chats.json: ``{jid: {"name", "channel", "first_seen", "last_sender"}}``."""

    def __init__(self, home: Home, locks: Locks) -> None:
        self._file = JsonFile(home.state / "chats.json")
        self._locks = locks

    def saw(self, jid: str, name: str, channel: str, when: str) -> None:
        """Remember a chat; writes only when it is new or its name changed. Never in a message's way: a broken file
        is left."""
        with self._locks.hold("config", "chats"):
            try:
                chats = self._file.read() or {}
                known = chats.get(jid)
                if isinstance(known, dict) and known.get("name") == name:
                    return
                first = known.get("first_seen", when) if isinstance(known, dict) else when
                self._file.write({**chats, jid: {"name": name, "channel": channel, "first_seen": first}})
            except BrokenFile:
                return
