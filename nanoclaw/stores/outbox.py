"""The outbox: replies that their channel has not taken, one file each; gone = delivered and in the transcript, or
dropped by a person.

A reply's id (run id + number of the output) is its identity everywhere: the file's name, the channel's key, the
transcript line's id. A reply is in one place: state/outbox/, or, by a rename, state/outbox/failed/.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from nanoclaw.errors import UserError
from nanoclaw.files.atomic import BrokenFile, fsync_directory, read_json, why_unreadable, write_json
from nanoclaw.files.locks import Locks
from nanoclaw.paths import Home, chat_directory_name

log = logging.getLogger("nanoclaw")

STATES = ("ready", "sending", "failed")


@dataclass(frozen=True)
class Reply:
    """``order`` is unique and increasing over all replies. ``state``: ``ready``; ``sending``: the channel was asked for
    the part behind the first ``sent`` ones, and no answer is known; ``failed``: given up, with the ``reason``.
    ``tries``: so many times that part was refused, last for ``reason``. ``run`` is None for what the host or a script
    says. ``quote``: the id of the message that it answers. ``file``: the name of a file that goes along; its content
    lies in ``state/outbox/files/<id>``. ``platform_id``: what the platform calls the last part that it took.
    ``rounds``: so many times a person let it wait again after it was given up."""

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
    tries: int = 0
    platform_id: str | None = None
    rounds: int = 0


class Dropped(Exception):
    """A person dropped the reply meanwhile."""


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
        """Read what an earlier host left. What is no reply (any more) is set aside in failed/: it stops no other."""
        for directory in (self._failed, self.files):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locks.hold("outbox"):
            self._replies = {}
            for path, found in read_replies(self._directory):
                if isinstance(found, Reply):
                    self._replies[found.id] = found
                else:
                    self._set_aside(path, found)
            kept = [found for _, found in read_replies(self._failed) if isinstance(found, Reply)]
            self._order = max((reply.order for reply in [*self._replies.values(), *kept]), default=0)

    def _set_aside(self, path: Path, error: Exception) -> None:
        log.error("Reply not delivered: %s", why_unreadable(error))
        if isinstance(error, BrokenFile) and path.is_file() and not (self._failed / path.name).exists():
            self._move(path.name, self._directory, self._failed)
            log.error("Set aside in outbox/failed, `outbox list` shows it: %s", path.name)

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
        """Keep a reply until its channel took it (durable). The same id again changes nothing, also when it failed. A
        ``file``'s content is in its place already."""
        with self._locks.hold("outbox"):
            if reply_id in self._replies or (self._failed / f"{reply_id}.json").exists():
                return
            reply = Reply(reply_id, jid, folder, text, created, self._order + 1, run, quote=quote, file=file)
            write_json(self._path(reply), asdict(reply))
            self._order += 1
            self._replies[reply_id] = reply

    def heads(self) -> list[Reply]:
        """The oldest waiting reply of each chat: strictly in order per chat, but nothing comes between two parts."""
        with self._locks.hold("outbox"):
            heads: dict[str, Reply] = {}
            for reply in sorted(self._replies.values(), key=lambda r: (r.state == "ready" and not r.sent, r.order)):
                heads.setdefault(reply.jid, reply)
            return list(heads.values())

    def mark_sending(self, reply: Reply) -> Reply:
        """From here on the channel may have taken the part behind the first ``sent`` ones. Dropped."""
        return self._keep(replace(reply, state="sending"))

    def taken(self, reply: Reply, platform_id: str | None) -> Reply:
        """The channel took a part. Not durable: the transcript's line, or the next ``mark_sending``, is. Remembered, so
        that a full disk in between does not repeat it."""
        after = replace(reply, state="ready", sent=reply.sent + 1, tries=0, reason=None)
        after = replace(after, platform_id=platform_id or reply.platform_id)
        with self._locks.hold("outbox"):
            if reply.id in self._replies:
                self._replies[reply.id] = after
        return after

    def tried(self, reply: Reply, reason: str, tries: int, unsure: bool) -> None:
        """A part was not taken, or (``unsure``) nobody knows. Dropped."""
        after = replace(reply, state="sending" if unsure else "ready", reason=reason, tries=tries)
        if after != reply:
            with self._locks.hold("outbox"):
                if reply.id in self._replies:
                    self._replies[reply.id] = after  # also if the disk is full: while we live, we know
                self._keep(after)

    def giving_up(self, reply: Reply, reason: str) -> Reply:
        """From here on it is sent no more; ``given_up`` follows, after a crash too. Dropped."""
        return self._keep(replace(reply, state="failed", reason=reason))

    def given_up(self, reply: Reply) -> None:
        """Set aside for a person, with the reason; the chat's next reply goes on. Its file stays where it is."""
        with self._locks.hold("outbox"):
            if reply.id in self._replies:
                self._move(self._path(reply).name, self._directory, self._failed)
                del self._replies[reply.id]

    def delivered(self, reply: Reply) -> None:
        """The channel took it and the transcript has it: gone = done."""
        with self._locks.hold("outbox"):
            self._remove(reply.id, self._path(reply))

    def find(self, reply_id: str) -> Reply:
        """A waiting or failed reply. UserError: there is none; BrokenFile: it is one no more."""
        with self._locks.hold("outbox"):
            if reply_id in self._replies:
                return self._replies[reply_id]
            path = self._path_of_failed(reply_id)
            return _from_json(path, read_json(path) or {})

    def retry(self, reply_id: str, from_start: bool = False) -> None:
        """Let a failed reply wait again, before what was said after it; parts that went are not sent again, unless
        ``from_start``. For one that waits already: nothing. UserError as ``find``."""
        with self._locks.hold("outbox"):
            if reply_id in self._replies:
                return
            found = self.find(reply_id)
            sent = 0 if from_start else found.sent
            again = replace(found, state="ready", reason=None, tries=0, sent=sent, rounds=found.rounds + 1)
            write_json(self._failed / f"{reply_id}.json", asdict(again))
            self._move(f"{reply_id}.json", self._failed, self._directory)
            self._replies[reply_id] = again

    def drop(self, reply_id: str) -> None:
        """Delete a waiting or failed reply, whatever stands in it, and its file. UserError: there is none."""
        with self._locks.hold("outbox"):
            waits = self._replies.get(reply_id)
            self._remove(reply_id, self._path(waits) if waits else self._path_of_failed(reply_id))

    def _keep(self, reply: Reply) -> Reply:
        with self._locks.hold("outbox"):
            if reply.id not in self._replies:
                raise Dropped(reply.id)
            write_json(self._path(reply), asdict(reply))
            self._replies[reply.id] = reply
            return reply

    def _remove(self, reply_id: str, path: Path) -> None:
        """The file that goes along first: a crash in between leaves what will be looked at again."""
        (self.files / reply_id).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        self._replies.pop(reply_id, None)

    def _move(self, name: str, source: Path, target: Path) -> None:
        os.rename(source / name, target / name)
        fsync_directory(target)
        fsync_directory(source)

    def _path(self, reply: Reply) -> Path:
        return self._directory / f"{reply.id}.json"

    def _path_of_failed(self, reply_id: str) -> Path:
        """Names that people give are looked up, never joined to a path."""
        found = [path for path in self._failed.glob("[!.]*.json") if path.stem == reply_id]
        if not found:
            raise UserError(f"There is no reply {reply_id!r} in the outbox.", "`outbox list` shows what is there.")
        return found[0]


def read_replies(directory: Path) -> Iterator[tuple[Path, Reply | BrokenFile | OSError]]:
    """The replies in the outbox's directory or in failed/, or why a file there is none; also beside a living host."""
    for path in sorted(directory.glob("[!.]*.json")):
        try:
            value = read_json(path)
            if value is not None:  # gone meanwhile
                yield path, _from_json(path, value)
        except (BrokenFile, OSError) as error:
            yield path, error


_KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "str | None": (str, type(None))}


def _from_json(path: Path, value: dict[str, Any]) -> Reply:
    try:
        reply = Reply(**value)
        right = all(type(getattr(reply, field.name)) in _KINDS[str(field.type)] for field in fields(Reply))
        if right:
            chat_directory_name(reply.jid)
    except (TypeError, UserError):
        right = False
    if not right or reply.state not in STATES or reply.sent < 0 or reply.rounds < 0:
        raise BrokenFile(path, 0, "not a reply of the outbox")
    if path.name != f"{reply.id}.json":
        raise BrokenFile(path, 0, f"renamed, it is the reply {reply.id}")
    return reply
