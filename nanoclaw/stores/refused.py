"""What was refused: ``state/ipc/errors/<name>``, with ``<name>.reason`` beside it, until a person puts it back or
deletes it.

The reason is on disk before the content: no crash leaves a file of which nobody knows why it is there. A reason
without its content (a crash in between) is listed as such. Limits: names that people give are looked up in the listing
and never joined to a path; a content is only ever read as the start of a regular file.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nanoclaw.errors import UserError
from nanoclaw.files.atomic import fsync_directory, write_bytes
from nanoclaw.paths import Home, check_folder

log = logging.getLogger("nanoclaw")

NAME_BYTES = 200
KEPT = 1000
"""So many files of one origin are kept: a container may make requests without end."""
REASON_BYTES = 10_000
CAUTIOUSLY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
REASON = ".reason"
FROM = "from: "
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


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


def put(
    home: Home,
    origin: str,
    reason: str,
    came_from: str,
    data: bytes | None = None,
    move: Path | None = None,
    bounded: bool = False,
) -> Path:
    """Keep what was refused; returns its path in errors/.

    It is called ``<origin>-<folder>-<time>-<its name>``. ``came_from``: relative to the home's root, below
    ``state/inbox/<folder>/`` or ``state/ipc/<folder>/``. The content is ``data``, or what lies at ``move`` and is
    renamed, or nothing. ``bounded``: a container made it, so of its origin and folder ``KEPT`` files are kept; of
    later ones nothing is, and the log says so. OSError: nothing was put, and what lies at ``move`` still does.
    """
    errors = home.ipc / "errors"
    errors.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder, _, place = came_from.removeprefix("state/").partition("/")[2].partition("/")
    origin = f"{origin}-{folder}"
    while True:
        target = errors / _safe(f"{origin}-{time.time_ns()}-{place.rpartition('/')[2]}")
        if not (os.path.lexists(target) or os.path.lexists(_reason(target))):
            break
    if bounded and _count(errors, origin) >= KEPT:
        log.error("IPC %s: %d refused files are kept already, this one is not: %s", origin, KEPT, _line(reason))
        return target
    text = f"{_line(reason)}\n{FROM}{_line(came_from)}\n"
    write_bytes(_reason(target), text.encode("utf-8", "replace"))
    try:
        if move is not None:
            os.rename(move, target)
        elif data is not None:
            write_bytes(target, data)
    except OSError:
        _reason(target).unlink(missing_ok=True)
        raise
    return target


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
    _reason(found.path).unlink(missing_ok=True)
    return target


def drop(home: Home, name: str) -> None:
    """Delete a refused file, and then its reason; raises UserError where there is none."""
    path = find(home, name).path
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    _reason(path).unlink(missing_ok=True)


def _safe(name: str) -> str:
    """A name that every file system takes, that is no dotfile and no reason."""
    clean = _CONTROL.sub("_", name.replace("/", "_")).lstrip(".").encode()[:NAME_BYTES].decode("utf-8", "ignore")
    return clean.removesuffix(REASON) + "_reason" if clean.endswith(REASON) else clean


def _line(text: str) -> str:
    return _CONTROL.sub("?", text)


def _reason(path: Path) -> Path:
    return path.with_name(path.name + REASON)


def _count(errors: Path, origin: str) -> int:
    one = re.compile(rf"{re.escape(origin)}-\d{{10,}}-")
    return sum(1 for name in os.listdir(errors) if one.match(name) and not name.endswith(REASON))


def _all(errors: Path) -> Iterator[Refused]:
    """Each content and each reason that lies there, also those that a person put there."""
    try:
        names = {name for name in os.listdir(errors) if not name.startswith(".")}
    except FileNotFoundError:
        return
    for name in {name.removesuffix(REASON) for name in names}:
        path = errors / name
        lines = (content(_reason(path), REASON_BYTES) or b"").decode("utf-8", "replace").splitlines()
        origin = next((line.removeprefix(FROM) for line in lines[1:2] if line.startswith(FROM)), "")
        try:
            stamp = os.lstat(_reason(path) if name + REASON in names else path).st_mtime
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
