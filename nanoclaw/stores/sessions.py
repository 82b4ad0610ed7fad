"""Sessions: the agent SDK's session of each group and the anchor at which it is resumed. Delete a file: a fresh
session."""

from __future__ import annotations

from dataclasses import dataclass

from nanoclaw.files.atomic import BrokenFile, read_json, write_json
from nanoclaw.files.locks import Locks
from nanoclaw.paths import Home, check_folder


@dataclass(frozen=True)
class Session:
    """``anchor`` is the uuid of the last assistant message of the main chain (``resume-session-at``)."""

    id: str
    anchor: str | None = None


class Sessions:
    """One small file a group, read afresh at the start of each run."""

    def __init__(self, home: Home, locks: Locks) -> None:
        self._home = home
        self._locks = locks

    def get(self, folder: str) -> Session | None:
        """Raises BrokenFile."""
        path = self._home.sessions / f"{check_folder(folder)}.json"
        with self._locks.hold("cursor", folder):
            value = read_json(path)
        if value is None:
            return None
        session, anchor = value.get("session"), value.get("anchor")
        if not isinstance(session, str) or not (anchor is None or isinstance(anchor, str)):
            raise BrokenFile(path, 0, 'expected {"session": "…", "anchor": "…"}; delete the file for a fresh session')
        return Session(session, anchor)

    def put(self, folder: str, session: Session) -> None:
        with self._locks.hold("cursor", folder):
            value = {"session": session.id, "anchor": session.anchor}
            write_json(self._home.sessions / f"{check_folder(folder)}.json", value)

    def clear(self, folder: str) -> None:
        """The next run starts a fresh session."""
        with self._locks.hold("cursor", folder):
            (self._home.sessions / f"{check_folder(folder)}.json").unlink(missing_ok=True)
