"""Taking what a runner wrote: each event once, its reply into the outbox before the record says that it was taken
(ARCHITECTURE 7)."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from nanoclaw import router
from nanoclaw.faults import reach
from nanoclaw.house import House
from nanoclaw.moments import utc_now
from nanoclaw.runs import claims, mailbox
from nanoclaw.runs.mailbox import Event
from nanoclaw.runs.records import Run
from nanoclaw.stores.sessions import Session

log = logging.getLogger("nanoclaw")

AT_ONCE = 100


@dataclass
class Taken:
    """What the events taken in one go mean for the run's deadlines. ``idle`` None: no event said. ``more``: there
    may be more, so that a container that writes without end keeps its worker from nothing else."""

    output: bool = False
    idle: bool | None = None
    ended: bool = False
    save: bool = False
    more: bool = False


def take(house: House, run: Run, taken: Taken, to_result: bool = False, spoke: bool = False) -> Taken:
    """Take the events that are there, in order; on return they are on disk as what they became. ``taken`` is fresh, or
    what an earlier call had taken when it failed (a full disk): returned with what is added. ``to_result``: only those
    before the next result or end. ``spoke``: requests of the agent were carried out just now, so that what was consumed
    meanwhile may have brought them forth."""
    taken.more = True
    directory = house.records.path(run.id)
    for _ in range(AT_ONCE):
        event = mailbox.next_event(directory, run.accepted_through + 1)
        if event is None:
            taken.more = False
            break
        if to_result and event.type in ("result", "error", "ended"):
            break
        _apply(house, run, event, taken, spoke)
        run.accepted_through = event.n
    if taken.save:
        house.records.save(run)
        reach("output-accepted")
    if taken.output:
        house.handover.answered(run)
        keep_session(house, run)
    return taken


def keep_session(house: House, run: Run) -> None:
    """The session of the last good result is the one to resume."""
    if run.new_session:
        house.sessions.put(run.folder, Session(run.new_session, run.new_anchor), run.id)
        reach("session-stored")


def _apply(house: House, run: Run, event: Event, taken: Taken, spoke: bool) -> None:
    taken.save = taken.save or event.type != "ready"
    match event.type:
        case "consumed":
            claims.consume(run.claims, event.uuids, output=spoke)
            taken_up = [claim.n for claim in run.claims if claim.uuid in event.uuids]
            house.journal.event("consumed", run=run.id, folder=run.folder, n=taken_up)
            run.idle = taken.idle = False
        case "result":
            taken.output = True
            _result(house, run, event)
        case "state":
            run.idle = taken.idle = event.state == "idle" and run.is_answered
        case "error":
            # Some statuses hold back every group: believed only where the gateway saw them, too.
            asks = event.reason == "api" or event.status is not None
            status, said, until = (house.model_said(run.id, event.status) if asks else None) or (None, "", None)
            text = event.text[:4000]
            run.error = {"reason": event.reason, "status": status, "text": text, "said": said, "until": until}
        case "ended":
            run.why_ended = event.why[:40]
            taken.ended = True
        case "refused":
            log.warning("Output refused run=%s n=%d: %s", run.id, event.n, event.text)


def _result(house: House, run: Run, event: Event) -> None:
    text = router.visible(event.text)
    reply_id = f"{run.id}-{event.n:06d}"
    if text and not house.transcripts.contains(run.jid, reply_id):
        quote = next((claim.quote for claim in run.claims if claim.uuid in event.uuids[-1:]), None)
        house.outbox.put(reply_id, run.jid, run.folder, text, utc_now(), run.id, quote=quote)
        reach("reply-put")
        house.delivery()
    if text:
        run.replies += 1
        if not event.uuids:
            claims.note_output(run.claims)
    claims.finish(run.claims, event.uuids)
    run.new_session = event.session or run.new_session
    run.new_anchor = event.anchor if event.session else run.new_anchor
    if event.usage is not None:
        run.usage.append({**event.usage, "n": event.n})
    run.cost_usd = event.cost_usd if event.cost_usd is not None else run.cost_usd
    house.journal.event("answered", run=run.id, folder=run.folder, n=event.n, characters=len(text))
