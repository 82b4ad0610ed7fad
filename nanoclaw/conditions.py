"""The environment's faults that hold back every run: no engine, no image, no credential, a rate limit, a full disk.

They are looked at before a run starts, not after: while one holds, no run directory is made and no retry is used up.
Each has a way to see that it is gone; messages wait meanwhile.
"""

from __future__ import annotations

import logging
import shutil

from nanoclaw.errors import UserError
from nanoclaw.models import Environment
from nanoclaw.paths import PROJECT, Home
from nanoclaw.runs.judge import VERDICTS, Verdict
from nanoclaw.runs.launch import Runtimes
from nanoclaw.stores.settings import Settings

log = logging.getLogger("nanoclaw")

PROBE_SECONDS = 5.0
PROBED = ("no_credential", "env_file", "disk", "engine", "image")
"""Causes that are looked for before each start: when nothing is found, they are over."""
LONGEST_HOLD = 300.0
DISK_FLOOR = 50_000_000
"""With less free space than this (bytes) no run starts."""


class Conditions:
    """Asked by the dispatcher, on its thread, before it starts a run."""

    def __init__(self, home: Home, settings: Settings, runtimes: Runtimes) -> None:
        self._home = home
        self._settings = settings
        self._runtimes = runtimes
        self._probed: tuple[str, str] | None = None
        self._held: tuple[Verdict, str] | None = None
        self._next_probe = 0.0
        self._held_until = 0.0
        self._refused_environment: Environment | None = None
        self._faults = 0

    def hold(self, verdict: Verdict, now: float) -> None:
        """A run ended by the environment's fault at monotonic time ``now``: nothing starts until the cause is gone."""
        self._hold(verdict, "", now)
        if verdict.cause == "credential":
            self._refused_environment = self._settings.environment
        if verdict.cause in ("engine", "image"):
            self._probed = None
        # What the probe does not see must not start a run every few seconds for ever.
        self._held_until = now + min(verdict.hold + PROBE_SECONDS * 2 ** min(self._faults, 6), LONGEST_HOLD)
        self._faults += 1

    def worked(self) -> None:
        """A run went well."""
        self._faults = 0

    def why_not(self, now: float) -> Verdict | None:
        """What holds back every run at monotonic time ``now``; None: go."""
        if self._held is not None and now < max(self._next_probe, self._held_until):
            return self._held[0]
        found = self._look()
        if found is None:
            if self._held is not None:
                log.info("Ready again: %s is over", self._held[0].cause)
            self._held = None
            return None
        self._hold(*found, now)
        return found[0]

    def next_look(self) -> float | None:
        """The monotonic time at which it is worth asking again; None when nothing is held."""
        return None if self._held is None else max(self._next_probe, self._held_until)

    def poke(self) -> None:
        """A file changed: look again at once."""
        self._next_probe = self._held_until = 0.0

    def _hold(self, verdict: Verdict, detail: str, now: float) -> None:
        if self._held is None or self._held[0] != verdict:
            log.warning("Messages wait, cause=%s %s", verdict.cause, detail)
        self._held = (verdict, detail)
        self._next_probe = now + PROBE_SECONDS

    def _look(self) -> tuple[Verdict, str] | None:
        config, environment = self._settings.config, self._settings.environment
        if not config.offline and environment.credential is None:
            broken = [p for p in self._settings.problems if p.path == str(self._home.env_file)]
            return (VERDICTS["env_file"], str(broken[0])) if broken else (VERDICTS["no_credential"], "")
        if environment == self._refused_environment and not config.offline:
            return VERDICTS["credential"], ""
        self._refused_environment = None
        if shutil.disk_usage(self._home.state).free < DISK_FLOOR:
            return VERDICTS["disk"], ""
        wanted = (config.runtime, config.image)
        if self._probed != wanted:
            try:
                found = self._runtimes.of(config.runtime).why_unavailable(config.image, PROJECT)
            except UserError as error:
                found = ("engine", error)
            if found is not None:
                return VERDICTS[found[0]], str(found[1])
            self._probed = wanted
        return None
