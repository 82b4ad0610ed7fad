"""Where the demo's agents run: an engine, with the image made ready here, or plain processes where there is none."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from nanoclaw.commands import build
from nanoclaw.errors import UserError
from nanoclaw.models import Config
from nanoclaw.paths import PROJECT, Home
from nanoclaw.runs import processes
from nanoclaw.runs.command import MEMORY_LABEL
from nanoclaw.runs.engine_check import find_cli, why_unavailable
from nanoclaw.runs.image import image_state
from nanoclaw.runs.local_process import ProcessRuntime, agent_python
from nanoclaw.runs.records import Records, Run
from nanoclaw.runs.runtime import COMMAND_SECONDS, CommandRuntime, Runtime, is_starting

NOT_ISOLATED = "WITHOUT ISOLATION"


@dataclass(frozen=True)
class Place:
    """``name`` is the runtime's in config.toml; ``cli`` the engine's client, "" for the process runtime."""

    name: str
    cli: str
    runtime: Runtime

    def called(self, run: Run) -> str:
        """What a person looks for in the list of containers, or of processes."""
        if self.cli:
            return f"Container {run.container}"
        return f"Process {(run.container_id or '?').partition(':')[0]} ({NOT_ISOLATED})"


def find(name: str | None) -> Place:
    """The runtime ``name``, or the first of Docker, Podman, process; says why not the others. UserError: none."""
    if name is not None:
        return _ready(name)
    for engine in ("docker", "podman"):
        try:
            return _ready(engine)
        except UserError as error:
            print(f"{error.problem}\n  {error.fix}", flush=True)
    print("So the agent runs as a plain process of this machine.")
    return _ready("process")


def _ready(name: str) -> Place:
    if name == "process":
        print(f"{NOT_ISOLATED}: the agent has your rights, and sees your files (the offline model is tame).")
        agent_python(lambda line: print(f"  {line}", flush=True))
        return Place(name, "", ProcessRuntime())
    cli = find_cli(name)
    if unavailable := why_unavailable(cli):
        raise unavailable
    image = Config().image
    state = image_state(cli, image, PROJECT)
    if state == "current":
        print(f"Engine: {cli}. Its image {image} is there and current.", flush=True)
    else:
        what = "is not there" if state == "absent" else "is older than its sources"
        print(f"Engine: {cli}. The image {image} {what}: it is built now, once. This may take minutes.", flush=True)
        build.run(Home.from_environment(), None, False, runtime=name, image=image)
    return Place(name, cli, CommandRuntime(cli, name))


def remove_containers(home: Home, home_id: str, place: Place) -> list[str]:
    """Remove what runs of ``home``, and nothing else; returns what could not be removed.

    A command that is just about to start a container is waited for.
    """
    records, pause, deadline = Records(home), threading.Event(), time.monotonic() + COMMAND_SECONDS
    for run_id in records.ids():
        while is_starting(records.path(run_id)) and time.monotonic() < deadline:
            pause.wait(0.05)
    if not place.cli:
        return [run_id for run_id in records.ids() if not _end_process(home, run_id, place)]
    listing = [place.cli, "ps", "--all", "--quiet", "--filter", f"label={MEMORY_LABEL}={home_id}"]
    if left := processes.run(listing, COMMAND_SECONDS).stdout.split():
        processes.run([place.cli, "rm", "--force", *left], COMMAND_SECONDS)
        left = processes.run(listing, COMMAND_SECONDS).stdout.split()
    return left


def _end_process(home: Home, run_id: str, place: Place) -> bool:
    directory = home.runs / run_id
    if not (directory / "pid").exists():
        return True
    place.runtime.stop(run_id, (directory / "pid").read_text(), 2.0)
    return place.runtime.look(directory, run_id, None).state != "running"
