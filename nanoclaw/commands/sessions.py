"""``sessions``: the conversation that each group's agent goes on with, and ending one."""

from __future__ import annotations

import argparse
from typing import Any

from nanoclaw.commands.asking import ask, clock, listing
from nanoclaw.commands.output import Result
from nanoclaw.files.atomic import BrokenFile
from nanoclaw.files.locks import Locks
from nanoclaw.paths import Home
from nanoclaw.stores import registry
from nanoclaw.stores.sessions import Sessions


def list_sessions(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: one object a group: ``folder``, ``session`` (null: the next run begins one), ``anchor``, ``changed``
    (Unix time in s), or ``problem``."""
    sessions = Sessions(home, Locks())
    found = [_session(home, sessions, group.folder) for group in registry.load_all(home)[0]]
    shown = clock(home)

    def row(one: dict[str, Any]) -> list[object]:
        return [one["folder"], one["session"] or "none", one["anchor"], shown(one["changed"])]

    return listing(found, row, ("GROUP", "SESSION", "RESUMED AT", "CHANGED"), "No group is registered.")


def _session(home: Home, sessions: Sessions, folder: str) -> dict[str, Any]:
    try:
        session = sessions.get(folder)
        changed = (home.sessions / f"{folder}.json").stat().st_mtime if session else None
    except (BrokenFile, OSError) as error:
        return {"folder": folder, "problem": str(error)}
    known = {"session": session.id, "anchor": session.anchor} if session else {"session": None, "anchor": None}
    return {"folder": folder, **known, "changed": changed}


def clear(home: Home, arguments: argparse.Namespace) -> Result:
    """Ask for a fresh session. The value: ``{"folder"}``."""
    folder = registry.choose(home, arguments.folder).folder
    ask(home, folder, {"type": "clear_session", "folder": folder})
    return Result({"folder": folder}, f"The next message to {folder} begins a fresh conversation.")
