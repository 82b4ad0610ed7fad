"""The scripts' side of the requests, ``state/ipc/<folder>/`` of every group, on one thread. (Agents'
requests are taken by the worker of their run.)"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress

from nanoclaw.files.atomic import BrokenFile
from nanoclaw.files.locks import Locks
from nanoclaw.ipc import snapshots
from nanoclaw.ipc.desk import KINDS, Desk
from nanoclaw.ipc.handlers import Office
from nanoclaw.ipc.policy import Asker
from nanoclaw.models import Group
from nanoclaw.paths import Home
from nanoclaw.runs import mailbox
from nanoclaw.runs.records import Records
from nanoclaw.stores.chats import Chats
from nanoclaw.stores.cursors import Cursors
from nanoclaw.stores.errands import Errands
from nanoclaw.stores.outbox import Outbox
from nanoclaw.stores.sessions import Sessions
from nanoclaw.stores.settings import Settings
from nanoclaw.stores.transcripts import Transcripts
from nanoclaw.turns import HELD_UP_SECONDS, RESCAN_AT_MOST, RESCAN_SECONDS, Turns, until_rescan

log = logging.getLogger("nanoclaw")


class ScriptDesks:
    """``turn`` takes what is ready. ``turns`` repeats it on a thread. ``touched``: a path below state/ipc changed."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._home = office.home
        self._desks: dict[str, Desk] = {}
        self._known: dict[str, Group] | None = None
        self._guard = threading.Lock()  # guards _news
        self._news: set[str] | None = None  # None: look everywhere
        self._later: dict[str, float] = {}
        self._next_rescan = 0.0
        self._warned: set[str] = set()
        self.turns = Turns("Requests", lambda: self.turn(time.time()))

    def touched(self, path: str) -> None:
        """Any thread."""
        parent = os.path.dirname(path)
        directory, kind = os.path.split(parent)
        with self._guard:
            if kind in KINDS:
                if self._news is not None:
                    self._news.add(os.path.basename(directory))
            elif os.path.basename(path) in KINDS or parent == str(self._home.ipc):
                self._news = None
            else:
                return  # an answer, a snapshot: our own
        self.turns.poke()

    def turn(self, now: float) -> float:
        """Take every request that is ready at Unix time ``now``; returns the seconds after which to look again."""
        groups = self._office.settings.groups
        if groups is not self._known:
            self._known = groups
            self._make_directories(groups)
            self._news = None  # what waits may be of a group that is registered now
        with self._guard:
            news, self._news = self._news, set()
        began = time.monotonic()
        rescan = news is None or now >= self._next_rescan or now < self._next_rescan - RESCAN_AT_MOST
        if news is None or rescan:
            news = self._everybody()
        news |= {folder for folder, due in self._later.items() if due <= now or due > now + RESCAN_SECONDS}
        for folder in sorted(folder for folder in news if self._is_registered(folder)):
            self._later.pop(folder, None)
            try:
                again = self._desk(folder).turn(now)
            except OSError as error:  # of one group: the others' requests go on
                log.error("Requests held up group=%s: %s", folder, error)
                again = HELD_UP_SECONDS
            if again is not None:
                self._later[folder] = now + again
        if rescan:
            self._next_rescan = now + until_rescan(began)
        return max(0.0, min([self._next_rescan, *self._later.values()]) - now)

    def take_one(self, folder: str) -> None:
        """For a command, when no host lives: what waits of one group, once."""
        self._desk(folder).turn(time.time())

    def _everybody(self) -> set[str]:
        found = {e.name for e in os.scandir(self._home.ipc) if e.is_dir(follow_symlinks=False)} - {"errors"}
        self._warned &= found
        return found

    def _is_registered(self, folder: str) -> bool:
        """The requests of one that is not wait until it is; said once."""
        settings = self._office.settings
        if folder in settings.groups or (settings.refresh() and folder in settings.groups):
            self._warned.discard(folder)
            return True
        directory = self._home.ipc / folder
        if folder not in self._warned and any((directory / k).is_dir() and os.listdir(directory / k) for k in KINDS):
            self._warned.add(folder)
            log.error("IPC requests wait in %s: no group is registered as %r", directory, folder)
        return False

    def _desk(self, folder: str) -> Desk:
        if folder not in self._desks:
            directory = self._home.ipc / folder
            self._desks[folder] = Desk(
                self._office, directory, directory / "answers", folder, lambda: self._asker(folder)
            )
        return self._desks[folder]

    def _asker(self, folder: str) -> Asker | None:
        self._office.settings.refresh(folder)
        group = self._office.settings.groups.get(folder)
        return Asker(folder, group.jid, group.is_main) if group is not None else None

    def _make_directories(self, groups: dict[str, Group]) -> None:
        for folder in groups:
            for name in (*KINDS, "answers"):
                try:
                    (self._home.ipc / folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
                except OSError as error:
                    log.error("IPC directory not made: %s", error)
            tasks = self._home.ipc / folder / "current_tasks.json"
            if not tasks.exists():
                snapshots.write_tasks(tasks)
        snapshots.write(self._home, self._office.settings, self._office.chats)


def office_without_host(home: Home, settings: Settings) -> Office:
    """An office for a command that holds the home's lock: its effects are on disk, the next host goes on from there."""
    locks = Locks()
    outbox, errands = Outbox(home, locks), Errands(home)
    outbox.load()
    errands.load()
    records = Records(home)

    def living(folder: str) -> str | None:
        """A container goes on without a host; the next one adopts it."""
        for run_id in [name for name in records.ids() if name.startswith(f"{folder}-")]:
            with suppress(BrokenFile, FileNotFoundError):
                if (run := records.load(run_id)).folder == folder and run.status != "judged":
                    return run_id
        return None

    def close(folder: str) -> None:
        if (run_id := living(folder)) is not None:
            mailbox.write_close(records.path(run_id))

    return Office(
        home=home,
        settings=settings,
        outbox=outbox,
        transcripts=Transcripts(home, locks),
        cursors=Cursors(home, locks),
        sessions=Sessions(home, locks),
        records=records,
        chats=Chats(home, locks),
        errands=errands,
        living=living,
        close=close,
    )


def handle_one(home: Home, folder: str) -> None:
    """Take what waits of one group, in this process; the caller holds the home's lock."""
    ScriptDesks(office_without_host(home, Settings(home))).take_one(folder)
