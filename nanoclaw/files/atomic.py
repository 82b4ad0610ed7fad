"""A file appears whole or not at all.

Every file that the host replaces goes through :func:`replacing`: temporary dotfile beside it, fsync, rename, fsync of
the directory. Limits: the directory must be one that only the host and its owner can write (see ``untrusted`` for
others).
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nanoclaw.errors import UserError
from nanoclaw.files.stamps import Stamp, stamp_of

SETTLE_SECONDS = 0.3
"""A file that does not parse and changed less than this ago may be half-saved by an editor (ARCHITECTURE 1)."""


BROKEN_FIX = "Mend the file, or move it away; nothing is written to it meanwhile."


class BrokenFile(UserError):
    """A state file that does not parse: it is never overwritten, a person must mend or delete it."""

    def __init__(self, path: Path, line: int, what: str) -> None:
        where = f"{path}:{line}" if line else str(path)
        super().__init__(f"{where}: {what}", BROKEN_FIX)
        self.path = path


def why_unreadable(error: Exception) -> str:
    """What kept a state file from being read, as a sentence for people."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fspath(error.filename)}: cannot be read ({error.strerror}). Look at its owner and its mode."
    return f"{error.problem}. {error.fix}" if isinstance(error, BrokenFile) else str(error)


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def replacing(path: Path, mode: int = 0o600, durable: bool = True, synced: bool = True) -> Iterator[BinaryIO]:
    """Yield a draft to write to; it becomes ``path`` when the block ends well, and vanishes when it does not.

    ``durable=False`` leaves out the directory's fsync, for callers that make several names durable at once;
    ``synced=False`` the file's, for what may be lost with the machine's power.
    """
    draft_path = path.with_name(f".{path.name[:40]}.{os.getpid()}.{time.monotonic_ns()}")  # never too long
    fd = os.open(draft_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as draft:
            os.fchmod(fd, mode)
            yield draft
            draft.flush()
            if synced:
                os.fsync(fd)
        os.rename(draft_path, path)
    except BaseException:
        draft_path.unlink(missing_ok=True)
        raise
    if durable:
        fsync_directory(path.parent)


def write_bytes(path: Path, data: bytes, mode: int = 0o600, durable: bool = True) -> None:
    """Replace a file's content whole."""
    with replacing(path, mode, durable) as draft:
        draft.write(data)


def write_plain(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a new file into a draft directory, which appears whole by its own rename. Not durable: what no restart
    reads."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, mode)
        file.write(data)


def write_volatile(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file whole, without waiting for the disk: what may be lost with the machine's power."""
    with replacing(path, mode, durable=False, synced=False) as draft:
        draft.write(data)


def json_bytes(value: Any) -> bytes:
    """JSON in a form that people can read and diff. What UTF-8 cannot hold becomes ``?``."""
    return json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8", "replace") + b"\n"


def write_json(path: Path, value: Any, mode: int = 0o600, durable: bool = True) -> None:
    """Replace a JSON file whole."""
    write_bytes(path, json_bytes(value), mode, durable)


def parse_object(path: Path, data: bytes) -> dict[str, Any]:
    """Parse the JSON object that a file must hold; raises BrokenFile with the line."""
    try:
        value = json.loads(data)
    except UnicodeDecodeError as error:
        raise BrokenFile(path, data.count(b"\n", 0, error.start) + 1, "not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise BrokenFile(path, error.lineno, f"not valid JSON ({error.msg})") from None
    except RecursionError:
        raise BrokenFile(path, 0, "nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits
        raise BrokenFile(path, 0, f"not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise BrokenFile(path, 1, "expected a JSON object {…}")
    return value


def read_bytes(path: Path) -> bytes:
    """The content of a file of the host's, also behind a link; raises BrokenFile for what is no file, OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise BrokenFile(path, 0, "not a regular file") from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BrokenFile(path, 0, "not a regular file")
    with os.fdopen(fd, "rb") as file:
        return file.read()


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file of the host's, None where there is no file; raises BrokenFile, OSError."""
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        return None
    return parse_object(path, data)


@dataclass
class _Seen:
    stamp: Stamp
    value: dict[str, Any] | None
    broken: BrokenFile | None


class JsonFile:
    """A JSON file of the host's that a person may edit: re-read when it changed, never overwritten when broken.

    Not thread-safe: its owner calls it under a lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: _Seen | None = None

    def read(self) -> dict[str, Any] | None:
        """The current content (None: no file). While the file is broken: the last good content; BrokenFile if none."""
        stamp = stamp_of(self.path)
        seen = self._seen
        if seen is None or seen.stamp != stamp:
            try:
                value, broken = read_json(self.path), None
            except BrokenFile as error:
                value, broken = (seen.value if seen else None), error
            seen = self._seen = _Seen(stamp, value, broken)
        if seen.broken is not None and seen.value is None:
            raise seen.broken
        return seen.value

    @property
    def broken(self) -> BrokenFile | None:
        """What is wrong with the file as it stands, after the last read."""
        return self._seen.broken if self._seen else None

    def write(self, value: dict[str, Any]) -> None:
        """Replace the content; raises BrokenFile if what stands there now does not parse."""
        if self._seen is None or self._seen.stamp != stamp_of(self.path):
            self.read()
        if self.broken is not None:
            raise self.broken
        write_json(self.path, value)
        self._seen = _Seen(stamp_of(self.path), value, None)
