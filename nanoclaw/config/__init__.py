"""Strict reading of what people write: config.toml, groups/<folder>.toml, .env and the mount allowlist.

Standard library only, so that doctor can speak before anything is installed.
"""

from nanoclaw.config.env import load_environment
from nanoclaw.config.settings import check_groups, load_config, load_group, load_groups
from nanoclaw.config.strict import FileProblems
from nanoclaw.config.templates import CONFIG_TEMPLATE, GROUP_TEMPLATE

__all__ = [
    "CONFIG_TEMPLATE",
    "GROUP_TEMPLATE",
    "FileProblems",
    "check_groups",
    "load_config",
    "load_environment",
    "load_group",
    "load_groups",
]
