"""Status: what the house does now, read from its files alone, so that it is the same beside a host, within it (/status)
and without one.

Cheap in a house of a thousand groups: of a transcript only what lies behind the group's cursor is read, of a run's
record no more than that it is judged, unless it is not. Nothing is written, no lock is held for longer than a look.
Limits: what is told is a view of files that change meanwhile. Files that a person broke become findings, with what the
program falls back to; whether a run's container is really there only the engine knows.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from nanoclaw.config.senders import CLOSED, Senders, load_senders
from nanoclaw.config.settings import load_config
from nanoclaw.config.strict import FileProblems
from nanoclaw.errors import UserError
from nanoclaw.files import untrusted
from nanoclaw.files.atomic import BrokenFile, read_bytes, read_json, why_unreadable
from nanoclaw.files.locks import is_locked
from nanoclaw.models import Config, Group
from nanoclaw.paths import Home
from nanoclaw.runs.records import Records, Run
from nanoclaw.status.backlog import Backlog
from nanoclaw.stores.groups import load_all

T = TypeVar("T")
DISK_FLOOR = 50_000_000
"""Bytes: that of conditions.py, which a command does not load for this alone (it costs 0.1 s)."""
_JUDGED = b'\n "status": "judged"'
"""Of the record itself: what lies deeper is indented deeper, and a string holds no line break."""


@dataclass(frozen=True)
class RunStatus:
    """A run that is not judged. ``state``: starting, working, idle, ending, or "kill pending" (it was stopped, and is
    not seen dead yet). ``age``, ``output_age``, ``heartbeat_age``: seconds; None where there was none yet."""

    id: str
    container: str
    state: str
    age: float
    output_age: float | None
    heartbeat_age: float | None


@dataclass(frozen=True)
class GroupStatus:
    """``waiting``: messages that may wake the agent and are not handed to it, since Unix time ``since``. ``retry_at``:
    not before that Unix time; ``kept``: the retries are used up, the next message tries again. ``said``: the cause that
    the chat was told of. ``replies``, ``failed``: in the outbox. ``errands``: prompts that are no messages.
    ``problem``: its cursor cannot be read, or it is registered no more."""

    folder: str
    is_main: bool = False
    run: RunStatus | None = None
    waiting: int = 0
    since: float | None = None
    retry_at: float | None = None
    kept: bool = False
    said: str | None = None
    replies: int = 0
    failed: int = 0
    errands: int = 0
    problem: str | None = None

    @property
    def is_quiet(self) -> bool:
        return not (self.run or self.waiting or self.replies or self.failed or self.errands or self.problem)


@dataclass(frozen=True)
class Status:
    """``time``: of the look, Unix time in s. ``host``: host.json (``pid``, ``mode``, ``started``), None where none
    lives. ``channels``: channels.json. ``held``: held.json, None where nothing holds back all runs. ``problems``: what
    is wrong with files, one line each. ``disk_full``: there is no room for a run, and perhaps none to note it."""

    time: float
    host: dict[str, Any] | None
    channels: dict[str, dict[str, Any]]
    held: dict[str, Any] | None
    groups: list[GroupStatus] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    disk_full: bool = False


def gather(home: Home, now: float | None = None) -> Status:
    """Everything, at Unix time ``now`` (s; None: the clock's). Raises nothing for a file that is broken or absent."""
    now = time.time() if now is None else now
    problems: list[str] = []
    groups, refused = load_all(home)
    problems += map(str, refused)
    config = _loaded(load_config, home.config_file, Config(), problems)
    senders = _loaded(load_senders, home.sender_allowlist, CLOSED, problems)
    looks = _Looks(home, config, senders, now, problems)
    lives = host_lives(home)
    host, channels, held = (looks.file(f"{name}.json") for name in ("host", "channels", "held"))
    standing = {group.folder: group for group in groups}
    busy = {*looks.runs, *looks.replies, *looks.failed, *looks.errands} - {""}
    found = [looks.group(group) for group in groups]
    found += [looks.stranger(folder) for folder in sorted(busy - standing.keys())]
    shown = {name: state for name, state in channels.items() if isinstance(state, dict)} if lives else {}
    return Status(now, host if lives else None, shown, held or None, found, problems, _is_full(home.state))


def host_lives(home: Home) -> bool:
    """Does a process hold the home's lock?"""
    with suppress(OSError):
        return is_locked(home.state)
    return False


def _is_full(state: Path) -> bool:
    with suppress(OSError):
        return shutil.disk_usage(state).free < DISK_FLOOR
    return False


def _loaded(load: Callable[[Path], T], path: Path, otherwise: T, problems: list[str]) -> T:
    """What a person's file says, or what the program falls back to."""
    try:
        return load(path)
    except FileProblems as error:
        problems += map(str, error.problems)
        return otherwise


class _Looks:
    """One look at a home: what all groups share is read once."""

    def __init__(self, home: Home, config: Config, senders: Senders, now: float, problems: list[str]) -> None:
        self._home, self._now, self._problems = home, now, problems
        self._records = Records(home)
        self._backlog = Backlog(home, config, senders)
        self._chats = set(_names(home.messages))
        self.runs = dict(self._living())
        self.replies, self.failed = self._folders(home.outbox), self._folders(home.outbox / "failed")
        self.errands = self._folders(home.state / "errands")

    def group(self, group: Group) -> GroupStatus:
        status = {**self._shared(group.folder), "is_main": group.is_main}
        if self._home.chat(group.jid).name not in self._chats:
            return GroupStatus(**status)
        try:
            cursor, waiting = self._backlog.of(group)
        except (UserError, OSError) as error:
            return GroupStatus(**status, problem=why_unreadable(error))
        if waiting:
            with suppress(ValueError):
                status["since"] = datetime.fromisoformat(waiting[0].received).timestamp()
            if retry := cursor.retry:
                kept = retry.kept_through is not None and waiting[-1].seq <= retry.kept_through
                status |= {"kept": kept, "retry_at": None if retry.kept_through is not None else retry.not_before}
        return GroupStatus(**status, waiting=len(waiting), said=cursor.said[-1] if cursor.said else None)

    def stranger(self, folder: str) -> GroupStatus:
        """What is left of a group that is registered no more."""
        return GroupStatus(**self._shared(folder), problem="it is not registered")

    def file(self, name: str) -> dict[str, Any]:
        """A file of state/; {} where there is none, or none that can be read."""
        try:
            return read_json(self._home.state / name) or {}
        except (BrokenFile, OSError) as error:
            self._problems.append(why_unreadable(error))
            return {}

    def _shared(self, folder: str) -> dict[str, Any]:
        counts = {"replies": self.replies[folder], "failed": self.failed[folder], "errands": self.errands[folder]}
        return {"folder": folder, "run": self.runs.get(folder), **counts}

    def _folders(self, directory: Path) -> Counter[str]:
        """How many of a directory's files belong to each group."""
        found: Counter[str] = Counter()
        for name in _names(directory):
            if not name.startswith(".") and name.endswith(".json"):
                try:
                    found[str((read_json(directory / name) or {}).get("folder", ""))] += 1
                except (BrokenFile, OSError) as error:
                    self._problems.append(why_unreadable(error))
        return found

    def _living(self) -> Iterator[tuple[str, RunStatus]]:
        """The runs that are not judged, with their group; of several the newest last."""
        for run_id in sorted(name for name in _names(self._home.runs) if not name.startswith(".")):
            try:
                if _JUDGED not in read_bytes(self._records.path(run_id) / "run.json"):
                    run = self._records.load(run_id)
                    if run.status != "judged":
                        yield run.folder, self._run(run)
            except FileNotFoundError:
                continue  # being removed
            except (UserError, OSError, LookupError, TypeError, ValueError) as error:
                self._problems.append(f"runs/{run_id}: {why_unreadable(error)}")

    def _run(self, run: Run) -> RunStatus:
        directory = self._records.path(run.id)
        names = {"prepared": "starting", "started": "idle" if run.idle else "working", "ended": "ending"}
        state = "kill pending" if (directory / "stop").exists() else names.get(run.status, run.status)
        begun = datetime.fromisoformat(run.created).timestamp()
        output = self._age(directory, f"{run.accepted_through:06d}.json") if run.accepted_through else None
        age = max(0.0, self._now - begun)
        return RunStatus(run.id, run.container, state, age, output, self._age(directory, "heartbeat"))

    def _age(self, directory: Path, name: str) -> float | None:
        """Seconds since a file of a run's out/ was written: a container's word, and its clock."""
        try:
            with untrusted.directory(directory / "out") as fd:
                return max(0.0, self._now - os.stat(name, dir_fd=fd, follow_symlinks=False).st_mtime)
        except (OSError, untrusted.Refused):
            return None


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
