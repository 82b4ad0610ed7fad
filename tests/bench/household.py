"""A host as a person runs it (``nanoclaw.py run``, a process of its own), on a throw-away home, with the scripted
model.

The model lives in the bench's process, so that its work is not the host's. The host finds a ``docker`` first on its
PATH that tells the bench of each ``docker run`` and becomes the real one; the bare runs of ``bare.py`` go through it,
too.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

from nanoclaw.paths import PROJECT, Home
from tests.bench.figures import until
from tests.support.scripted_model import ScriptedModel

WRAPPER = """#!/bin/sh
[ "$1" = run ] && echo >> {pipe}
exec {docker} "$@"
"""
DEADLINE = 120.0


class Events:
    """The numbered events of a run's out/, in order, each as soon as it is there."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._next = 1
        self.last: dict[str, Any] = {}

    def next(self) -> dict[str, Any] | None:
        """The next event, None while it is not there."""
        try:
            data = (self._out / f"{self._next:06d}.json").read_bytes()
        except FileNotFoundError:
            return None
        self._next += 1
        self.last = json.loads(data)
        return self.last

    def wait(self, kind: str, **fields: Any) -> float:
        """Pass over events up to one of ``kind`` with these ``fields``; returns the Unix time at which it was seen."""

        def look() -> float | None:
            while (event := self.next()) is not None:
                if event["type"] == "error":
                    raise RuntimeError(f"the run failed: {event}")
                if event["type"] == kind and all(event.get(key) == value for key, value in fields.items()):
                    return time.time()
            return None

        return until(look, DEADLINE, f"{kind} in {self._out}")


