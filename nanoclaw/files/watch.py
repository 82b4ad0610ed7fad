"""Events are hints: a change in a watched directory calls a function that sets a flag, and the flag's owner lists the
directory.

Only close-after-write and moves are watched, deletions where asked for: reading wakes nobody, and a container that
makes a million directories wakes nobody either. Directories that a container can write are never watched recursively
(ARCHITECTURE 2).
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from watchdog import events

log = logging.getLogger("nanoclaw")
# watchdog warns when it takes up a directory that it saw appear and was told of, too: harmless.
warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)

STOP_SECONDS = 1.0

# Only Linux tells when a writer closed a file.
_WRITTEN = [events.FileClosedEvent] if sys.platform == "linux" else [events.FileCreatedEvent, events.FileModifiedEvent]


class _Poke(events.FileSystemEventHandler):
    def __init__(self, callback: Callable[[str], None]) -> None:
        self._callback = callback

    def on_any_event(self, event: events.FileSystemEvent) -> None:
        for path in filter(None, (event.src_path, event.dest_path)):  # moved away is news, as moved here is
            self._callback(os.fsdecode(str(path) if not isinstance(path, bytes) else path))


class Watcher:
    """Calls back, on its own threads, with the path of what changed. Where the file system tells nothing (network
    file systems, a full inotify table), the callers' slow rescans still find everything: said once in the log."""

    def __init__(self) -> None:
        try:
            self._observer = _observer()
        except OSError as error:  # no inotify instance is left: other programs of this user have them all
            self._observer = None
            log.warning("No file events at all (%s): changes are found by the slow rescan", error)
        self._watches: dict[Path, Any] = {}
        self._lock = threading.Lock()
        self._said = False

    def start(self) -> None:
        if self._observer is not None:
            self._observer.start()

    def stop(self) -> None:
        """Its threads end, or are left behind: it joins its emitters without a limit, and a host must end in time."""
        if self._observer is None:
            return
        stopping = threading.Thread(target=self._observer.stop, name="watch stop", daemon=True)
        stopping.start()
        stopping.join(STOP_SECONDS)

    def add(
        self, path: Path, callback: Callable[[str], None], recursive: bool = False, deletions: bool = False
    ) -> None:
        """``deletions``: a file that goes is news, too. ``recursive``: so is a new directory, for what was put
        into it before its own watch began."""
        kinds: list[type[events.FileSystemEvent]] = [events.FileMovedEvent, *_WRITTEN]
        if recursive:
            kinds += [events.DirCreatedEvent, events.DirMovedEvent]
        if deletions:
            kinds.append(events.FileDeletedEvent)
        with self._lock:
            if path in self._watches or self._observer is None:
                return
            try:
                self._watches[path] = self._observer.schedule(
                    _Poke(callback), str(path), recursive=recursive, event_filter=kinds
                )
            except OSError as error:
                if not self._said:
                    log.warning("No file events for %s (%s): changes are found by the slow rescan", path, error)
                    self._said = True

    def remove(self, path: Path) -> None:
        with self._lock:
            watch = self._watches.pop(path, None)
            if watch is not None:
                self._observer.unschedule(watch)


def _observer() -> Any:
    if sys.platform == "linux":
        from watchdog.observers.inotify import InotifyObserver

        # It holds back a watch's events (0.5 s) to pair both halves of a rename; here each half is a hint of its own.
        with suppress(ImportError):  # a detail of watchdog 7: without it all is the same, only later
            from watchdog.observers.inotify_move_event_grouper import InotifyMoveEventGrouper

            InotifyMoveEventGrouper.delay = 0.0

        # "full" events report a file that was moved in from an unwatched directory as moved, not as created.
        return InotifyObserver(generate_full_events=True)
    from watchdog.observers import Observer

    return Observer()
