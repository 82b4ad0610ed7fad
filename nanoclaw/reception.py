"""The reception: a message comes in on a channel, and is durable when this returns.

Metadata of every chat is kept; texts only of registered groups. A sender whom the allowlist drops leaves no text. What
comes attached is fetched into ``groups/<folder>/attachments/``, which a container can write: by the rules of
``files.untrusted``.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nanoclaw.channels.base import FetchFailed
from nanoclaw.files import untrusted
from nanoclaw.models import Group, Message
from nanoclaw.paths import Home
from nanoclaw.runs.layout import container_user, make_writable
from nanoclaw.stores.chats import Chats
from nanoclaw.stores.journal import Journal
from nanoclaw.stores.settings import Settings
from nanoclaw.stores.transcripts import Transcripts

log = logging.getLogger("nanoclaw")

ATTACHMENT_BYTES = 50_000_000
FETCH_TRIES = 3
"""A network that fails so often in a row does not keep the text waiting any longer."""

OUR_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO)

Fetch = Callable[[str, Mapping[str, Any]], Iterator[bytes]]


@dataclass(eq=False)
class Reception:
    """``obey``: carry out what a message commands the host to do, before it is stored; the command's name, if it
    is one. ``changed``: a group's chat has news. ``discovered``: a chat is new or has another name."""

    home: Home
    settings: Settings
    transcripts: Transcripts
    chats: Chats
    journal: Journal
    fetch: Fetch
    obey: Callable[[Group, Message], str | None]
    changed: Callable[[str], None]
    discovered: Callable[[], None]
    _failures: dict[tuple[str, str], int] = field(default_factory=dict)
    # What is there already of a message whose next attachment could not be had yet.
    _kept: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)

    def deliver(self, message: Message, chat_name: str) -> None:
        """Settings saved before the message came hold for it. Raises FetchFailed, OSError: hand it in again later."""
        group = self.settings.group_of(message.jid)
        self.settings.refresh(group.folder if group is not None else "")
        group = self.settings.group_of(message.jid)
        if group is not None:
            self._store(group, message)
        if self.chats.saw(message.jid, chat_name, message.jid.partition(":")[0], message.timestamp):
            self.discovered()

    def _store(self, group: Group, message: Message) -> None:
        denied = self.settings.senders.why_denied(message, self.settings.config)
        if denied is not None and denied[1] == "drop":
            if self.settings.senders.log_denied:
                log.info("Message not stored group=%s id=%s: %s", group.folder, message.id, denied[0])
            self.journal.event("dropped", folder=group.folder, message=message.id, reason=denied[0])
            return
        if message.attachments and not self.transcripts.contains(message.jid, message.id):
            kept = self._kept.setdefault((message.jid, message.id), [])
            for attachment in message.attachments[len(kept) :]:
                kept.append(self._keep(group, message, attachment))
            message = replace(message, attachments=tuple(kept))
        if command := self.obey(group, message):
            message = replace(message, command=command)
        line = self.transcripts.append(message)
        self._kept.pop((message.jid, message.id), None)
        if line is not None:
            log.info("New messages group=%s seq=%d", group.folder, line.seq)
            self.journal.event("received", folder=group.folder, message=message.id, seq=line.seq, command=command)
        else:
            log.info("Message stored already, not again group=%s id=%s", group.folder, message.id)
            self.journal.event("received", folder=group.folder, message=message.id, again=True)
        self.changed(group.folder)  # a duplicate, too: the first one may have been stored as the disk failed

    def _keep(self, group: Group, message: Message, attachment: dict[str, Any]) -> dict[str, Any]:
        """Fetch one attachment; returns what the transcript says of it."""
        about = {key: attachment[key] for key in ("kind", "name", "size", "mime") if attachment.get(key) is not None}
        folder, user = self.home.group_folder(group.folder), container_user(self.home)
        name = _file_name(message.id, str(attachment.get("name") or attachment.get("kind") or "file"))
        key = (message.jid, message.id)
        try:
            make_writable(folder, user)
            chunks = self.fetch(message.jid, attachment)
            given = untrusted.write_new(folder, "attachments", name, chunks, ATTACHMENT_BYTES, user)
        except FetchFailed as error:
            self._failures[key] = self._failures.get(key, 0) + 1
            if not error.permanent and self._failures[key] < FETCH_TRIES:
                raise
            problem = str(error)
        except (untrusted.Refused, OSError) as error:
            if isinstance(error, OSError) and error.errno in OUR_DISK:
                raise
            problem = str(error)  # the container took it away, or broke its directory: no other chat waits for that
        else:
            self._failures.pop(key, None)
            return {**about, "path": f"attachments/{given}"}
        self._failures.pop(key, None)
        log.warning("Attachment not kept group=%s message=%s: %s", group.folder, message.id, problem)
        return {**about, "problem": problem}


def _file_name(message_id: str, name: str) -> str:
    """A name that is one component, visible and short, whatever the platform says; its ending stays."""
    safe = "".join(c if c.isalnum() or c in " ._-" else "_" for c in f"{message_id}-{name}").strip(" .") or "file"
    stem, dot, suffix = safe.rpartition(".")
    encoded = (stem or suffix).encode()[:120].decode("utf-8", "ignore")
    return encoded + (dot + suffix[:20] if stem else "")
