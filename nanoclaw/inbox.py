"""The inbox: a file dropped into ``state/inbox/<folder>/`` is a message to that group's agent.

``.txt`` and ``.md`` are the text; ``.json`` is an object with ``text`` and perhaps ``sender``, ``sender_name``,
``id``, ``timestamp``. The file goes when the message is safe in the transcript. What can never be a message is set
aside in ``state/ipc/errors/`` with the reason beside it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanoclaw.faults import reach
from nanoclaw.files import intake
from nanoclaw.models import Group, Message
from nanoclaw.paths import Home
from nanoclaw.rounds import Rounds
from nanoclaw.stores import aside
from nanoclaw.turns import HELD_UP_SECONDS, Turns

log = logging.getLogger("nanoclaw")

MESSAGE_BYTES = 1_000_000
AGAIN_SECONDS = 0.5
FIELDS = {"text", "sender", "sender_name", "id", "timestamp"}
SUFFIXES = (".txt", ".md", ".json")


class Inbox:
    """``turn`` takes what is ready. ``turns`` repeats it on a thread."""

    def __init__(
        self, home: Home, groups: Callable[[], dict[str, Group]], deliver: Callable[[Message, str], None]
    ) -> None:
        self._home = home
        self._groups = groups
        self._deliver = deliver
        self.turns = Turns("Inbox", lambda: self.turn(time.time()))
        self._rounds = Rounds(home.inbox)
        self._held_up: dict[str, set[object]] = {}

    def touched(self, path: str) -> None:
        """A path below state/inbox/ changed. Any thread."""
        self._rounds.touched(path)
        self.turns.poke()

    def turn(self, now: float) -> float:
        """Take every file that is ready at Unix time ``now``; returns the seconds after which to look again."""
        groups = self._groups()
        for folder in self._rounds.due(groups, now):
            try:
                if not self._take_all(groups[folder], now):
                    self._rounds.again(folder, now + AGAIN_SECONDS)
            except OSError as error:  # of one group: the others' files go on
                self._rounds.again(folder, now + HELD_UP_SECONDS)
                self._say_held_up(folder, error)
        return self._rounds.wait(now)

    def take_older(self, folder: str, moment: float) -> None:
        """Take what was dropped for a group (or for all: a name that is none) before a moment, Unix time in s."""
        groups = self._groups()
        for group in [groups[folder]] if folder in groups else groups.values():
            for path in self._dropped(self._home.inbox / group.folder):
                with suppress(OSError):
                    if path.lstat().st_mtime <= moment:
                        self._take(group, path, time.time())

    def _take_all(self, group: Group, now: float) -> bool:
        """False when a file must be looked at again soon. One that cannot be stored holds up those behind it, because
        messages keep their order; one that may not be read holds up nobody."""
        ready, fine = True, True
        for path in self._dropped(self._home.inbox / group.folder):
            try:
                ready = self._take(group, path, now) and ready
            except PermissionError as error:
                self._say_held_up(group.folder, error)
                self._rounds.again(group.folder, now + HELD_UP_SECONDS)
                fine = False
        if fine:
            self._held_up.pop(group.folder, None)
        return ready

    def _say_held_up(self, folder: str, error: OSError) -> None:
        """Once, until all is well again."""
        said, kind = self._held_up.setdefault(folder, set()), (error.errno, type(error))
        if kind not in said:
            said.add(kind)
            log.error("Inbox held up group=%s: %s", folder, error)

    def _dropped(self, directory: Path) -> list[Path]:
        """In the order of arrival."""
        try:
            names = [name for name in os.listdir(directory) if intake.is_candidate(name)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted((directory / name for name in names), key=_arrival)

    def _take(self, group: Group, path: Path, now: float) -> bool:
        """False when the file must be looked at again soon."""
        try:
            data, status = intake.read_settled(path, MESSAGE_BYTES, now)
            message = _parse(group, path.name, data, status, now)
        except intake.NotReady:
            return False
        except FileNotFoundError:
            return True
        except intake.Unusable as error:
            self._set_aside(group, path, str(error))
            return True
        self._deliver(message, group.name)
        reach("message-stored")
        path.unlink(missing_ok=True)
        return True

    def _set_aside(self, group: Group, path: Path, reason: str) -> None:
        came_from = path.relative_to(self._home.root).as_posix()
        log.error("Inbox file refused group=%s file=%s: %s", group.folder, path.name, reason)
        aside.put(self._home, "inbox", reason, came_from, move=path)


def _arrival(path: Path) -> tuple[int, str]:
    try:
        return (os.lstat(path).st_mtime_ns, path.name)
    except FileNotFoundError:
        return (0, path.name)


def _parse(group: Group, name: str, data: bytes, status: os.stat_result, now: float) -> Message:
    """Raises NotReady for JSON that may still be completed, Unusable for what can never be a message."""
    suffix = Path(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise intake.Unusable(f"expected a file that ends in {', '.join(SUFFIXES)}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise intake.Unusable("not UTF-8 text") from None
    if "\0" in text:
        raise intake.Unusable("binary, not text")
    fields = (
        _fields(text, 0 <= now - status.st_mtime < intake.EMPTY_SECONDS)
        if suffix == ".json"
        else {"text": text.rstrip("\r\n")}
    )
    if "timestamp" in fields and not _is_time(fields["timestamp"]):
        raise intake.Unusable(f"timestamp: expected ISO 8601 like 2026-12-24T18:00:00Z, found {fields['timestamp']!r}")
    if not fields["text"].strip():
        raise intake.Unusable("its text is empty")
    about = f"{name}\0{status.st_ino}\0{status.st_mtime_ns}\0{status.st_ctime_ns}"
    made = hashlib.sha256(about.encode("utf-8", "replace")).hexdigest()[:24]
    written = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Message(
        id=fields.get("id") or f"inbox-{made}",
        jid=group.jid,
        sender=fields.get("sender", "owner"),
        sender_name=fields.get("sender_name", fields.get("sender", "Owner")),
        text=fields["text"],
        timestamp=fields.get("timestamp", written),
        from_me=True,
    )


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
        return True
    except ValueError:
        return False


def _fields(text: str, young: bool) -> dict[str, str]:
    try:
        value: Any = json.loads(text)
    except ValueError as error:
        if young:
            raise intake.NotReady from None
        raise intake.Unusable(f"not valid JSON: {error}") from None
    except RecursionError:
        raise intake.Unusable("JSON nested too deeply") from None
    if not isinstance(value, dict):
        raise intake.Unusable('expected a JSON object like {"text": "hello"}')
    if unknown := sorted(set(value) - FIELDS):
        raise intake.Unusable(f"unknown field {unknown[0]!r}; expected {', '.join(sorted(FIELDS))}")
    for key, item in value.items():
        if not isinstance(item, str):
            raise intake.Unusable(f"{key}: expected a text, found {type(item).__name__}")
    if not value.get("text"):
        raise intake.Unusable('expected a "text"')
    return value
