"""What a host takes up that an earlier one left: runs without a verdict, errands, sockets."""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from pathlib import Path

from nanoclaw.dispatcher import Dispatcher
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import BrokenFile
from nanoclaw.paths import Home
from nanoclaw.runs.records import Records
from nanoclaw.stores.errands import Errands

log = logging.getLogger("nanoclaw")


def load_errands(errands: Errands, records: Records) -> None:
    """Those that a run has claimed were left by a crash."""
    errands.load()
    waiting = {errand.id for errand in errands.all()}
    for run_id in records.ids() if waiting else []:
        with suppress(BrokenFile, FileNotFoundError):
            if (claimed := records.load(run_id).errand) in waiting:
                errands.remove(str(claimed))


def adopt(home: Home, records: Records, dispatcher: Dispatcher) -> None:
    """Every run that is not judged gets a worker again."""
    for run_id in records.ids():
        try:
            run = records.load(run_id)
        except (BrokenFile, FileNotFoundError) as error:
            log.error("Run record unreadable, left alone: %s", error)
            continue
        if run.status != "judged":
            log.info("Adopting run=%s status=%s", run.id, run.status)
            try:
                dispatcher.adopt(run)
            except UserError as error:  # its engine's command is gone: no reason to serve nobody
                log.error("Run not adopted, left alone run=%s: %s", run.id, error)
    sockets = {Path(worker.run_record.socket).parent.name for worker in dispatcher.workers()}
    for path in home.gateway.iterdir():
        if path.name not in sockets:
            shutil.rmtree(path, ignore_errors=True)  # of a run that is over: a crash left it
