"""``stop``, ``new``, ``compact``: what /stop, /new and /compact do in a chat, from a shell.

A stop is a file in state/ that a living host obeys before anything else; where none lives, the command holds the home's
lock and does what a host would do. What became of it is read from the journal.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from nanoclaw.commands.asking import ask, with_lock
from nanoclaw.commands.output import Result
from nanoclaw.errors import UserError
from nanoclaw.paths import Home
from nanoclaw.stores import registry

STOP_SECONDS = 15.0
"""A host takes a stop at once and confirms it within 2 s; one that says nothing for so long hangs."""
EVENT_KEYS = ("folder", "runs", "cancelled", "confirmed")


def stop(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: one object a group: ``folder``, ``runs``, ``cancelled`` (messages), ``confirmed``. Exit code 1 where a
    container is not seen dead yet."""
    from nanoclaw import stopping
    from nanoclaw.commands import (
        stop_alone,  # before the lock: a host that starts meanwhile shall not find it held for long
    )

    folder: str | None = arguments.folder
    if folder is not None:
        _check(home, folder)
    elif not home.state.is_dir():
        raise UserError(f"Nothing to stop: {home.state} is not there.", "Begin with: python3 nanoclaw.py setup")
    found: list[dict[str, Any]] = []
    before = _journals(home)
    file = stopping.ask_to_stop(home, folder or stopping.ALL, "command")

    def alone() -> None:
        if file.exists():
            found.extend(stop_alone.stop_without_host(home, folder))
            file.unlink(missing_ok=True)

    deadline = time.monotonic() + STOP_SECONDS
    while file.exists():
        if time.monotonic() > deadline:
            fix = f"It stays at {file} and is obeyed as soon as the host can; see: python3 nanoclaw.py status"
            raise UserError(f"The host did not take the stop within {STOP_SECONDS:g} s.", fix)
        with_lock(home, alone)
    found = found or [one for one in _stopped_since(home, before) if folder in (None, one["folder"])]
    if folder is None:
        found = [one for one in found if one["runs"] or one["cancelled"]]
        text = "Nothing was running, nothing waited."
    else:
        text = "The host took the stop, but its journal does not say what became of it."
    confirmed = all(one["confirmed"] is True for one in found) and (bool(found) or folder is None)
    return Result(found, "\n".join(map(_words, found)) or text, 0 if confirmed else 1)


def _check(home: Home, folder: str) -> None:
    """A stop works for a group whose file is broken, and for one that is gone while a run of it lives."""
    from nanoclaw.status import gather

    is_registered = folder in {path.stem for path in registry.files(home)}
    if not is_registered and all(one.folder != folder for one in gather(home).groups):
        registry.find(home, folder)  # says which there are


def _journals(home: Home) -> dict[Path, int]:
    """How long the journal's files are."""
    return {path: path.stat().st_size for path in home.logs.glob("journal-*.jsonl")}


def _stopped_since(home: Home, before: dict[Path, int]) -> list[dict[str, Any]]:
    """The ``stopped`` events that the journal got since ``before``, the last of each group."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(home.logs.glob("journal-*.jsonl")):
        with path.open("rb") as file:
            file.seek(before.get(path, 0), os.SEEK_SET)
            for line in file:
                if b'"event": "stopped"' in line:
                    with suppress(ValueError, KeyError):
                        event = json.loads(line)
                        found[event["folder"]] = {key: event[key] for key in EVENT_KEYS}
    return list(found.values())


def _words(one: dict[str, Any]) -> str:
    """What became of a stop, for one group."""
    folder, runs, cancelled = one["folder"], ", ".join(one["runs"]), one["cancelled"]
    messages = f"{cancelled} message{'' if cancelled == 1 else 's'} cancelled"
    if not runs:
        return f"{folder}: nothing was running; {messages}."
    if one["confirmed"] is True:
        return f"{folder}: stopped {runs} (confirmed dead), {messages}."
    pending = "It is cut off from the model, what it still says is discarded, and it is killed when the engine answers"
    return f"{folder}: the engine does not answer, kill pending: {runs}. {pending}; {messages}."


def new(home: Home, arguments: argparse.Namespace) -> Result:
    """Ask for a fresh session. The value: ``{"folder"}``."""
    folder = registry.choose(home, arguments.folder).folder
    ask(home, folder, {"type": "clear_session", "folder": folder})
    text = f"The next message to {folder} begins a fresh conversation; an agent at work finishes its turn first."
    return Result({"folder": folder}, text)


def compact(home: Home, arguments: argparse.Namespace) -> Result:
    """Ask for the conversation to be compacted. The value: ``{"folder"}``."""
    folder = registry.choose(home, arguments.folder).folder
    ask(home, folder, {"type": "compact", "folder": folder})
    return Result(
        {"folder": folder}, f"The conversation of {folder} is compacted as soon as a host has a place for it."
    )
