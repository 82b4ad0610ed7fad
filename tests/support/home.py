"""A whole home under test: its files, its host as a real subprocess, and what came out at the far side.

Messages go in by the inbox, answers are read where the local channel puts them. Of the host only paths are imported.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nanoclaw.paths import PROJECT, Home
from tests.support.scripted_model import Hang, Reply, ScriptedModel, echo, last_user_text
from tests.support.waiting import wait_for

CLI = "import sys; from nanoclaw.cli import main; sys.exit(main())"
KEY = "sk-ant-api03-e2e-0123456789abcdefghij"
ANSWER = 60.0
"""s, the deadline for a cold container's answer on a loaded machine; no test waits so long when all is well."""


class Script:
    """A rule for ``ScriptedModel``: the first marker that stands in the newest prompt decides; none: echo."""

    def __init__(self) -> None:
        self._rules: dict[str, Callable[[dict[str, Any]], Reply]] = {}

    def on(self, marker: str, rule: Callable[[dict[str, Any]], Reply]) -> None:
        self._rules[marker] = rule

    def __call__(self, request: dict[str, Any]) -> Reply:
        prompt = last_user_text(request)
        return next((rule for marker, rule in self._rules.items() if marker in prompt), echo)(request)


def in_turn(*replies: Reply) -> Callable[[dict[str, Any]], Reply]:
    """A rule that gives each reply once, the last one for ever."""
    left = itertools.chain(replies, itertools.repeat(replies[-1]))
    return lambda request: next(left)


def hang_once(then: Callable[[dict[str, Any]], Reply] = echo) -> Callable[[dict[str, Any]], Reply]:
    """A rule that lets the first request hang until its client is gone, and answers the later ones."""
    left = itertools.chain([Hang()], itertools.repeat(None))
    return lambda request: next(left) or then(request)


