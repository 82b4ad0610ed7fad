"""The host: the one place that builds the parts, starts the threads and stops them. It wires, it does not work."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanoclaw.channels.base import Channel
from nanoclaw.channels.local import LocalChannel
from nanoclaw.conditions import Conditions
from nanoclaw.config.templates import CONFIG_TEMPLATE, GROUP_TEMPLATE
from nanoclaw.delivery import Delivery
from nanoclaw.dispatcher import Dispatcher
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import BrokenFile, read_json, write_bytes, write_json
from nanoclaw.files.locks import Locks
from nanoclaw.files.watch import Watcher
from nanoclaw.gateway.gateway import Gateway
from nanoclaw.gateway.offline import OfflineModel
from nanoclaw.handover import Handover
from nanoclaw.house import House
from nanoclaw.inbox import Inbox
from nanoclaw.models import Message
from nanoclaw.paths import Home
from nanoclaw.runs.judge import Verdict
from nanoclaw.runs.launch import Preparation, Runtimes
from nanoclaw.runs.records import Records, Run
from nanoclaw.runs.runtime import Runtime
from nanoclaw.stores.chats import Chats
from nanoclaw.stores.cursors import Cursors
from nanoclaw.stores.journal import Journal, set_level, start_log, stop_log
from nanoclaw.stores.outbox import Outbox
from nanoclaw.stores.sessions import Sessions
from nanoclaw.stores.settings import Settings
from nanoclaw.stores.transcripts import Transcripts
from nanoclaw.turns import Turns

log = logging.getLogger("nanoclaw")

STOP_SECONDS = 4.0
ORPHAN_SECONDS = 60.0
REFUSALS_LOGGED = 20
PRUNE_SECONDS = 3600.0
PARALLEL_STARTS = max(2, os.cpu_count() or 2)
"""So many containers start at once: more only makes each slower (FACTS, "Start-up")."""


def make_home(home: Home) -> str:
    """Make what a home needs (the first start), and return its uuid. Nothing that is there is changed."""
    fresh = not home.group_files.exists()
    for path in (
        *(home.state, home.group_files, home.inbox, home.messages, home.cursors, home.sessions, home.runs),
        *(home.outbox, home.ipc / "errors", home.gateway, home.local, home.logs),
    ):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    (home.groups / "global").mkdir(parents=True, exist_ok=True)
    if not home.config_file.exists():
        write_bytes(home.config_file, CONFIG_TEMPLATE.encode())
    if fresh:
        write_bytes(home.group_file("main"), GROUP_TEMPLATE.encode())
    identity = home.state / "home.json"
    value = read_json(identity)
    if value is None:
        value = {"id": str(uuid.uuid4())}
        write_json(identity, value)
    return str(value["id"])


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
        self._chats = Chats(home, locks)
        self.handover = Handover(locks, self.settings, self.transcripts, self.cursors)
        self._offline = OfflineModel()
        self._offline_url: str | None = None
        self._watcher = Watcher()
        self._run_watcher = Watcher()  # of its own: no container can deafen us to people
        self._next_orphans = 0.0
        self._model_said: dict[str, Counter[int]] = {}
        self._gateway = Gateway(lambda: self.settings.environment, self._upstream, self._called)
        self.channels: dict[str, Channel] = {LocalChannel.prefix: LocalChannel(home.local)}
        name = lambda: self.settings.config.assistant_name  # noqa: E731
        self.delivery = Delivery(self.outbox, self.transcripts, self.channels, self.journal, name)
        self.inbox = Inbox(home, lambda: self.settings.groups, self.deliver)
        runtimes = Runtimes()
        house = House(
            records=self.records,
            transcripts=self.transcripts,
            outbox=self.outbox,
            sessions=Sessions(home, locks),
            settings=self.settings,
            journal=self.journal,
            handover=self.handover,
            gateway=self._gateway,
            watcher=self._run_watcher,
            start_slots=threading.Semaphore(PARALLEL_STARTS),
            changed=lambda: self.dispatcher.turns.poke(),
            model_said=lambda run_id, status: status in self._model_said.get(run_id, ()),
            tell=lambda run, verdict, used_up: self.dispatcher.tell(run, verdict, used_up),
            over=self._over,
            delivery=self.delivery.turns.poke,
            settings_read=self.inbox.turns.poke,
        )
        preparation = Preparation(home, self._home_id, self.settings, self.records)
        conditions = Conditions(home, self.settings, runtimes)
        self.dispatcher = Dispatcher(house, preparation, runtimes, conditions, drain, self._follow_engine)
        self._runtimes = runtimes
        self._pruning = Turns("Pruning", self._prune)
        self._halted = threading.Event()
        self._threads: list[threading.Thread] = []
        self._following: set[str] = set()

    def start(self) -> None:
        """Take up what an earlier host left, then start the threads."""
        self.outbox.load()
        self.records.remove_drafts()
        self._watcher.start()
        self._run_watcher.start()
        for channel in self.channels.values():
            channel.start(self.deliver)
            log.info("Connected channel=%s", channel.prefix.rstrip(":"))
        self._adopt()
        self._watcher.add(self.home.inbox, lambda path: self.inbox.turns.poke(), recursive=True)
        for path in (self.home.root, self.home.state, self.home.group_files):
            self._watcher.add(path, self._settings_touched, deletions=True)
        log.info("Host started pid=%d groupCount=%d", os.getpid(), len(self.settings.groups))
        self.inbox.turns.guarded_turn()
        for name, part in (("delivery", self.delivery), ("inbox", self.inbox), ("dispatcher", self.dispatcher)):
            self._thread(name, part.turns.run)
        self._thread("pruning", self._pruning.run)
        self._follow_engine()

    def stop(self) -> None:
        """End within 5 s. Containers go on; the next host adopts them."""
        self._halted.set()
        for turns in (self.dispatcher.turns, self.inbox.turns, self.delivery.turns, self._pruning):
            turns.halt()
        workers = self.dispatcher.workers()
        for worker in workers:
            worker.halt()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in [*self._threads, *workers]:
            thread.join(max(0.0, deadline - time.monotonic()))
        for channel in self.channels.values():
            channel.stop()
        self._watcher.stop()
        self._run_watcher.stop()
        self._gateway.shutdown()
        if self._offline_url is not None:
            self._offline.stop()
        log.info("Host stopped pid=%d, %d container(s) go on", os.getpid(), len(workers))
        self.journal.close()
        stop_log()

    def deliver(self, message: Message, chat_name: str) -> None:
        """A message came in on a channel: it is durable when this returns. Settings saved before it hold for it."""
        self.settings.refresh()
        group = self.settings.group_of(message.jid)
        line = self.transcripts.append(message) if group is not None else None
        if group is not None and line is not None:
            log.info("New messages group=%s seq=%d", group.folder, line.seq)
            self.journal.event("received", folder=group.folder, message=message.id, seq=line.seq)
        elif group is not None:
            log.info("Message stored already, not again group=%s id=%s", group.folder, message.id)
        if group is not None:  # a duplicate, too: the first one may have been stored as the disk failed
            self.dispatcher.changed(group.folder)
        self._chats.saw(message.jid, chat_name, message.jid.partition(":")[0], message.timestamp)

    def _over(self, run: Run, verdict: Verdict) -> None:
        self._model_said.pop(run.id, None)
        self.dispatcher.over(run, verdict)

    def is_settled(self) -> bool:
        """Nothing runs, nothing waits that could start now, nothing is on its way out."""
        return self.dispatcher.settled.is_set() and not self.outbox.heads()

    def _adopt(self) -> None:
        for run_id in self.records.ids():
            try:
                run = self.records.load(run_id)
            except (BrokenFile, FileNotFoundError) as error:
                log.error("Run record unreadable, left alone: %s", error)
                continue
            if run.status != "judged":
                log.info("Adopting run=%s status=%s", run.id, run.status)
                try:
                    self.dispatcher.adopt(run)
                except UserError as error:  # its engine's command is gone: no reason to serve nobody
                    log.error("Run not adopted, left alone run=%s: %s", run.id, error)
        sockets = {Path(worker.run_record.socket).parent.name for worker in self.dispatcher.workers()}
        for path in self.home.gateway.iterdir():
            if path.name not in sockets:
                shutil.rmtree(path, ignore_errors=True)  # of a run that is over: a crash left it

    def _settings_touched(self, path: str) -> None:
        name = os.path.basename(path)
        if name == ".env" or (name.endswith(".toml") and not name.startswith(".")):
            self.dispatcher.settings_changed()

    def _upstream(self) -> str | None:
        if not self.settings.config.offline:
            return None
        if self._offline_url is None:
            self._offline_url = self._offline.start()
        return self._offline_url

    def _called(self, run_id: str, kind: str, details: dict[str, Any]) -> None:
        said = self._model_said.setdefault(run_id, Counter())
        said[details["status"]] += 1
        if details["reason"] is not None and said[details["status"]] > REFUSALS_LOGGED:
            return  # a container may knock at its door a thousand times a second
        self.journal.event("model", run=run_id, **details)

    def _follow_engine(self) -> None:
        """Hear of containers that end, after those were removed that belong to no living run."""
        name = self.settings.config.runtime
        if name in self._following:
            return
        try:
            runtime = self._runtimes.of(name)
        except UserError:
            return  # not installed: asked again at the first run
        self._following.add(name)

        def ended(name: str | None) -> None:
            if name is None:  # the engine may have been away, and what it did meanwhile nobody saw
                self._remove_orphans(runtime)
            self.dispatcher.container_ended(name)

        def follow() -> None:
            self._remove_orphans(runtime)
            runtime.follow(self._home_id, ended, self._halted)

        self._thread(f"{name} events", follow)

    def _remove_orphans(self, runtime: Runtime) -> None:
        """An earlier host's containers whose run is judged or gone can answer nobody."""
        if time.monotonic() < self._next_orphans:
            return
        self._next_orphans = time.monotonic() + ORPHAN_SECONDS
        names = runtime.names(self._home_id) or []  # no answer: asked again when the engine is back
        ours = {worker.run_record.container for worker in self.dispatcher.workers()}
        for name in names:
            if name not in ours:
                log.warning("Removing a container without a run: %s", name)
                runtime.stop(name, None, 0.0)
                runtime.clean_up(self.home.logs, name)

    def _prune(self) -> float:
        removed = self.records.prune(self.settings.config.keep_runs, time.time())
        if removed:
            log.info("Removed the records of %d run(s) older than keep_runs", len(removed))
        return PRUNE_SECONDS

    def _thread(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()


def write_host_file(home: Home, mode: str) -> None:
    """Who is the host, for messages to people; the flock decides."""
    started = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    write_json(home.state / "host.json", {"pid": os.getpid(), "mode": mode, "started": started})


def read_host_file(home: Home) -> dict[str, Any]:
    """What the last host said of itself; empty where there is nothing."""
    try:
        return dict(json.loads((home.state / "host.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}
