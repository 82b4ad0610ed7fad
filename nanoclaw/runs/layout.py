"""What a container sees: which directories of the host appear where, and what the runner is told about it. Pure, but
for ``prepare``.

Nothing read-only is ever mounted below a directory that the container can write, and what the host writes is mounted
as whole directories: a single file would stay at its old inode (ARCHITECTURE 8, 9).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nanoclaw.models import Config, Group
from nanoclaw.paths import PROJECT, Home
from nanoclaw.runs.records import Run

PROJECT_ALLOWLIST = ("nanoclaw.py", "nanoclaw", "container", "docs", "README.md")
"""What the main group sees of the program: its sources, never .env or state/."""

HOST_SILENCE = 600.0
LIFETIME = 86400.0


@dataclass(frozen=True)
class Bind:
    """A directory of the host in the container."""

    source: str
    target: str
    readonly: bool = True


@dataclass(frozen=True)
class View:
    """Paths as the runner sees them: in a container, or on the host for the process runtime."""

    run: str
    ipc: str
    group: str
    shared: str
    gateway: str
    home: str
    claude: str


CONTAINER = View(
    run="/workspace/run",
    ipc="/workspace/ipc",
    group="/workspace/group",
    shared="/workspace/global",
    gateway="/workspace/gateway",
    home="/home/node",
    claude="/home/node/.claude",
)
RUNNER = PROJECT / "container" / "agent_runner"
RUNNER_IN_CONTAINER = "/opt/nanoclaw/agent_runner"


def host_view(home: Home, folder: str, run: Path, socket: Path) -> View:
    """The view of the process runtime: no mounts, the host's own paths."""
    own, claude = home.group_folder(folder), home.sessions / folder
    return View(*map(str, (run, run / "ipc", own, home.groups / "global", socket.parent, claude, claude)))


def binds(home: Home, group: Group, run: Path, socket: Path, extra: Iterable[Bind]) -> list[Bind]:
    """All mounts of a run's container (SPEC 4), the ones on top of others last."""
    found = [
        Bind(str(run / "in"), "/workspace/run/in"),
        Bind(str(run / "out"), "/workspace/run/out", readonly=False),
        Bind(str(run / "ipc"), "/workspace/ipc"),
        Bind(str(run / "ipc" / "messages"), "/workspace/ipc/messages", readonly=False),
        Bind(str(run / "ipc" / "tasks"), "/workspace/ipc/tasks", readonly=False),
        Bind(str(socket.parent), "/workspace/gateway"),
        Bind(str(home.group_folder(group.folder)), "/workspace/group", readonly=False),
        Bind(str(home.groups / "global"), "/workspace/global", readonly=not group.is_main),
        Bind(str(home.sessions / group.folder), "/home/node/.claude", readonly=False),
        Bind(str(RUNNER), RUNNER_IN_CONTAINER),
    ]
    if group.is_main:
        names = [name for name in PROJECT_ALLOWLIST if (PROJECT / name).exists()]
        found += [Bind(str(PROJECT / name), f"/workspace/project/{name}") for name in names]
    return found + list(extra)


def runner_settings(run: Run, view: View, config: Config, is_main: bool, extra: Iterable[Bind]) -> dict[str, Any]:
    """in/settings.json: all that the runner needs to know (../README.md)."""
    return {
        "run": run.id,
        "out": f"{view.run}/out",
        "cwd": view.group,
        "assistant_name": config.assistant_name,
        "model": config.model,
        "session": run.session,
        "anchor": run.anchor,
        "rotated_from": run.rotated_from,
        "verbatim": run.kind != "compact",
        "ipc": view.ipc,
        "jid": run.jid,
        "is_main": is_main,
        "memory_files": [f"{view.shared}/CLAUDE.md"],
        "additional_directories": [bind.target if view is CONTAINER else bind.source for bind in extra],
        "conversations": f"{view.group}/conversations",
        "host_silence": HOST_SILENCE,
        "deadline": LIFETIME,
    }


def environment(view: View, config: Config, placeholder_name: str, placeholder: str, socket: Path) -> dict[str, str]:
    """The runner's environment. The one secret-looking value is this run's placeholder."""
    return {
        "TZ": config.timezone,
        "HOME": view.home,
        "CLAUDE_CONFIG_DIR": view.claude,
        "ANTHROPIC_BASE_URL": "http://localhost",
        "ANTHROPIC_UNIX_SOCKET": str(PurePosixPath(view.gateway) / socket.name),
        placeholder_name: placeholder,
    }


def container_user(home: Home) -> tuple[int, int] | None:
    """Who the agent is (ARCHITECTURE 11): the host's user; for root the home's owner, or 1000. None where ids mean
    nothing."""
    if not hasattr(os, "getuid"):
        return None
    if os.getuid() != 0:
        return os.getuid(), os.getgid()
    owner = os.stat(home.root)
    return (owner.st_uid, owner.st_gid) if owner.st_uid else (1000, 1000)


def make_writable(path: Path, user: tuple[int, int] | None) -> None:
    """A directory that the container may write: made if absent, given to its user where the host is root."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if user is not None and os.getuid() == 0 and os.stat(path).st_uid != user[0]:
        os.chown(path, *user, follow_symlinks=False)
