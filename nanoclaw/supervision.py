"""A living run and the clock: what ``deadlines`` says is due is done here. The worker lends its thread."""

from __future__ import annotations

import logging
from typing import Literal

from nanoclaw.deadlines import SILENT_AFTER, Deadlines, Limits, heartbeat_of
from nanoclaw.house import House
from nanoclaw.runs.records import Run
from nanoclaw.runs.runtime import Runtime

log = logging.getLogger("nanoclaw")

STOP_GRACE = 10.0
STOP_AGAIN = 60.0
"""An engine that did not answer is told again after this."""
KILL_AGAIN = 2.0
KILLED_LOOK = 0.2
TIMED_OUT = {"timeout": "timed out", "hung": "no sign of life"}


class Supervision:
    """Of one run; ``now`` is monotonic time in s, everywhere."""

    def __init__(self, house: House, run: Run, runtime: Runtime, now: float) -> None:
        self._house = house
        self._run = run
        self._runtime = runtime
        self._heartbeat: int | None = None
        self._next_stop = 0.0
        self.deadlines = Deadlines(last_output=now, beat=now)
        self.deadlines.started(now)

    def turn(self, now: float, limits: Limits) -> tuple[Literal["look", "close", "said"] | None, float]:
        """Do what is due. ``look``: see whether the container lives; ``close``: the agent was idle for long
        enough. With None: the time at which something is due."""
        run, deadlines = self._run, self.deadlines
        beat = heartbeat_of(self._house.records.path(run.id))
        if beat != self._heartbeat:
            self._heartbeat = beat
            if deadlines.alive(now):
                log.info("Heartbeat is back group=%s run=%s", run.folder, run.id)
        action, when = deadlines.due(now, limits)
        if action in ("hung", "timeout"):
            if now < self._next_stop:
                return None, self._next_stop
            self._time_out(action, now)
            return "look", now
        if action == "close":
            return "close", now
        if action == "silent":
            deadlines.silent = True
            log.warning("No heartbeat group=%s run=%s for %d s", run.folder, run.id, SILENT_AFTER)
            self._house.journal.event("silent", run=run.id, folder=run.folder)
            return "look", now
        if action == "progress":
            deadlines.progress_said = True
            cause = f"progress-{len(run.claims)}-{run.replies}"
            self._house.notices.say(run.folder, run.jid, cause, "I am still at work on this.", run.id)
            return "said", now
        return None, when

    def kill_again(self, now: float) -> float:
        """Of a run that a person stopped, and whose container lives still; returns the seconds until the next look."""
        if now >= self._next_stop:
            self._next_stop = now + KILL_AGAIN
            self._runtime.kill(self._run.container, self._run.container_id)
        return KILLED_LOOK

    def _time_out(self, why: Literal["hung", "timeout"], now: float) -> None:
        run = self._run
        log.warning("Container timeout group=%s run=%s: %s, stopping", run.folder, run.id, TIMED_OUT[why])
        run.timed_out, run.hung = why == "timeout", why == "hung"
        self._house.records.save(run)
        self._runtime.stop(run.container, run.container_id, STOP_GRACE)
        self._next_stop = now + STOP_AGAIN
