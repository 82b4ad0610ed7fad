"""Sessions: the agent SDK's session of each group and the anchor at which it is resumed. Delete a file: a fresh
session."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nanoclaw.files import untrusted
from nanoclaw.files.atomic import BrokenFile, read_json, write_json
from nanoclaw.files.locks import Locks
from nanoclaw.paths import Home, check_folder

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}")


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


def transcript_bytes(claude_home: Path, session: str) -> int | None:
    """The size in bytes of a session's transcript, ``projects/<directory>/<session>.jsonl``; None: there is none. The
    container writes all of it, the id too: nothing is opened but directories, and no link is followed."""
    if not _ID.fullmatch(session):
        return None
    with suppress(FileNotFoundError, untrusted.Refused), untrusted.directory(claude_home / "projects") as projects:
        for name, _status in untrusted.entries(projects):
            with suppress(OSError, untrusted.Refused), untrusted.directory(Path(name), within=projects) as at:
                found = os.stat(f"{session}.jsonl", dir_fd=at, follow_symlinks=False)
                if stat.S_ISREG(found.st_mode):
                    return found.st_size
    return None
