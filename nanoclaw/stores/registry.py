"""The registered groups, as commands name and change them. What the host needs of them is in `groups.py`.

A change is checked as a whole, beside all other groups, before it is put in place; comments and order of a person's
file stay. Limits: who edits by hand without ``edit`` is not locked out, only noticed.
"""

from __future__ import annotations

import difflib
import os
import stat
import tomllib
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanoclaw.config.settings import load_group
from nanoclaw.config.strict import FileProblems
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import fsync_directory, write_bytes
from nanoclaw.files.locks import editing
from nanoclaw.models import Group, Problem
from nanoclaw.paths import Home
from nanoclaw.stores.groups import check as check
from nanoclaw.stores.groups import files as files
from nanoclaw.stores.groups import load_all as load_all
from nanoclaw.stores.groups import make_folder as make_folder
from nanoclaw.stores.groups import one_line
from nanoclaw.stores.groups import register as register

if TYPE_CHECKING:
    from tomlkit import TOMLDocument


TEXT_KEYS = ("jid", "name", "trigger")


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
        with one_line():
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
