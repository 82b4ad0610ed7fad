"""config.toml and groups/<folder>.toml: which keys there are, and the values they become.

The two tables below are the one place where a key is known. Defaults stand in models.Config and models.Group.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from nanoclaw.config import values
from nanoclaw.config.lines import toml_lines
from nanoclaw.config.strict import FileProblems, Key, Report, Schema, Table, Tables, read_fields, read_text
from nanoclaw.errors import UserError
from nanoclaw.models import Config, Group, Mount, Problem, Runtime
from nanoclaw.paths import check_folder

CONFIG_KEYS: Schema = {
    "assistant_name": Key(values.text),
    "timezone": Key(values.timezone),
    "owners": Key(values.texts),
    "log_level": Key(values.one_of("debug", "info", "warning", "error")),
    "max_messages_per_prompt": Key(values.whole_number(1)),
    "max_concurrent_containers": Key(values.whole_number(1)),
    "keep_runs": Key(values.duration),
    "container": Table(
        {
            "runtime": Key(values.one_of(*get_args(Runtime))),
            "image": Key(values.image),
            "timeout": Key(values.duration),
            "idle_timeout": Key(values.duration),
        }
    ),
    "model": Table({"offline": Key(values.boolean), "name": Key(values.text, field="model")}),
}

MOUNT_KEYS: Schema = {
    "host_path": Key(values.text, required=True),
    "container_path": Key(values.text, required=True),
    "readonly": Key(values.boolean),
}

GROUP_KEYS: Schema = {
    "jid": Key(values.jid, required=True),
    "name": Key(values.text),
    "trigger": Key(values.text),
    "requires_trigger": Key(values.boolean),
    "is_main": Key(values.boolean),
    "container": Table({"timeout": Key(values.duration), "mounts": Tables(MOUNT_KEYS, Mount, "mounts")}),
}


def load_config(path: Path) -> Config:
    """config.toml; a missing file is all defaults. Raises FileProblems."""
    try:
        fields = _load_toml(path, CONFIG_KEYS)
    except FileNotFoundError:
        fields = {}
    return Config(**{"timezone": values.system_timezone(), **fields})


def load_group(path: Path) -> Group:
    """groups/<folder>.toml; the file's stem is the folder. Raises FileProblems, also where there is no file."""
    problems: list[Problem] = []
    try:
        check_folder(path.stem)
    except UserError as error:
        problems.append(Problem(str(path), 0, str(error)))
    try:
        fields = _load_toml(path, GROUP_KEYS)
    except FileNotFoundError:
        problems.append(Problem(str(path), 0, "expected a group's file, found none"))
    except FileProblems as error:
        problems.extend(error.problems)
    if problems:
        raise FileProblems(problems)
    defaults = {"name": path.stem, "requires_trigger": not fields.get("is_main", False)}
    return Group(**{"folder": path.stem, **defaults, **fields})


def load_groups(directory: Path) -> tuple[list[Group], list[Problem]]:
    """All groups of ``state/groups/`` that can be used, by file name, and what is wrong with the others.

    One bad file does not stop the others. Dotfiles and editors' backups (``*~``) are not looked at.
    """
    groups: list[Group] = []
    problems: list[Problem] = []
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == ".toml" and not path.name.startswith("."))
    except FileNotFoundError:
        paths = []
    except OSError as error:
        return [], [Problem(str(directory), 0, f"cannot be read: {error.strerror}")]
    for path in paths:
        try:
            groups.append(load_group(path))
        except FileProblems as error:
            problems.extend(error.problems)
    refused = check_groups(groups, directory)
    problems.extend(problem for _, problem in refused)
    return [group for group in groups if not any(group is other for other, _ in refused)], problems


def check_groups(groups: Sequence[Group], directory: Path = Path("state/groups")) -> list[tuple[Group, Problem]]:
    """Which groups cannot stand beside the others, and why: the first by file name stays, later ones are refused.

    A refused group refuses nobody else.
    """
    accepted: list[Group] = []
    refused: list[tuple[Group, Problem]] = []
    for group in sorted(groups, key=lambda group: group.folder):
        reason = next((why for other in accepted if (why := _conflict(group, other))), "")
        if reason:
            refused.append((group, Problem(str(directory / f"{group.folder}.toml"), 0, reason)))
        else:
            accepted.append(group)
    return refused


def _conflict(group: Group, other: Group) -> str:
    if group.folder.casefold() == other.folder.casefold():
        return f"the folder differs only in case from {other.folder!r}; rename the file"
    if group.jid == other.jid:
        return f'jid: "{group.jid}" is already registered by {other.folder}.toml'
    if group.is_main and other.is_main:
        return f"is_main: {other.folder}.toml is the main group already; there can be only one"
    return ""


def _load_toml(path: Path, schema: Schema) -> dict[str, Any]:
    source = read_text(path)
    try:
        document = tomllib.loads(source)
    except RecursionError:
        raise FileProblems([Problem(str(path), 0, "not valid TOML: nested too deeply")]) from None
    except ValueError as error:
        raise FileProblems([_syntax_problem(path, source, str(error))]) from error
    report = Report(path, toml_lines(source))
    fields = read_fields(document, schema, report)
    report.finish()
    return fields


def _syntax_problem(path: Path, source: str, message: str) -> Problem:
    """tomllib's message ends with "(at line 3, column 5)" or "(at end of document)"."""
    what, _, place = message.partition(" (at ")
    match = re.match(r"line (\d+), column (\d+)", place)
    line = int(match[1]) if match else max(len(source.splitlines()), 1) if place else 0
    column = f", column {match[2]}" if match else ""
    advice = "; text stands in quotes" if what == "Invalid value" else ""
    return Problem(str(path), line, f"not valid TOML{column}: {what[:1].lower()}{what[1:]}{advice}")
