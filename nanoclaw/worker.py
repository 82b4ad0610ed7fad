"""One run, from its start (or its adoption after a restart) to its verdict: a thread that repeats one turn.

A turn takes what the runner wrote, hands over what waits in the chat, and looks at the deadlines; it returns when it
wants to be called again. Whatever pokes the worker (a file, the engine, the dispatcher) only makes the next turn come
sooner.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nanoclaw.acceptance import Taken, keep_session, take
from nanoclaw.conclusion import conclude
from nanoclaw.config.mounts import ResolvedMount, check_mounts
from nanoclaw.deadlines import Limits
from nanoclaw.faults import reach
from nanoclaw.house import House
from nanoclaw.ipc.desk import KINDS, Desk
from nanoclaw.ipc.policy import Asker
from nanoclaw.models import Group, Mount
from nanoclaw.moments import utc_now
from nanoclaw.pending import Batch
from nanoclaw.runs import mailbox
from nanoclaw.runs.claims import note_output
from nanoclaw.runs.judge import Verdict
from nanoclaw.runs.launch import Start, new_claim
from nanoclaw.runs.marks import Mark, marked
from nanoclaw.runs.records import Run
from nanoclaw.runs.runtime import Look, Runtime, StartFailed, is_starting
from nanoclaw.stopping import cancelled_by
from nanoclaw.stores.cursors import Cursor
from nanoclaw.supervision import STOP_GRACE, Supervision
from nanoclaw.turns import Turns

log = logging.getLogger("nanoclaw")

LOOK_EVERY = 10.0
TOUCH_EVERY = 60.0


class _Stopped(Exception):
    """A person stopped the run while a follow-up was about to be handed to it."""


class Worker(threading.Thread):
    """Owns one run. ``start_with`` None: a run of an earlier host, to be adopted."""

    def __init__(self, house: House, run: Run, runtime: Runtime, start_with: Start | None) -> None:
        super().__init__(name=f"run {run.id}", daemon=True)
        self.run_record = run
        self.closing = False
        self.over = threading.Event()
        """Set when the container is known to be gone."""
        self._house = house
        self._runtime = runtime
        self._start_with = start_with
        self._directory = house.records.path(run.id)
        self._turns = Turns(f"Run {run.id}", lambda: self.turn(time.monotonic()))
        self._pause = threading.Event()
        self._desk = Desk(
            *(house.office, self._directory / "ipc", self._directory / "in" / "answers", run.folder, self._asker),
            run=run.id,
            said=self._said,
        )
        self._requests_again: float | None = None
        self._begun = False
        self._taken = Taken()
        self.close_wanted = run.kind != "message"
        """Of a run whose prompt commands the CLI: what people write must not be obeyed so."""
        self._look_now = False
        self._supervision = Supervision(house, run, runtime, time.monotonic())
        self._deadlines = self._supervision.deadlines
        self._claim_ahead = True
        self._revoked = False
        self._granted = self._grants(self._group())
        self._mark: Mark | None = None
        self._stop_is_pending = False
        self._next_look = 0.0
        self._next_touch = 0.0
        self._verdict: Verdict | None = None

    @property
    def folder(self) -> str:
        return self.run_record.folder

    @property
    def idle_since(self) -> float | None:
        """Monotonic time in s; None while the agent works."""
        return self._deadlines.idle_since

    def poke(self, look: bool = False) -> None:
        """Something may have changed; ``look``: the container may have ended."""
        self._look_now = self._look_now or look
        self._turns.poke()

    def close(self) -> None:
        """Let the agent end when it has finished its turn."""
        self.close_wanted = True
        self._turns.poke()

    @property
    def id(self) -> str:
        return self.run_record.id

    def cut_off(self, by: str, through: int | None) -> int:
        """A person stopped the run: nothing that it says from now on counts, and it cannot ask the model any more.
        Returns how many messages are cancelled by that."""
        if self._mark is not None:
            return 0
        self._mark = Mark(by, through)
        self._house.gateway.close(self.run_record.id)
        self._turns.poke()
        return cancelled_by(self.run_record.claims, through)

    def kill(self) -> None:
        """SIGKILL to the container, from whatever thread; the worker sees that it is gone."""
        self._runtime.kill(self.run_record.container, self.run_record.container_id)
        self.poke(look=True)

    def stop_pending(self) -> None:
        """It was said that the container is not known to be gone: to be said when it is."""
        self._stop_is_pending = True

    def halt(self) -> None:
        """The host ends: the container goes on, the next host adopts it."""
        self._turns.halt()

    def run(self) -> None:
        self._turns.run()
        for path in self._watched():
            self._house.watcher.remove(path)
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
        if self._mark is not None:
            return self._be_stopped(now) if self._verdict is None else 0.0
        # What the agent asked for while it worked comes before its answer, and behind the prompts that it had then.
        self._take_events(now, to_result=True)
        replies = self.run_record.replies
        self._take_requests()
        more = self._take_events(now, spoke=self.run_record.replies > replies)
        if self._ended(now):
            return 0.0
        self._hand_over(now)
        if now >= self._next_touch:
            mailbox.touch_host(self._directory)
            self._next_touch = now + TOUCH_EVERY
        wait = self._time_passes(now)
        if self._requests_again is not None:
            wait = min(wait, self._requests_again)
        return 0.0 if more else wait

    # -- start ---------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Open the run's door, then start its container or take it over. What fails here is tried again as a whole."""
        run = self.run_record
        if self._mark is None and (found := marked(self._directory)) is not None:
            self._mark = found
        if self._mark is None:
            self._house.gateway.open(run.id, Path(run.socket), run.placeholder_hash)
            if self._mark is not None:  # since then: cut_off found no door yet
                self._house.gateway.close(run.id)
        for path in self._watched():
            self._house.watcher.add(path, lambda path: self.poke())
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
            if self._mark is not None:
                self.over.set()
                self._finish(Look("created"))
                return
            try:
                run.container_id = self._runtime.start(self._directory, start.argv, start.environment, start.cwd)
            except StartFailed as error:
                log.warning("Container not started run=%s code=%s: %s", run.id, error.code, error.text)
                look = self._runtime.look(self._directory, run.container, None)
                if look.state not in ("running", "exited"):
                    self._finish(Look("created"), start_error=error)
                    return
                log.warning("It did start: only the command was cut off run=%s", run.id)
        reach("container-started")
        self._start_with = None
        run.status, run.started = "started", utc_now()
        self._house.records.save(run)
        reach("run-started")
        self._deadlines.started(time.monotonic())

    def _take_over(self) -> None:
        """A command of an earlier host may still be about to start the container: nobody may believe it absent
        meanwhile."""
        while is_starting(self._directory) and not self._turns.halted:
            self._pause.wait(0.05)
        run = self.run_record
        run.container_id = run.container_id or self._runtime.identify(self._directory)
        offered = [[claim.n, claim.after.seq + 1, claim.place.seq, claim.state] for claim in run.claims]
        self._house.journal.event("adopted", run=run.id, folder=run.folder, claims=offered)
        if self.run_record.idle:
            self._became_idle(time.monotonic())
        if self.run_record.replies:
            self._house.handover.answered(self.run_record)
        keep_session(self._house, self.run_record)

    def _watched(self) -> list[Path]:
        return [self._directory / "out", *(self._directory / "ipc" / kind for kind in KINDS)]

    def _take_requests(self, final: bool = False) -> None:
        self._requests_again = self._desk.turn(time.time(), final)
        while final and self._requests_again is not None:
            self._requests_again = self._desk.turn(time.time(), final)

    def _asker(self) -> Asker | None:
        """A right needs the settings that the run began with, and those of now (ARCHITECTURE 14)."""
        self._house.settings.refresh()
        group, run = self._group(), self.run_record
        if group is None:
            return None
        return Asker(run.folder, run.jid, group.is_main and bool(run.group.get("is_main")), run.id)

    def _said(self) -> None:
        """A message of the agent is in the outbox: that is output, also if its turn fails later (ARCHITECTURE 4)."""
        note_output(self.run_record.claims)
        self.run_record.replies += 1
        self._house.records.save(self.run_record)
        self._deadlines.output(time.monotonic())

    def _take_events(self, now: float, to_result: bool = False, spoke: bool = False) -> bool:
        """True when there may be more."""
        taken = take(self._house, self.run_record, self._taken, to_result, spoke)
        self._taken = Taken()
        if taken.output:
            self._deadlines.output(now)
        if taken.idle is not None:
            self._became_idle(now if taken.idle else None)
        self._look_now = self._look_now or taken.ended
        return taken.more

    def _became_idle(self, since: float | None) -> None:
        if (since is None) != (self.idle_since is None):
            self._deadlines.idle_since = since
            self._house.changed()

    # -- follow-ups and deadlines --------------------------------------------------------------------------------

    def _group(self) -> Group | None:
        """The group as it is registered now, if this run may still speak for it."""
        group = self._house.settings.groups.get(self.folder)
        return group if group is not None and group.jid == self.run_record.jid else None

    def _grants(self, group: Group | None) -> list[ResolvedMount | None]:
        return [resolved for _, resolved, _ in check_mounts(group, self._house.office.home)] if group else []

    def _is_revoked(self, group: Group | None) -> bool:
        """The group is gone, or is not the main one any more, which this run began as (ARCHITECTURE 14)."""
        if self.folder not in self._house.settings.groups:
            return True
        return bool(self.run_record.group.get("is_main")) and group is not None and not group.is_main

    def _hand_over(self, now: float) -> None:
        group, run = self._group(), self.run_record
        if self._is_revoked(group) and not self._revoked:
            self._revoked = True
            log.warning("Stopping container group=%s run=%s: it may not act for the group any more", run.folder, run.id)
            self._runtime.stop(run.container, run.container_id, STOP_GRACE)
            self._look_now = True
        if (
            group is None
            or _mounts(group.mounts) != _mounts(run.group.get("mounts"))
            or self._grants(group) != self._granted
        ):
            self.close_wanted = True
        if self.close_wanted and not self.closing:
            self.closing = True
            self._deadlines.told_to_close = now if self.idle_since is not None else None
            mailbox.write_close(self._directory)
            log.info("Closing container group=%s run=%s", self.folder, self.run_record.id)
        if group is None or self.closing or self.run_record.error is not None:
            return
        if self._house.handover.waits_until(group) != 0.0:
            return

        def write(batch: Batch, prompt: str, cursor: Cursor) -> None:
            if self._mark is not None:
                raise _Stopped
            claim = new_claim(len(run.claims) + 1, batch, cursor.place, cursor.note)
            self._house.records.write_prompt(self._directory / "in", claim, prompt, durable=True)
            reach("follow-up-claimed")
            run.claims.append(claim)
            self._claim_ahead = True

        try:
            batch = self._house.handover.hand(group, write)
        except _Stopped:
            return
        self._claim_ahead = False
        if batch is not None:
            self._became_idle(None)
            self._deadlines.output(now)
            log.info("Processing messages group=%s run=%s count=%d follow-up", run.folder, run.id, len(batch.lines))
            self._house.journal.event(
                "offered", run=run.id, folder=run.folder, n=len(run.claims), messages=batch.wakers
            )

    def _limits(self) -> Limits:
        """As the settings say now, for a living run, too."""
        group, config, run = self._group(), self._house.settings.config, self.run_record
        if group is None:
            return Limits(run.timeout, run.idle_timeout, config.progress_after)
        timeout, idle = group.timeout or config.timeout, group.idle_timeout or config.idle_timeout
        return Limits(timeout, idle, config.progress_after)

    def _time_passes(self, now: float) -> float:
        """Do what is due; returns the seconds until something is."""
        done, when = self._supervision.turn(now, self._limits())
        self._look_now = self._look_now or done == "look"
        self.close_wanted = self.close_wanted or done == "close"
        return 0.0 if done else max(0.0, min(when, self._next_look, self._next_touch) - now)

    def _be_stopped(self, now: float) -> float:
        """A person stopped this run: it is over when its container is seen to be gone."""
        run = self.run_record
        look = self._runtime.look(self._directory, run.container, run.container_id)
        if look.state in ("exited", "absent", "created"):
            self.over.set()
            if self._stop_is_pending:
                self._stop_is_pending = False
                self._house.notices.say(run.folder, run.jid, "dead", "It is dead now: its container is gone.", run.id)
                known = {"runs": [run.id], "cancelled": 0, "confirmed": True, "by": "later"}
                self._house.journal.event("stopped", folder=run.folder, **known)
            self._finish(look)
            return 0.0
        return self._supervision.kill_again(now)

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
        self._take_events(now, to_result=True)
        replies = self.run_record.replies
        self._take_requests(final=True)
        spoke = self.run_record.replies > replies
        while self._take_events(now, spoke=spoke):
            pass
        self._finish(look)
        return True

    def _finish(self, look: Look, start_error: StartFailed | None = None) -> None:
        self._verdict = conclude(self._house, self.run_record, self._runtime, look, start_error, self._mark)
        self._turns.halt()
        self.over.set()
        self._house.over(self.run_record, self._verdict)


def _mounts(mounts: Any) -> Any:
    """Mounts in the form that they have in a record."""
    return json.loads(json.dumps([asdict(m) if isinstance(m, Mount) else m for m in mounts or ()]))
