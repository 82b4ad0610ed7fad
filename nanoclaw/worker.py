"""One run, from its start (or its adoption after a restart) to its verdict: a thread that repeats one turn.

A turn takes what the runner wrote, hands over what waits in the chat, and looks at the deadlines; it returns when it
wants to be called again. Whatever pokes the worker (a file, the engine, the dispatcher) only makes the next turn come
sooner.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from pathlib import Path

from nanoclaw.acceptance import Taken, keep_session, take
from nanoclaw.conclusion import conclude
from nanoclaw.house import House, utc_now
from nanoclaw.models import Group
from nanoclaw.pending import Batch
from nanoclaw.runs import mailbox
from nanoclaw.runs.judge import Verdict
from nanoclaw.runs.launch import Start, new_claim
from nanoclaw.runs.records import Run
from nanoclaw.runs.runtime import Look, Runtime, StartFailed, is_starting
from nanoclaw.stores.cursors import Cursor
from nanoclaw.turns import Turns

log = logging.getLogger("nanoclaw")

LOOK_EVERY = 10.0
TOUCH_EVERY = 60.0
STOP_GRACE = 10.0
STOP_AGAIN = 60.0
"""An engine that did not answer is told again after this."""
CLOSE_GRACE = 20.0
"""An idle agent that was told to close is stopped after this."""
CLOSE_MARGIN = 30.0
"""The hard timeout is at least so much above the idle one (SPEC 4)."""


class Worker(threading.Thread):
    """Owns one run. ``start_with`` None: a run of an earlier host, to be adopted."""

    def __init__(self, house: House, run: Run, runtime: Runtime, start_with: Start | None) -> None:
        super().__init__(name=f"run {run.id}", daemon=True)
        self.run_record = run
        self.idle_since: float | None = None
        self.closing = False
        self._house = house
        self._runtime = runtime
        self._start_with = start_with
        self._directory = house.records.path(run.id)
        self._turns = Turns(f"Run {run.id}", lambda: self.turn(time.monotonic()))
        self._pause = threading.Event()
        self._begun = False
        self._taken = Taken()
        self.close_wanted = False
        self._look_now = False
        self._last_output = time.monotonic()
        self._gone_by = math.inf
        self._next_stop = 0.0
        self._claim_ahead = True
        self._next_look = 0.0
        self._next_touch = 0.0
        self._verdict: Verdict | None = None

    @property
    def folder(self) -> str:
        return self.run_record.folder

    def poke(self, look: bool = False) -> None:
        """Something may have changed; ``look``: the container may have ended."""
        self._look_now = self._look_now or look
        self._turns.poke()

    def close(self) -> None:
        """Let the agent end when it has finished its turn."""
        self.close_wanted = True
        self._turns.poke()

    def halt(self) -> None:
        """The host ends: the container goes on, the next host adopts it."""
        self._turns.halt()

    def run(self) -> None:
        self._turns.run()
        self._house.watcher.remove(self._directory / "out")
        if self._verdict is not None:
            self._house.gateway.close(self.run_record.id)

    def turn(self, now: float) -> float:
        """One turn at monotonic time ``now``; returns the seconds after which the next one is due in any case."""
        if self._claim_ahead:  # a claim is on disk, and the cursor perhaps not behind it
            self._house.handover.raise_to(self.run_record)
            self._claim_ahead = False
        if not self._begun:
            self._begin()
            if self._turns.halted:
                return 0.0
            now = time.monotonic()
        more = self._take_events(now)
        if self._ended(now):
            return 0.0
        self._hand_over(now)
        if now >= self._next_touch:
            mailbox.touch_host(self._directory)
            self._next_touch = now + TOUCH_EVERY
        wait = self._deadlines(now)
        return 0.0 if more else wait

    # -- start ---------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Open the run's door, then start its container or take it over. What fails here is tried again as a whole."""
        run = self.run_record
        self._house.gateway.open(run.id, Path(run.socket), run.placeholder_hash)
        self._house.watcher.add(self._directory / "out", lambda path: self.poke())
        if self._start_with is not None:
            self._launch(self._start_with)
        else:
            self._take_over()
        self._begun = True

    def _launch(self, start: Start) -> None:
        run = self.run_record
        log.info("Spawning container group=%s run=%s", run.folder, run.id)
        self._house.journal.event("spawn", run=run.id, folder=run.folder)
        with self._house.start_slots:
            try:
                run.container_id = self._runtime.start(self._directory, start.argv, start.environment, start.cwd)
            except StartFailed as error:
                log.warning("Container not started run=%s code=%s: %s", run.id, error.code, error.text)
                look = self._runtime.look(self._directory, run.container, None)
                if look.state not in ("running", "exited"):
                    self._finish(Look("created"), start_error=error)
                    return
                log.warning("It did start: only the command was cut off run=%s", run.id)
        self._start_with = None
        run.status, run.started = "started", utc_now()
        self._house.records.save(run)
        self._last_output = time.monotonic()

    def _take_over(self) -> None:
        """A command of an earlier host may still be about to start the container: nobody may believe it absent
        meanwhile."""
        while is_starting(self._directory) and not self._turns.halted:
            self._pause.wait(0.05)
        if self.run_record.idle:
            self._became_idle(time.monotonic())
        if self.run_record.replies:
            self._house.handover.answered(self.run_record)
        keep_session(self._house, self.run_record)

    def _take_events(self, now: float) -> bool:
        """True when there may be more."""
        taken = take(self._house, self.run_record, self._taken)
        self._taken = Taken()
        if taken.output:
            self._last_output = now
        if taken.idle is not None:
            self._became_idle(now if taken.idle else None)
        self._look_now = self._look_now or taken.ended
        return taken.more

    def _became_idle(self, since: float | None) -> None:
        if (since is None) != (self.idle_since is None):
            self.idle_since = since
            self._house.changed()

    # -- follow-ups and deadlines --------------------------------------------------------------------------------

    def _group(self) -> Group | None:
        """The group as it is registered now, if this run may still speak for it."""
        group = self._house.settings.groups.get(self.folder)
        return group if group is not None and group.jid == self.run_record.jid else None

    def _hand_over(self, now: float) -> None:
        group = self._group()
        if group is None:
            self.close_wanted = True
        if self.close_wanted and not self.closing:
            self.closing = True
            self._gone_by = now + CLOSE_GRACE if self.idle_since is not None else math.inf
            mailbox.write_close(self._directory)
            log.info("Closing container group=%s run=%s", self.folder, self.run_record.id)
        if group is None or self.closing or self.run_record.error is not None:
            return
        if self._house.handover.waits_until(group) != 0.0:
            return
        run = self.run_record

        def write(batch: Batch, prompt: str, cursor: Cursor) -> None:
            claim = new_claim(len(run.claims) + 1, batch, cursor.place)
            self._house.records.write_prompt(self._directory / "in", claim, prompt, durable=True)
            run.claims.append(claim)
            self._claim_ahead = True

        batch = self._house.handover.hand(group, write)
        self._claim_ahead = False
        if batch is not None:
            self._became_idle(None)
            self._last_output = now
            log.info("Processing messages group=%s run=%s count=%d follow-up", run.folder, run.id, len(batch.lines))
            self._house.journal.event("offered", run=run.id, folder=run.folder, messages=batch.wakers)

    def _deadlines(self, now: float) -> float:
        group, config, run = self._group(), self._house.settings.config, self.run_record
        idle_timeout = config.idle_timeout
        timeout = group.timeout or config.timeout if group else run.timeout
        hard = min(self._gone_by, self._last_output + max(timeout, idle_timeout + CLOSE_MARGIN))
        if now >= hard and now >= self._next_stop:
            log.warning("Container timeout group=%s run=%s: timed out, stopping", run.folder, run.id)
            run.timed_out = True
            self._house.records.save(run)
            self._runtime.stop(run.container, run.container_id, STOP_GRACE)
            self._look_now = True
            self._next_stop = now + STOP_AGAIN
            return 0.0
        due = [self._next_look, self._next_touch, max(hard, self._next_stop)]
        if self.idle_since is not None and not self.closing:
            due.append(self.idle_since + idle_timeout)
            if now >= self.idle_since + idle_timeout:
                self.close_wanted = True
                return 0.0
        return max(0.0, min(due) - now)

    # -- end -----------------------------------------------------------------------------------------------------

    def _ended(self, now: float) -> bool:
        """Look at the container when something hints that it ended, and from time to time; finish the run when it
        did."""
        if self._verdict is not None:
            return True
        if not self._look_now and now < self._next_look:
            return False
        self._look_now = False
        look = self._runtime.look(self._directory, self.run_record.container, self.run_record.container_id)
        self._next_look = now + LOOK_EVERY
        if look.state in ("running", "unknown"):
            if self.run_record.why_ended is not None:
                self._next_look = now + 0.2  # it said that it ends, and is about to; not every runtime tells when
            return False
        while self._take_events(now):
            pass
        self._finish(look)
        return True

    def _finish(self, look: Look, start_error: StartFailed | None = None) -> None:
        self._verdict = conclude(self._house, self.run_record, self._runtime, look, start_error)
        self._turns.halt()
        self._house.over(self.run_record, self._verdict)
