"""The end of a run: record how it ended, judge it once, take back what it left without an answer, remove its
container.

Each step may be the last before a crash; the next start finds the run unjudged and comes through here again, to the
same effect.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from nanoclaw.conditions import is_full
from nanoclaw.faults import reach
from nanoclaw.files.atomic import read_json
from nanoclaw.house import House
from nanoclaw.moments import utc_now
from nanoclaw.runs import claims
from nanoclaw.runs.judge import RETRY_SECONDS, Ending, Verdict, judge
from nanoclaw.runs.marks import Mark, marked
from nanoclaw.runs.records import Run
from nanoclaw.runs.runtime import Look, Runtime, StartFailed

log = logging.getLogger("nanoclaw")


def conclude(
    house: House,
    run: Run,
    runtime: Runtime,
    look: Look,
    start_error: StartFailed | None = None,
    stopped: Mark | None = None,
) -> Verdict:
    """``look``: what the engine said last, all events being taken; ``start_error``: why there never was a container;
    ``stopped``: a person stopped it."""
    stopped = stopped or marked(house.records.path(run.id))
    if run.status != "ended":
        run.status, run.ended, run.exit_code, run.oom = "ended", utc_now(), look.exit_code, look.oom
        run.detail = start_error.text if start_error else None
        run.stopped = stopped.by if stopped else None
        house.records.save(run)
        reach("run-ended")
    if look.state != "absent":
        runtime.clean_up(house.records.path(run.id), run.container)
        reach("container-removed")
    verdict = judge(_ending(run, house.office.home.state))
    settlement = claims.cancel(run.claims, stopped.through) if stopped else claims.settle(run.claims)
    if settlement.cancelled:
        house.journal.event("cancelled", run=run.id, folder=run.folder, seqs=settlement.cancelled)
    used_up = house.handover.settle(run, verdict, settlement, time.time())
    if settlement.back_to is not None:
        event = "kept" if used_up else "returned"
        house.journal.event(event, run=run.id, folder=run.folder, behind=settlement.back_to.seq, cause=verdict.cause)
    reach("settled")
    if verdict.clears_session:
        log.warning("Stale session detected — clearing for next retry group=%s", run.folder)
        house.sessions.clear(run.folder)
    if run.errand is not None:
        _keep_errand(house, run, verdict)
    house.notices.of_run(run, verdict, used_up)
    reach("told")
    run.outcome, run.status = verdict.cause, "judged"
    house.records.save(run)
    reach("judged")
    if not verdict.ok:
        said = (run.error or {}).get("said") or run.detail or ""
        log.warning("%s group=%s run=%s doctor=%s %s", verdict.log, run.folder, run.id, verdict.doctor, said)
    log.info("Run over group=%s run=%s verdict=%s exit=%s", run.folder, run.id, verdict.cause, run.exit_code)
    house.journal.event("judged", run=run.id, folder=run.folder, verdict=verdict.cause, exit=run.exit_code)
    return verdict


def _keep_errand(house: House, run: Run, verdict: Verdict) -> None:
    """An errand that was not begun, or that met the environment's fault, waits on: as another one, because this
    run has claimed the first. What failed before it was begun is tried as often as a message, what failed by itself
    once; the chat hears of it."""
    claim = run.claims[0]
    untouched = claim.state == "offered" or (verdict.retry == "wait" and claim.state == "consumed" and not claim.output)
    tries = run.errand_tries + (verdict.retry == "count")
    if untouched and verdict.retry != "drop" and tries <= len(RETRY_SECONDS):
        given = read_json(house.records.path(run.id) / "in" / "000001.json") or {}
        text = str(given.get("text", ""))
        house.office.errands.put(f"again-{run.id}", run.folder, text, run.errand or "", run.kind, tries)


def _ending(run: Run, state: Path) -> Ending:
    """From the record alone: after a crash there is nothing else. ``detail`` is what the command that starts it
    said. A runner that ends without a word may have found no room for one on the disk of ``state``."""
    error = run.error or {}
    return Ending(
        exit_code=run.exit_code,
        oom=run.oom,
        start_error=run.detail,
        never_started=run.started is None and run.exit_code is None and not run.accepted_through,
        reason=error.get("reason"),
        status=error.get("status"),
        text=error.get("text", ""),
        said=error.get("said", ""),
        until=error.get("until"),
        timed_out=run.timed_out,
        hung=run.hung,
        stopped=run.stopped is not None,
        replied=run.replies > 0 or run.is_answered,
        why_ended=run.why_ended,
        disk_full=run.exit_code in (1, 120) and run.error is None and is_full(state),
    )
