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
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanoclaw.commands.asking import ask, choose, clock, printable
from nanoclaw.commands.output import Result, table
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import BrokenFile
from nanoclaw.paths import Home
from nanoclaw.runs.records import Records, Run
from nanoclaw.stores.settings import Settings

STDERR_BYTES = 8_000
STDERR_LINES = 20
FILES = 500
PARTS = ("", "in", "out", "ipc", "ipc/messages", "ipc/tasks")
_ID = re.compile(r"(.+)-(\d{8}-\d{6}-\d{3})")


def list_runs(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: one object a run, the newest last: ``run``, ``group``, ``created``, ``status``, ``outcome``,
    ``seconds``, ``prompts``, ``replies``, ``cost_usd``; or ``run`` and ``problem``."""
    ids = _ids(home)
    if arguments.group is not None:
        own = [run_id for run_id in ids if _parts(run_id)[1] == arguments.group]
        if not own:
            choose(Settings(home), arguments.group)
        ids = own
    found = [_summary(home, run_id) for run_id in sorted(ids, key=_parts)[-arguments.n :]]
    shown = clock(home)
    rows = [_row(one, shown) for one in found if "problem" not in one]
    text = table(rows, ("RUN", "CREATED", "STATUS", "OUTCOME", "TIME", "PROMPTS", "REPLIES", "COST"))
    problems = [printable(f"{one['run']}: {one['problem']}") for one in found if "problem" in one]
    return Result(found, "\n".join([*([text] if text else []), *problems]) or "There is no run.")


def show(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: ``record`` (run.json), ``prompts`` (the ranges of messages), ``events`` (taken from the runner),
    ``files``, ``command``, ``stderr`` (its last lines)."""
    run_id = _known(home, arguments.run)
    records = Records(home)
    directory = records.path(run_id)
    run = _load(records, run_id)
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
    return Result(value, printable(_words(run, value, directory, clock(home))))


def again(home: Home, arguments: argparse.Namespace) -> Result:
    """Ask for a new run with the prompts of one. The value: ``{"run", "group"}``."""
    run_id = _known(home, arguments.run)
    folder = choose(Settings(home), _load(Records(home), run_id).folder).folder
    ask(home, folder, {"type": "run_again", "run": run_id})
    text = f"The prompts of {run_id} are given to a new run of {folder}, as soon as a host runs and has a place."
    return Result({"run": run_id, "group": folder}, text)


def _ids(home: Home) -> list[str]:
    return Records(home).ids() if home.runs.is_dir() else []


def _parts(run_id: str) -> tuple[str, str]:
    """Its time and its folder, as its name says them: sorts runs of all groups by time."""
    found = _ID.fullmatch(run_id)
    return (found[2], found[1]) if found else ("", run_id)


def _known(home: Home, run_id: str) -> str:
    """A name from the command line is looked up, never joined to a path. Raises UserError with what is near."""
    ids = _ids(home)
    if run_id in ids:
        return run_id
    near = difflib.get_close_matches(run_id, ids, 3, 0.5) or sorted(ids, key=_parts)[-3:]
    fix = f"There are {', '.join(near)} …; `runs list` shows all." if near else "There is none at all yet."
    raise UserError(f"There is no run {run_id!r}.", printable(fix))


def _load(records: Records, run_id: str) -> Run:
    try:
        return records.load(run_id)
    except FileNotFoundError:
        raise BrokenFile(records.path(run_id) / "run.json", 0, "is not there") from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise BrokenFile(records.path(run_id), 0, f"cannot be read ({error})") from None


def _summary(home: Home, run_id: str) -> dict[str, Any]:
    try:
        run = _load(Records(home), run_id)
    except BrokenFile as error:
        return {"run": run_id, "problem": error.problem}
    return {
        "run": run.id,
        "group": run.folder,
        "created": run.created,
        "status": run.status,
        "outcome": run.outcome,
        "seconds": _duration(run),
        "prompts": len(run.claims),
        "replies": run.replies,
        "cost_usd": run.cost_usd,
    }


def _row(one: dict[str, Any], shown: Callable[[str | float | None], str]) -> list[object]:
    known = [one["run"], shown(one["created"]), one["status"], one["outcome"], _seconds(one["seconds"])]
    return [*known, one["prompts"], one["replies"], _cost(one["cost_usd"])]


def _duration(run: Run) -> float | None:
    """Seconds from the container's start to its end, or until now; None where it did not start."""
    try:
        start = datetime.fromisoformat(run.started or "")
        end = datetime.fromisoformat(run.ended) if run.ended else datetime.now(UTC)
        return round((end - start).total_seconds(), 3)
    except (ValueError, TypeError):
        return None


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f} s"


def _cost(cost: float | None) -> str:
    return "" if cost is None else f"${cost:.4f}"


def _files(directory: Path) -> list[dict[str, Any]]:
    """The first ``FILES`` files of a run with their bytes. Only where files belong, without following links: a
    container wrote some of them, and may have nested directories without end."""
    found: list[dict[str, Any]] = []
    for part in PARTS:
        try:
            with os.scandir(directory / part) as entries:
                files = sorted((e for e in entries if not e.is_dir(follow_symlinks=False)), key=lambda e: e.name)
            found += [{"path": printable(e.path), "size": e.stat(follow_symlinks=False).st_size} for e in files[:FILES]]
        except OSError:
            continue
    return found[:FILES]


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - STDERR_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()[-STDERR_LINES:]
    except OSError:
        return []


def _words(run: Run, value: dict[str, Any], directory: Path, shown: Callable[[str | float | None], str]) -> str:
    fields = {
        "run": run.id,
        "group": f"{run.folder} ({run.jid})",
        "status": " ".join(filter(None, (run.status, run.outcome, run.detail))),
        "created": shown(run.created),
        "started": shown(run.started),
        "ended": " ".join(filter(None, (shown(run.ended), run.why_ended, "timed out" if run.timed_out else ""))),
        "time": _seconds(_duration(run)),
        "exit": "" if run.exit_code is None else f"{run.exit_code}{' (out of memory)' if run.oom else ''}",
        "error": run.error or "",
        "container": f"{run.container} ({run.runtime} {run.image})",
        "session": " → ".join(filter(None, (run.session, run.new_session))),
        "cost": _cost(run.cost_usd),
        "replies": run.replies,
        "events": value["events"],
        "command": value["command"],
    }
    lines = [f"{name + ':':10} {text}" for name, text in fields.items() if text != ""]
    lines += [f"prompt {p['n']}:  messages {p['from']} to {p['through']}, {p['state']}" for p in value["prompts"]]
    lines += ["files:", *(f"  {f['size']:>9} B  {f['path']}" for f in value["files"])]
    if value["stderr"]:
        lines += [f"last of {directory / 'stderr.log'}:", *(f"  {line}" for line in value["stderr"])]
    return "\n".join(lines)
