"""The environment's faults that hold back every run: no engine, no image, no credential, a rate limit, a full disk.

They are looked at before a run starts, not after: while one holds, no run directory is made and no retry is used up.
Each has a way to see that it is gone; messages wait meanwhile. Some are found by looking (``PROBED``); of those of the
model's account (``ACCOUNT``) only a run's end tells, so a run is let through when the time is up that the platform
named, else ever more seldom. A refused credential is not tried again. A saved or touched .env, which may be another
account, ends each of them at once. There is one credential for all groups, hence one hold for all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import queue
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from nanoclaw.errors import UserError
from nanoclaw.files.stamps import Stamp, stamp_of
from nanoclaw.models import Held as Held
from nanoclaw.paths import PROJECT, Home
from nanoclaw.runs.judge import VERDICTS, Verdict
from nanoclaw.runs.launch import Runtimes
from nanoclaw.stores.settings import Settings

log = logging.getLogger("nanoclaw")

PROBE_SECONDS = 5.0
PROBED = ("no_credential", "env_file", "disk", "engine", "image")
"""Causes that are looked for before each start: when nothing is found, they are over."""
ACCOUNT = ("credential", "billing", "rate_limit", "overload", "network")
LONGEST_HOLD = 300.0
LONGEST_WAIT = 86400.0
"""A platform's own time (s) is believed for so long; then a run is let through to see."""
DISK_FLOOR = 50_000_000
"""With less free space than this (bytes) no run starts."""
ENGINE_SECONDS = 10.0
STILL_SECONDS = 1.0
"""So long the dispatcher waits for the engine's answer: at first, and while it is known not to answer."""


@dataclass(frozen=True)
class _Told:
    """A hold that a run's end brought: over at the monotonic time ``over`` or the Unix time ``until``, whichever comes
    first (the monotonic clock may sleep with the machine, the other one may be put back), or with another .env."""

    verdict: Verdict
    detail: str
    over: float
    until: float
    account: str
    env_file: Stamp


def is_full(state: Path) -> bool:
    """Has the disk of ``state`` too little room for a run?"""
    return shutil.disk_usage(state).free < DISK_FLOOR


