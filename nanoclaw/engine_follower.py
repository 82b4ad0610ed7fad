"""What the engine tells: containers that ended; and those of an earlier host that belong to no living run, which go.

One thread a runtime, because the settings may name another one while containers of the first still live.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from nanoclaw.dispatcher import Dispatcher
from nanoclaw.errors import UserError
from nanoclaw.paths import Home
from nanoclaw.runs.launch import Runtimes
from nanoclaw.runs.runtime import Runtime
from nanoclaw.stores.settings import Settings

log = logging.getLogger("nanoclaw")

ORPHAN_SECONDS = 60.0


class EngineFollower:
    """``follow``: hear of the runtime in force, from now on; again is harmless. ``halted``: the host ends.
    ``unreadable``: containers of runs that nobody can judge now."""

    def __init__(
        self,
        home: Home,
        home_id: str,
        settings: Settings,
        runtimes: Runtimes,
        dispatcher: Dispatcher,
        halted: threading.Event,
        unreadable: Callable[[], set[str]],
    ) -> None:
        self._home = home
        self._home_id = home_id
        self._settings = settings
        self._runtimes = runtimes
        self._dispatcher = dispatcher
        self._halted = halted
        self._unreadable = unreadable
        self._following: set[str] = set()
        self._next_orphans = 0.0

    def follow(self) -> None:
        name = self._settings.config.runtime
        if name in self._following:
            return
        try:
            runtime = self._runtimes.of(name)
        except UserError:
            return  # not installed: asked again at the first run
        self._following.add(name)
        threading.Thread(target=self._run, args=(runtime,), name=f"{name} events", daemon=True).start()

    def _run(self, runtime: Runtime) -> None:
        def ended(name: str | None) -> None:
            if name is None:  # the engine may have been away, and what it did meanwhile nobody saw
                self._remove_orphans(runtime)
            self._dispatcher.container_ended(name)

        self._remove_orphans(runtime)
        runtime.follow(self._home_id, ended, self._halted)

    def _remove_orphans(self, runtime: Runtime) -> None:
        """An earlier host's containers whose run is judged or gone can answer nobody."""
        if time.monotonic() < self._next_orphans:
            return
        self._next_orphans = time.monotonic() + ORPHAN_SECONDS
        names = runtime.names(self._home_id) or []  # no answer: asked again when the engine is back
        ours = {worker.run_record.container for worker in self._dispatcher.workers()} | self._unreadable()
        for name in names:
            if name not in ours:
                log.warning("Removing a container without a run: %s", name)
                runtime.stop(name, None, 0.0)
                runtime.clean_up(self._home.logs, name)
