"""Transcripts: every message of a registered chat, one JSON object a line, append only, in the order of arrival.

A chat is a directory of segments named by their first ``seq`` and never renamed. ``seq`` stands in the line, so it
survives rotation and hand edits: gaps are legal, a line that does not parse or does not increase is skipped with a
warning. A place in a chat is a ``Position``: the segment and the byte offset behind a line.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nanoclaw.files.atomic import fsync_directory
from nanoclaw.files.locks import Locks
from nanoclaw.models import Line, Message
from nanoclaw.moments import utc_now
from nanoclaw.paths import Home
from nanoclaw.stores.lines import from_json, to_json

log = logging.getLogger("nanoclaw")

SEGMENT_BYTES = 2_000_000
REMEMBERED_IDS = 10_000
"""Duplicates are found among a chat's last so many messages (ARCHITECTURE 5)."""
OPEN_CHATS = 256
TAIL_BLOCK = 65_536


@dataclass(frozen=True)
class Position:
    """Behind the line ``seq``: byte ``offset`` of the segment whose name is ``segment``."""

    seq: int = 0
    segment: int = 0
    offset: int = 0


class Chat:
    """One chat's directory. Not thread-safe: ``Transcripts`` holds the chat's lock around every call."""

    def __init__(self, directory: Path, jid: str) -> None:
        self.directory = directory
        self.jid = jid
        self.floor = 0
        """Numbers up to this one are given already, even where a person took out their lines."""
        self._segment = 0
        self._size = -1
        self._inode = 0
        self._last = Position()
        self._ids: OrderedDict[str, None] | None = None
        self._warned: set[tuple[int, int]] = set()

    def append(self, message: Message, received: str) -> Line | None:
        """Store a message durably; None when its id is one of the last 10,000."""
        if self.contains(message.id):
            return None
        line = Line(max(self._last.seq, self.floor) + 1, received, message)
        data = to_json(line)
        fresh = self._segment == 0 or self._size >= SEGMENT_BYTES
        segment, size = (line.seq, 0) if fresh else (self._segment, self._size)
        fd = os.open(self._path(segment), os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if size and os.pread(fd, 1, size - 1) != b"\n":
                size += os.write(fd, b"\n")
            _write_all(fd, data)
            os.fsync(fd)
            self._inode = os.fstat(fd).st_ino
        except OSError:
            self._size = -1  # unknown what was written: read again, a torn line is completed then
            raise
        finally:
            os.close(fd)
        if fresh:
            fsync_directory(self.directory)
        self._segment, self._size = segment, size + len(data)
        self._last = Position(line.seq, segment, self._size)
        self._remember(message.id)
        return line

    def contains(self, message_id: str) -> bool:
        """Is the id one of the last 10,000?"""
        self._sync()
        if self._ids is None:
            newest = [line.message.id for line, _ in zip(self.backwards(), range(REMEMBERED_IDS), strict=False)]
            self._ids = OrderedDict()
            for known in reversed(newest):
                self._remember(known)
        return message_id in self._ids

    def mentions(self, made_id: str) -> bool:
        """Is an id that nobody else could have made in the last two segments? Cheaper than ``contains`` for who asks
        once: it needs no list of all ids."""
        self._sync()
        if self._ids is not None:
            return made_id in self._ids
        return any(made_id.encode() in self._path(segment).read_bytes() for segment in self._segments()[-2:])

    def last(self) -> Position:
        """Behind the last good line."""
        self._sync()
        return self._last

    def since(self, position: Position) -> Iterator[tuple[Line, Position]]:
        """The lines with a larger seq, each with the position behind it. The position's offset is trusted only if
        a line with a seq not above its own ends there and the next is above; else the segment is read from its
        start."""
        self._sync()
        if self._last.seq <= position.seq:
            return
        segments = self._segments()
        start = max((s for s in segments if s <= position.seq + 1), default=segments[0] if segments else 0)
        offset = position.offset if position.segment == start and self._ends_line(position) else 0
        previous = position.seq
        for segment in [s for s in segments if s >= start]:
            for line, end in self._read(segment, offset):
                if line.seq > previous:
                    previous = line.seq
                    yield line, Position(line.seq, segment, end)
                elif line.seq > position.seq:
                    self._warn(segment, end, "its seq does not increase")
            offset = 0

    def backwards(self) -> Iterator[Line]:
        """All lines, the newest first. Who stops early has read one block only."""
        self._sync()
        for segment in reversed(self._segments()):
            tail = self._tail(segment)
            yield from (line for line, _ in reversed(tail))
            known = tail[0][1] if tail else float("inf")
            yield from (line for line, end in reversed(list(self._read(segment, 0))) if end < known)

    def _path(self, segment: int) -> Path:
        return self.directory / f"{segment:010d}.jsonl"

    def _segments(self) -> list[int]:
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        return sorted(int(n[:-6]) for n in names if n.endswith(".jsonl") and n[:-6].isdecimal())

    def _sync(self) -> None:
        """Know the end of the chat. Costs one stat unless another hand changed the files."""
        if 0 < self._size < SEGMENT_BYTES:  # a full one may have a successor that another process began
            try:
                status = os.stat(self._path(self._segment))
                if status.st_size == self._size and status.st_ino == self._inode:
                    return
            except FileNotFoundError:
                pass
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        segments = self._segments()
        self.floor = max(self.floor, self._last.seq, *segments[-1:])
        self._segment, self._size, self._inode, self._last, self._ids = 0, 0, 0, Position(), None
        for segment in reversed(segments):
            if self._segment == 0:
                status = os.stat(self._path(segment))
                self._segment, self._size, self._inode = segment, status.st_size, status.st_ino
            lines = self._tail(segment) or list(self._read(segment, 0))
            if lines:
                best, end = max(lines, key=lambda pair: pair[0].seq)
                self._last = Position(best.seq, segment, end)
                return

    def _tail(self, segment: int) -> list[tuple[Line, int]]:
        """The good lines in the last block of a segment."""
        size = os.stat(self._path(segment)).st_size
        return [] if size <= TAIL_BLOCK else list(self._read(segment, size - TAIL_BLOCK, torn=True))

    def _read(self, segment: int, offset: int, torn: bool = False) -> Iterator[tuple[Line, int]]:
        """The good lines from an offset on, each with the offset behind it. A last line without newline counts if
        it parses. ``torn``: the offset may lie within a line, which is left out."""
        try:
            with self._path(segment).open("rb") as file:
                file.seek(offset)
                if torn:
                    offset += len(file.readline())
                for data in file:
                    offset += len(data)
                    line = from_json(data, self.jid)
                    if line is not None:
                        yield line, offset
                    elif data.strip():
                        self._warn(segment, offset, "it is no JSON object with seq and id")
        except FileNotFoundError:
            return

    def _ends_line(self, position: Position) -> bool:
        if position.offset == 0:
            return True
        start = max(0, position.offset - TAIL_BLOCK)
        try:
            with self._path(position.segment).open("rb") as file:
                file.seek(start)
                block = file.read(position.offset - start)
        except FileNotFoundError:
            return False
        if len(block) != position.offset - start or not block.endswith(b"\n"):
            return False
        line = from_json(block[:-1].rpartition(b"\n")[2], self.jid)
        return line is not None and line.seq == position.seq

    def _remember(self, message_id: str) -> None:
        assert self._ids is not None
        self._ids[message_id] = None
        if len(self._ids) > REMEMBERED_IDS:
            self._ids.popitem(last=False)

    def _warn(self, segment: int, offset: int, why: str) -> None:
        if (segment, offset) not in self._warned:
            self._warned.add((segment, offset))
            log.warning("Skipped a line of %s that ends at byte %d: %s", self._path(segment), offset, why)


class Transcripts:
    """All chats of a home, by JID."""

    def __init__(self, home: Home, locks: Locks) -> None:
        self._home = home
        self._locks = locks
        self._chats: OrderedDict[str, Chat] = OrderedDict()

    def append(self, message: Message) -> Line | None:
        """Store a message durably (fsync); None when it is a duplicate of one of the chat's last 10,000."""
        with self._locks.hold("chat", message.jid):
            return self._chat(message.jid).append(message, utc_now())

    def number_behind(self, jid: str, seq: int) -> None:
        """Give new messages of a chat larger numbers than ``seq``."""
        with self._locks.hold("chat", jid):
            chat = self._chat(jid)
            chat.floor = max(chat.floor, seq)

    def contains(self, jid: str, message_id: str) -> bool:
        with self._locks.hold("chat", jid):
            return self._chat(jid).contains(message_id)

    def mentions(self, jid: str, made_id: str) -> bool:
        with self._locks.hold("chat", jid):
            return self._chat(jid).mentions(made_id)

    def last(self, jid: str) -> Position:
        with self._locks.hold("chat", jid):
            return self._chat(jid).last()

    def since(self, jid: str, position: Position) -> list[tuple[Line, Position]]:
        """The lines behind a position."""
        with self._locks.hold("chat", jid):
            return list(self._chat(jid).since(position))

    def last_where_run(self, jid: str) -> Line | None:
        """The assistant's own last message in a chat."""
        with self._locks.hold("chat", jid):
            return next((line for line in self._chat(jid).backwards() if line.message.run), None)

    def _chat(self, jid: str) -> Chat:
        chat = self._chats.pop(jid, None) or Chat(self._home.chat(jid), jid)
        self._chats[jid] = chat
        if len(self._chats) > OPEN_CHATS:
            self._chats.popitem(last=False)
        return chat


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
