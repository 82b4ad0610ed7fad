"""What a host takes up that an earlier one left: runs without a verdict, errands, sockets; and, later, those whose
file a person broke and has mended since."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from nanoclaw.dispatcher import Dispatcher
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import BrokenFile
from nanoclaw.paths import Home
from nanoclaw.runs.records import Records
from nanoclaw.stores.errands import Errands
from nanoclaw.turns import RESCAN_SECONDS, Turns

log = logging.getLogger("nanoclaw")


class Adoption:
    """``take_up`` once, before anything starts; then ``turns`` looks again at what was broken."""

    def __init__(self, home: Home, records: Records, errands: Errands, dispatcher: Dispatcher) -> None:
        self._home = home
        self._records = records
        self._errands = errands
        self._dispatcher = dispatcher
        self.broken: dict[str, str] = {}
        """Runs whose record cannot be read, and why."""
        self.turns = Turns("Adoption", self.turn)

    def take_up(self) -> None:
        """Every run that is not judged gets a worker again."""
        self._errands.load()
        waiting = {errand.id for errand in self._errands.all()}
        for run_id in self._records.ids():
            self._adopt(run_id, waiting)
        sockets = {Path(worker.run_record.socket).parent.name for worker in self._dispatcher.workers()}
        for path in self._home.gateway.iterdir() if not self.broken else ():
            if path.name not in sockets:
                shutil.rmtree(path, ignore_errors=True)  # of a run that is over: a crash left it

    def turn(self) -> float:
        """Look again at the records that could not be read; returns the seconds until the next look."""
        for run_id in list(self.broken):
            self._adopt(run_id, set())
        self._errands.load()
        return RESCAN_SECONDS

    def unreadable(self) -> set[str]:
        """The containers of runs whose record cannot be read: perhaps they live, and nobody else's they are."""
        return {f"nanoclaw-{run_id}" for run_id in self.broken}

    def _adopt(self, run_id: str, errands: set[str]) -> None:
        try:
            run = self._records.load(run_id)
        except FileNotFoundError:
            return
        except BrokenFile as error:
            if self.broken.get(run_id) != str(error):
                log.error("Run record unreadable, left alone: %s", error)
            self.broken[run_id] = str(error)
            return
        self.broken.pop(run_id, None)
        if run.errand in errands:  # claimed: a crash left the file
            self._errands.remove(str(run.errand))
        if run.status != "judged":
            log.info("Adopting run=%s status=%s", run.id, run.status)
            try:
                self._dispatcher.adopt(run)
            except UserError as error:  # its engine's command is gone: no reason to serve nobody
                log.error("Run not adopted, left alone run=%s: %s", run.id, error)
