"""What doctor's checks look at, and what they answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from nanoclaw.config.env import load_environment
from nanoclaw.config.mounts import load_allowlist
from nanoclaw.config.senders import load_senders
from nanoclaw.config.settings import check_groups, load_config, load_group
from nanoclaw.config.strict import FileProblems
from nanoclaw.models import Config, Environment, Group, Problem
from nanoclaw.paths import Home

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
    files = sorted(path for path in home.group_files.glob("*.toml") if not path.name.startswith("."))
    groups = [group for group in (attempt(load_group, path) for path in files) if group]
    refused = dict(check_groups(groups, home.group_files, {path.stem for path in home.cursors.glob("*.json")}))
    problems.extend(refused.values())
    attempt(load_allowlist, home.mount_allowlist)
    attempt(load_senders, home.sender_allowlist)
    return Situation(home, config, environment, tuple(g for g in groups if g not in refused), tuple(problems))
