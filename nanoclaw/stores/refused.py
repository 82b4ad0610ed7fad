"""What was refused: ``state/ipc/errors/<name>``, with ``<name>.reason`` beside it, until a person puts it back or
deletes it.

`aside.py` puts it there. A reason without its content (a crash in between) is listed as such. Limits: names that people
give are looked up in the listing and never joined to a path; a content is only ever read as the start of a regular
file.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nanoclaw.errors import UserError
from nanoclaw.files.atomic import fsync_directory
from nanoclaw.paths import Home, check_folder
from nanoclaw.stores.aside import FROM, REASON, reason_of
from nanoclaw.stores.aside import KEPT as KEPT
from nanoclaw.stores.aside import put as put

REASON_BYTES = 10_000
CAUTIOUSLY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


@dataclass(frozen=True)
class Refused:
    """``came_from``: relative to the home's root, where it may be put again, "" where nobody knows. ``time``: Unix time
    in s of the refusal. ``size``: bytes, None where the content was not kept. ``path``: where it lies."""

    name: str
    reason: str
    came_from: str
    time: float
    size: int | None
    path: Path


def listed(home: Home) -> list[Refused]:
    """All that was refused, the oldest first."""
    return sorted(_all(home.ipc / "errors"), key=lambda found: (found.time, found.name))


def find(home: Home, name: str) -> Refused:
    """The one of this name in the listing; raises UserError."""
    for found in _all(home.ipc / "errors"):
        if found.name == name:
            return found
    raise UserError(f"There is no refused file {name!r}.", "`ipc errors list` shows the names.")


def content(path: Path, limit: int) -> bytes | None:
    """The first ``limit`` bytes of what lies in errors/; None for what was not kept or is no regular file."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | CAUTIOUSLY)) as file:
            return file.read(limit) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    except OSError:
        return None


def retry(home: Home, name: str) -> Path:
    """Put it back to where it was dropped, under another name if that is taken; returns its path there. UserError:
    there is none, it was not kept, or it was not dropped where a person may drop things."""
    found = find(home, name)
    if found.size is None:
        raise UserError(f"The content of {name} was not kept.", "Drop it again, or `ipc errors drop` it.")
    target = home.root / _checked(found)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if os.path.lexists(target):
        target = target.with_name(f"{time.time_ns()}{target.suffix[:20]}")
    os.rename(found.path, target)
    fsync_directory(target.parent)
    reason_of(found.path).unlink(missing_ok=True)
    return target


def drop(home: Home, name: str) -> None:
    """Delete a refused file, and then its reason; raises UserError where there is none."""
    path = find(home, name).path
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    reason_of(path).unlink(missing_ok=True)


def _all(errors: Path) -> Iterator[Refused]:
    """Each content and each reason that lies there, also those that a person put there."""
    try:
        names = {name for name in os.listdir(errors) if not name.startswith(".")}
    except FileNotFoundError:
        return
    for name in {name.removesuffix(REASON) for name in names}:
        path = errors / name
        lines = (content(reason_of(path), REASON_BYTES) or b"").decode("utf-8", "replace").splitlines()
        origin = next((line.removeprefix(FROM) for line in lines[1:2] if line.startswith(FROM)), "")
        try:
            stamp = os.lstat(reason_of(path) if name + REASON in names else path).st_mtime
            size = os.lstat(path).st_size if name in names else None
        except FileNotFoundError:
            continue  # retried or dropped at this moment
        shown = os.fsencode(name).decode("utf-8", "replace")
        yield Refused(shown, lines[0] if lines else "no reason is beside it", origin, stamp, size, path)


def _checked(found: Refused) -> PurePosixPath:
    """Where it came from, if that is a place where a person drops files (a person may have written the reason)."""
    parts = PurePosixPath(found.came_from).parts
    inbox = len(parts) == 4 and parts[:2] == ("state", "inbox")
    request = len(parts) == 5 and parts[:2] == ("state", "ipc") and parts[3] in ("messages", "tasks")
    if not (inbox or request) or parts[-1].startswith("."):
        where = found.came_from or "an unknown place"
        raise UserError(f"{found.name} came from {where}, where nothing can be dropped.", f"It lies at {found.path}.")
    check_folder(parts[2])
    return PurePosixPath(*parts)
