"""The registered groups as files: each ``state/groups/<folder>.toml`` is one. The host reads them, and makes new ones;
commands change those that are there (`registry.py`).

A file is checked as a whole, beside all other groups, before it is put in place.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanoclaw.config.settings import check_groups, load_group
from nanoclaw.config.strict import FileProblems, read_text
from nanoclaw.config.templates import MAIN_MEMORY_TEMPLATE, MEMORY_TEMPLATE
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import write_bytes, write_plain
from nanoclaw.files.locks import editing
from nanoclaw.models import Group, Problem
from nanoclaw.paths import Home, check_folder

log = logging.getLogger("nanoclaw")


def files(home: Home) -> list[Path]:
    """The groups' files, by name; no dotfiles."""
    return sorted(path for path in home.group_files.glob("*.toml") if not path.name.startswith("."))


def load_all(home: Home) -> tuple[list[Group], list[Problem]]:
    """Every group that stands, by folder, and what is wrong with the others."""
    groups, broken = _read(files(home))
    problems = [problem for path_problems in broken.values() for problem in path_problems]
    refused = dict(check_groups(groups, home.group_files, {path.stem for path in home.cursors.glob("*.json")}))
    return [group for group in groups if group not in refused], [*problems, *refused.values()]


def _read(paths: Iterable[Path]) -> tuple[list[Group], dict[Path, tuple[Problem, ...]]]:
    """What stands in groups' files, each read by itself, and what is wrong with those that cannot be read."""
    groups, broken = [], {}
    for path in paths:
        try:
            groups.append(load_group(path))
        except FileProblems as error:
            broken[path] = error.problems
    return groups, broken


def check(home: Home, folder: str, content: bytes) -> Group:
    """The group that ``content`` would be as the file of ``folder``. FileProblems: it cannot be read, or cannot stand
    beside the other groups; those stay, whoever they are."""
    path = home.group_file(folder)
    group = load_group(path, content)
    others, broken = _read(other for other in files(home) if other != path)
    others += [Group(other.stem, f":{other.stem}", "") for other in broken]  # their names still count
    refused = check_groups([*others, group], home.group_files, {other.folder for other in others})
    if problems := [problem for refused_group, problem in refused if refused_group is group]:
        raise FileProblems(problems)
    return group


def as_toml(values: dict[str, Any]) -> bytes:
    """A new group's file; None: the key is left out."""
    import tomli_w

    return tomli_w.dumps({key: value for key, value in values.items() if value is not None}).encode()


def register(home: Home, folder: str, values: dict[str, Any]) -> Path:
    """Make the file of a new group from its keys (None: left out); returns its path. UserError, one line:
    the folder cannot be one or is there (in other case, too), the chat or a main group is registered."""
    path = home.group_file(check_folder(folder))
    home.group_files.mkdir(parents=True, exist_ok=True, mode=0o700)
    with editing(home.group_files):
        if path.exists():
            fix = f"See: python3 nanoclaw.py groups show {folder}"
            raise UserError(f"The group {folder!r} is registered already.", fix)
        content = as_toml(values)
        with one_line():
            check(home, folder, content)
        write_bytes(path, content)
    for box in (home.inbox / folder, home.ipc / folder / "messages", home.ipc / folder / "tasks"):
        box.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def make_folder(home: Home, folder: str, assistant_name: str, is_main: bool, user: tuple[int, int] | None) -> bool:
    """Make groups/<folder>/ with the CLAUDE.md of a new agent, for ``user`` (uid, gid) where given and we are root.
    False: it is there already, and stays as it is. It appears whole, so no agent writes in it meanwhile.

    state/CLAUDE.template.md, where a person put one that can be read, is used instead of the built-in text;
    ``{name}`` is the assistant.
    """
    path = home.group_folder(folder)
    if os.path.lexists(path):
        return False
    try:
        text = read_text(home.state / "CLAUDE.template.md")
    except FileProblems as error:
        log.error("The built-in CLAUDE.md is used: %s", error)
        text = ""
    text = (text or (MAIN_MEMORY_TEMPLATE if is_main else MEMORY_TEMPLATE)).replace("{name}", assistant_name)
    home.groups.mkdir(parents=True, exist_ok=True)
    draft = home.groups / f".new-{folder}-{uuid.uuid4().hex[:8]}"
    draft.mkdir(mode=0o700)
    write_plain(draft / "CLAUDE.md", text.encode(), mode=0o644)
    if user is not None and os.getuid() == 0:
        for made in (draft / "CLAUDE.md", draft):
            os.chown(made, *user, follow_symlinks=False)
    try:
        draft.rename(path)
    except OSError:  # another one made it in between
        (draft / "CLAUDE.md").unlink()
        draft.rmdir()
        return False
    return True


@contextmanager
def one_line() -> Iterator[None]:
    """Problems of a draft become a UserError of one line. Lines are not named: the person's file has other ones."""
    try:
        yield
    except FileProblems as error:
        raise UserError(f"{error.problems[0].text}.", "Nothing was saved.") from None
