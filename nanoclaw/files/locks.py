"""All locks of the host, and their order.

One process is the host of a home at a time (`home_lock.py`). Inside it, threads take these locks in the order of
``ORDER``, left to right, never the other way round; no subprocess and no network under any of them.

Settings that people write are guarded between processes by :func:`editing`, which is taken outside of all others.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nanoclaw.errors import UserError

ORDER = ("config", "task", "run", "cursor", "chat", "outbox", "journal", "chats")


def is_locked(path: Path) -> bool:
    """Does anybody hold the flock on this file or directory? False where there is none. Looked at by a shared lock, so
    that two who look do not see each other."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


@contextmanager
def editing(path: Path, wait: float = 5.0) -> Iterator[None]:
    """Be the one who changes ``path`` (a file, or a directory of files), among all processes and threads; its directory
    must exist. UserError after ``wait`` s: it says who does. Not reentrant. An editor may run under a file's lock;
    where both are taken, a file's comes before its directory's."""
    from filelock import FileLock, Timeout  # 60 ms that most commands do not need

    lock = path.with_name(f".{path.name}.lock")
    try:
        with FileLock(lock, timeout=wait, mode=0o600):
            with suppress(OSError):  # a full disk: nobody learns who, but the lock holds
                lock.write_text(str(os.getpid()))
            yield
    except Timeout:
        pid = lock.read_text().strip() or "?"
        raise UserError(f"{path} is being edited by pid {pid}.", "Finish there first, then try again.") from None


class Locks:
    """A registry of named thread locks that refuses to be taken against ``ORDER``."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[tuple[str, str], threading.RLock] = {}
        self._held = threading.local()

    @contextmanager
    def hold(self, kind: str, name: str = "") -> Iterator[None]:
        """Hold the lock ``kind``/``name``; the same thread may take it again. RuntimeError: against the order."""
        rank = ORDER.index(kind)
        held: list[tuple[int, str]] = self._held.__dict__.setdefault("ranks", [])
        if held and held[-1][0] > rank:
            raise RuntimeError(f"lock {kind!r} taken while holding {ORDER[held[-1][0]]!r}")
        if held and held[-1][0] == rank and held[-1][1] != name:
            raise RuntimeError(f"two {kind!r} locks at once: {held[-1][1]!r} and {name!r}")
        with self._guard:
            lock = self._locks.setdefault((kind, name), threading.RLock())
        with lock:
            held.append((rank, name))
            try:
                yield
            finally:
                held.pop()
