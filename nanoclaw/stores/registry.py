"""The registered groups as files: each ``state/groups/<folder>.toml`` is one. Commands and the host write them here.

A change is checked as a whole, beside all other groups, before it is put in place; comments and order of a person's
file stay. Limits: who edits by hand without ``edit`` is not locked out, only noticed.
"""

from __future__ import annotations

import difflib
import logging
import os
import stat
import tomllib
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanoclaw.config.settings import check_groups, load_group
from nanoclaw.config.strict import FileProblems, read_text
from nanoclaw.config.templates import MAIN_MEMORY_TEMPLATE, MEMORY_TEMPLATE
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import fsync_directory, write_bytes, write_plain
from nanoclaw.files.locks import editing
from nanoclaw.models import Group, Problem
from nanoclaw.paths import Home, check_folder

if TYPE_CHECKING:
    from tomlkit import TOMLDocument


TEXT_KEYS = ("jid", "name", "trigger")

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


def find(home: Home, folder: str) -> Group:
    """What a group's file says. UserError, one line: no such file (it names those there are), or the file is broken."""
    known = {path.stem: path for path in files(home)}
    if folder not in known:
        nearest = difflib.get_close_matches(folder, known, 1)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        names = ", ".join([*list(known)[:10], *(["…"] if len(known) > 10 else [])])
        raise UserError(f"No group {folder!r} is registered.", f"Registered: {names or 'none'}.{hint}")
    try:
        return load_group(known[folder])
    except FileProblems as error:
        raise _to_mend(folder, error.problems[0]) from None


def choose(home: Home, folder: str | None) -> Group:
    """The group in force that is meant: the named one, else main, else the only one. UserError, one line."""
    groups, problems = load_all(home)
    if folder is not None:
        found = find(home, folder)
        for problem in problems:
            if problem.path == str(home.group_file(folder)):
                raise _to_mend(folder, problem)
        return found
    for group in groups:
        if group.is_main or len(groups) == 1:
            return group
    if groups:
        raise UserError("There is no main group.", f"Name one: {' | '.join(group.folder for group in groups)}")
    fix = 'Write state/groups/main.toml with the lines: jid = "local:main" and is_main = true'
    raise UserError(f"No group is registered{f' ({problems[0]})' if problems else ''}.", fix)


def _to_mend(folder: str, problem: Problem) -> UserError:
    return UserError(f"{problem}.", f"Mend it: python3 nanoclaw.py edit group {folder}")


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
        with _one_line():
            check(home, folder, content)
        write_bytes(path, content)
    for box in (home.inbox / folder, home.ipc / folder / "messages", home.ipc / folder / "tasks"):
        box.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def change(home: Home, folder: str, changes: dict[str, str | None]) -> bool:
    """Set (None: remove) keys like ``container.timeout`` to what the text says; all else in the file stays. False:
    nothing changed. UserError, one line: no such group, the file or the changed file is not right; nothing is saved."""
    import tomlkit

    path = home.group_file(folder)
    find(home, folder)
    with editing(path, wait=0.0), editing(home.group_files):
        before = path.read_bytes()
        find(home, folder)
        document = tomlkit.parse(before.decode("utf-8-sig"))
        for key, text in changes.items():
            _set(document, key, text)
        content = tomlkit.dumps(document).encode()
        with _one_line():
            check(home, folder, content)
        if tomllib.loads(content.decode()) == tomllib.loads(before.decode("utf-8-sig")):
            return False
        save(path, content)
    return True


def remove(home: Home, folder: str) -> Path:
    """Take a group's file out of force; returns where it is kept. All else stays. UserError: see ``change``."""
    path = home.group_file(folder)
    if not path.exists():
        find(home, folder)
    with editing(path, wait=0.0), editing(home.group_files):
        kept = path.with_name(f".removed-{folder}-{datetime.now():%Y%m%d-%H%M%S-%f}.toml")
        path.rename(kept)
        fsync_directory(path.parent)
    return kept


def save(path: Path, content: bytes) -> None:
    """Replace a person's file whole: its mode stays, and a symbolic link stays one."""
    target = Path(os.path.realpath(path))
    write_bytes(target, content, stat.S_IMODE(target.stat().st_mode))


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
def _one_line() -> Iterator[None]:
    """Problems of a draft become a UserError of one line. Lines are not named: the person's file has other ones."""
    try:
        yield
    except FileProblems as error:
        raise UserError(f"{error.problems[0].text}.", "Nothing was saved.") from None


def _set(document: TOMLDocument, key: str, text: str | None) -> None:
    import tomlkit

    *tables, name = key.split(".")
    table: Any = document
    for part in tables:
        if part not in table and text is not None:
            table[part] = tomlkit.table()
        table = table.get(part, {})
        if not isinstance(table, dict):
            raise UserError(f"{key}: {part} is no table.", "Nothing was saved.")
    if text is None:
        table.pop(name, None)
    else:
        table[name] = _value(key, text)


def _value(key: str, text: str) -> Any:
    """What a person means by ``text``: a value of TOML where it is one, but of keys that take text, text as it is."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    if key not in TEXT_KEYS or text.startswith('"'):
        with suppress(TOMLKitError, ValueError):
            return tomlkit.value(text)
    return text
