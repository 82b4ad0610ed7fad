"""A stop that stops (SPEC 11). Whoever wants one puts a file: ``state/STOP`` for all groups, ``state/STOP-<folder>``
for one; a chat's /stop and the command do the same. The file goes when it is done, so that no crash loses it.

What waits is cancelled first, so that nothing new can start; then each living run of the group is marked, in its
directory, cut off from the model and killed. From the mark on nothing that it says is delivered. It is over when the
engine says that its container is gone; an engine that does not answer is asked again until it does.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from nanoclaw.errors import UserError
from nanoclaw.faults import reach
from nanoclaw.files.atomic import BrokenFile, fsync_directory, write_json
from nanoclaw.files.locks import Locks
from nanoclaw.handover import Handover
from nanoclaw.moments import utc_now
from nanoclaw.paths import Home
from nanoclaw.runs.launch import Runtimes
from nanoclaw.runs.marks import mark, said_by
from nanoclaw.runs.records import Records, Run
from nanoclaw.stores.cursors import Cursors
from nanoclaw.stores.errands import Errands
from nanoclaw.stores.journal import Journal
from nanoclaw.stores.settings import Settings
from nanoclaw.stores.transcripts import Transcripts
from nanoclaw.turns import Turns

log = logging.getLogger("nanoclaw")

ALL = "*"
LOOK_SECONDS = 2.0
"""The files are looked for so often where the file system tells nothing."""
CONFIRM_SECONDS = 1.8
"""So long a stop waits to see the containers gone before it says that they are not."""
POLL_SECONDS = 0.05
_NAME = "STOP"


def ask_to_stop(home: Home, folder: str, by: str) -> Path:
    """Ask for a stop of a group's work, or of ``ALL``; durable. Returns the file, which goes when it is done."""
    path = home.state / (_NAME if folder == ALL else f"{_NAME}-{folder}")
    write_json(path, {"by": by, "asked": utc_now()})
    reach("stop-asked")
    return path


def asked(home: Home) -> list[tuple[Path, str]]:
    """The stops that are asked for, each with its folder or ``ALL``."""
    names = sorted(name for name in os.listdir(home.state) if name == _NAME or name.startswith(f"{_NAME}-"))
    return [(home.state / name, ALL if name == _NAME else name.removeprefix(f"{_NAME}-")) for name in names]


class Living(Protocol):
    """A run that lives, to be stopped. ``over`` is set when its container is known to be gone."""

    run_record: Run
    over: threading.Event

    def cut_off(self) -> None: ...

    def kill(self) -> None: ...


class Stopper:
    """``turn`` carries out what is asked for. ``turns`` repeats it on a thread of its own, so that no queue is
    before it. ``living``: the runs of a group that live now, none of which can begin while it is asked; ``said``:
    tell a group's chat (folder, the stop's identity, text)."""

    def __init__(
        self,
        home: Home,
        settings: Settings,
        handover: Handover,
        errands: Errands,
        records: Records,
        journal: Journal,
        living: Callable[[str], Sequence[Living]],
        folders: Callable[[], Iterable[str]],
        said: Callable[[str, str, str], None],
    ) -> None:
        self._home = home
        self._settings = settings
        self._handover = handover
        self._errands = errands
        self._records = records
        self._journal = journal
        self._living = living
        self._folders = folders
        self._said = said
        self.turns = Turns("Stop", self.turn)

    def turn(self) -> float:
        """Carry out every stop that is asked for; returns the seconds after which to look again."""
        for path, folder in asked(self._home):
            with suppress(FileNotFoundError):
                self._obey(path, folder)
        return LOOK_SECONDS

    def _obey(self, path: Path, asked_for: str) -> None:
        self._settings.refresh("")
        known = {*self._settings.groups, *self._folders()}
        if asked_for not in (ALL, *known):
            log.error("Nothing to stop: %s names no group that is registered", path)
        status, by = path.stat(), said_by(path)
        identity = hashlib.sha256(f"{path.name} {status.st_ino} {status.st_mtime_ns}".encode()).hexdigest()[:16]
        affected = sorted(known) if asked_for == ALL else [f for f in [asked_for] if f in known]
        stopping = {folder: self._begin(folder, by) for folder in affected}
        deadline = time.monotonic() + CONFIRM_SECONDS
        for runs, _ in stopping.values():
            for one in runs:
                one.over.wait(max(0.0, deadline - time.monotonic()))
        for folder, (runs, cancelled) in stopping.items():
            confirmed = all(one.over.is_set() for one in runs)
            if runs or cancelled or asked_for != ALL:
                self._said(folder, f"stop-{folder}-{identity}", _text(len(runs), cancelled, confirmed))
            event = {"folder": folder, "runs": [one.run_record.id for one in runs], "cancelled": cancelled}
            self._journal.event("stopped", **event, confirmed=confirmed, by=by)
            log.info(
                "Stopped group=%s runs=%d cancelled=%d confirmed=%s by=%s", folder, len(runs), cancelled, confirmed, by
            )
        _done(path, status)
        reach("stopped")

    def _begin(self, folder: str, by: str) -> tuple[Sequence[Living], int]:
        """From here on nothing of what the group was doing is delivered. Returns its runs, and how many messages are
        cancelled by that."""
        cancelled = cancel(self._home, folder, self._settings, self._handover, self._errands, self._journal)
        reach("stop-cancelled")
        runs = [one for one in self._living(folder) if not one.over.is_set()]
        for one in runs:
            mark(self._records.path(one.run_record.id), by)
            one.cut_off()
            threading.Thread(target=one.kill, name=f"kill {one.run_record.id}", daemon=True).start()
            cancelled += sum(claim.wakers for claim in one.run_record.claims if claim.state != "finished")
        return runs, cancelled


