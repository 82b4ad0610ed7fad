"""Setting aside what was refused: ``state/ipc/errors/<name>``, with ``<name>.reason`` beside it. What becomes of it is
a person's affair (`refused.py`).

The reason is on disk before the content: no crash leaves a file of which nobody knows why it is there.
"""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path

from nanoclaw.files.atomic import write_bytes
from nanoclaw.paths import Home

log = logging.getLogger("nanoclaw")

NAME_BYTES = 200
KEPT = 1000
"""So many files of one origin are kept: a container may make requests without end."""
REASON = ".reason"
FROM = "from: "
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


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
        if not (os.path.lexists(target) or os.path.lexists(reason_of(target))):
            break
    if bounded and _count(errors, origin) >= KEPT:
        log.error("IPC %s: %d refused files are kept already, this one is not: %s", origin, KEPT, _line(reason))
        return target
    text = f"{_line(reason)}\n{FROM}{_line(came_from)}\n"
    write_bytes(reason_of(target), text.encode("utf-8", "replace"))
    try:
        if move is not None:
            os.rename(move, target)
        elif data is not None:
            write_bytes(target, data)
    except OSError:
        reason_of(target).unlink(missing_ok=True)
        raise
    return target


def _safe(name: str) -> str:
    """A name that every file system takes, that is no dotfile and no reason."""
    clean = _CONTROL.sub("_", name.replace("/", "_")).lstrip(".").encode()[:NAME_BYTES].decode("utf-8", "ignore")
    return clean.removesuffix(REASON) + "_reason" if clean.endswith(REASON) else clean


def _line(text: str) -> str:
    return _CONTROL.sub("?", text)


def _count(errors: Path, origin: str) -> int:
    one = re.compile(rf"{re.escape(origin)}-\d{{10,}}-")
    return sum(1 for name in os.listdir(errors) if one.match(name) and not name.endswith(REASON))


def reason_of(path: Path) -> Path:
    """Where the reason of what was set aside stands."""
    return path.with_name(path.name + REASON)
