"""What every runtime can do, and the ones with a command line like docker's. The rest of the house knows only
``Runtime``.

Commands change things (``docker run``, ``stop``, ``rm``), the docker package observes (inspect, events): an answer of
the API costs 2 ms, a command 30. Podman and Apple's container are observed by their commands too.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from nanoclaw.errors import UserError
from nanoclaw.files.locks import is_locked
from nanoclaw.runs import engine_check, processes
from nanoclaw.runs.agent_image import image_state
from nanoclaw.runs.mailbox import LOG_BYTES

log = logging.getLogger("nanoclaw")

START_SECONDS = 60.0
COMMAND_SECONDS = 30.0
RECONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Look:
    """What the engine says of a container (``created``: it was never started). ``exit_code`` only of one that
    exited, and then None where nobody knows it."""

    state: Literal["running", "exited", "created", "absent", "unknown"]
    exit_code: int | None = None
    oom: bool = False


class StartFailed(Exception):
    """The container was not started: ``code`` of the command (None: it hung), and what it said last."""

    def __init__(self, code: int | None, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Runtime(Protocol):
    """One way to run containers. Every call may take seconds: never under a lock."""

    def start(self, run_directory: Path, argv: list[str], environment: dict[str, str], cwd: Path) -> str:
        """Start what ``argv`` says; returns the container's id. Raises StartFailed."""

    def look(self, run_directory: Path, name: str, container_id: str | None) -> Look:
        """The container's state; ``unknown`` while the engine does not answer."""

    def stop(self, name: str, container_id: str | None, grace: float) -> None:
        """SIGTERM, after ``grace`` s SIGKILL; returns when it is gone or the engine does not answer."""

    def identify(self, run_directory: Path) -> str | None:
        """The id of a run's container, where the record of the run does not have it; None where its name will do."""

    def kill(self, name: str, container_id: str | None) -> None:
        """SIGKILL at once; ``look`` says whether it is gone."""

    def clean_up(self, run_directory: Path, name: str) -> None:
        """Keep the output in stdout.log and stderr.log, then remove the container."""

    def names(self, home_id: str) -> list[str] | None:
        """All containers of a home, running or not; None while the engine does not answer."""

    def why_unavailable(self, image_name: str, project: Path) -> tuple[str, UserError] | None:
        """``("engine" | "image", what is wrong and its cure)``, None when a run can be started."""

    def follow(self, home_id: str, ended: Callable[[str | None], None], stop: threading.Event) -> None:
        """Call ``ended(name)`` when a container of this home ended, ``ended(None)`` when any may have; until
        ``stop``."""


