"""What the host itself says in chats. A notice goes through the outbox as every reply does; its id starts with
``notice-`` and is made from what it is about, so that it is said once, whatever crashes in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from nanoclaw.files.atomic import BrokenFile
from nanoclaw.handover import Handover
from nanoclaw.moments import utc_now
from nanoclaw.runs.judge import Verdict, sentence
from nanoclaw.runs.records import Run
from nanoclaw.stores.journal import Journal
from nanoclaw.stores.outbox import Outbox, Reply
from nanoclaw.stores.settings import Settings
from nanoclaw.stores.transcripts import Transcripts

PREFIX = "notice-"


@dataclass(frozen=True)
class Notices:
    """``delivery``: the outbox has news. Thread-safe."""

    settings: Settings
    handover: Handover
    transcripts: Transcripts
    outbox: Outbox
    journal: Journal
    delivery: Callable[[], None]

    def say(self, folder: str, jid: str, cause: str, text: str, about: str | None = None) -> None:
        """``about``: what it is about (a run, a message); of that, each cause is said once. None: of this moment."""
        key = about or f"{folder}{datetime.now().strftime('-%Y%m%d-%H%M%S-%f')}"
        notice = f"{PREFIX}{key}-{cause}"
        if self.transcripts.contains(jid, notice):
            return
        self.outbox.put(notice, jid, folder, text, utc_now())
        self.journal.event("notice", folder=folder, cause=cause, about=about)
        self.delivery()

    def tell_owner(self, cause: str, text: str, about: str | None = None) -> None:
        """Say it in the main chat, where there is one; the log has it, too."""
        for group in self.settings.groups.values():
            if group.is_main:
                self.say(group.folder, group.jid, cause, text, about)

    def once_per_episode(self, folder: str, jid: str, verdict: Verdict, about: str | None = None) -> None:
        """The chat hears of a cause when it begins, and again only when it was over in between."""
        text = sentence(verdict, self.settings.config.timezone, time.time())
        if text and self.handover.say_once(folder, verdict.cause):
            self.say(folder, jid, verdict.cause, text, about)

    def of_run(self, run: Run, verdict: Verdict, used_up: bool) -> None:
        """What a chat's people must know of a run's end. Before it is judged: told twice is told once."""
        if not verdict.ok and not run.is_answered:
            self.once_per_episode(run.folder, run.jid, verdict, run.id)
        if any(claim.broken for claim in run.claims):
            self.say(run.folder, run.jid, "broken-off", "My answer broke off before it was complete.", run.id)
        if used_up:
            text = "I could not answer after several tries. Your messages are kept; write again to try once more."
            self.say(run.folder, run.jid, "kept", text, run.id)

    def gave_up(self, reply: Reply, reason: str) -> None:
        """A reply cannot be delivered: the owner hears of it now, its agent on its next turn."""
        text = f"A reply to {reply.folder} ({reply.jid}) could not be delivered: {reason}"
        about = f"{reply.id}-{reply.rounds}" if reply.rounds else reply.id
        self.tell_owner("undelivered", f"{text}. It is kept: python3 nanoclaw.py outbox show {reply.id}", about)
        if reply.run is not None:
            start = reply.text[:200]
            text = f"A reply of yours could not be delivered ({reason}). It began: {start}"
            try:
                self.handover.note(reply.folder, text)
            except BrokenFile as error:  # to be repeated when the cursor is mended: of this chat only
                raise OSError(str(error)) from None
