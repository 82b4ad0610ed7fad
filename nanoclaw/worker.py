"""One run, from its start (or its adoption after a restart) to its verdict: a thread that repeats one turn.

A turn takes what the runner wrote, hands over what waits in the chat, and looks at the deadlines; it returns when it wants to be
called again. Whatever pokes the worker (a file, the engine, the dispatcher) only makes the next turn come sooner.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nanoclaw import router
from nanoclaw.files.watch import Watcher
from nanoclaw.gateway.gateway import Gateway
from nanoclaw.handover import Handover
from nanoclaw.models import Group
from nanoclaw.pending import Batch
from nanoclaw.runs import claims, mailbox
from nanoclaw.runs.judge import Ending, Verdict, judge
from nanoclaw.runs.launch import Start, new_claim
from nanoclaw.runs.mailbox import Event
from nanoclaw.runs.records import Records, Run
from nanoclaw.runs.runtime import Look, Runtime, StartFailed, is_starting
from nanoclaw.stores.cursors import Cursor
from nanoclaw.stores.journal import Journal
from nanoclaw.stores.outbox import Outbox
from nanoclaw.stores.sessions import Session, Sessions
from nanoclaw.stores.settings import Settings
from nanoclaw.stores.transcripts import Transcripts
from nanoclaw.turns import Turns

log = logging.getLogger("nanoclaw")

LOOK_EVERY = 10.0
TOUCH_EVERY = 60.0
STOP_GRACE = 10.0
CLOSE_GRACE = 20.0
"""An idle agent that was told to close is stopped after this."""
CLOSE_MARGIN = 30.0
"""The hard timeout is at least so much above the idle one (SPEC 4)."""


@dataclass(frozen=True)
class House:
    """What a worker works with. ``changed(worker)``: it became idle or busy; ``tell(run, verdict, used_up)``: the chat
    must know of it; ``over(worker, verdict)``: it is judged.
    ``delivery``: the outbox has news; ``settings_read``: groups or settings may be different now."""

    records: Records
    transcripts: Transcripts
    outbox: Outbox
    sessions: Sessions
    settings: Settings
    journal: Journal
    handover: Handover
    gateway: Gateway
    watcher: Watcher
    start_slots: threading.Semaphore
    changed: Callable[[Worker], None]
    tell: Callable[[Run, Verdict, bool], None]
    over: Callable[[Worker, Verdict], None]
    delivery: Callable[[], None]
    settings_read: Callable[[], None]


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
        self.close_wanted = False
        self._look_now = False
        self._last_output = time.monotonic()
        self._gone_by = math.inf
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
        out = self._directory / "out"
        try:
            self._house.gateway.open(self.run_record.id, Path(self.run_record.socket), self.run_record.placeholder_hash)
            self._house.watcher.add(out, lambda path: self.poke())
            if self._start_with is not None:
                self._launch(self._start_with)
            elif self.run_record.status != "ended":
                self._await_start()
            if self._verdict is None:
                self._turns.run()
        finally:
            self._house.watcher.remove(out)
            if self._verdict is not None:
                self._house.gateway.close(self.run_record.id)

    def turn(self, now: float) -> float:
        """One turn at monotonic time ``now``; returns the seconds after which the next one is due in any case."""
        self._take_events(now)
        if self._ended(now):
            return 0.0
        self._hand_over(now)
        if now >= self._next_touch:
            mailbox.touch_host(self._directory)
            self._next_touch = now + TOUCH_EVERY
        return self._deadlines(now)

    # -- start ---------------------------------------------------------------------------------------------------

    def _launch(self, start: Start) -> None:
        run = self.run_record
        log.info("Spawning container group=%s run=%s", run.folder, run.id)
        self._house.journal.event("spawn", run=run.id, folder=run.folder)
        with self._house.start_slots:
            try:
                run.container_id = self._runtime.start(self._directory, start.argv, start.environment, start.cwd)
            except StartFailed as error:
                log.warning("Container not started run=%s code=%s: %s", run.id, error.code, error.text)
                self._finish(Look("absent"), start_error=error)
                return
        run.status, run.started = "started", _now()
        self._house.records.save(run)
        self._last_output = time.monotonic()

    def _await_start(self) -> None:
        """Adoption: a command of an earlier host may still be about to start the container."""
        while is_starting(self._directory) and not self._turns.halted:
            self._pause.wait(0.05)
        run = self.run_record
        if all(claim.state == "finished" for claim in run.claims):
            self.idle_since = time.monotonic()
        self._keep_session()

    # -- events --------------------------------------------------------------------------------------------------

    def _take_events(self, now: float) -> None:
        run = self.run_record
        save = answered = False
        while (event := mailbox.next_event(self._directory, run.accepted_through + 1)) is not None:
            save = self._take(event, now) or save
            answered = answered or event.type == "result"
            run.accepted_through = event.n
        if save:
            self._house.records.save(run)
        if answered:
            self._house.handover.answered(run)
            self._keep_session()

    def _keep_session(self) -> None:
        run = self.run_record
        if run.new_session and run.kind == "message":
            self._house.sessions.put(run.folder, Session(run.new_session, run.new_anchor))

    def _take(self, event: Event, now: float) -> bool:
        """Apply one event; True if the record must be saved."""
        run = self.run_record
        match event.type:
            case "consumed":
                claims.consume(run.claims, event.uuids)
                self._became_idle(None)
            case "result":
                self._last_output = now
                self._result(event)
            case "state":
                idle = event.state == "idle" and all(claim.state == "finished" for claim in run.claims)
                self._became_idle(now if idle else None)
                return False
            case "error":
                run.error = {"reason": event.reason, "status": event.status, "text": event.text[:4000]}
            case "ended":
                run.why_ended = event.why[:40]
                self._look_now = True
            case "refused":
                log.warning("Output refused run=%s n=%d: %s", run.id, event.n, event.text)
            case _:
                return False
        return True

    def _result(self, event: Event) -> None:
        run = self.run_record
        text = router.visible(event.text)
        reply_id = f"{run.id}-{event.n:06d}"
        if text and not self._house.transcripts.contains(run.jid, reply_id):
            self._house.outbox.put(reply_id, run.jid, run.folder, text, _now(), run.id)
            self._house.delivery()
        if text:
            run.replies += 1
            if not event.uuids:
                claims.note_output(run.claims)
        claims.finish(run.claims, event.uuids)
        run.new_session = event.session or run.new_session
        run.new_anchor = event.anchor if event.session else run.new_anchor
        if event.usage is not None:
            run.usage.append({"n": event.n, **{k: v for k, v in event.usage.items() if isinstance(v, int | float | str)}})
        run.cost_usd = event.cost_usd if event.cost_usd is not None else run.cost_usd
        self._house.journal.event("answered", run=run.id, folder=run.folder, n=event.n, characters=len(text))

    def _became_idle(self, since: float | None) -> None:
        if (since is None) != (self.idle_since is None):
            self.idle_since = since
            self._house.changed(self)

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

        batch = self._house.handover.hand(group, write)
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
        if now >= hard and not run.timed_out:
            log.warning("Container timeout group=%s run=%s: timed out, stopping", run.folder, run.id)
            run.timed_out = True
            self._house.records.save(run)
            self._runtime.stop(run.container, run.container_id, STOP_GRACE)
            self._look_now = True
            return 0.0
        due = [self._next_look, self._next_touch, hard if not run.timed_out else now + 1.0]
        if self.idle_since is not None and not self.closing:
            due.append(self.idle_since + idle_timeout)
            if now >= self.idle_since + idle_timeout:
                self.close_wanted = True
                return 0.0
        return max(0.0, min(due) - now)

    # -- end -----------------------------------------------------------------------------------------------------

    def _ended(self, now: float) -> bool:
        """Look at the container when something hints that it ended, and from time to time; finish the run when it did."""
        if self._verdict is not None:
            return True
        if not self._look_now and now < self._next_look:
            return False
        hinted, self._look_now = self._look_now, False
        look = self._runtime.look(self._directory, self.run_record.container, self.run_record.container_id)
        self._next_look = now + LOOK_EVERY
        if look.state in ("running", "unknown"):
            if hinted and self.run_record.why_ended is not None:
                self._next_look = now + 0.2  # it said that it ends, and is about to
            return False
        self._take_events(now)
        self._finish(look)
        return True

    def _finish(self, look: Look, start_error: StartFailed | None = None) -> None:
        run, house = self.run_record, self._house
        never_started = run.status == "prepared" and look.state == "absent" and start_error is None
        if run.status != "ended":
            run.status, run.ended, run.exit_code, run.oom = "ended", _now(), look.exit_code, look.oom
            if start_error is not None:
                run.detail = start_error.text
            house.records.save(run)
        if look.state != "absent":
            self._runtime.clean_up(self._directory, run.container)
        verdict = judge(self._ending(start_error, never_started))
        settlement = claims.settle(run.claims)
        used_up = house.handover.settle(run, verdict, settlement, time.time())
        if verdict.clears_session:
            log.warning("Stale session detected — clearing for next retry group=%s", run.folder)
            house.sessions.clear(run.folder)
        house.tell(run, verdict, used_up)
        run.outcome, run.status = verdict.cause, "judged"
        house.records.save(run)
        log.info("Run over group=%s run=%s verdict=%s exit=%s", run.folder, run.id, verdict.cause, run.exit_code)
        house.journal.event("judged", run=run.id, folder=run.folder, verdict=verdict.cause, exit=run.exit_code)
        self._verdict = verdict
        self._turns.halt()
        house.over(self, verdict)

    def _ending(self, start_error: StartFailed | None, never_started: bool) -> Ending:
        run = self.run_record
        error = run.error or {}
        return Ending(
            exit_code=run.exit_code,
            oom=run.oom,
            start_error=start_error.text if start_error else None,
            never_started=never_started,
            reason=error.get("reason"),
            status=error.get("status"),
            text=error.get("text", ""),
            timed_out=run.timed_out,
            replied=run.replies > 0,
            why_ended=run.why_ended,
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
