"""The mark of a run that a person stopped: a file in its directory, durable before anything is done about it, so
that no crash brings the run back to life."""

from __future__ import annotations

import json
from pathlib import Path

from nanoclaw.files.atomic import write_json
from nanoclaw.moments import utc_now

MARK = "stop"


def mark(run_directory: Path, by: str) -> None:
    """The run is stopped; ``by`` whom, for people."""
    write_json(run_directory / MARK, {"by": by, "at": utc_now()})


def marked(run_directory: Path) -> str | None:
    """Who stopped a run; None: nobody did."""
    path = run_directory / MARK
    return said_by(path) if path.exists() else None


def said_by(path: Path) -> str:
    """Who asked for a stop, as its file says: a text for people."""
    try:
        return str(json.loads(path.read_bytes()[:10_000])["by"])[:100]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "a file"
