"""What waits behind a group's cursor, without the host's views and without reading a chat from its beginning."""

from __future__ import annotations

import json
import os

from nanoclaw import router
from nanoclaw.config.senders import Senders
from nanoclaw.files.locks import Locks
from nanoclaw.models import Config, Group, Line
from nanoclaw.paths import Home
from nanoclaw.stores.cursors import Cursor, Cursors
from nanoclaw.stores.lines import from_json
from nanoclaw.stores.transcripts import Position, Transcripts

BEFORE_BYTES = 4096
"""So much is read before a place to see the line that ends there; behind a longer one, all is read as the host does."""
_BOT = b'"is_bot": true'


class Backlog:
    """``config`` and ``senders``: what decides whether a message may wake an agent."""

    def __init__(self, home: Home, config: Config, senders: Senders) -> None:
        self._home, self._config, self._senders = home, config, senders
        self._cursors, self._transcripts = Cursors(home, Locks()), Transcripts(home, Locks())

    def of(self, group: Group) -> tuple[Cursor, list[Line]]:
        """A group's cursor (where there is none, as the host would recover it), and the messages behind it that may
        wake its agent. Its chat's directory must be there. Raises UserError, OSError."""
        cursor = self._cursors.get(group.folder)
        if cursor is None or cursor.jid not in (None, group.jid):
            own = self._transcripts.last_where_run(group.jid)
            cursor = Cursor(jid=group.jid, place=Position(own.seq if own else 0))
        place = cursor.skipped_place or cursor.place
        lines = self._tail(group, place)
        if lines is None:
            lines = [line for line, _ in self._transcripts.since(group.jid, place)]
        wake = [
            line
            for line in lines
            if line.seq > place.seq
            and not cursor.is_finished(line.seq)
            and router.why_asleep(line.message, group, self._config, self._senders) is None
        ]
        return cursor, wake

    def _tail(self, group: Group, place: Position) -> list[Line] | None:
        """The lines behind a place that are worth a closer look; None where the place is not in the chat's last
        segment, or not behind the line that it names (a person edited the transcript)."""
        chat = self._home.chat(group.jid)
        names = [name for name in os.listdir(chat) if name.endswith(".jsonl") and name[:-6].isdecimal()]
        last, at_start = max(names, default=""), place.seq == 0 and len(names) == 1
        if last != f"{place.segment:010d}.jsonl" and not at_start:
            return None
        offset = 0 if at_start else place.offset
        start = max(0, offset - BEFORE_BYTES)
        with (chat / last).open("rb") as file:
            file.seek(start)
            before, data = file.read(offset - start), file.read()
        line = from_json(before[:-1].rpartition(b"\n")[2], group.jid)
        if not at_start and (line is None or line.seq != place.seq):
            return None
        if group.requires_trigger and not group.is_main:
            word = json.dumps((group.trigger or f"@{self._config.assistant_name}").strip(), ensure_ascii=False)[1:-1]
            found = data.lower() if word.isascii() else b""
            if found and word.lower().encode() not in found and b'"addressed"' not in found:
                return []  # a silent chat: hundreds of lines, none of which is parsed
        lines = (from_json(line, group.jid) for line in data.split(b"\n") if line and _BOT not in line)
        return [line for line in lines if line is not None]
