"""Which groups wait for a container: kept up to date from what is on disk, and told by pokes where to look."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable

from nanoclaw.errors import UserError
from nanoclaw.handover import Handover
from nanoclaw.models import Group
from nanoclaw.queue import Waiting
from nanoclaw.runs.judge import RETRY_SECONDS
from nanoclaw.stores.errands import Errands
from nanoclaw.stores.settings import Settings
from nanoclaw.turns import RESCAN_AT_MOST, RESCAN_SECONDS, until_rescan

log = logging.getLogger("nanoclaw")


class WaitingGroups:
    """``news``: look at these groups (any thread). All else is for the dispatcher's thread."""

    def __init__(self, settings: Settings, handover: Handover, errands: Errands) -> None:
        self._settings = settings
        self._handover = handover
        self._errands = errands
        self._guard = threading.Lock()  # guards _news
        self._news: set[str] = set()
        self._since_until: dict[str, tuple[float, float]] = {}
        self._next_rescan = 0.0
        self.broken: set[str] = set()
        """Groups of which something must be mended first: looked at again with every turn."""

    def news(self, folders: Iterable[str]) -> None:
        with self._guard:
            self._news.update(folders)

    @property
    def has_news(self) -> bool:
        with self._guard:
            return bool(self._news)

    def look_at_all(self) -> None:
        """Whoever waits, and every group, is looked at with the next turn."""
        self.news({*self._settings.groups, *self._since_until})

    def is_rescan_due(self, wall: float) -> bool:
        return wall >= self._next_rescan or wall < self._next_rescan - RESCAN_AT_MOST

    def ready(self, wall: float) -> tuple[list[Waiting], float]:
        """Who may start at Unix time ``wall``, and the seconds until the next retry or rescan is due."""
        with self._guard:
            news, self._news = self._news | self.broken, set()
        groups = self._settings.groups
        began, rescan = time.monotonic(), self.is_rescan_due(wall)
        for folder in news | set(groups) if rescan else news:
            waits = self._waits(groups.get(folder))
            if waits is None:
                self._since_until.pop(folder, None)
            else:
                self._since_until[folder] = waits
        if rescan:
            self._next_rescan = wall + until_rescan(began)
        # A clock that was set back must not make a retry wait for hours.
        due = {f: until if until <= wall + RETRY_SECONDS[-1] else 0.0 for f, (_, until) in self._since_until.items()}
        found = [Waiting(f, arrival) for f, (arrival, _) in self._since_until.items() if due[f] <= wall]
        known = {waiting.folder for waiting in found}
        for errand in self._errands.all():
            if errand.folder in groups and errand.folder not in known:
                known.add(errand.folder)
                found.append(Waiting(errand.folder, errand.created))
        later = [until - wall for until in due.values() if until > wall]
        return found, min([self._next_rescan - wall, *later], default=RESCAN_SECONDS)

    def started(self, folder: str) -> None:
        """What waited is handed over."""
        self._since_until.pop(folder, None)
        self.broken.discard(folder)

    def set_back(self, folder: str, error: Exception) -> None:
        """Something of this group must be mended, which stops no other: said once."""
        self._since_until.pop(folder, None)
        if folder not in self.broken:
            self.broken.add(folder)
            log.error("Group held back group=%s: %s", folder, error)

    def _waits(self, group: Group | None) -> tuple[float, float] | None:
        """Since when, and until when a retry must not start (Unix times)."""
        if group is None:
            return None
        try:
            until = self._handover.waits_until(group)
            return None if until is None else (self._handover.waits_since(group), until)
        except (OSError, UserError) as error:
            self.set_back(group.folder, error)
            return None
