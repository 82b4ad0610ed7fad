"""Handing messages to agents, and taking them back: the one place where a group's cursor moves.

Everything here happens under the group's cursor lock, with the claim on disk before the cursor moves: a crash in
between leaves a claim, from which the restart raises the cursor.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from nanoclaw import router
from nanoclaw.faults import reach
from nanoclaw.files.atomic import BrokenFile
from nanoclaw.files.locks import Locks
from nanoclaw.models import Group
from nanoclaw.pending import Batch, Pending
from nanoclaw.runs.claims import Settlement
from nanoclaw.runs.judge import RETRY_SECONDS, Verdict
from nanoclaw.runs.records import Run
from nanoclaw.stores.cursors import Cursor, Cursors, Retry
from nanoclaw.stores.settings import Settings
from nanoclaw.stores.transcripts import Position, Transcripts

log = logging.getLogger("nanoclaw")

BROKEN_OFF = "Your previous answer broke off before it was complete; the chat was told so."
STOPPED = "A person stopped your previous turn: what it was about is cancelled."
CANCELLED_KEPT = 100


class Handover:
    """Which messages wait, their handing over, and the settling of a run's end. Thread-safe."""

    def __init__(self, locks: Locks, settings: Settings, transcripts: Transcripts, cursors: Cursors) -> None:
        self._locks = locks
        self._settings = settings
        self._transcripts = transcripts
        self._cursors = cursors
        self._views: dict[str, Pending] = {}

    def cursor(self, group: Group) -> Cursor:
        """A group's cursor. A missing one, or one of another chat, is recovered from the assistant's own last
        message in the chat (SPEC 3). New messages are numbered behind it, also where a person shortened the
        transcript."""
        with self._locks.hold("cursor", group.folder):
            cursor = self._cursors.get(group.folder)
            if cursor is None or cursor.jid not in (None, group.jid):
                cursor = self._recovered(group.folder, group.jid, cursor)
            self._transcripts.number_behind(group.jid, cursor.handed)
            return replace(cursor, jid=group.jid)

    def _recovered(self, folder: str, jid: str, other: Cursor | None = None) -> Cursor:
        own = self._transcripts.last_where_run(jid)
        place = Position(own.seq) if own else Position()
        cursor = Cursor(jid=jid, place=place, done=place.seq, judged=other.judged if other else None)
        self._cursors.put(folder, cursor)
        if own:
            log.warning("Cursor recovered from the last answer group=%s handed=%d", folder, own.seq)
        return cursor

    def _of(self, run: Run) -> Cursor | None:
        """The cursor that a run's claims are about; None where the group stands for another chat now."""
        cursor = self._cursors.get(run.folder) or self._recovered(run.folder, run.jid)
        return cursor if cursor.jid in (None, run.jid) else None

    def waits_until(self, group: Group) -> float | None:
        """None: nothing wakes the agent. Else the Unix time (s) before which a retry must not start; 0: at once."""
        with self._locks.hold("cursor", group.folder):
            cursor, view = self._refreshed(group)
            retry = cursor.retry
            if not view.wakes(retry.kept_through if retry else None):
                return None
            if retry is None or retry.kept_through is not None:
                return 0.0
            return retry.not_before

    def waits_since(self, group: Group) -> float:
        """When the oldest of the messages that wake the agent arrived: Unix time in s."""
        with self._locks.hold("cursor", group.folder):
            return self._refreshed(group)[1].waits_since()

    def hand(self, group: Group, claim: Callable[[Batch, str, Cursor], None]) -> Batch | None:
        """Make a claim of all that waits: ``claim`` writes it to disk from the batch and its prompt; then the
        cursor moves."""
        with self._locks.hold("cursor", group.folder):
            cursor, view = self._refreshed(group)
            batch = view.batch(cursor)
            if batch is None:
                return None
            config = self._settings.config
            claim(batch, router.compose(batch.lines, batch.omitted, config, cursor.note), cursor)
            self._cursors.put(group.folder, replace(cursor.at(batch.place), note=None))
            reach("cursor-moved")
            return batch

    def cancel(self, folder: str, group: Group | None, through: int | None = None) -> tuple[str, ...]:
        """Nothing of what waits wakes the agent any more, but for what came in behind ``through``; returns the ids of
        the messages that would have. ``group`` None: its file cannot be read."""
        with self._locks.hold("cursor", folder):
            if group is None:
                cursor = self._cursors.get(folder)
                waiting = (
                    [] if cursor is None or cursor.jid is None else self._transcripts.since(cursor.jid, cursor.place)
                )
                lines = [line for line, _ in waiting if router.is_context(line.message)]
                place = waiting[-1][1] if waiting else Position()
            else:
                cursor, view = self._refreshed(group)
                batch = view.batch(cursor)
                lines = [line for line in batch.lines if line.message.id in batch.wakers] if batch else []
                place = batch.place if batch else Position()
            if through is not None and place.seq > through:
                lines, place = [line for line in lines if line.seq <= through], Position(through)
            if cursor is None or not lines:
                return ()
            cancelled = _cancelled(cursor.at(place), [(cursor.handed + 1, place.seq)])
            self._cursors.put(folder, replace(cancelled, retry=None))
            return tuple(line.message.id for line in lines)

    def note(self, folder: str, text: str) -> None:
        """The agent reads this with its next prompt. Raises BrokenFile."""
        with self._locks.hold("cursor", folder):
            cursor = self._cursors.get(folder)
            if cursor is not None and text not in (cursor.note or ""):
                self._cursors.put(folder, replace(cursor, note=f"{cursor.note or ''}\n{text}".strip()))

    def hand_errand(self, group: Group, claim: Callable[[Position], None]) -> None:
        """Make a claim that covers no message, where the cursor stands: the cursor does not move."""
        with self._locks.hold("cursor", group.folder):
            claim(self._refreshed(group)[0].place)

    def raise_to(self, run: Run) -> None:
        """After a restart: what an unjudged run claimed is handed."""
        if not run.claims:
            return
        with self._locks.hold("cursor", run.folder):
            cursor, place = self._of(run), run.claims[-1].place
            if cursor is not None and cursor.reset and cursor.reset[0] == run.id and cursor.reset[1] >= len(run.claims):
                return
            if cursor is not None and place.seq > cursor.handed and cursor.judged != run.id:
                self._cursors.put(run.folder, cursor.at(place))

    def answered(self, run: Run) -> None:
        """A result was accepted: what it finished is done, and what went wrong before is over."""
        done = run.done_through
        with self._locks.hold("cursor", run.folder):
            cursor = self._of(run)
            if cursor is not None and cursor.judged != run.id:
                self._cursors.update(run.folder, done=max(cursor.done, done or 0), retry=None, said=())
        reach("cursor-done")

    def say_once(self, folder: str, cause: str) -> bool:
        """True the first time in an episode that a cause is to be said in a chat; durable before it is said."""
        with self._locks.hold("cursor", folder):
            try:
                cursor = self._cursors.get(folder)
            except BrokenFile:
                return False
            if cursor is None:
                return True
            if cause in cursor.said:
                return False
            self._cursors.update(folder, said=(*cursor.said, cause))
            return True

    def over(self, folder: str, causes: Collection[str]) -> None:
        """None of these causes holds any more: should one come back, it is said again."""
        with self._locks.hold("cursor", folder), suppress(BrokenFile):
            cursor = self._cursors.get(folder)
            if cursor is not None and any(cause in causes for cause in cursor.said):
                self._cursors.update(folder, said=tuple(cause for cause in cursor.said if cause not in causes))

    def settle(self, run: Run, verdict: Verdict, settlement: Settlement, now: float) -> bool:
        """Count a run's end, once: move the cursor back to what was left without an answer. ``now``: Unix time in s.
        True when the retries are used up by this."""
        with self._locks.hold("cursor", run.folder):
            cursor = self._of(run)
            if cursor is None:
                return False
            if cursor.judged == run.id:  # counted before a crash
                return cursor.retry is not None and cursor.retry.kept_through is not None
            note = STOPPED if settlement.cancelled else BROKEN_OFF if settlement.broken else None
            told = dict.fromkeys(filter(None, (cursor.note, *settlement.notes, note)))
            cursor = replace(cursor, judged=run.id, note="\n".join(told) or None)
            cursor = _cancelled(cursor, settlement.cancelled)
            if settlement.back_to is None:
                self._cursors.put(run.folder, replace(cursor, done=cursor.handed, retry=None))
                return False
            retry, used_up = self._retry(cursor, verdict, settlement, now)
            finished = _merged([*cursor.finished, *settlement.finished])
            place = min(
                settlement.back_to, cursor.place, key=lambda place: place.seq
            )  # a person may have gone further back
            cursor = replace(cursor, done=place.seq, retry=retry)
            self._cursors.put(run.folder, replace(cursor.at(place), finished=finished))
            return used_up

    def _retry(self, cursor: Cursor, verdict: Verdict, settlement: Settlement, now: float) -> tuple[Retry | None, bool]:
        if verdict.retry in ("wait", "drop") or ((verdict.ok or settlement.answered) and not settlement.failed):
            return cursor.retry, False
        count = (cursor.retry.count if cursor.retry else 0) + 1
        if count > len(RETRY_SECONDS):
            return Retry(0, 0.0, kept_through=cursor.handed), True
        return Retry(count, now + RETRY_SECONDS[count - 1]), False

    def _refreshed(self, group: Group) -> tuple[Cursor, Pending]:
        cursor = self.cursor(group)
        view = self._views.setdefault(group.folder, Pending(self._transcripts))
        refreshed = view.refresh(group, self._settings.config, cursor, self._settings.senders)
        if refreshed != cursor:
            self._cursors.put(group.folder, refreshed)
        return refreshed, view


def _cancelled(cursor: Cursor, ranges: Sequence[tuple[int, int]]) -> Cursor:
    return replace(cursor, cancelled=(*cursor.cancelled, *ranges)[-CANCELLED_KEPT:])


def _merged(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    return tuple(sorted(set(ranges)))
