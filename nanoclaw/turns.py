"""A thread is one turn, repeated: the loop that the host's threads share (ARCHITECTURE 16)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from nanoclaw.errors import UserError

log = logging.getLogger("nanoclaw")

HELD_UP_SECONDS = 5.0
RESCAN_SECONDS = 30.0
RESCAN_AT_MOST = 120.0
RESCAN_SHARE = 1 / 2000


def until_rescan(began: float) -> float:
    """Seconds until a look at everything that began at monotonic time ``began`` is repeated: 30, or, where there are
    many groups, so long (120 at most) that it takes 1/2,000 of a thread's time."""
    return min(max(RESCAN_SECONDS, (time.monotonic() - began) / RESCAN_SHARE), RESCAN_AT_MOST)


class Turns:
    """Calls ``turn`` again and again: after the seconds that it returned, or at once when poked. A turn that fails
    (a full disk, a file that a person broke, a bug) is logged, once an episode, and tried again after 5 s: what
    waits is on disk."""

    def __init__(self, name: str, turn: Callable[[], float]) -> None:
        self._name = name
        self._turn = turn
        self._poked = threading.Event()
        self._halted = False
        self._held_up_by: object = None

    def poke(self) -> None:
        """Let the next turn come at once. Any thread."""
        self._poked.set()

    def halt(self) -> None:
        """Let ``run`` return after the turn that runs now."""
        self._halted = True
        self._poked.set()

    @property
    def halted(self) -> bool:
        return self._halted

    def run(self) -> None:
        while not self._halted:
            self._poked.clear()
            wait = self.guarded_turn()
            if not self._halted:
                self._poked.wait(wait)

    def guarded_turn(self) -> float:
        try:
            wait = self._turn()
        except (OSError, UserError) as error:
            # By its number, because the text may name a draft file, which is another each time.
            kind = (type(error), getattr(error, "errno", None) or str(error))
            if kind != self._held_up_by:
                log.error("%s held up: %s", self._name, error)
            self._held_up_by = kind
        except Exception:
            log.exception("%s held up by a bug", self._name)
        else:
            if self._held_up_by is not None:
                log.info("%s goes on", self._name)
            self._held_up_by = None
            return wait
        return HELD_UP_SECONDS
