"""The mark of a run that a person stopped: a file in its directory, so that no crash brings the run back to life."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

from nanoclaw.files.atomic import write_json
from nanoclaw.moments import utc_now

MARK = "stop"
BYTES = 100_000


class Mark(NamedTuple):
    """Who stopped it, for people; and the last seq that the stop is about: what came in behind it is to be answered.
    None: everything."""

    by: str
    through: int | None


def mark(run_directory: Path, by: str, through: int | None = None) -> None:
    """The run is stopped."""
    write_json(run_directory / MARK, {"by": by, "through": through, "at": utc_now()})


def marked(run_directory: Path) -> Mark | None:
    """Whether, and by whom, a run was stopped."""
    path = run_directory / MARK
    if not path.exists():
        return None
    said, through = asked_by(path), what_is_asked(path).get("through")
    return Mark(said, through if isinstance(through, int) else None)


def asked_by(path: Path) -> str:
    """Who asked for a stop, as its file says: a text for people."""
    return str(what_is_asked(path).get("by", "a file"))[:100]


def what_is_asked(path: Path) -> dict[str, Any]:
    """What a file that asks for a stop says; whatever else lies there asks for it, too, and says nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            found = json.loads(file.read(BYTES)) if stat.S_ISREG(os.fstat(fd).st_mode) else {}
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}
