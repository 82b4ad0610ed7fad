"""config.toml and groups/<folder>.toml: which keys there are, and the values they become.

The tables below are the one place where a key is known. Defaults stand in models.Config and models.Group.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import get_args

from nanoclaw.config import values
from nanoclaw.config.strict import FileProblems, Keys, Required, read_document
from nanoclaw.errors import UserError
from nanoclaw.models import Config, Group, Mount, Problem, Runtime
from nanoclaw.paths import check_folder

CONFIG_KEYS: Keys = {
    "assistant_name": values.text,
    "timezone": values.timezone,
    "owners": values.texts,
    "log_level": values.one_of("debug", "info", "warning", "error"),
    "max_messages_per_prompt": values.positive,
    "max_concurrent_containers": values.positive,
    "keep_runs": values.duration,
    "progress_after": values.duration_or_never,
    "session_max_bytes": values.size,
    "on_uncertain": values.one_of("resend", "hold"),
    "container": {
        "runtime": values.one_of(*get_args(Runtime)),
        "image": values.image,
        "timeout": values.duration,
        "idle_timeout": values.duration,
    },
    "model": {"offline": values.boolean, "name": values.text},
    "channels": {
        "telegram": {"api_url": values.url},
    },
}

MOUNT_KEYS: Keys = {
    "host_path": Required(values.text),
    "container_path": Required(values.text),
    "readonly": values.boolean,
}

GROUP_KEYS: Keys = {
    "jid": Required(values.jid),
    "name": values.text,
    "trigger": values.text,
    "requires_trigger": values.boolean,
    "is_main": values.boolean,
    "container": {"timeout": values.duration, "idle_timeout": values.duration, "mounts": [MOUNT_KEYS]},
}


def load_config(path: Path, content: bytes | None = None) -> Config:
    """config.toml (``content``: what is to stand in it); a missing file is all defaults. Raises FileProblems."""
    found = read_document(path, tomllib.loads, CONFIG_KEYS, content)
    container, model = found.pop("container", {}), found.pop("model", {})
    if "name" in model:
        model["model"] = model.pop("name")
    return Config(**{"timezone": values.system_timezone(), **found, **container, **model})


def load_group(path: Path, content: bytes | None = None) -> Group:
    """groups/<folder>.toml (``content``: what is to stand in it); its stem is the folder. Raises FileProblems."""
    try:
        folder = check_folder(path.stem)
    except UserError as error:
        raise FileProblems([Problem(str(path), 0, str(error))]) from error
    found = read_document(path, tomllib.loads, GROUP_KEYS, content)
    container = found.pop("container", {})
    mounts = tuple(Mount(**mount) for mount in container.pop("mounts", ()))
    defaults = {"name": folder, "requires_trigger": not found.get("is_main", False)}
    return Group(folder=folder, mounts=mounts, **{**defaults, **found, **container})


def check_groups(
    groups: Sequence[Group],
    directory: Path = Path("state/groups"),
    established: Collection[str] = (),
    in_force: Collection[Group] = (),
) -> list[tuple[Group, Problem]]:
    """Which groups cannot stand beside the others, and why: whose address and rank are in force already stays, then an
    established folder (one that has a cursor), then "main", then the first by file name; later ones are refused. A
    refused group refuses nobody else.
    """
    held = {(group.folder, group.jid, group.is_main) for group in in_force}

    def order(group: Group) -> tuple[object, ...]:
        here = (group.folder, group.jid, group.is_main) in held
        return (not here, group.folder not in established, group.folder != "main", group.folder)

    folders: dict[str, str] = {}
    jids: dict[str, str] = {}
    main = ""
    refused = []
    for group in sorted(groups, key=order):
        if other := folders.get(group.folder.casefold()):
            reason = f"the folder differs only in case from {other!r}; rename the file"
        elif other := jids.get(group.jid):
            reason = f'jid: "{group.jid}" is already registered by {other}.toml'
        elif group.is_main and main:
            reason = f"is_main: {main}.toml is the main group already; there can be only one"
        else:
            folders[group.folder.casefold()] = jids[group.jid] = group.folder
            main = group.folder if group.is_main else main
            continue
        refused.append((group, Problem(str(directory / f"{group.folder}.toml"), 0, reason)))
    return refused
