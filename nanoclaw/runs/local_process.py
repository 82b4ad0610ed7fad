"""The ``process`` runtime: the agent runner as a plain process of the host's user, WITHOUT ISOLATION.

For the demo, and for people who ask for it by name. A process is known by its pid and its start time, so that a pid
that was given to another process is not mistaken for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from nanoclaw.environment import EnvironmentProblem, ensure, is_current, python_of
from nanoclaw.errors import UserError
from nanoclaw.paths import PROJECT
from nanoclaw.runs import processes
from nanoclaw.runs.runtime import COMMAND_SECONDS, Look, starting

log = logging.getLogger("nanoclaw")

AGENT_ENVIRONMENT = PROJECT / ".venv-agent"
LOOK_SECONDS = 0.5
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TMPDIR", "USER", "LOGNAME", "SHELL")


def agent_requirements() -> list[str]:
    """What the runner needs, as the image has it."""
    text = (PROJECT / "container" / "requirements.txt").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


class ProcessRuntime:
    """A Runtime whose containers are processes."""

    def __init__(self) -> None:
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, run_directory: Path, argv: list[str], environment: dict[str, str], cwd: Path) -> str:
        env = {key: os.environ[key] for key in PASSED_ON if key in os.environ} | environment
        if os.getuid() == 0:
            env["IS_SANDBOX"] = "1"  # as root the CLI refuses bypassPermissions otherwise
        with starting(run_directory, argv[0]):
            child = processes.spawn(argv, env, cwd, run_directory / "stdout.log", run_directory / "stderr.log")
        container_id = f"{child.pid}:{_start_time(child.pid)}"
        self._children[container_id] = child
        (run_directory / "pid").write_text(container_id)
        return container_id

    def look(self, run_directory: Path, name: str, container_id: str | None) -> Look:
        container_id = container_id or self.identify(run_directory)
        if container_id is None:
            return Look("absent")
        if self._lives(container_id):
            return Look("running")
        code = child.returncode if (child := self._children.get(container_id)) else None
        return Look("exited", 128 - code if code is not None and code < 0 else code)

    def stop(self, name: str, container_id: str | None, grace: float) -> None:
        if container_id is None:
            return
        gone = threading.Event()
        for sign, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
            self._signal(container_id, sign)
            for _ in range(int(seconds / 0.05)):
                if not self._lives(container_id):
                    return
                gone.wait(0.05)

    def identify(self, run_directory: Path) -> str | None:
        try:
            return (run_directory / "pid").read_text()
        except FileNotFoundError:
            return None

    def kill(self, name: str, container_id: str | None) -> None:
        if container_id is not None:
            self._signal(container_id, signal.SIGKILL)

    def clean_up(self, run_directory: Path, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._children.pop((run_directory / "pid").read_text(), None)

    def names(self, home_id: str) -> list[str] | None:
        return []

    def why_unavailable(self, image_name: str, project: Path) -> tuple[str, UserError] | None:
        try:
            agent_python(log.info)
        except UserError as error:
            return ("engine", error)
        return None

    def follow(self, home_id: str, ended: Callable[[str | None], None], stop: threading.Event) -> None:
        while not stop.wait(LOOK_SECONDS):
            if any(child.poll() is not None for child in list(self._children.values())):
                ended(None)

    def _signal(self, container_id: str, sign: signal.Signals) -> None:
        if self._lives(container_id):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(container_id.partition(":")[0]), sign)

    def _lives(self, container_id: str) -> bool:
        if child := self._children.get(container_id):
            return child.poll() is None
        pid, _, started = container_id.partition(":")
        return bool(started) and _start_time(int(pid)) == started


def agent_python(announce: Callable[[str], None]) -> str:
    """The Python that has the agent SDK, in an environment of its own; installs it at first (168 MB, announced)."""
    if not is_current(str(AGENT_ENVIRONMENT), agent_requirements()):
        announce("Installing the Claude Agent SDK for the process runtime (168 MB, once) …")
    try:
        return ensure(str(AGENT_ENVIRONMENT), agent_requirements(), announce)
    except EnvironmentProblem as error:
        raise UserError(error.problem, error.fix) from None


def installed_python() -> str:
    """The same, without looking whether it is complete."""
    return python_of(str(AGENT_ENVIRONMENT))


def _start_time(pid: int) -> str:
    """When a process started, as an opaque text; empty where there is none, or only the zombie that an earlier host's
    process has not waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    except (OSError, IndexError):
        if not os.path.exists("/bin/ps"):
            return ""
        return processes.run(["ps", "-o", "lstart=", "-p", str(pid)], COMMAND_SECONDS).stdout.strip()
