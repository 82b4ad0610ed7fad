"""``runs``: what the agents' runs did, one by one, and doing one again. A run is a directory below ``state/runs/``.

Read without the host's locks: a record is replaced whole. Of a long list only the records that are shown are opened;
their order is that of the times in the runs' names.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanoclaw.commands.asking import ask, clock, listing, printable
from nanoclaw.commands.output import Result
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import BrokenFile
from nanoclaw.paths import Home
from nanoclaw.runs.records import Records, Run
from nanoclaw.stores import registry

STDERR_BYTES = 8_000
STDERR_LINES = 20
FILES = 500
PARTS = ("", "in", "out", "ipc", "ipc/messages", "ipc/tasks")
_ID = re.compile(r"(.+)-(\d{8}-\d{6}-\d{3})")


def list_runs(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: one object a run, the newest last: ``run``, ``group``, ``created``, ``status``, ``outcome``,
    ``seconds``, ``prompts``, ``replies``, ``cost_usd``; or ``run`` and ``problem``."""
    ids = ids_of(home, arguments.group)
    if arguments.group is not None and not ids:
        registry.choose(home, arguments.group)
    found = [summary(home, run_id) for run_id in ids[-arguments.n :]]
    shown = clock(home)

    def row(one: dict[str, Any]) -> list[object]:
        seconds = "" if one["seconds"] is None else f"{one['seconds']:.1f} s"
        cost = "" if one["cost_usd"] is None else f"${one['cost_usd']:.4f}"
        begun = [one["run"], shown(one["created"]), one["status"], one["outcome"], seconds]
        return [*begun, one["prompts"], one["replies"], cost]

    head = ("RUN", "CREATED", "STATUS", "OUTCOME", "TIME", "PROMPTS", "REPLIES", "COST")
    return listing(found, row, head, "There is no run.")


def show(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: ``record`` (run.json), ``prompts`` (the ranges of messages), ``events`` (taken from the runner),
    ``files``, ``command``, ``stderr`` (its last lines)."""
    run_id = _known(home, arguments.run)
    directory = home.runs / run_id
    run = _load(home, run_id)
    prompts = [
        {
            "n": claim.n,
            "from": claim.after.seq + 1,
            "through": claim.place.seq,
            "state": "broken off" if claim.broken else claim.state,
        }
        for claim in run.claims
    ]
    value: dict[str, Any] = {
        "record": asdict(run),
        "prompts": prompts,
        "events": run.accepted_through,
        "files": _files(directory),
        "command": str(directory / "command.sh"),
        "stderr": _last_lines(directory / "stderr.log"),
    }
    return Result(value, printable(_words(value, clock(home))))


def again(home: Home, arguments: argparse.Namespace) -> Result:
    """Ask for a new run with the prompts of one. The value: ``{"run", "group"}``."""
    run_id = _known(home, arguments.run)
    folder = registry.choose(home, _load(home, run_id).folder).folder
    ask(home, folder, {"type": "run_again", "run": run_id})
    text = f"The prompts of {run_id} are given to a new run of {folder}, as soon as a host runs and has a place."
    return Result({"run": run_id, "group": folder}, text)


def ids_of(home: Home, folder: str | None) -> list[str]:
    """The runs of a group (None: of all, also of groups that are gone), the oldest first."""
    ids = sorted(Records(home).ids(), key=_parts) if home.runs.is_dir() else []
    return [run_id for run_id in ids if folder in (None, _parts(run_id)[1])]


def _parts(run_id: str) -> tuple[str, str]:
    """Its time and its folder, as its name says them: sorts runs of all groups by time."""
    found = _ID.fullmatch(run_id)
    return (found[2], found[1]) if found else ("", run_id)


def _known(home: Home, run_id: str) -> str:
    """A name from the command line is looked up, never joined to a path. Raises UserError with what is near."""
    ids = ids_of(home, None)
    if run_id in ids:
        return run_id
    near = difflib.get_close_matches(run_id, ids, 3, 0.5) or ids[-3:]
    fix = f"There are {', '.join(near)} …; `runs list` shows all." if near else "There is none at all yet."
    raise UserError(f"There is no run {run_id!r}.", printable(fix))


def _load(home: Home, run_id: str) -> Run:
    try:
        return Records(home).load(run_id)
    except (OSError, KeyError, TypeError, ValueError) as error:
        what = f"is not there or cannot be read ({type(error).__name__})"
        raise BrokenFile(home.runs / run_id / "run.json", 0, what) from None


def summary(home: Home, run_id: str) -> dict[str, Any]:
    """A run as ``list_runs`` says it."""
    try:
        run = _load(home, run_id)
    except BrokenFile as error:
        return {"run": run_id, "problem": error.problem}
    known = {key: getattr(run, key) for key in ("created", "status", "outcome", "replies", "cost_usd")}
    return {"run": run.id, "group": run.folder, **known, "seconds": _duration(run), "prompts": len(run.claims)}


def _duration(run: Run) -> float | None:
    """Seconds from the container's start to its end, or until now; None where it did not start."""
    try:
        start = datetime.fromisoformat(run.started or "")
        end = datetime.fromisoformat(run.ended) if run.ended else datetime.now(UTC)
        return round((end - start).total_seconds(), 3)
    except (ValueError, TypeError):
        return None


def _files(directory: Path) -> list[dict[str, Any]]:
    """The first ``FILES`` files of a run with their bytes. Only where files belong, without following links: a
    container wrote some of them, and may have nested directories without end."""
    found: list[dict[str, Any]] = []
    for part in PARTS:
        with suppress(OSError), os.scandir(directory / part) as entries:
            files = sorted((e for e in entries if not e.is_dir(follow_symlinks=False)), key=lambda e: e.name)
            found += [{"path": printable(e.path), "size": e.stat(follow_symlinks=False).st_size} for e in files[:FILES]]
    return found[:FILES]


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - STDERR_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()[-STDERR_LINES:]
    except OSError:
        return []


def _words(value: dict[str, Any], shown: Callable[[str | float | None], str]) -> str:
    """What ``show`` found; of the record what says something."""
    said = {key: item for key, item in value["record"].items() if item not in (None, "", False, []) and key != "claims"}
    said |= {key: shown(said[key]) for key in ("created", "started", "ended") if key in said}
    said |= {"events": value["events"], "command": value["command"]}
    lines = [f"{key + ':':17} {item}" for key, item in said.items()]
    lines += [f"prompt {p['n']}: messages {p['from']} to {p['through']}, {p['state']}" for p in value["prompts"]]
    lines += ["files:", *(f"  {f['size']:>9} B  {f['path']}" for f in value["files"])]
    if value["stderr"]:
        lines += ["last of stderr.log:", *(f"  {line}" for line in value["stderr"])]
    return "\n".join(lines)
