"""A stop that stops (SPEC 11). Whoever wants one puts a file: ``state/STOP`` for all groups, ``state/STOP-<folder>``
for one; a chat's /stop and the command do the same. The file goes when it is done, so that no crash loses it.

Each living run of the group is cut off from the model and killed first: no full disk and no broken file may keep an
agent alive. Then what waited is cancelled and the run is marked, both on disk, or the file stays and it is done again.
From the cutting off on nothing that the run says is delivered. It is over when the engine says that its container is
gone; an engine that does not answer is asked again until it does.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nanoclaw.errors import UserError
from nanoclaw.faults import reach
from nanoclaw.files.atomic import fsync_directory, write_json
from nanoclaw.handover import Handover
from nanoclaw.moments import utc_now
from nanoclaw.paths import Home
from nanoclaw.runs.marks import asked_by, mark, what_is_asked
from nanoclaw.runs.records import Claim
from nanoclaw.runs.runtime import Runtime
from nanoclaw.stores.errands import Errands
from nanoclaw.stores.journal import Journal
from nanoclaw.stores.settings import Settings
from nanoclaw.turns import Turns

log = logging.getLogger("nanoclaw")

ALL = "*"
LOOK_SECONDS = 2.0
"""The files are looked for so often where the file system tells nothing."""
CONFIRM_SECONDS = 1.8
"""So long a stop waits to see the containers gone before it says that they are not."""
POLL_SECONDS = 0.05
_NAME = "STOP"
_RUN = re.compile(r"(.+)-\d{8}-\d{6}-\d{3}")


def ask_to_stop(home: Home, folder: str, by: str, through: int | None = None) -> Path:
    """Ask for a stop of a group's work, or of ``ALL``; durable. ``through``: of what came in up to this seq. Returns
    the file, which goes when it is done."""
    path = home.state / (_NAME if folder == ALL else f"{_NAME}-{folder}")
    try:
        write_json(path, {"by": by, "through": through, "asked": utc_now()})
    except OSError:  # a full disk, or something strange in its place: a name alone asks for a stop, too
        if not os.path.lexists(path):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    reach("stop-asked")
    return path


def asked(home: Home) -> list[tuple[Path, str]]:
    """The stops that are asked for, each with its folder or ``ALL``."""
    names = sorted(name for name in os.listdir(home.state) if name == _NAME or name.startswith(f"{_NAME}-"))
    return [(home.state / name, ALL if name == _NAME else name.removeprefix(f"{_NAME}-")) for name in names]


class Living(Protocol):
    """A run that lives, to be stopped. ``over`` is set when its container is known to be gone."""

    @property
    def id(self) -> str: ...

    @property
    def over(self) -> threading.Event: ...

    def cut_off(self, by: str, through: int | None) -> int:
        """Nothing that it says from now on counts; returns how many messages are cancelled by that."""

    def kill(self) -> None:
        """SIGKILL to its container, until it is gone or the engine does not answer."""

    def stop_pending(self) -> None:
        """Nobody could see it gone in time: to be said when somebody does."""


@dataclass(eq=False)
class Unreadable:
    """A run whose record a person broke: only its container is known, by its name. Mended, it is found marked."""

    id: str
    directory: Path
    runtime: Runtime

    def __post_init__(self) -> None:
        self.over = threading.Event()

    def cut_off(self, by: str, through: int | None) -> int:
        return 0

    def kill(self) -> None:
        name, container_id = f"nanoclaw-{self.id}", self.runtime.identify(self.directory)
        self.runtime.kill(name, container_id)
        if self.runtime.look(self.directory, name, container_id).state in ("absent", "exited"):
            self.over.set()

    def stop_pending(self) -> None:
        log.error("Not seen dead: nanoclaw-%s, whose record is broken", self.id)


def group_of_run(run_id: str) -> str:
    """The folder in a run's id."""
    found = _RUN.fullmatch(run_id)
    return found[1] if found else ""


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
        journal: Journal,
        living: Callable[[str], Sequence[Living]],
        folders: Callable[[], Iterable[str]],
        said: Callable[[str, str, str], None],
    ) -> None:
        self._home = home
        self._settings = settings
        self._handover = handover
        self._errands = errands
        self._journal = journal
        self._living = living
        self._folders = folders
        self._said = said
        self._begun: dict[str, dict[str, tuple[list[Living], int]]] = {}
        self.turns = Turns("Stop", self.turn)

    def turn(self) -> float:
        """Carry out every stop that is asked for; returns the seconds after which to look again."""
        failed: OSError | None = None
        for path, folder in asked(self._home):
            try:
                with suppress(FileNotFoundError):
                    self._obey(path, folder)
            except OSError as error:  # the runs are killed; it is written down as soon as it can be
                failed = error
        if failed is not None:
            raise failed
        return LOOK_SECONDS

    def _obey(self, path: Path, asked_for: str) -> None:
        status, by, through = path.lstat(), asked_by(path), what_is_asked(path).get("through")
        through = through if isinstance(through, int) else None
        self._settings.refresh("")
        known = {name.casefold(): name for name in {*self._settings.groups, *self._folders()}}
        affected = sorted(known.values()) if asked_for == ALL else [known.get(asked_for.casefold(), "")]
        if affected == [""]:
            log.error("Nothing to stop: %s names no group", path)
            affected = []
        identity = hashlib.sha256(f"{path.name} {status.st_ino} {status.st_mtime_ns}".encode()).hexdigest()[:16]
        if identity not in self._begun:  # else it could not be written down the last time
            self._begun[identity] = {folder: self._cut_off(folder, by, through) for folder in affected}
        stopping = self._begun[identity]
        waiting = {folder: self._write_down(folder, by, through, runs) for folder, (runs, _) in stopping.items()}
        deadline = time.monotonic() + CONFIRM_SECONDS
        for folder, (runs, cancelled) in stopping.items():
            for one in runs:
                one.over.wait(max(0.0, deadline - time.monotonic()))
            self._say(folder, identity, by, runs, cancelled + waiting[folder], asked_for == ALL)
        _done(path, status)
        del self._begun[identity]
        reach("stopped")

    def _cut_off(self, folder: str, by: str, through: int | None) -> tuple[list[Living], int]:
        """From here on nothing of what the group's runs say is delivered. Returns them, and how many of their messages
        are cancelled."""
        runs = [one for one in self._living(folder) if not one.over.is_set()]
        cancelled = sum(one.cut_off(by, through) for one in runs)
        for one in runs:
            threading.Thread(target=one.kill, name=f"kill {one.id}", daemon=True).start()
        return runs, cancelled

    def _write_down(self, folder: str, by: str, through: int | None, runs: Sequence[Living]) -> int:
        """Returns how many waiting messages are cancelled."""
        for one in runs:
            mark(self._home.runs / one.id, by, through)
        cancelled = cancel(folder, through, self._settings, self._handover, self._errands, self._journal)
        reach("stop-cancelled")
        return cancelled

    def _say(self, folder: str, identity: str, by: str, runs: Sequence[Living], cancelled: int, to_all: bool) -> None:
        pending = [one for one in runs if not one.over.is_set()]
        for one in pending:
            one.stop_pending()
        if runs or cancelled or not to_all:
            self._said(folder, f"stop-{folder}-{identity}", _text(len(runs), cancelled, not pending))
        event = {"folder": folder, "runs": [one.id for one in runs], "cancelled": cancelled}
        self._journal.event("stopped", **event, confirmed=not pending, by=by)
        counts = (len(runs), cancelled, not pending)
        log.info("Stopped group=%s runs=%d cancelled=%d confirmed=%s by=%s", folder, *counts, by)


