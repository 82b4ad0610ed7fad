"""The parts that the worker of a run works with, handed over as one value."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from nanoclaw.files.watch import Watcher
from nanoclaw.gateway.gateway import Gateway
from nanoclaw.handover import Handover
from nanoclaw.ipc.handlers import Office
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
    busy), ``settings_read`` (groups or settings may be different now), ``model_said`` (did the gateway see this
    status answered to that run? what a container says of it is not believed), ``tell`` (the chat must know how a
    run ended; the bool: its retries are used up), ``over`` (a run, by id, is judged: its slot is free)."""

    records: Records
    transcripts: Transcripts
    outbox: Outbox
    sessions: Sessions
    settings: Settings
    journal: Journal
    handover: Handover
    gateway: Gateway
    watcher: Watcher
    office: Office
    start_slots: threading.Semaphore
    delivery: Callable[[], None]
    changed: Callable[[], None]
    settings_read: Callable[[], None]
    model_said: Callable[[str, int], bool]
    tell: Callable[[Run, Verdict, bool], None]
    over: Callable[[Run, Verdict], None]


def utc_now() -> str:
    """The time for a record: UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