@dataclass(eq=False)
class Conditions:
    """``why_not`` is the dispatcher's, before it starts a run; the rest may be called by any thread. ``changed`` is
    called under this object's lock when what is held changes, again at the next look where it raised OSError; ``wall``
    tells Unix time."""

    home: Home
    settings: Settings
    runtimes: Runtimes
    changed: Callable[[Held | None], None] = lambda held: None
    wall: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self._guard = threading.Lock()  # guards all that follows but _asked
        self._told: _Told | None = None
        self._found: tuple[Verdict, str] | None = None
        self._held: Held | None = None
        self._reported: Held | None = None
        self._probed: tuple[str, str] | None = None
        self._next_probe = 0.0
        self._faults = 0
        self._asked: tuple[tuple[str, str], queue.SimpleQueue[tuple[str, str] | None]] | None = None

    def hold(self, verdict: Verdict, now: float, detail: str = "") -> None:
        """A run ended by the environment's fault at monotonic time ``now``: nothing starts until the cause is gone."""
        with self._guard:
            # What the probe does not see must not start a run every few seconds for ever.
            wait = PROBE_SECONDS * 2 ** min(self._faults, 6)
            if verdict.until is None:
                wait = min(verdict.hold + wait, LONGEST_HOLD)
            else:
                wait = max(min(wait, LONGEST_HOLD), min(verdict.until - self.wall(), LONGEST_WAIT))
            self._faults += 1
            if verdict.cause in ("engine", "image"):
                self._probed = None
            self._tell(verdict, detail, now, math.inf if verdict.cause == "credential" else wait)

    def restore(self, held: Held, now: float) -> None:
        """What an earlier host reported last by ``changed``: a restart is no reason to ask the platform again, another
        account or an .env saved since then is. What does not hold any more is reported as over. ``now``: monotonic."""
        stamp = stamp_of(self.home.env_file)
        saved_since = stamp is not None and stamp[1] / 1e9 > held.since
        same = held.account == self._account() and not self.settings.config.offline
        ends = held.until is not None or held.cause == "credential"
        wait = math.inf if held.until is None else min(held.until - self.wall(), LONGEST_WAIT)
        with self._guard:
            self._reported = held
            if held.cause in ACCOUNT and same and ends and not saved_since and wait > 0:
                log.info("Messages still wait, cause=%s since before the start", held.cause)
                self._held = held
                self._tell(replace(VERDICTS[held.cause], until=held.until), held.detail, now, wait)
            else:
                self._report()

    def worked(self) -> None:
        """A run went well."""
        with self._guard:
            self._faults = 0

    def why_not(self, now: float) -> Verdict | None:
        """What holds back every run at monotonic time ``now``; None: go. Takes at most ENGINE_SECONDS, while the engine
        hangs STILL_SECONDS."""
        with self._guard:
            self._drop_what_is_over(now)
            if self._told is not None or (self._found is not None and now < self._next_probe):
                self._report()
                return self._verdict()
        config = self.settings.config
        wanted = (config.runtime, config.image)
        found = self._look(wanted)
        with self._guard:
            self._found = found
            self._next_probe = now + PROBE_SECONDS
            if found is None and self._told is None:
                self._probed = wanted
            self._report()
            return self._verdict()  # a hold that came meanwhile counts

    def next_look(self) -> float | None:
        """The monotonic time at which it is worth asking again; None when nothing is held."""
        with self._guard:
            if self._told is not None:
                return self._told.over
            return None if self._found is None else self._next_probe

    def poke(self) -> None:
        """A file changed: look again at once. What the account is held for ends with a change of .env alone."""
        with self._guard:
            self._next_probe = 0.0
            if self._told is not None and self._told.verdict.cause not in ACCOUNT:
                self._told = None

    # -- under the guard -------------------------------------------------------------------------------------------

    def _tell(self, verdict: Verdict, detail: str, now: float, wait: float) -> None:
        self._drop_what_is_over(now)
        if self._told is None or self._told.over < now + wait:
            account = self._account() if verdict.cause in ACCOUNT else ""
            stamp = stamp_of(self.home.env_file)
            self._told = _Told(verdict, detail, now + wait, self.wall() + wait, account, stamp)
        self._report()

    def _drop_what_is_over(self, now: float) -> None:
        told = self._told
        if told is None:
            return
        seen = self._account(), stamp_of(self.home.env_file)
        other_account = told.verdict.cause in ACCOUNT and (told.account, told.env_file) != seen
        if other_account or now >= told.over or self.wall() >= told.until:
            self._told = None

    def _account(self) -> str:
        """A fingerprint: held.json must not tell the secret."""
        environment = self.settings.environment
        known = [environment.credential.kind, environment.credential.secret] if environment.credential else []
        account = json.dumps([self.settings.config.offline, environment.base_url, *known])
        return hashlib.sha256(account.encode()).hexdigest()[:16]

    def _verdict(self) -> Verdict | None:
        if self._told is not None:
            return self._told.verdict
        return self._found[0] if self._found is not None else None

    def _report(self) -> None:
        """Say what changed: to the log once, to ``changed`` until it could note it."""
        held = self._now_held()
        before, self._held = self._held, held
        if held is not None and (before is None or before.cause != held.cause):
            log.warning("Messages wait, cause=%s: %s %s", held.cause, VERDICTS[held.cause].log, held.detail)
        if held is None and before is not None:
            log.info("Ready again: %s is over", before.cause)
        if (held and (held.cause, held.until)) != (self._reported and (self._reported.cause, self._reported.until)):
            try:
                self.changed(held)
                self._reported = held
            except OSError as error:
                log.warning("What holds back the runs cannot be noted: %s", error)

    def _now_held(self) -> Held | None:
        told, found, before, account = self._told, self._found, self._held, ""
        if told is not None:
            named = told.verdict.until if told.verdict.until is not None else told.until
            cause, detail, until = told.verdict.cause, told.detail, named if math.isfinite(named) else None
            account = told.account
        elif found is not None:
            cause, detail, until = found[0].cause, found[1], None
        else:
            return None
        since = before.since if before is not None and before.cause == cause else self.wall()
        return Held(cause, detail, since, until, account)

    # -- without it: this may take a while -------------------------------------------------------------------------

    def _look(self, wanted: tuple[str, str]) -> tuple[Verdict, str] | None:
        if not self.settings.config.offline and self.settings.environment.credential is None:
            broken = [p for p in self.settings.problems if p.path == str(self.home.env_file)]
            return (VERDICTS["env_file"], str(broken[0])) if broken else (VERDICTS["no_credential"], "")
        if is_full(self.home.state):
            return VERDICTS["disk"], ""
        found = self._ask_engine(wanted) if self._probed != wanted else None
        return (VERDICTS[found[0]], found[1]) if found is not None else None

    def _ask_engine(self, wanted: tuple[str, str]) -> tuple[str, str] | None:
        """What is wrong with the engine, or with the image. One that hangs is asked in a thread of its own, by one
        question at a time: the dispatcher has more to do."""
        if wanted[0] == "process":
            return self._ask(wanted)  # nothing that hangs, but it installs the agent's environment at first
        if self._asked is None or self._asked[0] != wanted:
            answer: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
            self._asked = wanted, answer
            threading.Thread(target=lambda: answer.put(self._ask(wanted)), name="engine probe", daemon=True).start()
        is_known = self._found is not None and self._found[0].cause == "engine"
        try:
            found = self._asked[1].get(timeout=STILL_SECONDS if is_known else ENGINE_SECONDS)
        except queue.Empty:
            return "engine", "It has not answered yet."
        self._asked = None
        return found

    def _ask(self, wanted: tuple[str, str]) -> tuple[str, str] | None:
        try:
            found = self.runtimes.of(wanted[0]).why_unavailable(wanted[1], PROJECT)
        except (UserError, OSError) as error:
            return "engine", str(error)
        return (found[0], str(found[1])) if found is not None else None