def cancel(home: Home, folder: str, settings: Settings, handover: Handover, errands: Errands, journal: Journal) -> int:
    """Nothing that waits in a group's chat wakes its agent any more; returns how many messages that are."""
    for errand in errands.all():
        if errand.folder == folder:
            errands.remove(errand.id)
    group = settings.groups.get(folder)
    try:
        messages = handover.cancel(group) if group is not None else ()
    except UserError as error:  # a broken cursor: nothing can be handed over, and the run must be stopped all the same
        log.error("Waiting messages not cancelled group=%s: %s", folder, error)
        return 0
    if messages:
        journal.event("cancelled", folder=folder, messages=messages)
    return len(messages)


def _done(path: Path, asked: os.stat_result) -> None:
    """The file goes, unless another stop was asked for meanwhile in its place."""
    aside = path.with_name(f".{path.name}.done")
    os.rename(path, aside)
    found = aside.stat()
    if (found.st_ino, found.st_mtime_ns) != (asked.st_ino, asked.st_mtime_ns):
        os.rename(aside, path)
        return
    aside.unlink()
    fsync_directory(path.parent)


def stop_without_host(home: Home, folder: str | None) -> list[dict[str, Any]]:
    """What a host would do, for a command that holds the home's lock: one ``stopped`` event a group. The next host
    finds the marked runs dead and settles them."""
    locks, settings, records, runtimes = Locks(), Settings(home), Records(home), Runtimes()
    cursors, errands, journal = Cursors(home, locks), Errands(home), Journal(home.logs)
    handover = Handover(locks, settings, Transcripts(home, locks), cursors)
    errands.load()
    unjudged: dict[str, list[Run]] = {}
    for run_id in records.ids():
        with suppress(BrokenFile, FileNotFoundError):
            if (run := records.load(run_id)).status != "judged":
                unjudged.setdefault(run.folder, []).append(run)
    events = []
    for one in [folder] if folder is not None else sorted({*settings.groups, *unjudged}):
        cancelled = cancel(home, one, settings, handover, errands, journal)
        runs = unjudged.get(one, [])
        for run in runs:
            mark(records.path(run.id), "command")
            cancelled += sum(claim.wakers for claim in run.claims if claim.state != "finished")
        gone = [_kill_and_look(records, runtimes, run) for run in runs]
        if runs or cancelled or folder is not None:
            events.append(
                {"folder": one, "runs": [run.id for run in runs], "cancelled": cancelled, "confirmed": all(gone)}
            )
            journal.event("stopped", **events[-1], by="command")
    journal.close()
    return events


def _kill_and_look(records: Records, runtimes: Runtimes, run: Run) -> bool:
    deadline = time.monotonic() + CONFIRM_SECONDS
    try:
        runtime = runtimes.of(run.runtime)
    except UserError:
        return False
    while True:
        runtime.kill(run.container, run.container_id)
        if runtime.look(records.path(run.id), run.container, run.container_id).state in ("absent", "exited"):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)


def _text(runs: int, cancelled: int, confirmed: bool) -> str:
    what = {0: "", 1: " 1 message is cancelled."}.get(cancelled, f" {cancelled} messages are cancelled.")
    if not confirmed:
        return (
            "Stopped, but the container engine does not say yet that the agent is dead: it is cut off from the model, "
            f"what it still says is discarded, and it is killed as soon as the engine answers.{what}"
        )
    return f"Stopped.{what}" if runs or cancelled else "Nothing was running here."
