"""What happens in the house while it is killed: who writes what to whom, what the model says, and the ledger of it
all.

A message is a marker (``k00012``) and a word: ``say`` (answered at once), ``slow`` (answered late) or ``tool`` (the
agent first says ``note k00012`` by its tool). An answer names the markers of all messages since the answer before it,
so that a message that is answered twice is seen twice, by whoever reads the chat.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from tests.support.home import KEY, HomeUnderTest, put
from tests.support.scripted_model import Gate, Reply, ScriptedModel, ToolUse, message_texts, user_texts
from tests.support.telegram_server import TelegramServer

MARKER = re.compile(r"\bk\d{5}\b")
GROUPS = {"main": "local:main", "ann": "local:ann", "bob": "local:bob", "family": "tg:-1001234"}
TELEGRAM = "family"
STOPPED = "bob"
"""Only this group is ever stopped, so that what may be cancelled is known."""
KINDS = ("say", "say", "slow", "tool")
SLOW_SECONDS = 0.6
AHEAD = 5
"""So many messages of a chat may be without an answer before the next is written."""
FRESH_AFTER = 100
"""So many messages long is a session: a longer one only makes each turn slower."""


class Scene:
    """The house and everybody around it. ``close`` ends all that it started. Thread-safe where the feeder is."""

    def __init__(self, root: Path, engine: str, seed: int, program: Sequence[str]) -> None:
        self.rng = random.Random(seed)
        self.messages: dict[str, list[str]] = {folder: [] for folder in GROUPS}
        self.kinds: dict[str, str] = {}
        self.script_notes: dict[str, str] = {}
        self.refusals: list[str] = []
        self.errands = 0
        self.cancelled: set[int] = set()
        self._named: set[str] = set()
        self.victim: subprocess.Popen[bytes] | None = None
        self._answers = count(1)
        self._names = count(1)
        self._program = program
        self._ended = threading.Event()
        self._guard = threading.Lock()  # guards the ledger
        self.model = ScriptedModel(self._rule).__enter__()
        self.telegram = TelegramServer()
        self.telegram._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a killed client is no news
        self._telegram_answers = self.telegram.answer
        self.telegram.answer = self._answer_or_kill  # type: ignore[method-assign]
        self.house = HomeUnderTest(root, self.model, engine)
        self._furnish()
        self._feeder = threading.Thread(target=self._feed, name="feeder", daemon=True)

    def _furnish(self) -> None:
        home = self.house.home
        self.configure("resend")
        token = f"TELEGRAM_BOT_TOKEN={self.telegram.token}"
        put(home.env_file, f"ANTHROPIC_API_KEY={KEY}\nANTHROPIC_BASE_URL={self.model.url}\n{token}\n", 0o600)
        for folder, jid in GROUPS.items():
            main = "is_main = true\n" if folder == "main" else ""
            put(home.group_file(folder), f'jid = "{jid}"\nname = "{folder}"\nrequires_trigger = false\n{main}')

    def configure(self, on_uncertain: str) -> None:
        container = f'idle_timeout = 0.5\n[channels.telegram]\napi_url = "{self.telegram.url}"'
        keys = {"max_concurrent_containers": 3, "progress_after": 0, "on_uncertain": on_uncertain}
        self.house.configure(container, **keys)

    def close(self) -> None:
        self.still()
        self.house.remove()
        self.model.close()
        self.telegram.close()

    # -- the host --------------------------------------------------------------------------------------------------

    def host(self, fault: str = "") -> subprocess.Popen[bytes]:
        """Start a host and do not wait for it. ``fault``: the step at which it kills itself."""
        out = self.house.home.root / "host.out"
        with open(out, "ab") as file:
            environment = self.house.env() | ({"NANOCLAW_FAULT": fault} if fault else {})
            command = self.house.command("run", program=self._program)
            self.house.host = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        return self.house.host

    def _answer_or_kill(self, method: str, parameters: dict[str, Any]) -> Any:
        """``victim`` is a host that is killed when Telegram has taken a message, and before it can know."""
        result = self._telegram_answers(method, parameters)
        if method == "sendMessage" and (victim := self.victim) is not None:
            self.victim = None
            victim.kill()
            raise ConnectionAbortedError
        return result

    # -- the people ------------------------------------------------------------------------------------------------

    def start_feeding(self) -> None:
        self._feeder.start()

    def still(self) -> None:
        """Nobody writes any more."""
        self._ended.set()
        if self._feeder.ident is not None:
            self._feeder.join()

    def say(self, folder: str, kind: str) -> None:
        """Somebody writes one message."""
        with self._guard:
            marker = f"k{next(self._names):05d}"
            self.messages[folder].append(marker)
            self.kinds[marker] = kind
            if folder == TELEGRAM:
                self.telegram.message(int(GROUPS[folder].removeprefix("tg:")), f"{marker} {kind}")
            else:
                self.house.drop(folder, f"{marker} {kind}", id=marker)
            if len(self.messages[folder]) % FRESH_AFTER == 0:
                self._fresh(folder)

    def script_says(self, folder: str) -> None:
        with self._guard:
            text = f"script s{next(self._names):05d}"
            self.script_notes[text] = folder
            self._request(folder, "messages", {"type": "message", "chatJid": GROUPS[folder], "text": text})

    def refused(self) -> None:
        """A script asks for what it may not have."""
        with self._guard:
            text = f"refused r{next(self._names):05d}"
            self.refusals.append(text)
            self._request("ann", "messages", {"type": "message", "chatJid": GROUPS["main"], "text": text})

    def again(self, folder: str) -> bool:
        """A script has an earlier prompt tried again, one without tools, which would speak twice."""
        for run in reversed(self.house.runs(folder)):
            prompts = sorted((self.house.home.runs / run["id"] / "in").glob("[0-9]*.json"))
            if prompts and not run["errand"] and not any(" tool<" in path.read_text() for path in prompts):
                with self._guard:
                    self.errands += 1
                    self._request(folder, "tasks", {"type": "run_again", "run": run["id"]})
                return True
        return False

    def unsendable(self) -> None:
        """Telegram refuses the next answer for good: it is set aside, and never sent."""
        self.telegram.fail("sendMessage", 403, "Forbidden: bot was kicked from the supergroup chat")
        self.say(TELEGRAM, "say")

    def another_run(self, folder: str) -> None:
        """A group's run ends, if it has one, and the next begins."""
        with self._guard:
            self._fresh(folder)
        self.say(folder, "say")

    def stop(self, in_the_chat: bool) -> None:
        """Somebody stops a group that is at work: by a file, or by a word in its chat."""
        self.say(STOPPED, "slow")
        if in_the_chat:
            with self._guard:
                self.house.drop(STOPPED, "/stop")
        else:
            (self.house.home.state / f"STOP-{STOPPED}").touch()

    def note_cancelled(self) -> None:
        """Remember what stops took: the cursor knows the last of them only."""
        for first, through in self.house.cursor(STOPPED).get("cancelled", ()):
            self.cancelled.update(range(first, through + 1))

    def _fresh(self, folder: str) -> None:
        self._request(folder, "tasks", {"type": "clear_session", "folder": folder})

    def _request(self, folder: str, kind: str, value: dict[str, Any]) -> None:
        put(self.house.home.ipc / folder / kind / f"q{next(self._names):05d}.json", json.dumps(value))

    def _feed(self) -> None:
        """Bursts and pauses, for each group its own: an agent meets follow-ups, and idles between them."""
        rng = random.Random(self.rng.random())
        due = dict.fromkeys(GROUPS, 0.0)
        burst = dict.fromkeys(GROUPS, 0)
        while not self._ended.wait(0.03):
            now = time.monotonic()
            for folder in GROUPS:
                if now < due[folder] or len(set(self.messages[folder]) - self._named) >= AHEAD:
                    continue
                self.say(folder, rng.choice(KINDS))
                if rng.random() < 0.15 and folder != TELEGRAM:
                    self.script_says(folder)
                burst[folder] = burst[folder] - 1 if burst[folder] > 0 else rng.randint(1, 3)
                due[folder] = now + (rng.uniform(0.05, 0.5) if burst[folder] else rng.uniform(2.0, 4.0))

    # -- the model -------------------------------------------------------------------------------------------------

    def _rule(self, request: dict[str, Any]) -> Reply:
        """Without memory: the same conversation gets the same kind of answer, however often it is asked."""
        fresh = list(_since_last_text(request.get("messages", [])))
        texts = [text for prompt in user_texts({"messages": fresh}) for text in message_texts(prompt)]
        called = json.dumps([m for m in fresh if m.get("role") == "assistant"])
        for marker, kind in (text.split(" ") for text in texts):
            if kind == "tool" and f"note {marker}" not in called:
                return ToolUse("mcp__nanoclaw__send_message", {"text": f"note {marker}"})
        markers = list(dict.fromkeys(text.split(" ")[0] for text in texts))
        self._named.update(markers)
        answer = f"answer #{next(self._answers)}: {' '.join(markers)}"
        slow = any(text.endswith(" slow") for text in texts)
        return Gate(threading.Event(), answer, SLOW_SECONDS) if slow else answer


def _since_last_text(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What came behind the assistant's last words."""
    last = -1
    for index, message in enumerate(messages):
        content = message.get("content")
        if message.get("role") == "assistant" and (
            isinstance(content, str) or any(block.get("type") == "text" for block in content or ())
        ):
            last = index
    yield from messages[last + 1 :]
