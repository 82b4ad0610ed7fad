"""Rounds: in which groups' directories below a root, where people and scripts drop files, to look now.

Where something was touched; where another look was asked for; and everywhere from time to time, when groups changed, or
when the turn came without a reason that is known here.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nanoclaw.turns import RESCAN_AT_MOST, until_rescan

log = logging.getLogger("nanoclaw")


class Rounds:
    """``boxes``: the directories of a group below ``root/<folder>/`` in which files are dropped ("": that itself)."""

    def __init__(self, root: Path, boxes: Sequence[str] = ("",)) -> None:
        self._root = root
        self._boxes = boxes
        self._guard = threading.Lock()  # guards _news
        self._news: set[str] = set()
        self._later: dict[str, float] = {}
        self._known: Mapping[str, object] | None = None
        self._warned: set[str] = set()
        self._began: float | None = None
        self._next = 0.0

    def touched(self, path: str) -> bool:
        """A path below the root changed (any thread). False: it is none of a box, but an answer of our own."""
        folder, *rest = os.path.relpath(path, self._root).split(os.sep)
        if self._boxes != ("",) and rest and rest[0] not in self._boxes:
            return False
        with self._guard:
            self._news.add(folder)
        return True

    def due(self, groups: Mapping[str, object], now: float) -> list[str]:
        """The registered folders to look at, at Unix time ``now``; ``groups`` by folder, a new object when changed."""
        with self._guard:
            news, self._news = self._news, set()
        news |= {folder for folder, due in self._later.items() if due <= now or due > now + RESCAN_AT_MOST}
        changed, self._known = groups is not self._known, groups
        if changed:
            self._make(groups)
        everywhere = changed or not news or now >= self._next or now < self._next - RESCAN_AT_MOST
        self._began = time.monotonic() if everywhere else None
        if everywhere:
            news |= {entry.name for entry in os.scandir(self._root) if entry.is_dir()}
        self._later = {folder: due for folder, due in self._later.items() if folder not in news}
        self._warned &= news - set(groups) if everywhere else self._warned
        for folder in news - set(groups) - self._warned:
            self._warn(folder)
        return sorted(news & set(groups))

    def again(self, folder: str, when: float) -> None:
        """Look there again at Unix time ``when``."""
        self._later[folder] = when

    def wait(self, now: float) -> float:
        """Seconds until the next look is due; called when those that were due are looked at."""
        if self._began is not None:
            self._next, self._began = now + until_rescan(self._began), None
        return max(0.0, min([self._next, *self._later.values()]) - now)

    def _make(self, groups: Mapping[str, object]) -> None:
        for folder in groups:
            for box in self._boxes:
                try:
                    (self._root / folder / box).mkdir(parents=True, exist_ok=True, mode=0o700)
                except OSError as error:
                    log.error("%s must be a directory (%s): move away what is there", self._root / folder / box, error)

    def _warn(self, folder: str) -> None:
        """What lies there waits until a group of that name is registered; said once."""
        boxes = [self._root / folder / box for box in self._boxes]
        if not folder.startswith(".") and any(box.is_dir() and os.listdir(box) for box in boxes):
            self._warned.add(folder)
            text = "Files wait in %s: no group is registered as %r; `groups add %s` registers one"
            log.error(text, self._root / folder, folder, folder)
