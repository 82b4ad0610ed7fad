"""Reading what a container wrote. The only door from container-writable directories into the host (ARCHITECTURE 8).

Everything goes by descriptor: the directory is opened once without following a link, files are opened relative to it
without following a link and without blocking (a FIFO has no writer to wait for), and only a regular file with one
link and of a bounded size is read. Limits: it never writes, and it reads a file that changes meanwhile as it finds
it.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Refused(Exception):
    """What was found is not what may be read; the text says why, without quoting its content."""


@contextmanager
def directory(path: Path) -> Iterator[int]:
    """A descriptor of a directory whose last component is no link; raises Refused, FileNotFoundError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:
        raise Refused(f"{path.name} is not a directory") from None
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise Refused(f"{path.name}: {error.strerror}") from None
    try:
        yield fd
    finally:
        os.close(fd)


def read_bytes(directory_fd: int, name: str, limit: int) -> bytes:
    """The content of a regular file of at most ``limit`` bytes; raises Refused, FileNotFoundError."""
    try:
        fd = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, dir_fd=directory_fd
        )
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Refused(f"cannot be opened as a file ({error.strerror})") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Refused("not a regular file")
        if status.st_nlink != 1:
            raise Refused("a file with several links")
        if status.st_size > limit:
            raise Refused(f"larger than {limit} bytes")
        chunks: list[bytes] = []
        left = limit + 1
        while left > 0 and (chunk := os.read(fd, min(left, 1 << 20))):
            chunks.append(chunk)
            left -= len(chunk)
        if left == 0:
            raise Refused(f"larger than {limit} bytes")
        return b"".join(chunks)
    finally:
        os.close(fd)


def read_object(directory_fd: int, name: str, limit: int) -> dict[str, Any]:
    """The JSON object in a file; raises Refused, FileNotFoundError."""
    data = read_bytes(directory_fd, name, limit)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise Refused("not valid JSON") from None
    if not isinstance(value, dict):
        raise Refused("not a JSON object")
    return value
