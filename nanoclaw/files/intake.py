"""Directories where people and scripts drop files: which files are ready to be read, which can never be.

A file is ready when nobody has it open for writing. Linux tells (a read lease is refused while a writer exists);
elsewhere, and where leases do not work, the file must have been left alone for a moment.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from pathlib import Path

from nanoclaw.files.atomic import SETTLE_SECONDS

EMPTY_SECONDS = 5.0
"""So long an empty or half-written file may wait for its content before it is refused."""


class NotReady(Exception):
    """Somebody still writes it: look again later."""


class Unusable(Exception):
    """It can never be read as a message; the text says why."""


def is_candidate(name: str) -> bool:
    """Dotfiles and editors' backups are never read."""
    return not (name.startswith(".") or name.endswith(("~", ".tmp", ".swp", ".part")))


def read_settled(path: Path, limit: int, now: float) -> tuple[bytes, os.stat_result]:
    """The content of a dropped file and its status. ``now``: Unix time in s. Raises NotReady, Unusable,
    FileNotFoundError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise Unusable(f"cannot be opened as a file ({error.strerror})") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Unusable("not a regular file")
        age = now - status.st_mtime
        if not _has_no_writer(fd, age):
            raise NotReady
        if status.st_size > limit:
            raise Unusable(f"larger than {limit // 1000} kB")
        if status.st_size == 0:
            if 0 <= age < EMPTY_SECONDS:
                raise NotReady
            raise Unusable("empty")
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read(limit + 1)[:limit], status
    finally:
        os.close(fd)


def _has_no_writer(fd: int, age: float) -> bool:
    if hasattr(fcntl, "F_SETLEASE"):
        try:
            # A lease that is broken while we hold it sends a signal: SIGIO would end the process, SIGURG is ignored.
            fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            return True
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return False
    return not 0 <= age < SETTLE_SECONDS
