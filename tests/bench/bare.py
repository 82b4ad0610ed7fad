"""The baseline of a turn: a bare ``docker run`` with the command line of one of the host's own runs.

Same image, same mounts and limits, same runner, same prompts, same model; nothing of the host. Its in/ lies ready
beforehand, the model itself listens on the run's socket (no gateway), and the turn is over when its result event is
there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socketserver
import subprocess
import threading
import time
import uuid
from pathlib import Path

from nanoclaw.gateway.endpoint import Request, _Handler
from nanoclaw.gateway.messages_api import Block, Error, Text
from tests.bench.household import DEADLINE, Events, Household
from tests.support.scripted_model import echo


class _Door(socketserver.ThreadingUnixStreamServer):
    """The model on a Unix socket."""

    daemon_threads = True

    def answer(self, request: Request) -> list[Block] | Error:
        return [Text(str(echo(request.body)))]


class Bare:
    """A replay of ``template``, the directory of a first run of a group. ``prompts``: its in/ files, in order."""

    def __init__(self, household: Household, template: Path, prompts: list[Path]) -> None:
        self.name = f"nanoclaw-bare-{uuid.uuid4().hex[:8]}"
        self._docker = str(household.docker)
        self.directory = household.root / "bare" / self.name[-8:]
        record = json.loads((template / "run.json").read_bytes())
        user = os.stat(template / "out")
        for part in ("in", "out", "ipc/messages", "ipc/tasks", "group", "claude", "door", "drafts"):
            path = self.directory / part
            path.mkdir(parents=True)
            os.chown(path, user.st_uid, user.st_gid)
        shutil.copy(template / "in" / "settings.json", self.directory / "in")
        (self.directory / "in" / "host").touch()
        self._prompts = 0
        for prompt in prompts:
            self._put(json.loads(prompt.read_bytes())["text"])
        moved = {
            str(template): str(self.directory),
            str(household.home.groups / record["folder"]): str(self.directory / "group"),
            str(household.home.sessions / record["folder"]): str(self.directory / "claude"),
            str(Path(record["socket"]).parent): str(self.directory / "door"),
        }
        self.argv = _argv(template, moved, {record["container"]: self.name})
        self.events = Events(self.directory / "out")
        self._door = _Door(str(self.directory / "door" / "s"), _Handler)
        os.chmod(self.directory / "door" / "s", 0o666)
        threading.Thread(target=self._door.serve_forever, daemon=True).start()

    def start(self) -> float:
        """Issue `docker run -d`; the time just before it. Returns when the engine has started the container."""
        now = time.time()
        subprocess.run(self.argv, check=True, capture_output=True, timeout=DEADLINE)
        return now

    def follow_up(self, text: str) -> tuple[float, float]:
        """Hand over one more prompt; the seconds until it is consumed, and until its result event is there."""
        start = self._put(text)
        return self.events.wait("consumed") - start, self.events.wait("result") - start

    def close(self) -> None:
        """Let the container end by itself, and return when it has."""
        (self.directory / "in" / "_close").touch()
        subprocess.run([self._docker, "wait", self.name], check=True, capture_output=True, timeout=DEADLINE)

    def remove(self) -> None:
        """Leave nothing."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run([self._docker, "rm", "-f", self.name], capture_output=True, timeout=DEADLINE)
        self._door.shutdown()
        self._door.server_close()

    def _put(self, text: str) -> float:
        """A prompt appears in in/; the time just before."""
        self._prompts += 1
        name = f"{self._prompts:06d}.json"
        draft = self.directory / "drafts" / name
        draft.write_text(json.dumps({"n": self._prompts, "uuid": str(uuid.uuid4()), "text": text}))
        now = time.time()
        os.rename(draft, self.directory / "in" / name)
        return now


def _argv(template: Path, moved: dict[str, str], renamed: dict[str, str]) -> list[str]:
    """The command line of a run, with other places and names, and a label that is no home's."""
    script = (template / "command.sh").read_text().replace("\\\n", "")
    argv = shlex.split(script.partition("exec ")[2])
    for place, word in enumerate(argv):
        if word.startswith("nanoclaw.home="):
            argv[place] = "nanoclaw.home=bench"
        argv[place] = renamed.get(word, argv[place])
        for old, new in moved.items():
            for end in ("/", ","):
                argv[place] = argv[place].replace(f"source={old}{end}", f"source={new}{end}")
    return argv