class HomeUnderTest:
    """``start`` and ``stop`` as often as wanted; ``remove`` ends all that it started, containers too."""

    def __init__(self, root: Path, model: ScriptedModel, engine: str, runtime: str = "docker") -> None:
        self.home = Home(root / "home", root / "config")
        self.model = model
        self.runtime = runtime
        self.environment: dict[str, str] = {}
        self.host: subprocess.Popen[bytes] | None = None
        self._engine = engine
        self._others: list[subprocess.Popen[str]] = []
        self._names = itertools.count(1)
        for path in (self.home.group_files, self.home.user_config, self.home.groups):
            path.mkdir(parents=True)
        self.configure()
        self.credential()

    # -- what a person does ----------------------------------------------------------------------------------------

    def configure(self, container: str = "", **keys: Any) -> None:
        """Write config.toml: top-level keys, and lines of [container]."""
        lines = [f"{key} = {json.dumps(value)}" for key, value in {"timezone": "UTC", **keys}.items()]
        text = "\n".join([*lines, "[container]", f'runtime = "{self.runtime}"', container, ""])
        put(self.home.config_file, text)

    def credential(self, key: str = KEY) -> None:
        put(self.home.env_file, f"ANTHROPIC_API_KEY={key}\nANTHROPIC_BASE_URL={self.model.url}\n", 0o600)

    def group(self, folder: str, extra: str = "requires_trigger = false") -> str:
        """Register the chat ``local:<folder>``; returns the folder."""
        put(self.home.group_file(folder), f'jid = "local:{folder}"\nname = "{folder}"\n{extra}\n')
        return folder

    def drop(self, folder: str, text: str, **fields: str) -> str:
        """Drop a message into a group's inbox, whole; returns its id."""
        message = fields.setdefault("id", f"m-{uuid.uuid4().hex[:8]}")
        name = f"{next(self._names):06d}.json"
        put(self.home.inbox / folder / name, json.dumps({"text": text, **fields}))
        return message

    # -- processes -------------------------------------------------------------------------------------------------

    def command(self, *arguments: str, program: Sequence[str] = ("-c", CLI)) -> list[str]:
        return [sys.executable, *program, *arguments]

    def env(self) -> dict[str, str]:
        foreign = ("ANTHROPIC_", "CLAUDE_", "NANOCLAW_")
        env = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        home = {"NANOCLAW_HOME": str(self.home.root), "NANOCLAW_CONFIG_DIR": str(self.home.user_config)}
        home["NANOCLAW_RESTART_BACKOFF"] = "0"  # tests kill hosts by the hundred
        return env | home | {"PYTHONPATH": str(PROJECT)} | self.environment

    def start(self) -> None:
        """Start ``run`` and return when it has taken up its home."""
        before = self.log().count("Host started")
        with open(self.home.root / "host.out", "ab") as out:
            self.host = subprocess.Popen(
                self.command("run"), env=self.env(), stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        wait_for(lambda: self.log().count("Host started") > before or self.host.poll() is not None, 30, "a host")
        assert self.host.poll() is None, (self.home.root / "host.out").read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the host by a signal (within 5 s, on a machine with time; after 8 s it says where it hangs and is gone);
        returns its exit code."""
        assert self.host is not None
        self.host.send_signal(number)
        code = self.host.wait(30)
        if code > 0:
            print((self.home.root / "host.out").read_text()[-20_000:])  # where it hung
        self.host = None
        return code

    def run(self, *arguments: str, program: Sequence[str] = ("-c", CLI)) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        argv = self.command(*arguments, program=program)
        return subprocess.run(
            argv, env=self.env(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER, check=False
        )

    def spawn(self, *arguments: str) -> subprocess.Popen[str]:
        """A command that goes on; ``remove`` kills what is left of it."""
        process = subprocess.Popen(
            self.command(*arguments), env=self.env(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._others.append(process)
        return process

    def docker(self, *arguments: str) -> str:
        done = subprocess.run([self._engine, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def remove(self) -> None:
        for process in [*self._others, *([self.host] if self.host else [])]:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for run in self.runs():
            if run["runtime"] == "process" and run["container_id"] and run["status"] == "started":
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(run["container_id"].partition(":")[0]), signal.SIGKILL)
        if self.runtime == "docker" and (names := self.containers()):
            self.docker("rm", "-f", *names)

    # -- what came out ---------------------------------------------------------------------------------------------

    def said(self, folder: str) -> list[str]:
        """What was delivered to a group's chat so far."""
        return [line["text"] for line in _lines(self.home.local / f"{folder}.jsonl")]

    def wait_said(self, folder: str, count: int = 1, seconds: float = ANSWER) -> list[str]:
        """What was delivered, as soon as it is ``count`` texts and each stands in the transcript."""

        def arrived() -> list[str] | None:
            said = self.said(folder)
            own = [line["text"] for line in self.transcript(folder) if line["is_bot"]]
            return said if len(said) >= count and own == said else None

        try:
            return wait_for(arrived, seconds, f"{count} answers in {folder}")
        except AssertionError as error:
            raise AssertionError(f"{error}; there are {self.said(folder)}\n{self.log()}") from None

    def transcript(self, folder: str) -> list[dict[str, Any]]:
        chat = self.home.chat(f"local:{folder}")
        return [line for path in sorted(chat.glob("*.jsonl")) for line in _lines(path)]

    def cursor(self, folder: str) -> dict[str, Any]:
        path = self.home.cursors / f"{folder}.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def runs(self, folder: str = "") -> list[dict[str, Any]]:
        """The records of a group's runs, the oldest first."""
        paths = sorted(self.home.runs.glob("[!.]*/run.json"))
        records = [json.loads(path.read_text()) for path in paths]
        return [record for record in records if folder in ("", record["folder"])]

    def wait_judged(self, folder: str, count: int = 1) -> list[dict[str, Any]]:
        """The records of a group's runs, as soon as there are ``count`` and all are over."""

        def over() -> list[dict[str, Any]] | None:
            runs = self.runs(folder)
            return runs if len(runs) >= count and all(run["status"] == "judged" for run in runs) else None

        return wait_for(over, ANSWER, f"{count} runs of {folder} over")

    def journal(self, event: str, folder: str = "") -> list[dict[str, Any]]:
        lines = [line for path in sorted(self.home.logs.glob("journal-*.jsonl")) for line in _lines(path)]
        return [line for line in lines if line["event"] == event and folder in ("", line.get("folder"))]

    def log(self) -> str:
        path = self.home.logs / "nanoclaw.log"
        return path.read_text() if path.exists() else ""

    def containers(self, folder: str = "", all_states: bool = True) -> list[str]:
        """Names of this home's containers at the engine."""
        identity = self.home.state / "home.json"
        if not identity.exists():
            return []
        label = f"label=nanoclaw.home={json.loads(identity.read_text())['id']}"
        more = ["--filter", f"label=nanoclaw.folder={folder}"] if folder else []
        return self.docker(
            "ps", *(["-a"] if all_states else []), "--filter", label, *more, "--format", "{{.Names}}"
        ).split()

    def prompts(self, marker: str) -> list[str]:
        """The newest prompt of each model call, of those that hold a marker."""
        return [text for body in self.model.bodies() if marker in (text := last_user_text(body))]


def put(path: Path, text: str, mode: int = 0o644) -> None:
    """A file appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text)
    draft.chmod(mode)
    draft.rename(path)


def _lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a file that another process appends to."""
    data = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
