"""When something must be done about a living run because time has passed. Pure: the worker asks, and acts.

Working and dead are told apart by the runner's heartbeat, not by the model's output (SPEC 11): a long tool call or a
slow model is stopped at the hard timeout and no sooner; a runner that gives no sign of life is noticed after 12 s and
stopped after 60 s, so that a machine that was busy for a moment costs nobody a turn.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanoclaw.files import untrusted

BEAT_EVERY = 5.0
"""The runner touches out/heartbeat so often (../container/agent_runner)."""
SILENT_AFTER = 12.0
HUNG_AFTER = 60.0
START_GRACE = 60.0
"""A container that was just started may take so much longer until its first heartbeat."""
CLOSE_GRACE = 20.0
"""An idle agent that was told to close is stopped after this."""
CLOSE_MARGIN = 30.0
"""The hard timeout is at least so much above the idle one (SPEC 4)."""

Action = Literal["hung", "timeout", "close", "progress", "silent"]


@dataclass(frozen=True)
class Limits:
    """In seconds. ``progress``: 0 for never."""

    timeout: float
    idle: float
    progress: float


@dataclass
class Deadlines:
    """Monotonic times in s. ``last_output``: of the agent, or the last prompt handed over. ``beat``: when the heartbeat
    was last seen to change. ``idle_since``: None while the agent works. ``told_to_close``: when it was, being idle."""

    last_output: float
    beat: float
    idle_since: float | None = None
    told_to_close: float | None = None
    progress_said: bool = False
    silent: bool = False

    def output(self, now: float) -> None:
        """The agent said something in its chat, or got something to work on: the clocks start anew."""
        self.last_output = now
        self.progress_said = False

    def started(self, now: float) -> None:
        """The container has just been started: its heart may take a while."""
        self.output(now)
        self.beat = now + START_GRACE - SILENT_AFTER

    def alive(self, now: float) -> bool:
        """The heart beats; True where it was believed silent."""
        self.beat = now
        was_silent, self.silent = self.silent, False
        return was_silent

    def due(self, now: float, limits: Limits) -> tuple[Action | None, float]:
        """What is to be done now, and the monotonic time at which something is, if nothing happens before. ``silent``
        and ``progress`` are to be said once; whoever says them sets the flag."""
        hard = self.last_output + max(limits.timeout, limits.idle + CLOSE_MARGIN)
        gone_by = math.inf if self.told_to_close is None else self.told_to_close + CLOSE_GRACE
        whens: dict[Action, float] = {"hung": self.beat + HUNG_AFTER, "timeout": min(hard, gone_by)}
        if self.idle_since is not None:
            if self.told_to_close is None:
                whens["close"] = self.idle_since + limits.idle
        elif limits.progress and not self.progress_said and not self.silent:
            whens["progress"] = self.last_output + limits.progress
        if not self.silent:
            whens["silent"] = self.beat + SILENT_AFTER
        for action, when in whens.items():
            if now >= when:
                return action, now
        return None, min(whens.values())


def heartbeat_of(run_directory: Path) -> int | None:
    """The time (ns) of a run's last heartbeat by its container's clock: to be compared with itself only. None: none
    yet."""
    try:
        with untrusted.directory(run_directory / "out") as fd:
            return os.stat("heartbeat", dir_fd=fd, follow_symlinks=False).st_mtime_ns
    except (OSError, untrusted.Refused):
        return None
