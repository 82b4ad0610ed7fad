"""Errands: prompts for a group's agent that are no messages of its chat, one file each in state/errands/ until a
run has claimed it. (`runs again` and `compact` make them; tasks will.)"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from nanoclaw.files.atomic import BrokenFile, read_json, write_json
from nanoclaw.paths import Home

log = logging.getLogger("nanoclaw")


@dataclass(frozen=True)
class Errand:
    """``created``: Unix time in s; ``origin``: what made it, for people. ``kind``: "message", or "compact": the text is
    a command to the agent's CLI, not a message. ``tries``: so many runs ended before they began it."""

    id: str
    folder: str
    text: str
    created: float
    origin: str
    kind: str = "message"
    tries: int = 0


class Errands:
    """All waiting errands, in memory and on disk. Thread-safe."""

    def __init__(self, home: Home) -> None:
        self._directory = home.state / "errands"
        self._lock = threading.Lock()
        self._waiting: dict[str, Errand] = {}
        self._said: set[Path] = set()

    def load(self) -> None:
        """Read what an earlier host left, or what a person has mended since."""
        with self._lock:
            for path in self._directory.glob("[!.]*.json"):
                try:
                    errand = Errand(**(read_json(path) or {}))
                    self._waiting[errand.id] = errand
                except (BrokenFile, OSError, TypeError) as error:
                    if path not in self._said:
                        self._said.add(path)
                        log.error("Errand left alone %s: %s", path, error)

    def put(self, errand_id: str, folder: str, text: str, origin: str, kind: str = "message", tries: int = 0) -> None:
        """Keep an errand until a run has claimed it (durable). The same id again changes nothing."""
        with self._lock:
            if errand_id in self._waiting:
                return
            errand = Errand(errand_id, folder, text, time.time(), origin, kind, tries)
            self._directory.mkdir(exist_ok=True, mode=0o700)
            write_json(self._directory / f"{errand_id}.json", asdict(errand))
            self._waiting[errand_id] = errand

    def first(self, folder: str) -> Errand | None:
        """The oldest errand of a group."""
        with self._lock:
            mine = [errand for errand in self._waiting.values() if errand.folder == folder]
        return min(mine, key=lambda errand: errand.created, default=None)

    def all(self) -> list[Errand]:
        with self._lock:
            return list(self._waiting.values())

    def remove(self, errand_id: str) -> None:
        """A run's record has it."""
        with self._lock:
            self._waiting.pop(errand_id, None)
            (self._directory / f"{errand_id}.json").unlink(missing_ok=True)