def cancel(
    folder: str, through: int | None, settings: Settings, handover: Handover, errands: Errands, journal: Journal
) -> int:
    """Nothing that waits in a group's chat wakes its agent any more; returns how many messages that are."""
    for errand in errands.all():
        if errand.folder == folder:
            errands.remove(errand.id)
    try:
        messages = handover.cancel(folder, settings.groups.get(folder), through)
    except UserError as error:  # a broken cursor: nothing can be handed over, and the run must be stopped all the same
        log.error("Waiting messages not cancelled group=%s: %s", folder, error)
        return 0
    if messages:
        journal.event("cancelled", folder=folder, messages=messages)
    return len(messages)


def cancelled_by(claims: Iterable[Claim], through: int | None) -> int:
    """How many messages of a run a stop cancels."""
    return sum(c.wakers for c in claims if c.state != "finished" and (through is None or c.after.seq < through))


def _done(path: Path, obeyed: os.stat_result) -> None:
    """The file goes, unless another stop was asked for meanwhile in its place. Whatever else it was goes out of the
    way."""
    aside = path.with_name(f".{path.name}.{time.time_ns()}.done")
    os.rename(path, aside)
    found = aside.lstat()
    if (found.st_ino, found.st_mtime_ns) != (obeyed.st_ino, obeyed.st_mtime_ns):
        os.rename(aside, path)
        return
    with suppress(OSError):  # a directory with something in it stays, under a name that asks for nothing
        if stat.S_ISDIR(found.st_mode):
            aside.rmdir()
        else:
            aside.unlink()
    fsync_directory(path.parent)


def _text(runs: int, cancelled: int, confirmed: bool) -> str:
    what = {0: "", 1: " 1 message is cancelled."}.get(cancelled, f" {cancelled} messages are cancelled.")
    if not confirmed:
        return (
            "Stopped, but the container engine does not say yet that the agent is dead: it is cut off from the model, "
            f"what it still says is discarded, and it is killed as soon as the engine answers.{what}"
        )
    return f"Stopped.{what}" if runs or cancelled else "Nothing was running here."