class Household:
    """``groups`` groups ``g00``, ``g01``, … (with more digits where there are more than 100). Times are Unix times in
    s."""

    def __init__(self, groups: int, requires_trigger: bool = False) -> None:
        docker = shutil.which("docker")
        if docker is None:
            raise SystemExit("bench: there is no docker on this machine")
        self.root = Path(tempfile.mkdtemp(prefix="nc-bench-", dir="/tmp")).resolve()
        self.home = Home(self.root / "home", self.root / "config")
        width = max(2, len(str(groups - 1)))
        self.folders = [f"g{number:0{width}d}" for number in range(groups)]
        self._requires_trigger = str(requires_trigger).lower()
        self.model = ScriptedModel()
        self._drafts = self.root / "drafts"
        self._pipe = self.root / "docker-run"
        self._docker_runs: list[float] = []
        self.docker = self.root / "bin" / "docker"
        for directory in (self.home.group_files, self.home.groups, self._drafts, self.docker.parent):
            directory.mkdir(parents=True)
        self.docker.write_text(WRAPPER.format(pipe=self._pipe, docker=os.path.abspath(docker)))
        self.docker.chmod(0o755)
        self._note_docker_runs()
        self.pid = 0

    def __enter__(self) -> Self:
        self.model.__enter__()
        self.home.config_file.write_text('timezone = "UTC"\n')
        for folder in self.folders:
            text = f'jid = "local:{folder}"\nname = "{folder}"\nrequires_trigger = {self._requires_trigger}\n'
            self.home.group_file(folder).write_text(text)
        self.home.env_file.write_text(f"ANTHROPIC_API_KEY=sk-ant-api03-bench\nANTHROPIC_BASE_URL={self.model.url}\n")
        self.home.env_file.chmod(0o600)
        try:
            self.first_start = self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self) -> float:
        """Start the host; the seconds from the start of its process until its log says so."""
        path = f"{self.docker.parent}{os.pathsep}{os.environ['PATH']}"
        homes = {"NANOCLAW_HOME": str(self.home.root), "NANOCLAW_CONFIG_DIR": str(self.home.user_config)}
        begun = time.perf_counter()
        with open(self.root / "host.log", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, str(PROJECT / "nanoclaw.py"), "run"],
                env=os.environ | homes | {"PATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._process = process
        self.pid = process.pid

        def started() -> bool | None:
            if process.poll() is not None:
                raise RuntimeError(f"the host ended: {(self.root / 'host.log').read_text()[-2000:]}")
            log = self.home.logs / "nanoclaw.log"
            return True if log.exists() and f"Host started pid={process.pid} " in log.read_text() else None

        until(started, DEADLINE, "the host's start", pause=0.005)
        return time.perf_counter() - begun

    def stop(self) -> None:
        """End the host; containers go on."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.pid = 0

    def __exit__(self, *_: object) -> None:
        if self.pid:
            self.stop()
        self.model.close()
        identity = self.home.state / "home.json"
        if identity.exists():
            label = f"label=nanoclaw.home={json.loads(identity.read_bytes())['id']}"
            found = subprocess.run([self.docker, "ps", "-aq", "--filter", label], capture_output=True, text=True)
            if found.stdout.split():
                subprocess.run([self.docker, "rm", "-f", *found.stdout.split()], capture_output=True)
        shutil.rmtree(self.root, ignore_errors=True)

    # -- a message in, an answer out -------------------------------------------------------------------------------

    def drop(self, folder: str, text: str) -> float:
        """Put a message into a group's inbox by a rename from outside; the time just before it."""
        return self._put(self.home.inbox / folder, ".txt", text)

    def request(self, folder: str, text: str) -> float:
        """Have something said in a group's chat, by the file that a script would write; the time just before it."""
        value = {"type": "message", "chatJid": f"local:{folder}", "text": text}
        return self._put(self.home.ipc / folder / "messages", ".json", json.dumps(value))

    def _put(self, directory: Path, suffix: str, content: str) -> float:
        name = f"{time.time_ns()}{suffix}"
        draft = self._drafts / name
        draft.write_text(content)
        now = time.time()
        os.rename(draft, directory / name)
        return now

    def transcript_bytes(self, folder: str) -> int:
        """How long a chat's transcript is."""
        return sum(path.stat().st_size for path in self.home.chat(f"local:{folder}").glob("*.jsonl"))

    def delivered_bytes(self, folder: str) -> int:
        """How much the local channel's far side has of a chat."""
        try:
            return (self.home.local / f"{folder}.jsonl").stat().st_size
        except FileNotFoundError:
            return 0

    def await_delivery(self, folder: str, before: int) -> float:
        """The time at which more than ``before`` bytes of answers are delivered."""
        look = lambda: time.time() if self.delivered_bytes(folder) > before else None  # noqa: E731
        return until(look, DEADLINE, f"an answer in {folder}")

    def last_delivery(self) -> float:
        """The time of the last answer in any chat; 0 where there is none."""
        return max((path.stat().st_mtime for path in self.home.local.glob("*.jsonl")), default=0.0)

    def docker_runs(self) -> list[float]:
        """The times at which `docker run` was issued."""
        return list(self._docker_runs)

    def _note_docker_runs(self) -> None:
        """For each `docker run` the wrapper writes a line into the pipe; for ever, on a thread of its own."""
        os.mkfifo(self._pipe)
        fd = os.open(self._pipe, os.O_RDWR)  # read and write: it never ends, and the wrapper never waits for a reader

        def read() -> None:
            while (lines := os.read(fd, 4096)) != b"":
                self._docker_runs += [time.time()] * lines.count(b"\n")

        threading.Thread(target=read, daemon=True).start()

    # -- runs ------------------------------------------------------------------------------------------------------

    def runs(self, folder: str) -> list[Path]:
        """The directories of a group's runs, the oldest first."""
        return sorted(self.home.runs.glob(f"{folder}-*"))

    def close(self, folder: str) -> None:
        """End a group's idle container, and return when its run is judged."""
        run = self.runs(folder)[-1]
        (run / "in" / "_close").touch()
        status = lambda: json.loads((run / "run.json").read_bytes())["status"]  # noqa: E731
        until(lambda: True if status() == "judged" else None, DEADLINE, f"{run.name} judged", pause=0.01)
