"""``chat``: talk to a group's agent from the terminal, beside a living host or being the host while it lasts.

Either way it is the same: a message goes through the inbox, the answer is read from the transcript.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import queue
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanoclaw import router
from nanoclaw.commands.asking import choose
from nanoclaw.conditions import PROBE_SECONDS
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import BrokenFile, read_json, write_bytes
from nanoclaw.files.locks import HomeLock, Locks
from nanoclaw.files.watch import Watcher
from nanoclaw.host import Host, write_host_file
from nanoclaw.inbox import MESSAGE_BYTES
from nanoclaw.models import Group, Line
from nanoclaw.paths import Home
from nanoclaw.runs.judge import VERDICTS
from nanoclaw.stores.home import make_home
from nanoclaw.stores.settings import Settings
from nanoclaw.stores.transcripts import Transcripts

LOOK_SECONDS = 0.5
LARGEST_TEXT = MESSAGE_BYTES * 9 // 10


def command(home: Home, arguments: argparse.Namespace) -> int:
    return run(home, arguments.group, arguments.message)


def run(home: Home, folder: str | None, message: str | None) -> int:
    """One message and its answer, or lines from the terminal until its end. Exit code 1 when an answer cannot come
    now."""
    make_home(home)
    settings = Settings(home)
    talk = _Talk(home, settings, choose(settings, folder))
    host = _HostWhileItLasts(home)
    host.try_to_be()
    try:
        return talk.carry_on([message] if message is not None else None, host)
    except KeyboardInterrupt:
        return 130
    finally:
        host.end()
        talk.end()


class _HostWhileItLasts:
    """The host in this process, if no other one lives."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = HomeLock(home.state)
        self._host: Host | None = None

    def try_to_be(self) -> None:
        if self._host is None and self._lock.acquire():
            write_host_file(self._home, "chat")
            self._host = Host(self._home)
            self._host.start()

    def end(self) -> None:
        if self._host is not None:
            self._host.stop()
            self._lock.release()


@dataclass
class _Sent:
    """A message on its way. ``seq``: its place in the transcript; ``over``: answered, or known not to be answered
    now."""

    id: str
    seq: int | None = None
    held_since: float | None = None
    over: bool = False
    failed: bool = False

    def fail(self, why: str) -> None:
        print(why, file=sys.stderr, flush=True)
        self.over = self.failed = True


class _Talk:
    def __init__(self, home: Home, settings: Settings, group: Group) -> None:
        self._home = home
        self._config = settings.config
        self._group = group
        self._transcripts = Transcripts(home, Locks())
        self._place = self._transcripts.last(group.jid)
        self._sent: list[_Sent] = []
        self._typed: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._news = threading.Event()
        self._watcher = Watcher()
        self._watcher.start()
        for path in (home.chat(group.jid), home.cursors, home.outbox):
            self._watcher.add(path, lambda path: self._news.set())

    def end(self) -> None:
        self._watcher.stop()

    def carry_on(self, texts: list[str] | None, host: _HostWhileItLasts) -> int:
        """Send ``texts`` (None: what is typed), print what the agent says, until all is answered. The exit code."""
        if texts is None:
            threading.Thread(target=self._read_terminal, daemon=True).start()
        else:
            self._put([*texts, None])
        typing = True
        while True:
            self._news.clear()
            while typing and not self._typed.empty():
                text = self._typed.get()
                typing = text is not None
                if text is not None:
                    self._sent.append(self._send(text))
            self._look()
            self._sent = [sent for sent in self._sent if not sent.over or sent.failed]
            if not typing and all(sent.over for sent in self._sent):
                return 1 if self._sent else 0
            self._news.wait(LOOK_SECONDS)
            host.try_to_be()

    def _read_terminal(self) -> None:
        if sys.stdin.isatty():
            print(f"Chat with {self._config.assistant_name} in {self._group.name}. Ctrl-D ends it.")
        try:
            for text in _typed_lines() if sys.stdin.isatty() else _piped_lines():
                if text.strip():
                    self._put([text])
        except EOFError:
            pass
        self._put([None])

    def _put(self, texts: list[str | None]) -> None:
        for text in texts:
            self._typed.put(text)
        self._news.set()

    def _send(self, text: str) -> _Sent:
        if len(text.encode("utf-8", "replace")) > LARGEST_TEXT or not text.strip():
            fix = "Put long texts into a file in the group's folder and name the file."
            raise UserError(f"A message has 1 to {LARGEST_TEXT // 1000} kB of text.", fix)
        sent = _Sent(f"chat-{uuid.uuid4()}")
        user = getpass.getuser()
        value = {"text": text, "id": sent.id, "sender": user, "sender_name": user}
        directory = self._home.inbox / self._group.folder
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes(directory / f"{time.time_ns()}-{sent.id}.json", json.dumps(value).encode())
        return sent

    def _look(self) -> None:
        """Print what is new in the chat, and see which messages are over. Answers are in the transcript before
        that can be seen."""
        cursor = self._cursor()
        idle = not any(self._is_ours(path) for path in self._home.outbox.glob("*.json"))
        for line, place in self._transcripts.since(self._group.jid, self._place):
            self._place = place
            self._note(line)
        for sent in [sent for sent in self._sent if sent.seq is not None and not sent.over]:
            done = cursor.get("done", 0)
            sent.over = idle and isinstance(done, int) and done >= (sent.seq or 0)
            if not sent.over:
                self._see_whether_held(sent, cursor)

    def _note(self, line: Line) -> None:
        message = line.message
        sent = next((sent for sent in self._sent if sent.id == message.id), None)
        if sent is not None:
            sent.seq = line.seq
            if why := router.why_asleep(message, self._group, self._config):
                sent.fail(f"Stored, but it does not wake the agent: {why}.")
        elif message.is_bot and message.id.startswith("notice-"):
            waiting = [sent for sent in self._sent if sent.seq is not None and not sent.over]
            for sent in waiting[:1]:
                sent.fail(message.text)
            for sent in waiting[1:]:
                sent.over = sent.failed = True
        elif message.is_bot:
            print(message.text, flush=True)

    def _see_whether_held(self, sent: _Sent, cursor: dict[str, Any]) -> None:
        """Fail a message that is held back by a cause of which the chat was told earlier."""
        verdict = VERDICTS.get(str(cursor.get("said")))
        if verdict is None:
            sent.held_since = None
            return
        sent.held_since = sent.held_since or time.monotonic()
        if time.monotonic() > sent.held_since + PROBE_SECONDS + 1.0:
            sent.fail(verdict.chat or verdict.cause)

    def _cursor(self) -> dict[str, Any]:
        return read_json(self._home.cursors / f"{self._group.folder}.json") or {}

    def _is_ours(self, path: Path) -> bool:
        try:
            return (read_json(path) or {}).get("jid") == self._group.jid
        except (OSError, BrokenFile):
            return False


def _typed_lines() -> Iterator[str]:
    """Lines from a person, with the editing that ``input`` has; EOFError ends them."""
    while True:
        yield input("> ")


def _piped_lines() -> Iterator[str]:
    """Lines from standard input. Read by descriptor: a thread within a buffered read aborts the interpreter's end."""
    rest = b""
    while data := os.read(0, 65536):
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in lines)
    yield rest.decode("utf-8", "replace")