@contextmanager
def starting(run_directory: Path, program: str) -> Iterator[int]:
    """A descriptor of start.lock with the flock on it, to be inherited by the command that starts the container:
    as long as that command lives, no later host believes that the container is absent. StartFailed where the
    ``program`` cannot be run."""
    fd = os.open(run_directory / "start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield fd
        except OSError as error:
            raise StartFailed(None, f"{program}: {error.strerror}") from None
    finally:
        os.close(fd)


def is_starting(run_directory: Path) -> bool:
    """Does a command that starts this run's container still work (perhaps an earlier host's)?"""
    return is_locked(run_directory / "start.lock")


class CommandRuntime:
    """Podman and Apple's container: everything by the command line."""

    def __init__(self, cli: str, name: str) -> None:
        self.cli = cli
        self.name = name
        self._remove = "delete" if name == "container" else "rm"

    def start(self, run_directory: Path, argv: list[str], environment: dict[str, str], cwd: Path) -> str:
        with starting(run_directory, argv[0]) as lock:
            done = processes.run(argv, START_SECONDS, pass_fds=(lock,))
        if done.code != 0:
            raise StartFailed(done.code, done.words if done.code is not None else "the engine did not answer")
        return done.stdout.strip()

    def look(self, run_directory: Path, name: str, container_id: str | None) -> Look:
        done = processes.run([self.cli, "inspect", name], COMMAND_SECONDS)
        if done.code is None:
            return Look("unknown")
        if done.code != 0:
            gone = any(sign in done.stderr.lower() for sign in ("no such", "not found"))
            return Look("absent") if gone else Look("unknown")
        try:
            return read_state(json.loads(done.stdout)[0])
        except (ValueError, LookupError, AttributeError, TypeError):
            return Look("absent")

    def stop(self, name: str, container_id: str | None, grace: float) -> None:
        done = processes.run([self.cli, "stop", "-t", str(round(grace)), name], grace + COMMAND_SECONDS)
        if done.code != 0:
            self.kill(name, container_id)

    def identify(self, run_directory: Path) -> str | None:
        return None

    def kill(self, name: str, container_id: str | None) -> None:
        processes.run([self.cli, "kill", name], COMMAND_SECONDS)

    def clean_up(self, run_directory: Path, name: str) -> None:
        stdout, stderr = run_directory / "stdout.log", run_directory / "stderr.log"
        processes.run_to_files([self.cli, "logs", name], stdout, stderr, COMMAND_SECONDS)
        for path in (stdout, stderr):
            if path.stat().st_size > LOG_BYTES:
                os.truncate(path, LOG_BYTES)
        processes.run([self.cli, self._remove, "-f", name], COMMAND_SECONDS)

    def names(self, home_id: str) -> list[str] | None:
        if self.name == "container":
            return []  # its list knows no labels
        wanted = ["--filter", f"label=nanoclaw.home={home_id}", "--format", "{{.Names}}"]
        done = processes.run([self.cli, "ps", "-a", *wanted], COMMAND_SECONDS)
        return done.stdout.split() if done.code == 0 else None

    def why_unavailable(self, image_name: str, project: Path) -> tuple[str, UserError] | None:
        problem = engine_check.why_unavailable(self.cli)
        if problem is not None:
            return ("engine", problem)
        if image_state(self.cli, image_name, project) == "absent":
            absent = UserError(f"The image {image_name} is not there.", "Build it: python3 nanoclaw.py build")
            return ("image", absent)
        return None

    def follow(self, home_id: str, ended: Callable[[str | None], None], stop: threading.Event) -> None:
        while not stop.wait(RECONNECT_SECONDS):
            ended(None)


class DockerRuntime(CommandRuntime):
    """Docker: observed through its API."""

    def __init__(self, cli: str) -> None:
        super().__init__(cli, "docker")
        self._api: Any = None
        self._guard = threading.Lock()

    def look(self, run_directory: Path, name: str, container_id: str | None) -> Look:
        import docker.errors

        try:
            return read_state(self._client().inspect_container(name))
        except docker.errors.NotFound:
            return Look("absent")
        except Exception as error:  # the package lets everything of requests and urllib3 through
            log.debug("inspect %s: %s", name, error)
            return Look("unknown")

    def follow(self, home_id: str, ended: Callable[[str | None], None], stop: threading.Event) -> None:
        filters = {"type": "container", "event": ["die", "destroy"], "label": f"nanoclaw.home={home_id}"}
        streams: list[Any] = []
        threading.Thread(target=_close_when, args=(stop, streams), daemon=True).start()
        while not stop.is_set():
            try:
                events = self._client().events(filters=filters, decode=True)
                streams[:] = [events]
                ended(None)
                for event in events:
                    ended(event.get("Actor", {}).get("Attributes", {}).get("name"))
            except Exception as error:  # as above: the engine went away
                log.debug("engine events: %s", error)
            ended(None)
            stop.wait(RECONNECT_SECONDS)

    def _client(self) -> Any:
        with self._guard:
            if self._api is None:
                import docker

                self._api = docker.APIClient(base_url=_endpoint(self.cli), version="auto", timeout=10)
                # Else it keeps a connection for each container, because it has a pool for each URL.
                self._api.headers["Connection"] = "close"
            return self._api


def _close_when(stop: threading.Event, streams: list[Any]) -> None:
    stop.wait()
    for stream in streams:
        stream.close()


def _endpoint(cli: str) -> str | None:
    """Where the command finds its engine: $DOCKER_HOST, else its current context (which the package does not know)."""
    if host := os.environ.get("DOCKER_HOST"):
        return host
    done = processes.run([cli, "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"], COMMAND_SECONDS)
    return done.stdout.strip() or None if done.code == 0 else None


def read_state(inspected: dict[str, Any]) -> Look:
    """The state in what ``inspect`` prints, of docker and podman (``State``) or of Apple's container (``status``)."""
    state = inspected.get("State")
    if isinstance(state, dict):
        if state.get("Running") or state.get("Status") in ("restarting", "paused"):
            return Look("running")
        if state.get("Status") in ("created", "configured", "initialized"):
            return Look("created")
        return Look("exited", int(state.get("ExitCode", 0)), bool(state.get("OOMKilled")))
    return Look("running") if inspected.get("status") == "running" else Look("exited")
