"""What doctor's checks look at, and what they answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from nanoclaw.config.env import load_environment
from nanoclaw.config.mounts import load_allowlist
from nanoclaw.config.senders import load_senders
from nanoclaw.config.settings import load_config
from nanoclaw.config.strict import FileProblems
from nanoclaw.files.atomic import BrokenFile, read_json
from nanoclaw.models import Config, Environment, Group, Problem
from nanoclaw.paths import Home
from nanoclaw.stores import registry

Severity = Literal["ok", "skipped", "warning", "error"]
T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """What one check found: ``cause`` says why it is so, ``cure`` is a command to paste. Each is one line."""

    check: str
    severity: Severity
    finding: str
    cause: str = ""
    cure: str = ""


@dataclass(frozen=True)
class Situation:
    """A home as its files describe it; ``config`` and ``environment`` are None where their file is refused."""

    home: Home
    config: Config | None
    environment: Environment | None
    groups: tuple[Group, ...]
    problems: tuple[Problem, ...]


def record(path: Path) -> dict[str, Any]:
    """What the host wrote down; empty where it cannot be read."""
    with suppress(OSError, BrokenFile):
        return read_json(path) or {}
    return {}


def look_at(home: Home) -> Situation:
    """Read all files that a person writes. Raises nothing for what is wrong with them."""
    problems: list[Problem] = []

    def attempt(load: Callable[[Path], T], path: Path) -> T | None:
        try:
            return load(path)
        except FileProblems as error:
            problems.extend(error.problems)
            return None

    config = attempt(load_config, home.config_file)
    environment = attempt(load_environment, home.env_file)
    groups, refused = registry.load_all(home)
    problems.extend(refused)
    attempt(load_allowlist, home.mount_allowlist)
    attempt(load_senders, home.sender_allowlist)
    return Situation(home, config, environment, tuple(groups), tuple(problems))
