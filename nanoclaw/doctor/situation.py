"""What doctor's checks look at: the home and what its files say, read once."""

from __future__ import annotations

from dataclasses import dataclass

from nanoclaw.config import FileProblems, load_config, load_environment, load_groups
from nanoclaw.config.mounts import load_allowlist
from nanoclaw.models import Config, Environment, Group, Problem
from nanoclaw.paths import Home


@dataclass(frozen=True)
class Situation:
    """The home as its files describe it; ``config`` and ``environment`` are None where their file is refused."""

    home: Home
    config: Config | None
    environment: Environment | None
    groups: tuple[Group, ...]
    problems: tuple[Problem, ...]

    @classmethod
    def read(cls, home: Home) -> Situation:
        """Read all files that a person writes. Raises nothing for what is wrong with them."""
        problems: list[Problem] = []
        config: Config | None = None
        environment: Environment | None = None
        try:
            config = load_config(home.config_file)
        except FileProblems as error:
            problems += error.problems
        try:
            environment = load_environment(home.env_file)
        except FileProblems as error:
            problems += error.problems
        groups, group_problems = load_groups(home.group_files)
        problems += group_problems
        try:
            load_allowlist(home.mount_allowlist)
        except FileProblems as error:
            problems += error.problems
        return cls(home, config, environment, tuple(groups), tuple(problems))
