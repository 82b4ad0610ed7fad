"""``sessions``: the conversation that each group's agent goes on with, and ending one."""

from __future__ import annotations

import argparse
from typing import Any

from nanoclaw.commands.asking import ask, choose, clock, printable
from nanoclaw.commands.output import Result, table
from nanoclaw.files.atomic import BrokenFile
from nanoclaw.files.locks import Locks
from nanoclaw.paths import Home
from nanoclaw.stores.sessions import Sessions
from nanoclaw.stores.settings import Settings


def list_sessions(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: one object a group: ``folder``, ``session`` (null: the next run begins one), ``anchor``, ``changed``
    (Unix time in s), or ``problem``."""
    sessions = Sessions(home, Locks())
    found = [_session(home, sessions, folder) for folder in sorted(Settings(home).groups)]
    shown = clock(home)
    rows = [
        [one["folder"], printable(one.get("session") or "none"), one.get("anchor"), shown(one.get("changed"))]
        for one in found
        if "problem" not in one
    ]
    problems = [one["problem"] for one in found if "problem" in one]
    text = table(rows, ("GROUP", "SESSION", "RESUMED AT", "CHANGED"))
    return Result(found, "\n".join([*([text] if text else []), *problems]) or "No group is registered.")


def _session(home: Home, sessions: Sessions, folder: str) -> dict[str, Any]:
    try:
        session = sessions.get(folder)
        changed = (home.sessions / f"{folder}.json").stat().st_mtime if session else None
    except (BrokenFile, OSError) as error:
        return {"folder": folder, "problem": str(error)}
    if session is None:
        return {"folder": folder, "session": None, "anchor": None, "changed": None}
    return {"folder": folder, "session": session.id, "anchor": session.anchor, "changed": changed}


def clear(home: Home, arguments: argparse.Namespace) -> Result:
    """Ask for a fresh session. The value: ``{"folder"}``."""
    folder = choose(Settings(home), arguments.folder).folder
    ask(home, folder, {"type": "clear_session", "folder": folder})
    return Result({"folder": folder}, f"The next message to {folder} begins a fresh conversation.")
