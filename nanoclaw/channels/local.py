"""The local channel: chats ``local:NAME`` whose far side is an append-only file, ``state/local/<name>.jsonl``.

It takes keys: a key that stands among the file's last lines is not written again. Messages come in by the inbox, not
here.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanoclaw.channels.base import Deliver, FetchFailed, Limits, Outgoing, SendFailed, State
from nanoclaw.paths import chat_directory_name

TAIL_BYTES = 16_000_000
"""Keys are looked for in so much of the file's end: more than any number of replies that can be in flight."""
AGAIN_SECONDS = 5.0
_ITS_OWN = (errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""What is wrong with one chat's file. All else is the machine's (disk, owner): that is waited out."""


class LocalChannel:
    """See ``Channel``."""

    prefix = "local:"
    takes_keys = True
    limits = Limits(file=1_000_000_000)
    state = State("connected")
    caught_up = True

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._keys: dict[Path, set[str]] = {}

    def start(self, deliver: Deliver, changed: Callable[[State], None]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def send(self, message: Outgoing) -> str | None:
        path, key = self.path(message.jid), message.key
        line = {"key": key, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), "text": message.text}
        if message.file is not None:
            line["file"] = str(self._keep(message))
        data = json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if path not in self._keys:
                    self._keys[path] = _tail_keys(fd)
                if key in self._keys[path]:
                    return None
                size = os.fstat(fd).st_size
                if size and os.pread(fd, 1, size - 1) != b"\n":
                    data = b"\n" + data
                while data:  # a disk that becomes full takes a part and raises only at the next write
                    data = data[os.write(fd, data) :]
                os.fsync(fd)
                self._keys[path].add(key)
            finally:
                os.close(fd)
        except OSError as error:
            self._keys.pop(path, None)
            raise _failure(path, error) from None
        return None

    def _keep(self, message: Outgoing) -> Path:
        """Copy a file to where its person finds it. Before the line that names it: again is the same."""
        assert message.file is not None
        target = self._directory / "files" / f"{message.key}-{message.file_name}"
        try:
            target.parent.mkdir(exist_ok=True, mode=0o700)
            shutil.copyfile(message.file, target)
        except OSError as error:
            if not message.file.exists():
                raise SendFailed(f"{message.file_name}: its content is gone", permanent=True) from None
            raise _failure(target, error) from None
        return target

    def typing(self, jid: str) -> None:
        return None

    def fetch(self, attachment: Mapping[str, Any]) -> Iterator[bytes]:
        raise FetchFailed("the local channel has no attachments", permanent=True)

    def stop(self) -> None:
        return None

    def path(self, jid: str) -> Path:
        """Where what was delivered to a chat stands."""
        return self._directory / f"{chat_directory_name(jid.removeprefix(self.prefix))}.jsonl"


def _failure(path: Path, error: OSError) -> SendFailed:
    waits = None if error.errno in _ITS_OWN else AGAIN_SECONDS
    return SendFailed(f"{path}: {error.strerror}", retry_after=waits)


def _tail_keys(fd: int) -> set[str]:
    size = os.fstat(fd).st_size
    start = max(0, size - TAIL_BYTES)
    lines = os.pread(fd, size - start, start).split(b"\n")
    keys: set[str] = set()
    for line in lines[1 if start else 0 :]:
        try:
            keys.add(str(json.loads(line)["key"]))
        except (ValueError, LookupError, TypeError):
            continue
    return keys
