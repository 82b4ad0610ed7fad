"""What waits in a group's chat: the lines behind its cursor that may wake the agent, and the context before them.

Reading goes on where it last ended, so a new message costs the same in a chat of a thousand and of a million
messages. Lines that woke nobody and fell out of the context that a prompt shows are only counted; from time to time
that count is stored with the cursor, so that a restart does not read a silent chat from its beginning.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from datetime import datetime

from nanoclaw import router
from nanoclaw.config.senders import EVERYBODY, Senders
from nanoclaw.models import Config, Group, Line
from nanoclaw.stores.cursors import Cursor
from nanoclaw.stores.transcripts import Position, Transcripts

STORE_SKIPPED_EVERY = 500


@dataclass(frozen=True)
class Batch:
    """What one prompt covers: all seqs from ``first`` through ``place.seq``; ``lines`` are shown, ``omitted`` are
    not."""

    first: int
    place: Position
    lines: tuple[Line, ...]
    omitted: int
    wakers: tuple[str, ...]


@dataclass
class Pending:
    """The view of one group. Not thread-safe: used under the group's cursor lock. ``skip_wakers_through``: older
    messages wait for a newer one (their retries are used up)."""

    transcripts: Transcripts
    _key: tuple[object, ...] = ()
    _read: Position = Position()
    _context: deque[tuple[Line, Position]] = field(default_factory=deque)
    _wakers: list[Line] = field(default_factory=list)
    _dropped: int = 0
    _dropped_place: Position | None = None
    _stored: int = 0

    def refresh(self, group: Group, config: Config, cursor: Cursor, senders: Senders = EVERYBODY) -> Cursor:
        """Read what is new. Returns the cursor, with the count of skipped lines when that should be stored."""
        settings = (config.assistant_name, config.owners, config.max_messages_per_prompt)
        key = (group, senders, settings, cursor.handed, cursor.finished)
        if key != self._key:
            self._key = key
            self._read = cursor.skipped_place or cursor.place
            self._dropped, self._dropped_place = cursor.skipped, cursor.skipped_place
            self._stored = cursor.skipped
            self._context, self._wakers = deque(), []
        for line, position in self.transcripts.since(group.jid, self._read):
            self._read = position
            if cursor.is_finished(line.seq) or not router.is_context(line.message):
                continue
            if router.why_asleep(line.message, group, config, senders) is None:
                self._wakers.append(line)
            else:
                self._context.append((line, position))
                self._shrink(config.max_messages_per_prompt)
        # What a broken allowlist silences waits for its mending: the way back to it stays open.
        if not self._wakers and not senders.closed and self._dropped - self._stored >= STORE_SKIPPED_EVERY:
            self._stored = self._dropped
            return replace(cursor, skipped=self._dropped, skipped_place=self._dropped_place)
        return cursor

    def _shrink(self, cap: int) -> None:
        while len(self._context) > cap:
            _, behind = self._context.popleft()
            self._dropped += 1
            if not self._wakers:
                self._dropped_place = behind

    def wakes(self, after: int | None = None) -> bool:
        """Is there a message that may wake the agent (with a seq above ``after``)?"""
        return any(after is None or line.seq > after for line in self._wakers)

    def waits_since(self) -> float:
        """When the oldest message that may wake the agent arrived: Unix time in s, 0 where nobody knows."""
        try:
            return datetime.fromisoformat(self._wakers[0].received).timestamp()
        except (IndexError, ValueError):
            return 0.0

    def batch(self, cursor: Cursor) -> Batch | None:
        """Everything up to the last line read, as one prompt; None where nothing wakes."""
        if not self._wakers:
            return None
        lines = sorted([*(line for line, _ in self._context), *self._wakers], key=lambda line: line.seq)
        wakers = tuple(line.message.id for line in self._wakers)
        return Batch(cursor.handed + 1, self._read, tuple(lines), self._dropped, wakers)
