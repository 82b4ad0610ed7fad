"""The host: the one place that builds the parts, starts the threads and stops them. It wires, it does not work."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from nanoclaw.adoption import Adoption
from nanoclaw.channels.base import Channel, State
from nanoclaw.chat_commands import ChatCommands
from nanoclaw.conditions import Conditions
from nanoclaw.delivery import Delivery
from nanoclaw.dispatcher import Dispatcher
from nanoclaw.engine_follower import EngineFollower
from nanoclaw.errors import UserError
from nanoclaw.exchange import Exchange
from nanoclaw.files.locks import Locks
from nanoclaw.files.watch import Watcher
from nanoclaw.gateway.door import Door
from nanoclaw.handover import Handover
from nanoclaw.house import House
from nanoclaw.inbox import Inbox
from nanoclaw.ipc import snapshots
from nanoclaw.ipc.handlers import Office
from nanoclaw.ipc.script_desks import ScriptDesks
from nanoclaw.models import Group
from nanoclaw.notices import Notices
from nanoclaw.paths import Home
from nanoclaw.reception import Reception
from nanoclaw.runs.judge import Verdict
from nanoclaw.runs.launch import Preparation, Runtimes
from nanoclaw.runs.layout import container_user
from nanoclaw.runs.records import Records, Run
from nanoclaw.stopping import Living, Stopper, Unreadable, asked, group_of_run
from nanoclaw.stores.chats import Chats
from nanoclaw.stores.cursors import Cursors
from nanoclaw.stores.errands import Errands
from nanoclaw.stores.groups import make_folder
from nanoclaw.stores.held import HeldFile
from nanoclaw.stores.home import make_home
from nanoclaw.stores.journal import Journal, set_level, start_log, stop_log
from nanoclaw.stores.outbox import Outbox
from nanoclaw.stores.sessions import Sessions
from nanoclaw.stores.settings import Settings
from nanoclaw.stores.transcripts import Transcripts
from nanoclaw.turns import Turns

log = logging.getLogger("nanoclaw")

STOP_SECONDS = 4.0
PRUNE_SECONDS = 3600.0
PARALLEL_STARTS = max(2, os.cpu_count() or 2)
"""So many containers start at once: more only makes each slower (FACTS, "Start-up")."""


class Host:
    """All parts of a living host. The caller holds the home's lock. ``drain``: close what is idle at once (``run
    --once``)."""

    def __init__(self, home: Home, drain: bool = False, to_stderr: int | None = None) -> None:
        self.home = home
        self._home_id = make_home(home)
        start_log(home.logs, "info", to_stderr)  # before the settings, which may be worth a line
        try:
            self.settings = Settings(home)
        except UserError:
            stop_log()
            raise
        set_level(self.settings.config.log_level)
        self.journal = Journal(home.logs)
        locks = Locks()
        self.transcripts = Transcripts(home, locks)
        self.cursors = Cursors(home, locks)
        self.outbox = Outbox(home, locks)
        self.records = Records(home)
        chats = Chats(home, locks)
        errands = Errands(home)
        sessions = Sessions(home, locks)
        self.handover = Handover(locks, self.settings, self.transcripts, self.cursors)
        self._watcher = Watcher()
        self._run_watcher = Watcher()  # of its own: no container can deafen us to people
        self._halted = threading.Event()
        self._door = Door(self.settings, self.journal)
        self.exchange = Exchange(home, self.settings, self.outbox, self._delivery_of, self._working, self._tell_owner)
        self.office = Office(
            home=home,
            settings=self.settings,
            outbox=self.outbox,
            transcripts=self.transcripts,
            cursors=self.cursors,
            sessions=sessions,
            records=self.records,
            chats=chats,
            errands=errands,
            delivery=self.exchange.poke,
            changed=lambda folder: self.dispatcher.changed(folder),
            living=lambda folder: self._living(folder),
            close=lambda folder: self._close(folder),
            limit_of_files=self.exchange.limit_of_files,
        )
        self.scripts = ScriptDesks(self.office)
        parts = (self.settings, self.handover, self.transcripts, self.outbox, self.journal)
        self.notices = Notices(*parts, delivery=self.exchange.poke)
        self.commands = ChatCommands(self.office, self.notices, self._is_busy)
        self.stopper = Stopper(
            *(home, self.settings, self.handover, errands, self.journal),
            living=self._all_living,
            folders=self._folders,
            said=self._stop_said,
        )
        self._reception = Reception(
            *(home, self.settings, self.transcripts, chats, self.journal, self.exchange.fetch, self.commands.obey),
            changed=lambda folder: self.dispatcher.changed(folder),
            discovered=lambda: snapshots.write(home, self.settings, chats),
        )
        self.inbox = Inbox(home, lambda: self.settings.groups, self._reception.deliver)
        self._runtimes = runtimes = Runtimes()
        house = House(
            records=self.records,
            transcripts=self.transcripts,
            outbox=self.outbox,
            sessions=sessions,
            settings=self.settings,
            journal=self.journal,
            handover=self.handover,
            notices=self.notices,
            gateway=self._door.gateway,
            watcher=self._run_watcher,
            office=self.office,
            start_slots=threading.Semaphore(PARALLEL_STARTS),
            changed=self._runs_changed,
            model_said=self._door.witness.said,
            over=self._over,
            delivery=self.exchange.poke,
            settings_read=self._settings_read,
        )
        preparation = Preparation(home, self._home_id, self.settings, self.records, self._snapshots)
        held = HeldFile(home)
        self.conditions = conditions = Conditions(home, self.settings, runtimes, held.write)
        if (earlier := held.read()) is not None:
            conditions.restore(earlier, time.monotonic())
        self.dispatcher = Dispatcher(house, preparation, runtimes, conditions, drain, self._run_began)
        self._adoption = Adoption(home, self.records, errands, self.dispatcher)
        self._engine = EngineFollower(
            *(home, self._home_id, self.settings, runtimes, self.dispatcher, self._halted, self._adoption.unreadable)
        )
        self._pruning = Turns("Pruning", self._prune)
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Take up what an earlier host left, then start the threads."""
        self.outbox.load()
        self.records.remove_drafts()
        self._watcher.start()
        self._run_watcher.start()
        self._make_folders()
        self._adoption.take_up()
        for path, folder in asked(self.home):
            self.inbox.take_older(folder, path.lstat().st_mtime)  # it waits, too
        self.stopper.turns.guarded_turn()  # before anything starts
        self.exchange.start(self._reception.deliver)
        for path in (self.home.root, self.home.state, self.home.group_files, self.home.user_config):
            if path.is_dir():
                self._watcher.add(path, self._settings_touched, deletions=True)
        self._watcher.add(self.home.cursors, self._cursor_touched, deletions=True)
        log.info("Host started pid=%d groupCount=%d", os.getpid(), len(self.settings.groups))
        self.inbox.turns.guarded_turn()  # makes the groups' directories, before they are watched
        self.scripts.turns.guarded_turn()
        self._watcher.add(self.home.inbox, self.inbox.touched, recursive=True)
        self._watcher.add(self.home.ipc, self.scripts.touched, recursive=True)
        for name, turns in self._turns().items():
            self._thread(name, turns.run)
        self._engine.follow()

    def stop(self) -> None:
        """End within 5 s. Containers go on; the next host adopts them."""
        self._halted.set()
        for turns in self._turns().values():
            turns.halt()
        workers = self.dispatcher.workers()
        for worker in workers:
            worker.halt()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in [*self._threads, *workers]:
            thread.join(max(0.0, deadline - time.monotonic()))
        self.exchange.stop()
        self._watcher.stop()
        self._run_watcher.stop()
        self._door.stop()
        log.info("Host stopped pid=%d, %d container(s) go on", os.getpid(), len(workers))
        self.journal.close()
        stop_log()

    def _turns(self) -> dict[str, Turns]:
        """The threads that repeat one turn."""
        return {
            "stop": self.stopper.turns,
            "inbox": self.inbox.turns,
            "requests": self.scripts.turns,
            "dispatcher": self.dispatcher.turns,
            "pruning": self._pruning,
            "adoption": self._adoption.turns,
        }

    def _delivery_of(self, channel: Channel) -> Delivery:
        return Delivery(
            *(self.outbox, self.transcripts, channel, self.journal),
            assistant_name=lambda: self.settings.config.assistant_name,
            on_uncertain=lambda: self.settings.config.on_uncertain,
            gave_up=self.notices.gave_up,
        )

    def _working(self) -> list[str]:
        """The chats where an answer is being made now."""
        return [worker.run_record.jid for worker in self.dispatcher.workers() if worker.idle_since is None]

    def _tell_owner(self, name: str, state: State) -> None:
        text = f"Channel {name} at {datetime.now():%H:%M}: {state.name}. {state.detail}".strip()
        self.notices.tell_owner(f"channel-{name}", text)

    def _stop_said(self, folder: str, about: str, text: str) -> None:
        group = self.settings.groups.get(folder)
        if group is not None:
            self.notices.say(folder, group.jid, "stopped", text, about)

    def _all_living(self, folder: str) -> list[Living]:
        """The runs of a group, those among them whose record a person broke."""
        found: list[Living] = [*self.dispatcher.all_living(folder)]
        broken = [run_id for run_id in self._adoption.broken if group_of_run(run_id) == folder]
        with suppress(UserError):
            runtime = self._runtimes.of(self.settings.config.runtime)
            found += [Unreadable(run_id, self.records.path(run_id), runtime) for run_id in broken]
        return found

    def _folders(self) -> set[str]:
        """Of all groups that something may be done for, also where a file of theirs is broken."""
        living = {worker.folder for worker in self.dispatcher.workers()}
        broken = {group_of_run(run_id) for run_id in self._adoption.broken} - {""}
        files = {path.stem for path in self.home.group_files.glob("[!.]*.toml")}
        return living | broken | files

    def _is_busy(self, folder: str) -> bool:
        worker = self.dispatcher.living(folder)
        return worker is not None and worker.idle_since is None

    def _living(self, folder: str) -> str | None:
        worker = self.dispatcher.living(folder)
        return worker.run_record.id if worker is not None else None

    def _close(self, folder: str) -> None:
        worker = self.dispatcher.living(folder)
        if worker is not None:
            worker.close()

    def _snapshots(self, draft: Path, group: Group) -> None:
        snapshots.write_for_run(draft, self.settings, self.office.chats, group.is_main)

    def _runs_changed(self) -> None:
        self.dispatcher.turns.poke()
        self.exchange.typing.poke()

    def _run_began(self) -> None:
        self._engine.follow()
        self.exchange.typing.poke()

    def _make_folders(self) -> None:
        """A new group's folder, with its agent's CLAUDE.md, whoever registered it and however."""
        for group in self.settings.groups.values():
            name, user = self.settings.config.assistant_name, container_user(self.home)
            try:
                make_folder(self.home, group.folder, name, group.is_main, user)
            except OSError as error:
                log.error("Folder not made group=%s: %s", group.folder, error)

    def _settings_read(self) -> None:
        self._make_folders()
        self.inbox.turns.poke()
        self.scripts.turns.poke()
        self.exchange.reconcile()

    def _over(self, run: Run, verdict: Verdict) -> None:
        self._door.witness.forget(run.id)
        self.dispatcher.over(run, verdict)

    def is_settled(self) -> bool:
        """Nothing runs, nothing waits that could start now, nothing is on its way out."""
        return self.dispatcher.settled.is_set() and self.exchange.settled()

    def _cursor_touched(self, path: str) -> None:
        """By a person, perhaps: the host's own writing is known."""
        folder = os.path.basename(path).removesuffix(".json")
        if folder in self.settings.groups and self.cursors.is_foreign(folder):
            self.dispatcher.changed(folder)

    def _settings_touched(self, path: str) -> None:
        name = os.path.basename(path)
        if name.startswith("STOP"):
            self.stopper.turns.poke()
        people_s = (".env", self.home.sender_allowlist.name, self.home.mount_allowlist.name)
        if name in people_s or (name.endswith(".toml") and not name.startswith(".")):
            self.dispatcher.settings_changed()

    def _prune(self) -> float:
        removed = self.records.prune(self.settings.config.keep_runs, time.time())
        if removed:
            log.info("Removed the records of %d run(s) older than keep_runs", len(removed))
        return PRUNE_SECONDS

    def _thread(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
