"""Who is the host of a home: one process at a time holds a flock on the state/ directory itself (a lock *file* can be
removed and taken twice). The commands take it; a host is handed a home whose lock is held."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import ExitStack
from pathlib import Path

LOOK_SECONDS = 0.05


class HomeLock:
    """The flock that makes this process the host of a home."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._fd: int | None = None

    def acquire(self, blocking: bool = False, patient: bool = True) -> bool:
        """True when held. The kernel gives it back when the process ends, however it ends. Not ``patient``: no second
        look, for who asks again anyway."""
        with ExitStack() as unless_held:
            fd = os.open(self._state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            unless_held.callback(os.close, fd)
            if not (_flock(fd, blocking) or (patient and _flock_again(fd))):
                return False
            unless_held.pop_all()
            self._fd = fd
            return True

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _flock(fd: int, blocking: bool) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
        return True
    except BlockingIOError:
        return False


def _flock_again(fd: int) -> bool:
    """doctor takes a shared lock for an instant to see whether a host lives: that must refuse nobody."""
    time.sleep(LOOK_SECONDS)
    return _flock(fd, blocking=False)
