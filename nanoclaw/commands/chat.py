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
from pathlib import Path

from nanoclaw import router
from nanoclaw.commands.asking import check_text
from nanoclaw.conditions import PROBE_SECONDS
from nanoclaw.config.settings import load_config
from nanoclaw.files.atomic import BrokenFile, read_json, write_bytes
from nanoclaw.files.home_lock import HomeLock
from nanoclaw.files.locks import Locks
from nanoclaw.files.watch import Watcher
from nanoclaw.host import Host
from nanoclaw.models import Config, Group, Line
from nanoclaw.paths import Home
from nanoclaw.runs.judge import VERDICTS, Verdict
from nanoclaw.stores import registry
from nanoclaw.stores.home import make_home, write_host_file
from nanoclaw.stores.transcripts import Transcripts

LOOK_SECONDS = 0.5


def command(home: Home, arguments: argparse.Namespace) -> int:
    """One message and its answer, or lines from the terminal until its end. Exit code 1 when an answer cannot come
    now."""
    make_home(home)
    talk = _Talk(home, load_config(home.config_file), registry.choose(home, arguments.group))
    host = _HostWhileItLasts(home)
    host.try_to_be()
    try:
        return talk.carry_on(arguments.message, host)
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


class _Talk:
    def __init__(self, home: Home, config: Config, group: Group) -> None:
        self._home = home
        self._config = config
        self._group = group
        self._transcripts = Transcripts(home, Locks())
        self._place = self._transcripts.last(group.jid)
        self._waiting: dict[str, int | None] = {}
        """The messages that are not over (answered, or known not to be answered now): id, and seq once stored."""
        self._held_since: float | None = None
        self._failed = False
        self._obeyed: list[str] = []
        """What the host itself obeyed (/status, …): its next notice answers that."""
        self._typed: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._news = threading.Event()
        self._watcher = Watcher()
        self._watcher.start()
        for path in (home.chat(group.jid), home.cursors, home.outbox):
            self._watcher.add(path, lambda path: self._news.set())

    def end(self) -> None:
        self._watcher.stop()

    def carry_on(self, text: str | None, host: _HostWhileItLasts) -> int:
        """Send ``text`` (None: what is typed), print what the agent says, until all is answered. The exit code."""
        if text is None:
            threading.Thread(target=self._read_terminal, daemon=True).start()
        else:
            self._put(text)
            self._put(None)
        typing = True
        while True:
            self._news.clear()
            while typing and not self._typed.empty():
                text = self._typed.get()
                typing = text is not None
                if text is not None:
                    self._send(text)
            self._look()
            if not typing and not self._waiting:
                return 1 if self._failed else 0
            self._news.wait(LOOK_SECONDS)
            host.try_to_be()

    def _read_terminal(self) -> None:
        if sys.stdin.isatty():
            print(f"Chat with {self._config.assistant_name} in {self._group.name}. Ctrl-D ends it.")
        try:
            for text in iter(lambda: input("> "), None) if sys.stdin.isatty() else _piped_lines():
                if text.strip():
                    self._put(text)
        except EOFError:
            pass
        self._put(None)

    def _put(self, text: str | None) -> None:
        """A message, or None: no more come."""
        self._typed.put(text)
        self._news.set()

    def _send(self, text: str) -> None:
        name, user = f"chat-{uuid.uuid4()}", getpass.getuser()
        value = {"text": check_text(text), "id": name, "sender": user, "sender_name": user}
        directory = self._home.inbox / self._group.folder
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes(directory / f"{time.time_ns()}-{name}.json", json.dumps(value).encode())
        self._waiting[name] = None

    def _look(self) -> None:
        """Print what is new in the chat, and see which messages are over. Answers are in the transcript before
        that can be seen."""
        cursor = read_json(self._home.cursors / f"{self._group.folder}.json") or {}
        idle = not any(self._is_ours(path) for path in self._home.outbox.glob("*.json"))
        for line, place in self._transcripts.since(self._group.jid, self._place):
            self._place = place
            self._note(line)
        done = cursor.get("done", 0)
        if idle and isinstance(done, int):
            over = [name for name, seq in self._waiting.items() if seq is not None and seq <= done]
            self._waiting = {n: s for n, s in self._waiting.items() if n not in over or n in self._obeyed}
        said = cursor.get("said") or [None]
        self._see_whether_held(VERDICTS.get(str(said[-1])))

    def _note(self, line: Line) -> None:
        message = line.message
        if message.id in self._waiting:
            self._waiting[message.id] = line.seq
            if message.command:
                self._obeyed.append(message.id)
            elif why := router.why_asleep(message, self._group, self._config):
                self._fail([message.id], f"Stored, but it does not wake the agent: {why}.")
        elif message.is_bot and self._obeyed and message.id.startswith("notice-"):
            print(message.text, flush=True)
            self._waiting.pop(self._obeyed.pop(0), None)
        elif message.is_bot and message.id.startswith("notice-"):
            self._fail(self._stored(), message.text)
        elif message.is_bot:
            print(message.text, flush=True)

    def _see_whether_held(self, verdict: Verdict | None) -> None:
        """Fail messages that are held back by a cause of which the chat was told earlier."""
        if verdict is None or not self._stored():
            self._held_since = None
            return
        self._held_since = self._held_since or time.monotonic()
        if time.monotonic() > self._held_since + PROBE_SECONDS + 1.0:
            self._fail(self._stored(), verdict.chat or verdict.cause)

    def _stored(self) -> list[str]:
        return [name for name, seq in self._waiting.items() if seq is not None]

    def _fail(self, names: list[str], why: str) -> None:
        """These are not answered now: say so, once."""
        if names:
            print(why, file=sys.stderr, flush=True)
            self._failed = True
        for name in names:
            del self._waiting[name]

    def _is_ours(self, path: Path) -> bool:
        try:
            return (read_json(path) or {}).get("jid") == self._group.jid
        except (OSError, BrokenFile):
            return False


def _piped_lines() -> Iterator[str]:
    """Lines from standard input. Read by descriptor: a thread within a buffered read aborts the interpreter's end."""
    rest = b""
    while data := os.read(0, 65536):
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in lines)
    yield rest.decode("utf-8", "replace")
