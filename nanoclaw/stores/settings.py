"""Settings in force: config.toml, groups/*.toml, .env and the sender allowlist as they stand now, or as they last stood
when they were right.

A file that became wrong changes nothing: the last good content stays in force, and the problem is logged once per
change and kept for doctor. One bad group does not stop the others. Only the very first reading of config.toml raises.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from nanoclaw.config.env import load_environment
from nanoclaw.config.senders import CLOSED, Senders, load_senders
from nanoclaw.config.settings import check_groups, load_config, load_group
from nanoclaw.config.strict import FileProblems
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import SETTLE_SECONDS
from nanoclaw.files.stamps import Stamp, stamp_of
from nanoclaw.models import Config, Environment, Group, Problem
from nanoclaw.paths import Home

log = logging.getLogger("nanoclaw")
FRESH_SECONDS = 0.1
"""A directory that changed less than this ago may change again within the same tick of the file system's clock."""

T = TypeVar("T")


class Settings:
    """Thread-safe: readers take the attributes, which are replaced whole; ``refresh`` is called by the dispatcher."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._stamps: dict[Path, Stamp] = {}
        self._odd: dict[Path, float] = {}
        self._paths: dict[str, Path] = {}
        self._directory: Stamp = None
        self._good: dict[str, Group] = {}
        self._problems: dict[Path, tuple[Problem, ...]] = {}
        self._environment = Environment()
        self.config: Config = load_config(home.config_file)
        self._stamps[home.config_file] = stamp_of(home.config_file)
        self.groups: dict[str, Group] = {}
        self.senders: Senders = CLOSED
        self.unsettled = self._odd_now = True
        """True while a file looks half-saved: refresh again after SETTLE_SECONDS."""
        self.refresh()

    @property
    def problems(self) -> list[Problem]:
        """What is wrong with the files as they stand."""
        return [problem for problems in list(self._problems.values()) for problem in problems]

    @property
    def environment(self) -> Environment:
        """.env as it stands now: looked at on every call (one stat), because the gateway asks for each model call."""
        with self._lock:
            self._environment = self._now(self._home.env_file, load_environment, self._environment)
            return self._environment

    def group_of(self, jid: str) -> Group | None:
        """The group that is registered for a chat."""
        return next((group for group in self.groups.values() if group.jid == jid), None)

    def refresh(self, folder: str | None = None) -> bool:
        """Read what changed; True if something in force is different now. ``folder``: of the groups' files only this
        one is looked at, unless one came, went or was replaced whole: a message shall not cost more the more groups
        there are. Who needs to know that another one was edited in place names none."""
        with self._lock:
            only = None if self.unsettled else folder
            self._odd_now = False
            before = (self.config, self.groups, self.senders)
            self.config = self._now(self._home.config_file, load_config, self.config)
            self._environment = self._now(self._home.env_file, load_environment, self._environment)
            path = self._home.sender_allowlist
            if self._changed(path):
                self.senders = self._load(path, load_senders, self.senders.narrowed())
            self._refresh_groups(only)
            self.unsettled = self._odd_now  # in one step: others look at it without the lock
            return before != (self.config, self.groups, self.senders)

    def _refresh_groups(self, only: str | None) -> None:
        directory = stamp_of(self._home.group_files)
        if only is not None and directory is not None and directory == self._directory:
            files = {only: self._file_of(only)} if only in self._good else {}
        else:
            fresh = directory is not None and abs(time.time() - directory[1] / 1e9) < FRESH_SECONDS
            self._directory = None if fresh else directory
            files = {folder: self._file_of(folder) for folder in {*self._good, *self._saved()}}
            for path in [p for p in self._problems if p.parent == self._home.group_files and p.stem not in files]:
                del self._problems[path]
                self._stamps.pop(path, None)
        touched = False
        for folder, path in files.items():
            if not self._changed(path):
                continue
            touched = True
            if self._stamps[path] is None:
                self._good.pop(folder, None)
                self._problems.pop(path, None)
            elif (group := self._load(path, load_group, self._good.get(folder))) is not None:
                self._good[folder] = group
        if touched:
            self._settle(list(self._good.values()))

    def _settle(self, groups: list[Group]) -> None:
        """Put those in force that can stand side by side. One whose change cannot stays as it was."""
        established = {path.stem for path in self._home.cursors.glob("*.json")} | set(self.groups)
        before = list(self.groups.values())
        refused = check_groups(groups, self._home.group_files, established, before)
        for _, problem in refused:
            log.error("Group refused: %s", problem)
        self._problems[self._home.group_files] = tuple(problem for _, problem in refused)
        outside = {group.folder for group, _ in refused}
        standing = [group for group in groups if group.folder not in outside]
        standing += [group for group in before if group.folder in outside]
        still = {group for group, _ in check_groups(standing, self._home.group_files, established, before)}
        self.groups = {g.folder: g for g in sorted(standing, key=lambda g: g.folder) if g not in still}

    def _saved(self) -> list[str]:
        try:
            names = os.listdir(self._home.group_files)
        except FileNotFoundError:
            return []
        return [name.removesuffix(".toml") for name in names if name.endswith(".toml") and not name.startswith(".")]

    def _file_of(self, folder: str) -> Path:
        """Each message looks at all of them, so a Path is made only once."""
        path = self._paths.get(folder)
        if path is None:
            path = self._paths[folder] = self._home.group_files / f"{folder}.toml"
        return path

    def _now(self, path: Path, load: Callable[[Path], T], last: T) -> T:
        return self._load(path, load, last) if self._changed(path) else last

    def _load(self, path: Path, load: Callable[[Path], T], last_good: T) -> T:
        try:
            value = load(path)
        except UserError as error:
            if self._half_saved(path):
                self._stamps.pop(path, None)
                self._odd_now = True
                return last_good
            problems = error.problems if isinstance(error, FileProblems) else (Problem(str(path), 0, error.problem),)
            self._problems[path] = problems
            narrowed = isinstance(last_good, Senders)
            good = "whom the allowlist does not name must wait" if narrowed else "the last good ones stay in force"
            for problem in problems:
                log.error("Settings refused, %s: %s", good, problem)
            return last_good
        if self._problems.pop(path, None):
            log.info("Settings are right again: %s", path)
        return value

    def _changed(self, path: Path) -> bool:
        stamp = stamp_of(path)
        if path in self._stamps and self._stamps[path] == stamp:
            self._odd.pop(path, None)
            return False
        if self._stamps.get(path) is not None and (stamp is None or stamp[2] == 0):
            # Editors empty a file, or move it away, in the midst of a save: believed when it stays so.
            since = self._odd.setdefault(path, time.monotonic())
            if time.monotonic() - since < SETTLE_SECONDS:
                self._odd_now = True
                return False
        self._odd.pop(path, None)
        self._stamps[path] = stamp
        return True

    def _half_saved(self, path: Path) -> bool:
        try:
            return 0 <= time.time() - os.stat(path).st_mtime < SETTLE_SECONDS
        except OSError:
            return False
