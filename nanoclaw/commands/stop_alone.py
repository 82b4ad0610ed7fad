"""A stop where no host lives, for the command that holds the home's lock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from nanoclaw.errors import UserError
from nanoclaw.files.atomic import BrokenFile
from nanoclaw.files.locks import Locks
from nanoclaw.handover import Handover
from nanoclaw.paths import Home
from nanoclaw.runs.launch import Runtimes
from nanoclaw.runs.marks import mark
from nanoclaw.runs.records import Records, Run
from nanoclaw.stopping import CONFIRM_SECONDS, POLL_SECONDS, Unreadable, cancel, cancelled_by, group_of_run
from nanoclaw.stores.cursors import Cursors
from nanoclaw.stores.errands import Errands
from nanoclaw.stores.journal import Journal
from nanoclaw.stores.settings import Settings
from nanoclaw.stores.transcripts import Transcripts


def stop_without_host(home: Home, folder: str | None) -> list[dict[str, Any]]:
    """What a host would do: one ``stopped`` event a group (None: all). The next host finds the marked runs dead and
    settles them."""
    locks, settings, records, runtimes = Locks(), Settings(home), Records(home), Runtimes()
    errands, journal = Errands(home), Journal(home.logs)
    handover = Handover(locks, settings, Transcripts(home, locks), Cursors(home, locks))
    errands.load()
    living: dict[str, list[tuple[str, Run | None]]] = {}
    for run_id in records.ids():
        try:
            run = records.load(run_id)
            if run.status != "judged":
                living.setdefault(run.folder, []).append((run_id, run))
        except BrokenFile:
            living.setdefault(group_of_run(run_id), []).append((run_id, None))
        except FileNotFoundError:
            continue
    events = []
    for one in [folder] if folder is not None else sorted({*settings.groups, *living}):
        runs = living.get(one, [])
        gone = _kill(settings, records, runtimes, runs)
        cancelled = sum(cancelled_by(run.claims, None) for _, run in runs if run is not None)
        for run_id, _ in runs:
            mark(records.path(run_id), "command")
        cancelled += cancel(one, None, settings, handover, errands, journal)
        if runs or cancelled or folder is not None:
            ids = [run_id for run_id, _ in runs]
            events.append({"folder": one, "runs": ids, "cancelled": cancelled, "confirmed": gone})
            journal.event("stopped", **events[-1], by="command")
    journal.close()
    return events


def _kill(settings: Settings, records: Records, runtimes: Runtimes, runs: Sequence[tuple[str, Run | None]]) -> bool:
    """True when all are seen gone."""
    found = []
    for run_id, run in runs:
        with suppress(UserError):
            found.append(Unreadable(run_id, records.path(run_id), runtimes.of(_runtime(settings, run))))
    deadline = time.monotonic() + CONFIRM_SECONDS
    while True:
        for one in found:
            if not one.over.is_set():
                one.kill()
        if all(one.over.is_set() for one in found) or time.monotonic() >= deadline:
            return len(found) == len(runs) and all(one.over.is_set() for one in found)
        time.sleep(POLL_SECONDS)


def _runtime(settings: Settings, run: Run | None) -> str:
    return run.runtime if run is not None else settings.config.runtime
