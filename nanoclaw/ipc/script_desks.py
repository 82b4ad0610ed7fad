"""The scripts' side of the requests, ``state/ipc/<folder>/`` of every group, on one thread. (Agents'
requests are taken by the worker of their run.)"""

from __future__ import annotations

import logging
import time

from nanoclaw.ipc import snapshots
from nanoclaw.ipc.desk import KINDS, Desk
from nanoclaw.ipc.office import Office
from nanoclaw.ipc.policy import Asker
from nanoclaw.models import Group
from nanoclaw.rounds import Rounds
from nanoclaw.turns import HELD_UP_SECONDS, Turns

log = logging.getLogger("nanoclaw")


class ScriptDesks:
    """``turn`` takes what is ready. ``turns`` repeats it on a thread. ``touched``: a path below state/ipc changed."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._home = office.home
        self._desks: dict[str, Desk] = {}
        self._known: dict[str, Group] | None = None
        self._rounds = Rounds(self._home.ipc, KINDS)
        self.turns = Turns("Requests", lambda: self.turn(time.time()))

    def touched(self, path: str) -> None:
        """A path below state/ipc/ changed. Any thread."""
        if self._rounds.touched(path):
            self.turns.poke()

    def turn(self, now: float) -> float:
        """Take every request that is ready at Unix time ``now``; returns the seconds after which to look again."""
        self._office.settings.refresh("")  # a group may have come or gone
        groups = self._office.settings.groups
        for folder in self._rounds.due(groups, now):
            try:
                again = self._desk(folder).turn(now)
            except OSError as error:  # of one group: the others' requests go on
                log.error("Requests held up group=%s: %s", folder, error)
                again = HELD_UP_SECONDS
            if again is not None:
                self._rounds.again(folder, now + again)
        if groups is not self._known:
            self._known = groups
            snapshots.write(self._home, self._office.settings, self._office.chats)
        return self._rounds.wait(now)

    def take_one(self, folder: str) -> None:
        """For a command, when no host lives: what waits of one group, once."""
        self._desk(folder).turn(time.time())

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
