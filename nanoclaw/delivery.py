"""From the outbox to the platform to the transcript, strictly in order per chat.

``sending`` is written before the channel is asked. After a crash, what is ``sending`` is sent again on a channel that
takes keys; on others too (``resend``): better twice than never.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from nanoclaw.channels.base import Channel, SendFailed
from nanoclaw.models import Message
from nanoclaw.stores.journal import Journal
from nanoclaw.stores.outbox import Outbox, Reply
from nanoclaw.stores.transcripts import Transcripts
from nanoclaw.turns import HELD_UP_SECONDS, Turns

log = logging.getLogger("nanoclaw")

RETRY_SECONDS = (5.0, 10.0, 20.0, 40.0, 80.0)
IDLE_SECONDS = 60.0


class Delivery:
    """``turn`` sends what can be sent now. ``turns`` repeats it on a thread."""

    def __init__(
        self,
        outbox: Outbox,
        transcripts: Transcripts,
        channels: Mapping[str, Channel],
        journal: Journal,
        assistant_name: Callable[[], str],
    ) -> None:
        self._outbox = outbox
        self._transcripts = transcripts
        self._channels = channels
        self._journal = journal
        self._assistant_name = assistant_name
        self._no_channel: set[str] = set()
        self._tries: dict[str, tuple[int, float]] = {}
        self.turns = Turns("Delivery", lambda: self.turn(time.monotonic()))

    def turn(self, now: float) -> float:
        """Send the head of each chat until none can be sent; returns the seconds until the next try is due."""
        due = now + IDLE_SECONDS
        again = True
        while again:
            again = False
            for reply in self._outbox.heads():
                not_before = self._tries.get(reply.id, (0, 0.0))[1]
                channel = next((c for p, c in self._channels.items() if reply.jid.startswith(p)), None)
                if channel is None:
                    self._warn_once(reply)
                    continue
                if now < not_before:
                    due = min(due, not_before)
                    continue
                try:
                    again = self._send(channel, reply, now) or again
                except OSError as error:  # of one chat: the others' replies go on, and no try is used up
                    log.error("Delivery held up group=%s reply=%s: %s", reply.folder, reply.id, error)
                    self._tries[reply.id] = (self._tries.get(reply.id, (0, 0.0))[0], now + HELD_UP_SECONDS)
                if reply.id in self._tries:
                    due = min(due, self._tries[reply.id][1])
        return due - now

    def _send(self, channel: Channel, reply: Reply, now: float) -> bool:
        """True when the chat's next reply may follow."""
        if not self._transcripts.contains(reply.jid, reply.id):
            if reply.state != "sending":
                reply = self._outbox.mark_sending(reply)
            try:
                channel.send(reply.jid, reply.text, reply.id)
            except SendFailed as error:
                return self._failed(reply, error, now)
            except Exception as error:  # a bug in one channel must not hold up the others
                log.exception("Channel %s failed", channel.prefix)
                return self._failed(reply, SendFailed(f"{type(error).__name__}: {error}"), now)
            self._transcripts.append(self._message(reply))
        self._outbox.delivered(reply)
        self._tries.pop(reply.id, None)
        self._journal.event("delivered", reply=reply.id, folder=reply.folder, run=reply.run)
        log.info("Delivered group=%s reply=%s", reply.folder, reply.id)
        return True

    def _warn_once(self, reply: Reply) -> None:
        if reply.jid not in self._no_channel:
            self._no_channel.add(reply.jid)
            log.error("No channel serves %s: replies wait in the outbox group=%s", reply.jid, reply.folder)

    def _failed(self, reply: Reply, error: SendFailed, now: float) -> bool:
        tries = self._tries.get(reply.id, (0, 0.0))[0]
        if error.permanent or tries >= len(RETRY_SECONDS):
            log.error("Reply not delivered, kept in outbox/failed group=%s reply=%s: %s", reply.folder, reply.id, error)
            self._outbox.failed(reply, str(error))
            self._journal.event("failed", reply=reply.id, folder=reply.folder, reason=str(error))
            self._tries.pop(reply.id, None)
            return True
        log.warning("Reply not taken, trying again group=%s reply=%s: %s", reply.folder, reply.id, error)
        self._tries[reply.id] = (tries + 1, now + RETRY_SECONDS[tries])
        return False

    def _message(self, reply: Reply) -> Message:
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
        )
