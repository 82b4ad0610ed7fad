"""Sessions: the agent SDK's session of each group and the anchor at which it is resumed. Delete a file: a fresh
session."""

from __future__ import annotations

from contextlib import suppress
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
        if session is None and "not_from" in value:
            return None
        if not isinstance(session, str) or not (anchor is None or isinstance(anchor, str)):
            raise BrokenFile(path, 0, 'expected {"session": "…", "anchor": "…"}; delete the file for a fresh session')
        return Session(session, anchor)

    def put(self, folder: str, session: Session, run_id: str | None = None) -> None:
        """``run_id``: the run that reports it; it has no say in a session that was cleared while it lived."""
        path = self._home.sessions / f"{check_folder(folder)}.json"
        with self._locks.hold("cursor", folder):
            with suppress(BrokenFile):
                if run_id is not None and (read_json(path) or {}).get("not_from") == run_id:
                    return
            write_json(path, {"session": session.id, "anchor": session.anchor})

    def clear(self, folder: str, not_from: str | None = None) -> None:
        """The next run starts a fresh session. ``not_from``: a run that lives still."""
        path = self._home.sessions / f"{check_folder(folder)}.json"
        with self._locks.hold("cursor", folder):
            if not_from is not None:
                write_json(path, {"session": None, "not_from": not_from})
            else:
                path.unlink(missing_ok=True)
