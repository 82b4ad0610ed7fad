"""The parts that the worker of a run works with, handed over as one value."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from nanoclaw.files.watch import Watcher
from nanoclaw.gateway.gateway import Gateway
from nanoclaw.gateway.witness import Failure
from nanoclaw.handover import Handover
from nanoclaw.ipc.handlers import Office
from nanoclaw.notices import Notices
from nanoclaw.runs.judge import Verdict
from nanoclaw.runs.records import Records, Run
from nanoclaw.stores.journal import Journal
from nanoclaw.stores.outbox import Outbox
from nanoclaw.stores.sessions import Sessions
from nanoclaw.stores.settings import Settings
from nanoclaw.stores.transcripts import Transcripts


@dataclass(frozen=True)
class House:
    """``office``: what requests of agents are done with. ``start_slots`` bounds how many containers start at once.
    What a worker may set off in others: ``delivery`` (the outbox has news), ``changed`` (a run became idle or
    busy), ``settings_read`` (groups or settings may be different now), ``model_said`` (what the gateway
    saw of a failed call of that run, with this status, or the last one that no success followed: what a container says
    of it is not believed), ``over`` (a run is judged: its slot is
    free)."""

    records: Records
    transcripts: Transcripts
    outbox: Outbox
    sessions: Sessions
    settings: Settings
    journal: Journal
    handover: Handover
    notices: Notices
    gateway: Gateway
    watcher: Watcher
    office: Office
    start_slots: threading.Semaphore
    delivery: Callable[[], None]
    changed: Callable[[], None]
    settings_read: Callable[[], None]
    model_said: Callable[[str, int | None], Failure | None]
    over: Callable[[Run, Verdict], None]
