"""The dispatcher: which group's messages get a container now. One thread decides; workers do.

It keeps no state that is not on disk: what waits is read from transcripts and cursors, what runs from the run records.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from nanoclaw.conditions import PROBED, Conditions, is_full
from nanoclaw.errors import UserError
from nanoclaw.faults import reach
from nanoclaw.files.atomic import SETTLE_SECONDS
from nanoclaw.house import House
from nanoclaw.pending import Batch
from nanoclaw.queue import Running, Waiting, plan
from nanoclaw.runs.judge import Verdict
from nanoclaw.runs.launch import Preparation, Runtimes, Start, errand_claim, new_claim
from nanoclaw.runs.records import Run
from nanoclaw.stores.cursors import Cursor
from nanoclaw.stores.journal import set_level
from nanoclaw.stores.transcripts import Position
from nanoclaw.turns import HELD_UP_SECONDS, Turns
from nanoclaw.waiting import WaitingGroups
from nanoclaw.worker import Worker

log = logging.getLogger("nanoclaw")


class Dispatcher:
    """``turn`` starts and closes runs; ``turns`` repeats it on a thread. ``changed`` names a group whose chat has
    news."""

    def __init__(
        self,
        house: House,
        preparation: Preparation,
        runtimes: Runtimes,
        conditions: Conditions,
        drain: bool = False,
        first_run: Callable[[], None] = lambda: None,
    ) -> None:
        self._house = house
        self._preparation = preparation
        self._runtimes = runtimes
        self._conditions = conditions
        self._drain = drain
        self._first_run = first_run
        self.turns = Turns("Dispatcher", lambda: self.turn(time.monotonic(), time.time()))
        self._guard = threading.Lock()  # guards _reread and _workers
        self._starting = threading.Lock()
        """Held from a claim to its worker: who holds it knows every run that lives."""
        self._groups = WaitingGroups(house.settings, house.handover, house.office.errands)
        self._reread = True
        self._seen = self._settings_now()
        self._workers: dict[str, Worker] = {}
        self._limited: frozenset[str] = frozenset()
        self.settled = threading.Event()
        """Set after each turn that found nothing to do and nothing running: all that can be done now is done."""

    # -- pokes: any thread -----------------------------------------------------------------------------------------

    def changed(self, folder: str) -> None:
        """There is news in a group's chat."""
        self._groups.news([folder])
        worker = self.living(folder)
        self.settled.clear()
        if worker is not None:
            worker.poke()
        self.turns.poke()

    def settings_changed(self) -> None:
        with self._guard:
            self._reread = True
        self._conditions.poke()
        self.turns.poke()

    def container_ended(self, name: str | None) -> None:
        """The engine says that a container ended (None: perhaps some did)."""
        with self._guard:
            workers = [w for w in self._workers.values() if name in (None, w.run_record.container)]
        for worker in workers:
            worker.poke(look=True)

    def living(self, folder: str) -> Worker | None:
        """The run that a group has now."""
        with self._guard:
            return self._worker_of(folder)

    def workers(self) -> list[Worker]:
        with self._guard:
            return list(self._workers.values())

    def all_living(self, folder: str) -> list[Worker]:
        """The runs of a group that live now, none of which can begin meanwhile."""
        with self._starting:
            return [worker for worker in self.workers() if worker.folder == folder]

    def over(self, run: Run, verdict: Verdict) -> None:
        """A run is judged: its slot is free."""
        if verdict.retry == "wait":
            self._conditions.hold(verdict, time.monotonic(), (run.error or {}).get("said", ""))
        elif verdict.ok:
            self._conditions.worked()
        with self._guard:
            self._workers.pop(run.id, None)
        self._groups.news([run.folder])
        self.turns.poke()

    # -- its own thread --------------------------------------------------------------------------------------------

    def adopt(self, run: Run) -> None:
        """Take up an unjudged run of an earlier host."""
        self._start_worker(Worker(self._house, run, self._runtimes.of(run.runtime), None))

    def turn(self, now: float, wall: float) -> float:
        """Decide at monotonic time ``now``, Unix time ``wall``; returns the seconds until the next turn is due in
        any case."""
        self._read_settings(wall)
        ready, next_look = self._groups.ready(wall)
        running = [
            Running(w.folder, w.run_record.id, w.idle_since, w.closing or w.close_wanted) for w in self.workers()
        ]
        verdict = self._conditions.why_not(now) if ready or self._conditions.next_look() is not None else None
        if verdict is not None:
            self._hold_back(ready, verdict)
            ready = []
        for waiting in ready:
            self._house.handover.over(waiting.folder, PROBED)
        decided = plan(ready, running, self._house.settings.config.max_concurrent_containers)
        self._say_limited(decided.limited)
        # An errand needs a run of its own: the conversation gives way when it is idle.
        sent = {errand.folder for errand in self._house.office.errands.all()}
        give_way = [r.run for r in running if r.idle_since is not None and (self._drain or r.folder in sent)]
        for run_id in [*decided.close, *give_way]:
            for worker in self.workers():
                if worker.run_record.id == run_id and not worker.close_wanted:
                    worker.close()
        for folder in decided.start:
            with self._starting:
                self._start(folder)
        if not running and not decided.start and not decided.limited and not self._groups.has_news:
            self.settled.set()
        due = [next_look]
        if verdict is not None:
            due.append((self._conditions.next_look() or now) - now)
        if self._groups.broken:
            due.append(HELD_UP_SECONDS)
        if self._house.settings.unsettled:
            due.append(SETTLE_SECONDS)
        return max(0.05, min(due))

    def _settings_now(self) -> tuple[object, ...]:
        return (now := self._house.settings).config, now.groups, now.senders, now.environment

    def _read_settings(self, wall: float) -> None:
        with self._guard:
            reread, self._reread = self._reread, False
        settings = self._house.settings
        settings.refresh(None if reread or self._groups.is_rescan_due(wall) else "")
        seen = self._settings_now()
        if not reread and all(one is other for one, other in zip(seen, self._seen, strict=True)):
            return
        self._seen = seen
        set_level(settings.config.log_level)
        self._groups.look_at_all()
        self._house.settings_read()
        for worker in self.workers():
            worker.poke()

    def _hold_back(self, ready: list[Waiting], verdict: Verdict) -> None:
        if verdict.cause == "disk" and not is_full(self._house.office.home.state):
            return  # it was, at the last look: nobody needs to hear of it any more
        for waiting in ready:
            group = self._house.settings.groups.get(waiting.folder)
            if group is None or any(w.folder == group.folder for w in self.workers()):
                continue
            self._house.notices.once_per_episode(group.folder, group.jid, verdict)

    def _say_limited(self, limited: tuple[str, ...]) -> None:
        fresh = [folder for folder in limited if folder not in self._limited]
        self._limited = frozenset(limited)
        for folder in fresh:
            log.info("At concurrency limit group=%s waits", folder)
            self._house.journal.event("limited", folder=folder)

    def _start(self, folder: str) -> None:
        group = self._house.settings.groups[folder]
        errand = self._house.office.errands.first(folder)
        made: list[tuple[Sequence[str], Run, Start]] = []

        def claim(batch: Batch, prompt: str, cursor: Cursor) -> None:
            session = self._house.sessions.get(folder)
            first = new_claim(1, batch, cursor.place, cursor.note)
            made.append((batch.wakers, *self._preparation.prepare(group, session, prompt, first)))

        def claim_errand(at: Position) -> None:
            assert errand is not None
            session = self._house.sessions.get(folder)
            made.append(((), *self._preparation.prepare(group, session, errand.text, errand_claim(at), errand)))

        try:
            if errand is not None:
                self._house.handover.hand_errand(group, claim_errand)
                reach("errand-claimed")
                self._house.office.errands.remove(errand.id)
            else:
                self._house.handover.hand(group, claim)
        except (OSError, UserError) as error:
            if not made or isinstance(error, UserError):
                self._groups.set_back(folder, error)
            # A claim that is on disk is carried out, whatever failed behind it: the worker moves the cursor.
        else:
            self._groups.started(folder)
        if made:
            messages, run, start = made[0]
            log.info(
                "Processing messages group=%s run=%s count=%d errand=%s", folder, run.id, len(messages), run.errand
            )
            self._house.journal.event("offered", run=run.id, folder=folder, n=1, messages=messages, errand=run.errand)
            if run.rotated_from:
                self._house.journal.event("rotated", run=run.id, folder=folder, session=run.rotated_from)
            self._start_worker(Worker(self._house, run, self._runtimes.of(run.runtime), start))

    def _start_worker(self, worker: Worker) -> None:
        with self._guard:
            self._workers[worker.run_record.id] = worker
        self.settled.clear()
        worker.start()
        self._first_run()

    def _worker_of(self, folder: str) -> Worker | None:
        return next((w for w in self._workers.values() if w.folder == folder), None)
