"""The outbox: replies that their channel has not taken, one file each; gone = delivered and in the transcript.

A reply's id (run id + number of the output) is its identity everywhere: the file's name, the channel's key, the
transcript line's id.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nanoclaw.files.atomic import BrokenFile, fsync_directory, read_json, write_json
from nanoclaw.files.locks import Locks
from nanoclaw.paths import Home

log = logging.getLogger("nanoclaw")


@dataclass(frozen=True)
class Reply:
    """``order`` is unique and increasing over all replies; ``state``: ``ready``, or ``sending`` once the channel
    was asked; ``sent``: so many parts of a long one are delivered. ``run`` is None for what the host or a script says.
    ``quote``: the id of the message that it answers. ``file``: the name of a file that goes along; its content lies in
    ``state/outbox/files/<id>``."""

    id: str
    jid: str
    folder: str
    text: str
    created: str
    order: int
    run: str | None = None
    state: str = "ready"
    reason: str | None = None
    sent: int = 0
    quote: str | None = None
    file: str | None = None


class Outbox:
    """All waiting replies, in memory and on disk. Thread-safe."""

    def __init__(self, home: Home, locks: Locks) -> None:
        self._directory = home.outbox
        self._failed = home.outbox / "failed"
        self.files = home.outbox / "files"
        self._locks = locks
        self._replies: dict[str, Reply] = {}
        self._order = 0

    def load(self) -> None:
        """Read what an earlier host left."""
        for directory in (self._failed, self.files):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locks.hold("outbox"):
            self._replies = {reply.id: reply for reply in self._read_all()}
            self._order = max((reply.order for reply in self._replies.values()), default=0)

    def put(
        self,
        reply_id: str,
        jid: str,
        folder: str,
        text: str,
        created: str,
        run: str | None = None,
        quote: str | None = None,
        file: str | None = None,
    ) -> None:
        """Keep a reply until its channel took it (durable). The same id again changes nothing. A ``file``'s content is
        in its place already."""
        with self._locks.hold("outbox"):
            if reply_id in self._replies:
                return
            reply = Reply(reply_id, jid, folder, text, created, self._order + 1, run, quote=quote, file=file)
            write_json(self._path(reply), asdict(reply))
            self._order += 1
            self._replies[reply_id] = reply

    def heads(self) -> list[Reply]:
        """The oldest waiting reply of each chat: strictly in order per chat."""
        with self._locks.hold("outbox"):
            heads: dict[str, Reply] = {}
            for reply in sorted(self._replies.values(), key=lambda r: r.order):
                heads.setdefault(reply.jid, reply)
            return list(heads.values())

    def mark_sending(self, reply: Reply, sent: int = 0) -> Reply:
        """From here on the channel may have taken the part behind the first ``sent`` ones."""
        with self._locks.hold("outbox"):
            sending = replace(reply, state="sending", sent=sent)
            write_json(self._path(reply), asdict(sending))
            self._replies[reply.id] = sending
            return sending

    def delivered(self, reply: Reply) -> None:
        """The channel took it and the transcript has it: gone = done."""
        with self._locks.hold("outbox"):
            self._path(reply).unlink(missing_ok=True)
            if reply.file is not None:
                (self.files / reply.id).unlink(missing_ok=True)
            self._replies.pop(reply.id, None)

    def failed(self, reply: Reply, reason: str) -> None:
        """Set aside for a person, with the reason; the chat's next reply goes on."""
        with self._locks.hold("outbox"):
            write_json(self._failed / self._path(reply).name, asdict(replace(reply, reason=reason)))
            self._path(reply).unlink(missing_ok=True)
            fsync_directory(self._directory)
            self._replies.pop(reply.id, None)

    def _path(self, reply: Reply) -> Path:
        return self._directory / f"{reply.id}.json"

    def _read_all(self) -> Iterable[Reply]:
        for path in self._directory.glob("*.json"):
            if path.name.startswith("."):
                continue
            try:
                yield _from_json(path, read_json(path) or {})
            except BrokenFile as error:
                log.error("Reply not delivered: %s", error)


def _from_json(path: Path, value: dict[str, Any]) -> Reply:
    try:
        reply = Reply(**value)
    except TypeError:
        raise BrokenFile(path, 0, "not a reply of the outbox") from None
    if not isinstance(reply.text, str) or not isinstance(reply.order, int) or path.name != f"{reply.id}.json":
        raise BrokenFile(path, 0, "not a reply of the outbox, or renamed")
    return reply
