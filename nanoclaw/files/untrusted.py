"""Reading what a container wrote. The only door from container-writable directories into the host (ARCHITECTURE 8).

Everything goes by descriptor: the directory is opened once without following a link, files are opened relative to it
without following a link and without blocking (a FIFO has no writer to wait for), and only a regular file with one
link and of a bounded size is read. What is written there (a person's attachment) is a new file in a directory that is
no link. Limits: a file that changes meanwhile is read as it is found.
"""

from __future__ import annotations

import itertools
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO


class Refused(Exception):
    """What was found is not what may be read; the text says why, without quoting its content."""


def _open(name: Path | str, flags: int, whose: str, dir_fd: int | None = None) -> int:
    """A descriptor of what is no link; raises Refused (``whose``: how its text begins), FileNotFoundError."""
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=dir_fd)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Refused(f"{whose} ({error.strerror})") from None


@contextmanager
def directory(path: Path, within: int | None = None) -> Iterator[int]:
    """A descriptor of a directory whose last component is no link (``within``: relative to that descriptor); raises
    Refused, FileNotFoundError."""
    fd = _open(path, os.O_DIRECTORY, f"{path.name} cannot be opened as a directory", within)
    try:
        yield fd
    finally:
        os.close(fd)


def _open_file(directory_fd: int, name: str, limit: int) -> int:
    fd = _open(name, os.O_NONBLOCK | os.O_NOCTTY, "cannot be opened as a file", directory_fd)
    status = os.fstat(fd)
    why = (
        ("not a regular file" if not stat.S_ISREG(status.st_mode) else "")
        or ("a file with several links" if status.st_nlink != 1 else "")
        or (f"larger than {limit} bytes" if status.st_size > limit else "")
    )
    if why:
        os.close(fd)
        raise Refused(why)
    return fd


def _pieces(directory_fd: int, name: str, limit: int) -> Iterator[bytes]:
    fd = _open_file(directory_fd, name, limit)
    try:
        left = limit
        while piece := os.read(fd, 1 << 20):
            left -= len(piece)
            if left < 0:
                raise Refused(f"larger than {limit} bytes")
            yield piece
    finally:
        os.close(fd)


def read_bytes(directory_fd: int, name: str, limit: int) -> bytes:
    """The content of a regular file of at most ``limit`` bytes; raises Refused, FileNotFoundError."""
    return b"".join(_pieces(directory_fd, name, limit))


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


LISTED = 5000
"""So many entries of a directory are looked at in one go: a container that makes millions holds up nobody else."""


def entries(directory_fd: int) -> list[tuple[str, os.stat_result]]:
    """Names and (not followed) status of what lies in a directory, the oldest first; at most ``LISTED``. Names that are
    no UTF-8 come with surrogate escapes."""
    found: list[tuple[str, os.stat_result]] = []
    with os.scandir(directory_fd) as listing:
        for entry in itertools.islice(listing, LISTED):
            try:
                found.append((entry.name, entry.stat(follow_symlinks=False)))
            except OSError:
                continue
    return sorted(found, key=lambda pair: (pair[1].st_mtime_ns, pair[0]))


@contextmanager
def _below(root: Path, names: Sequence[str], make: bool, user: tuple[int, int] | None) -> Iterator[int]:
    """A descriptor of ``root/names…``, no component of which is a link."""
    with directory(root) as fd:
        at = os.dup(fd)
    try:
        for name in names:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=at)
                    if user is not None and os.getuid() == 0:
                        os.chown(name, *user, dir_fd=at, follow_symlinks=False)
            deeper = _open(name, os.O_DIRECTORY, f"{name} cannot be opened as a directory", at)
            os.close(at)  # one at a time: a container may nest them thousands deep
            at = deeper
        yield at
    finally:
        os.close(at)


def copy_out(root: Path, relative: str, limit: int, target: BinaryIO) -> None:
    """Copy the regular file ``root/relative`` (at most ``limit`` bytes) to ``target``; raises Refused,
    FileNotFoundError."""
    parts = [part for part in relative.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in relative or relative.startswith("/"):
        raise Refused(f"{relative!r} is not a path below the group's folder")
    with _below(root, parts[:-1], False, None) as at:
        for piece in _pieces(at, parts[-1], limit):
            target.write(piece)


def write_new(
    root: Path, folder: str, name: str, chunks: Iterable[bytes], limit: int, user: tuple[int, int] | None
) -> str:
    """Put a new file into ``root/folder`` (made if absent), whole, never over another; returns the name it got.
    ``user``: whom it belongs to, where the host is root. Raises Refused (not a directory, more than ``limit``
    bytes)."""
    with _below(root, [folder], True, user) as at:
        draft = f".{os.urandom(8).hex()}.part"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=at)
        try:
            with os.fdopen(fd, "wb") as file:
                for chunk in chunks:
                    if file.tell() + len(chunk) > limit:
                        raise Refused(f"larger than {limit} bytes")
                    file.write(chunk)
                file.flush()
                os.fsync(fd)
                if user is not None and os.getuid() == 0:
                    os.fchown(fd, *user)
            stem, dot, suffix = name.rpartition(".")
            for given in [name, *(f"{stem or suffix}-{n}{dot and stem and '.' + suffix}" for n in range(2, 100))]:
                with suppress(FileExistsError):
                    os.link(draft, given, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)
                    return given
            raise Refused(f"{name} is there a hundred times already")
        finally:
            with suppress(FileNotFoundError):  # the container may have taken it away
                os.unlink(draft, dir_fd=at)
