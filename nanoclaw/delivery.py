"""From the outbox to the platform to the transcript, strictly in order per chat; one thread a channel, so that a slow
platform holds up no other.

``sending`` is written before a channel without keys is asked for a part. When a crash, or a send without an answer,
leaves a reply so, nobody knows whether the platform took that part; ``on_uncertain`` of config.toml says what then:
"resend" (the person may see one part twice: better twice than never) or "hold" (it is set aside for the owner; the
chat's next replies go on). A channel that takes keys is simply asked again: there that is a no-op.

A reply that is given up: ``failed`` in its file → ``gave_up`` (people are told) → renamed into failed/ → journal. A
crash in between repeats the telling and never loses it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from nanoclaw.channels.base import Channel, Outgoing, SendFailed
from nanoclaw.channels.text import split, units
from nanoclaw.errors import UserError
from nanoclaw.faults import reach
from nanoclaw.models import Message
from nanoclaw.stores.journal import Journal
from nanoclaw.stores.outbox import Dropped, Outbox, Reply
from nanoclaw.stores.transcripts import Transcripts
from nanoclaw.turns import HELD_UP_SECONDS, Turns

log = logging.getLogger("nanoclaw")

RETRY_SECONDS = (5.0, 10.0, 20.0, 40.0, 80.0)
IDLE_SECONDS = 60.0
SERVICE_SECONDS = 1.0
"""What may have been taken is not sent to a channel that is not connected: so often it is looked whether it is."""


@dataclass(eq=False)
class Delivery:
    """``turn`` sends what one channel can be sent now. ``turns`` repeats it on a thread. ``on_uncertain``: "resend" or
    "hold", asked each time. ``gave_up``: a reply was given up, and why (no sentence: without its full stop); not called
    for the host's own notices, which must not breed. It may be called again for the same reply after a crash."""

    outbox: Outbox
    transcripts: Transcripts
    channel: Channel
    journal: Journal
    assistant_name: Callable[[], str]
    on_uncertain: Callable[[], str] = lambda: "resend"
    gave_up: Callable[[Reply, str], None] = lambda reply, reason: None
    _not_before: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.turns = Turns(f"Delivery {self.channel.prefix}", lambda: self.turn(time.monotonic()))

    def turn(self, now: float) -> float:
        """Send the head of each chat until none can be sent; returns the seconds until the next try is due."""
        due = now + IDLE_SECONDS
        again = True
        while again and not self.turns.halted:
            again = False
            for reply in self.outbox.heads():
                if not reply.jid.startswith(self.channel.prefix):
                    continue
                if now >= self._not_before.get(reply.id, now):
                    again = self._guarded_send(reply, now) or again
                due = min(due, self._not_before.get(reply.id, due))
        return due - now

    def _guarded_send(self, reply: Reply, now: float) -> bool:
        """True when the chat's next reply may follow. What goes wrong holds up this chat only, and uses up no try."""
        self._not_before.pop(reply.id, None)
        try:
            return self._send(reply, now)
        except Dropped:
            return True
        except (OSError, UserError) as error:
            log.error("Delivery held up group=%s reply=%s: %s", reply.folder, reply.id, error)
        except Exception:
            log.exception("Delivery held up by a bug group=%s reply=%s", reply.folder, reply.id)
        self._not_before[reply.id] = now + HELD_UP_SECONDS
        return False

    def _send(self, reply: Reply, now: float) -> bool:
        if reply.state == "failed":
            return self._finish_giving_up(reply)  # a crash, or a full disk, came between
        parts = self._parts(reply)
        if not self.transcripts.contains(reply.jid, reply.id):
            if reply.state == "sending" and not self.channel.takes_keys:
                if self.channel.state.name in ("connecting", "sign-in needed"):
                    self._not_before[reply.id] = now + SERVICE_SECONDS
                    return False
                if self._is_held(reply, len(parts)):
                    return True
            for number in range(reply.sent, len(parts)):
                if self.turns.halted:
                    return False  # out of service: whoever delivers next goes on from here
                if not self.channel.takes_keys:
                    reply = self.outbox.mark_sending(reply)
                    self.journal.event("sending", reply=reply.id, part=number + 1, parts=len(parts))
                    reach("sending")
                try:
                    platform_id = self._ask(parts[number])
                except SendFailed as error:
                    return self._failed(reply, error, len(parts), now)
                reach("sent")
                reply = self.outbox.taken(reply, platform_id)
            self.transcripts.append(self._message(reply))
            reach("reply-stored")
        known = {"folder": reply.folder, "run": reply.run, "platform_id": reply.platform_id, "parts": len(parts)}
        self.journal.event("delivered", reply=reply.id, **known)  # before the file goes: else a crash loses the line
        self.outbox.delivered(reply)
        reach("delivered")
        log.info("Delivered group=%s reply=%s", reply.folder, reply.id)
        return True

    def _ask(self, part: Outgoing) -> str | None:
        try:
            return self.channel.send(part)
        except SendFailed:
            raise
        except Exception as error:  # a bug in one channel must not hold up the others
            log.exception("Channel %s failed", self.channel.prefix)
            raise SendFailed(f"{type(error).__name__}: {error}", uncertain=True) from None

    def _parts(self, reply: Reply) -> list[Outgoing]:
        """What the platform takes at once; the same ones at each try. A file goes along with the first, or, where its
        text is too long for a caption, behind them all."""
        limits = self.channel.limits
        texts = (split(reply.text, limits.text) if limits.text is not None else [reply.text]) or [""]
        with_file = 0
        if reply.file and limits.caption is not None and (len(texts) > 1 or units(texts[0]) > limits.caption):
            with_file = len(texts)
            texts.append("")
        return [
            Outgoing(
                jid=reply.jid,
                text=text,
                key=reply.id if len(texts) == 1 else f"{reply.id}.{number + 1}",
                quote=None if number else reply.quote,
                file=self.outbox.files / reply.id if reply.file and number == with_file else None,
                file_name=reply.file or "",
            )
            for number, text in enumerate(texts)
        ]

    def _is_held(self, reply: Reply, parts: int) -> bool:
        """Decide about a part that the platform may have taken. True: it was set aside."""
        policy = self.on_uncertain()
        known = {"folder": reply.folder, "part": reply.sent + 1, "parts": parts, "policy": policy}
        self.journal.event("uncertain", reply=reply.id, **known)
        if policy == "hold":
            return self._give_up(reply, _unsure(reply, parts))
        log.warning("Sent again, the platform may have taken it group=%s reply=%s", reply.folder, reply.id)
        return False

    def _failed(self, reply: Reply, error: SendFailed, parts: int, now: float) -> bool:
        unsure = error.uncertain and not self.channel.takes_keys
        in_service = self.channel.state.name == "connected"
        # The environment's fault uses up no try (SPEC 2.5); but what may arrive each time is not sent for ever.
        waits = error.retry_after is not None or not (in_service or unsure)
        tries = reply.tries + (not waits)
        if error.permanent or tries > len(RETRY_SECONDS):
            reason = f"{error}; {_unsure(reply, parts)}" if unsure else str(error)
            return self._give_up(replace(reply, tries=tries), reason)
        log.warning("Reply not taken, trying again group=%s reply=%s: %s", reply.folder, reply.id, error)
        pause = RETRY_SECONDS[0] if waits else RETRY_SECONDS[tries - 1]
        if not (unsure and self.on_uncertain() == "hold"):  # that is decided at once, as after a crash
            self._not_before[reply.id] = now + (pause if error.retry_after is None else error.retry_after)
        self.outbox.tried(reply, str(error), tries, unsure)
        return reply.id not in self._not_before

    def _give_up(self, reply: Reply, reason: str) -> bool:
        log.error("Reply not delivered, kept in outbox/failed group=%s reply=%s: %s", reply.folder, reply.id, reason)
        given = self.outbox.giving_up(reply, reason)
        reach("reply-failing")
        return self._finish_giving_up(given)

    def _finish_giving_up(self, reply: Reply) -> bool:
        if not reply.id.startswith("notice-"):
            self.gave_up(reply, reply.reason or "")
        self.journal.event("failed", reply=reply.id, folder=reply.folder, run=reply.run, reason=reply.reason)
        self.outbox.given_up(reply)
        reach("reply-failed")
        return True

    def _message(self, reply: Reply) -> Message:
        name = self.assistant_name()
        return Message(
            id=reply.id,
            jid=reply.jid,
            sender=name.lower(),
            sender_name=name,
            text=reply.text,
            timestamp=reply.created,
            is_bot=True,
            from_me=True,
            run=reply.run,
            attachments=({"kind": "file", "name": reply.file},) if reply.file else (),
            platform_id=reply.platform_id,
        )


def _unsure(reply: Reply, parts: int) -> str:
    """For people: what is not known, and what they can do."""
    where = f" (part {reply.sent + 1} of {parts})" if parts > 1 else ""
    again = "goes on there" if where else "sends it again"
    cure = f"`outbox retry {reply.id}` {again}, `outbox drop {reply.id}` forgets it"
    return f"it may not have arrived{where}; {cure}"
