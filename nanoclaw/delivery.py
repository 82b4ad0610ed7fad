"""From the outbox to the platform to the transcript, strictly in order per chat; one thread a channel, so that a slow
platform holds up no other.

``sending`` is written before a channel without keys is asked, with the number of parts that it took already. After a
crash what was ``sending`` is sent again: on a channel that takes keys that is a no-op, elsewhere the person sees one
part twice: better twice than never.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from nanoclaw.channels.base import Channel, Outgoing, SendFailed
from nanoclaw.channels.text import split
from nanoclaw.faults import reach
from nanoclaw.models import Message
from nanoclaw.stores.journal import Journal
from nanoclaw.stores.outbox import Outbox, Reply
from nanoclaw.stores.transcripts import Transcripts
from nanoclaw.turns import HELD_UP_SECONDS, Turns

log = logging.getLogger("nanoclaw")

RETRY_SECONDS = (5.0, 10.0, 20.0, 40.0, 80.0)
IDLE_SECONDS = 60.0


class Delivery:
    """``turn`` sends what one channel can be sent now. ``turns`` repeats it on a thread."""

    def __init__(
        self,
        outbox: Outbox,
        transcripts: Transcripts,
        channel: Channel,
        journal: Journal,
        assistant_name: Callable[[], str],
    ) -> None:
        self._outbox = outbox
        self._transcripts = transcripts
        self._channel = channel
        self._journal = journal
        self._assistant_name = assistant_name
        self._tries: dict[str, tuple[int, float]] = {}
        self.turns = Turns(f"Delivery {channel.prefix}", lambda: self.turn(time.monotonic()))

    def turn(self, now: float) -> float:
        """Send the head of each chat until none can be sent; returns the seconds until the next try is due."""
        due = now + IDLE_SECONDS
        again = True
        while again and not self.turns.halted:
            again = False
            for reply in self._outbox.heads():
                if not reply.jid.startswith(self._channel.prefix):
                    continue
                not_before = self._tries.get(reply.id, (0, 0.0))[1]
                if now < not_before:
                    due = min(due, not_before)
                    continue
                try:
                    again = self._send(reply, now) or again
                except OSError as error:  # of one chat: the others' replies go on, and no try is used up
                    log.error("Delivery held up group=%s reply=%s: %s", reply.folder, reply.id, error)
                    self._tries[reply.id] = (self._tries.get(reply.id, (0, 0.0))[0], now + HELD_UP_SECONDS)
                if reply.id in self._tries:
                    due = min(due, self._tries[reply.id][1])
        return due - now

    def _send(self, reply: Reply, now: float) -> bool:
        """True when the chat's next reply may follow."""
        if not self._transcripts.contains(reply.jid, reply.id):
            platform_id = None
            parts = self._parts(reply)
            for number in range(reply.sent, len(parts)):
                if self.turns.halted:
                    return False  # out of service: whoever delivers next goes on from here
                if not self._channel.takes_keys and (reply.state, reply.sent) != ("sending", number):
                    reply = self._outbox.mark_sending(reply, number)
                    reach("sending")
                try:
                    platform_id = self._channel.send(parts[number]) or platform_id
                    reach("sent")
                except SendFailed as error:
                    return self._failed(reply, error, now)
                except Exception as error:  # a bug in one channel must not hold up the others
                    log.exception("Channel %s failed", self._channel.prefix)
                    return self._failed(reply, SendFailed(f"{type(error).__name__}: {error}"), now)
            self._transcripts.append(self._message(reply, platform_id))
            reach("reply-stored")
        self._outbox.delivered(reply)
        reach("delivered")
        self._tries.pop(reply.id, None)
        self._journal.event("delivered", reply=reply.id, folder=reply.folder, run=reply.run)
        log.info("Delivered group=%s reply=%s", reply.folder, reply.id)
        return True

    def _parts(self, reply: Reply) -> list[Outgoing]:
        """What the platform takes at once; the same ones at each try. A file goes along with the first."""
        limit = self._channel.limits.text
        texts = split(reply.text, limit) if limit is not None else [reply.text]
        return [
            Outgoing(
                jid=reply.jid,
                text=text,
                key=reply.id if len(texts) == 1 else f"{reply.id}.{number}",
                quote=None if number > 1 else reply.quote,
                file=self._outbox.files / reply.id if reply.file and number == 1 else None,
                file_name=reply.file or "",
            )
            for number, text in enumerate(texts or [""], start=1)
        ]

    def _failed(self, reply: Reply, error: SendFailed, now: float) -> bool:
        tries = self._tries.get(reply.id, (0, 0.0))[0]
        out_of_service = self._channel.state.name != "connected"  # that uses up no try, as in SPEC 2.5
        if error.permanent or (tries >= len(RETRY_SECONDS) and not out_of_service):
            log.error("Reply not delivered, kept in outbox/failed group=%s reply=%s: %s", reply.folder, reply.id, error)
            self._outbox.failed(reply, str(error))
            self._journal.event("failed", reply=reply.id, folder=reply.folder, reason=str(error))
            self._tries.pop(reply.id, None)
            return True
        log.warning("Reply not taken, trying again group=%s reply=%s: %s", reply.folder, reply.id, error)
        if error.retry_after is not None or out_of_service:
            self._tries[reply.id] = (tries, now + (error.retry_after or RETRY_SECONDS[0]))
        else:
            self._tries[reply.id] = (tries + 1, now + RETRY_SECONDS[tries])
        return False

    def _message(self, reply: Reply, platform_id: str | None) -> Message:
        name = self._assistant_name()
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
            platform_id=platform_id,
        )
