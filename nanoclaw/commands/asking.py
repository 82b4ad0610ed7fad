"""What the commands that look and ask have in common: how a list, a time and a foreign text are shown, how long a text
may be, and how the host is asked for something.

A living host is the one writer of its files, so a command that changes them writes a request; where no host lives, the
command holds the home's lock and carries the request out itself.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from nanoclaw.commands.output import Result, table
from nanoclaw.config.settings import load_config
from nanoclaw.config.values import system_timezone
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import read_json, write_json
from nanoclaw.files.home_lock import LOOK_SECONDS, HomeLock
from nanoclaw.paths import Home, check_folder
from nanoclaw.stores import refused

ANSWER_SECONDS = 10.0
POLL_SECONDS = 0.005
TEXT_BYTES = 900_000  # the inbox takes 1 MB of JSON
_ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys instead of showing it: control characters, and those that turn the direction of writing."""


def printable(text: str) -> str:
    """A text of somebody else's hand: control characters are shown, not obeyed (lines and tabs stay)."""
    return _ACTS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def listing(
    found: list[dict[str, Any]], row: Callable[[dict[str, Any]], Sequence[object]], head: Sequence[str], none: str
) -> Result:
    """A table of what was found; objects with a ``problem`` are lines below it. ``none``: said where nothing was."""
    rows = [row(one) for one in found if "problem" not in one]
    lines = [table(rows, head), *(one["problem"] for one in found if "problem" in one)]
    return Result(found, printable("\n".join(filter(None, lines))) or none)


def check_text(text: str) -> str:
    """A message as a person may send it. Raises UserError."""
    if not text.strip() or len(text.encode("utf-8", "replace")) > TEXT_BYTES:
        fix = "Put long texts into a file in the group's folder and name the file."
        raise UserError(f"A message has 1 to {TEXT_BYTES // 1000} kB of text.", fix)
    return text


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
    box = "messages" if request["type"] == "message" else "tasks"  # in the order of what scripts dropped there
    name = f"cli-{uuid.uuid4()}.json"
    path, answer = directory / box / name, directory / "answers" / name
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_json(path, request)
    deadline = time.monotonic() + ANSWER_SECONDS
    while (value := read_json(answer)) is None:
        if time.monotonic() > deadline:
            taken = "It took the request, so it may have been carried out; look before you ask again."
            stays = f"The request stays at {path} and will be carried out; delete it if it shall not."
            raise UserError(f"No host answered within {ANSWER_SECONDS:g} s.", stays if path.exists() else taken)
        alone = with_lock(home, lambda: scripts.handle_one(home, folder) if path.exists() else None)
        if alone and not answer.exists():
            time.sleep(LOOK_SECONDS)  # a host took it and died; the next one answers
    answer.unlink(missing_ok=True)
    if value.get("ok") is not True:
        if kept := value.get("kept"):
            with suppress(UserError):  # the person is told here and now: nothing to put back
                refused.drop(home, Path(str(kept)).name)
        raise UserError(str(value.get("error") or "The host refused the request."))
    return value


def with_lock(home: Home, act: Callable[[], object]) -> bool:
    """Act while this process holds the home's lock; False, after a moment, where a host lives."""
    lock = HomeLock(home.state)
    if not lock.acquire(patient=False):
        time.sleep(POLL_SECONDS)  # the answer is milliseconds away; a watch on its directory costs 40 ms to import
        return False
    try:
        act()
    finally:
        lock.release()
    return True
