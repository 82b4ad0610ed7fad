"""What the commands that look and ask have in common: which group is meant, how a time and a foreign text are shown,
and how the host is asked for something.

A living host is the one writer of its files, so a command that changes them writes a request; where no host lives, the
command holds the home's lock and carries the request out itself.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from nanoclaw.config.settings import load_config
from nanoclaw.config.values import system_timezone
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import read_json, write_json
from nanoclaw.files.locks import LOOK_SECONDS, HomeLock
from nanoclaw.models import Group
from nanoclaw.paths import Home, check_folder
from nanoclaw.stores import refused
from nanoclaw.stores.settings import Settings

ANSWER_SECONDS = 10.0
_ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys instead of showing it: control characters, and those that turn the direction of writing."""


def choose(settings: Settings, folder: str | None) -> Group:
    """The group that is meant: the named one, else main, else the only one. Raises UserError."""
    groups = settings.groups
    problem = next((f" ({p})" for p in settings.problems if folder is None or p.path.endswith(f"/{folder}.toml")), "")
    if folder is not None:
        if folder not in groups:
            known = ", ".join(sorted(groups)) or "none"
            fix = f"Registered: {known}. A group is a file state/groups/{folder}.toml."
            raise UserError(f"No group {folder!r} is registered{problem}.", fix)
        return groups[folder]
    main = [group for group in groups.values() if group.is_main]
    if main or len(groups) == 1:
        return (main or list(groups.values()))[0]
    if groups:
        raise UserError("There is no main group.", f"Name one: {' | '.join(sorted(groups))}")
    fix = 'Write state/groups/main.toml with the lines: jid = "local:main" and is_main = true'
    raise UserError(f"No group is registered{problem}.", fix)


def printable(text: str) -> str:
    """A text of somebody else's hand: control characters are shown, not obeyed (lines and tabs stay)."""
    return _ACTS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def clock(home: Home) -> Callable[[str | float | None], str]:
    """Shows a time (ISO 8601, or Unix time in s) in the configured zone; what is none as it came, None as ""."""
    try:
        zone = ZoneInfo(load_config(home.config_file).timezone)
    except UserError:
        zone = ZoneInfo(system_timezone())

    def shown(when: str | float | None) -> str:
        try:
            moment = (
                datetime.fromtimestamp(when, UTC) if isinstance(when, float) else datetime.fromisoformat(when or "")
            )
            moment = moment.astimezone(zone) if moment.tzinfo else moment
        except (ValueError, OverflowError):
            return printable(str(when or ""))
        return moment.strftime("%Y-%m-%d %H:%M:%S")

    return shown


def ask(home: Home, folder: str, request: dict[str, Any]) -> dict[str, Any]:
    """Let the host carry out a request for a group, or do so where none lives; returns the answer.

    UserError: it was refused, or no host answered within ``ANSWER_SECONDS`` (the request stays then).
    """
    from nanoclaw.ipc import scripts  # before the lock: a host that starts meanwhile shall not find it held for long

    directory = home.ipc / check_folder(folder)
    name = f"cli-{uuid.uuid4()}.json"
    path, answer = directory / "tasks" / name, directory / "answers" / name
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_json(path, request)
    deadline = time.monotonic() + ANSWER_SECONDS
    while (value := _taken(answer)) is None:
        if time.monotonic() > deadline:
            raise UserError(f"No host answered within {ANSWER_SECONDS:g} s.", _what_becomes_of(path))
        alone = with_lock(home, lambda: scripts.handle_one(home, folder) if path.exists() else None)
        if alone and not answer.exists():
            time.sleep(LOOK_SECONDS)  # a host took it and died; the next one answers
    if value.get("ok") is not True:
        if kept := value.get("kept"):
            with suppress(UserError):  # the person is told here and now: nothing to put back
                refused.drop(home, Path(str(kept)).name)
        raise UserError(str(value.get("error") or "The host refused the request."))
    return value


def with_lock(home: Home, act: Callable[[], object]) -> bool:
    """Act while this process holds the home's lock; False, after a moment, where a host lives."""
    lock = HomeLock(home.state)
    if not lock.acquire():
        return False
    try:
        act()
    finally:
        lock.release()
    return True


def _taken(answer: Path) -> dict[str, Any] | None:
    value = read_json(answer)
    if value is not None:
        answer.unlink(missing_ok=True)
    return value


def _what_becomes_of(path: Path) -> str:
    if path.exists():
        return f"The request stays at {path} and will be carried out; delete it if it shall not."
    return "It took the request, so it may have been carried out; look before you ask again."
