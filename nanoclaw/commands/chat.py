"""``chat``: talk to a group's agent from the terminal, beside a living host or being the host while it lasts.

Either way it is the same: the message goes through the inbox, the answer is read from the transcript.
"""

from __future__ import annotations

import getpass
import json
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any

from nanoclaw import router
from nanoclaw.conditions import PROBE_SECONDS
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import read_json, write_bytes
from nanoclaw.files.locks import HomeLock, Locks
from nanoclaw.files.watch import Watcher
from nanoclaw.host import Host, make_home, write_host_file
from nanoclaw.inbox import MESSAGE_BYTES
from nanoclaw.models import Config, Group, Line
from nanoclaw.paths import Home
from nanoclaw.runs.judge import VERDICTS
from nanoclaw.stores.settings import Settings
from nanoclaw.stores.transcripts import Position, Transcripts

LOOK_SECONDS = 0.5


def run(home: Home, folder: str | None, message: str | None) -> int:
    """One message and its answer, or a conversation until end of input. Exit code 1 when no answer can come."""
    make_home(home)
    settings = Settings(home)
    group = choose(settings, folder)
    talk = _Talk(home, group, settings.config)
    host = _HostWhileItLasts(home)
    host.try_to_be()
    try:
        if message is not None:
            return talk.one_shot(message, host)
        return talk.conversation(host)
    except KeyboardInterrupt:
        return 130
    finally:
        host.end()
        talk.end()


def choose(settings: Settings, folder: str | None) -> Group:
    """The group that is meant: the named one, else main, else the only one."""
    groups = settings.groups
    if folder is not None:
        if folder not in groups:
            known = ", ".join(sorted(groups)) or "none"
            detail = next((f" ({p})" for p in settings.problems if p.path.endswith(f"/{folder}.toml")), "")
            raise UserError(
                f"No group {folder!r} is registered{detail}.", f"Registered: {known}. Write state/groups/{folder}.toml."
            )
        return groups[folder]
    main = [group for group in groups.values() if group.is_main]
    if main or len(groups) == 1:
        return (main or list(groups.values()))[0]
    if not groups:
        problem = f" ({settings.problems[0]})" if settings.problems else ""
        raise UserError(
            f"No group is registered{problem}.",
            'Write state/groups/main.toml with: jid = "local:main" and is_main = true',
        )
    raise UserError("There is no main group.", f"Name one: --group {' | '.join(sorted(groups))}")


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
    id: str
    seq: int | None = None
    waits_since: float | None = None


class _Talk:
    def __init__(self, home: Home, group: Group, config: Config) -> None:
        self._home = home
        self._group = group
        self._config = config
        self._transcripts = Transcripts(home, Locks())
        self._place: Position = self._transcripts.last(group.jid)
        self._news = threading.Event()
        self._watcher = Watcher()
        self._watcher.start()
        for path in (home.chat(group.jid), home.cursors, home.outbox):
            self._watcher.add(path, lambda path: self._news.set(), deletions=True)

    def end(self) -> None:
        self._watcher.stop()

    def one_shot(self, text: str, host: _HostWhileItLasts) -> int:
        sent = self._send(text)
        while True:
            self._news.clear()
            failed = False
            for line in self._lines():
                failed = self._note(line, sent) or failed
            if failed or self._waits_for_a_cause(sent):
                return 1
            if sent.seq is not None and self._is_done(sent.seq):
                for line in self._lines():
                    self._note(line, sent)
                return 0
            self._news.wait(LOOK_SECONDS)
            host.try_to_be()

    def conversation(self, host: _HostWhileItLasts) -> int:
        """Read lines from the terminal; answers are printed as they come."""
        interactive = sys.stdin.isatty()
        if interactive:
            print(f"Chat with {self._config.assistant_name} in {self._group.name}. An empty line or Ctrl-D ends it.")
        over = threading.Event()
        printer = threading.Thread(target=self._print_answers, args=(over, host), daemon=True)
        printer.start()
        last: _Sent | None = None
        while True:
            try:
                text = input("> " if interactive else "")
            except EOFError:
                break
            if not text.strip():
                break
            last = self._send(text)
        while last is not None and not interactive and not over.wait(0.05):
            if last.seq is None:
                last.seq = next(
                    (
                        line.seq
                        for line, _ in self._transcripts.since(self._group.jid, Position())
                        if line.message.id == last.id
                    ),
                    None,
                )
            elif self._is_done(last.seq):
                break
        over.set()
        self._news.set()
        printer.join()
        return 0

    def _print_answers(self, over: threading.Event, host: _HostWhileItLasts) -> None:
        while True:
            self._news.clear()
            for line in self._lines():
                if line.message.is_bot:
                    print(line.message.text, flush=True)
            if over.is_set():
                return
            self._news.wait(LOOK_SECONDS)

    def _send(self, text: str) -> _Sent:
        if len(text.encode("utf-8", "replace")) > MESSAGE_BYTES * 0.9:
            raise UserError(
                "The message is larger than 900 kB.", "Put it into a file in the group's folder and name the file."
            )
        sent = _Sent(f"chat-{uuid.uuid4()}")
        user = getpass.getuser()
        value = {"text": text, "id": sent.id, "sender": user, "sender_name": user}
        directory = self._home.inbox / self._group.folder
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes(directory / f"{time.time_ns()}-{sent.id}.json", json.dumps(value).encode())
        return sent

    def _lines(self) -> list[Line]:
        found = self._transcripts.since(self._group.jid, self._place)
        if found:
            self._place = found[-1][1]
        return [line for line, _ in found]

    def _note(self, line: Line, sent: _Sent) -> bool:
        """Print what a line means for the one who waits; True when no answer will come now."""
        message = line.message
        if message.id == sent.id:
            sent.seq = line.seq
            why = router.why_asleep(message, self._group, self._config)
            if why is not None:
                print(f"Stored, but it does not wake the agent: {why}.", file=sys.stderr)
                return True
        elif message.is_bot and sent.seq is not None:
            if message.id.startswith("notice-"):
                print(message.text, file=sys.stderr, flush=True)
                return True
            print(message.text, flush=True)
        return False

    def _waits_for_a_cause(self, sent: _Sent) -> bool:
        """Is the message stored, and held back by a cause that the chat was told of earlier? Print it then."""
        if sent.seq is None:
            return False
        verdict = VERDICTS.get(str(self._cursor().get("said")))
        sent.waits_since = (sent.waits_since or time.monotonic()) if verdict else None
        if verdict is None or time.monotonic() < (sent.waits_since or 0) + PROBE_SECONDS + 1.0:
            return False
        print(verdict.chat, file=sys.stderr)
        return True

    def _cursor(self) -> dict[str, Any]:
        return read_json(self._home.cursors / f"{self._group.folder}.json") or {}

    def _is_done(self, seq: int) -> bool:
        """Is everything through ``seq`` answered, and every answer delivered?"""
        if not isinstance(done := self._cursor().get("done", 0), int) or done < seq:
            return False
        return not any(self._is_ours(path) for path in self._home.outbox.glob("*.json"))

    def _is_ours(self, path: object) -> bool:
        try:
            value = json.loads(open(str(path), "rb").read())  # noqa: SIM115
            return bool(value.get("jid") == self._group.jid)
        except (OSError, ValueError, AttributeError):
            return False
