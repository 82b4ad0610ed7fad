"""What becomes of a run's prompts: while it lives, and when it ends, however it ends (ARCHITECTURE 4). Pure
functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from nanoclaw.runs.records import Claim
from nanoclaw.stores.transcripts import Position


@dataclass(frozen=True)
class Settlement:
    """``back_to``: where the cursor must return to, None where it may stay. ``finished``: ranges of seqs behind
    ``back_to`` that must not be answered again. ``failed``: a prompt was consumed and left nothing. ``broken``: one was
    answered in part only. ``answered``: one was finished, whatever became of the others. ``cancelled``: ranges of seqs
    that nobody is to answer any more. ``notes``: what the agent was told with prompts that came to nothing."""

    back_to: Position | None
    finished: tuple[tuple[int, int], ...]
    failed: bool
    broken: bool
    answered: bool
    cancelled: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()


def consume(claims: Iterable[Claim], uuids: Iterable[str], output: bool = False) -> None:
    """The runner is about to hand these prompts to the SDK. ``output``: something has reached the chat since then."""
    wanted = set(uuids)
    for claim in claims:
        if claim.uuid in wanted and claim.state == "offered":
            claim.state, claim.output = "consumed", output


def finish(claims: Iterable[Claim], uuids: Iterable[str]) -> None:
    """A result named these prompts."""
    wanted = set(uuids)
    for claim in claims:
        if claim.uuid in wanted:
            claim.state = "finished"


def note_output(claims: Iterable[Claim]) -> None:
    """Something reached the chat: whatever is consumed and unfinished is no longer without output."""
    for claim in claims:
        if claim.state == "consumed":
            claim.output = True


def cancel(claims: list[Claim], through: int | None = None) -> Settlement:
    """A person stopped the run: what is not finished never will be, but for what came in behind ``through``."""
    meant = [c for c in claims if c.state != "finished" and (through is None or c.after.seq < through)]
    for claim in meant:
        claim.state = "cancelled"
    ranges = tuple((c.after.seq + 1, c.place.seq) for c in meant if c.place.seq > c.after.seq)
    rest = settle([claim for claim in claims if claim.state != "cancelled"])
    notes = tuple(claim.note for claim in meant if claim.note)
    return replace(rest, failed=False, cancelled=ranges, notes=(*notes, *rest.notes))


def settle(claims: list[Claim]) -> Settlement:
    """Offered, not consumed → waiting; consumed, no output → waiting, failed; consumed with output → finished,
    broken off."""
    back_to: Position | None = None
    finished: list[tuple[int, int]] = []
    notes: list[str] = []
    failed = False
    for claim in sorted(claims, key=lambda claim: claim.n):
        if claim.state == "consumed" and claim.output:
            claim.state, claim.broken = "finished", True
        if claim.state == "finished":
            if back_to is not None:
                finished.append((claim.after.seq + 1, claim.place.seq))
            continue
        failed = failed or claim.state == "consumed"
        notes += [claim.note] if claim.note else []
        back_to = back_to or claim.after
    broken, answered = any(c.broken for c in claims), any(c.state == "finished" for c in claims)
    return Settlement(back_to, tuple(finished), failed, broken, answered, notes=tuple(notes))
