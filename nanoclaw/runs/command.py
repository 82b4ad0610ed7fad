"""The command line that starts a container, as a value: pure, golden-tested, written to command.sh to be pasted
into a shell."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nanoclaw.runs.layout import Bind

MEMORY_LABEL = "nanoclaw.home"


@dataclass(frozen=True)
class Launch:
    """All that a container's command line says. ``user`` None: the image's own."""

    cli: str
    runtime: str
    name: str
    image: str
    home_id: str
    user: tuple[int, int] | None
    binds: Sequence[Bind]
    environment: Mapping[str, str]
    command: Sequence[str]
    labels: Mapping[str, str] = field(default_factory=dict)


def argv(launch: Launch) -> list[str]:
    """``docker run -d …`` (podman, Apple container alike): detached, without --rm, so that exit code and logs can
    be read after."""
    args = [launch.cli, "run", "-d", "--name", launch.name]
    for key, value in {MEMORY_LABEL: launch.home_id, **launch.labels}.items():
        args += ["--label", f"{key}={value}"]
    args += _HARDENING[launch.runtime]
    if launch.user is not None:
        uid, gid = launch.user
        args += ["--user", f"{uid}:{gid}"]
        if launch.runtime != "container":
            args += ["--tmpfs", f"/home/node:uid={uid},gid={gid},mode=700"]
    if launch.runtime == "podman":
        args += ["--userns", "keep-id"]
    for key, value in launch.environment.items():
        args += ["-e", f"{key}={value}"]
    for bind in launch.binds:
        args += ["--mount", _mount(bind)]
    return [*args, launch.image, *launch.command]


_LIMITS = ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "512"]
_HARDENING = {
    "docker": [
        *["--pull", "never"],  # an image that is gone must be said, not looked for at a registry that hangs
        *["--init", "--read-only", "--tmpfs", "/tmp:mode=1777", *_LIMITS],
        *["--log-opt", "max-size=10m", "--log-opt", "max-file=1"],
    ],
    "podman": ["--init", "--read-only", "--tmpfs", "/tmp:mode=1777", *_LIMITS, "--log-opt", "max-size=10mb"],
    "container": [],
}


def _mount(bind: Bind) -> str:
    """A --mount value is one line of CSV: a comma in a path is quoted."""
    fields = ["type=bind", f"source={bind.source}", f"target={bind.target}"] + (["readonly"] if bind.readonly else [])
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


def shell_line(args: Sequence[str]) -> str:
    """An argument list as a person would paste it, one option a line."""
    return " \\\n  ".join(shlex.join(group) for group in _grouped(args))


def _grouped(args: Sequence[str]) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    for arg in args:
        if arg.startswith("-") and groups[-1]:
            groups.append([])
        groups[-1].append(arg)
    return groups
