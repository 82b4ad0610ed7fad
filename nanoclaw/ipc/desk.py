"""A desk takes the requests of one directory: reads a file by descriptor, has it parsed, asks the policy, calls the
handler, writes the answer, and only then lets the file go. A crash before that repeats the request, to the same effect.

What cannot be a request, or is refused, goes to ``state/ipc/errors/`` with the reason beside it, and the asker is told.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanoclaw.errors import UserError
from nanoclaw.faults import reach
from nanoclaw.files import untrusted
from nanoclaw.files.atomic import json_bytes, write_volatile
from nanoclaw.files.intake import EMPTY_SECONDS, is_candidate
from nanoclaw.ipc import requests
from nanoclaw.ipc.handlers import HANDLERS
from nanoclaw.ipc.office import Office
from nanoclaw.ipc.policy import Asker, why_refused
from nanoclaw.stores import aside

log = logging.getLogger("nanoclaw")

REQUEST_BYTES = 1_000_000
AT_ONCE = 100
AGAIN_SECONDS = 0.2
ANSWERS = 500
"""So many answers of one asker stay; the oldest goes."""
KINDS = ("messages", "tasks")
_AGENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.json")


@dataclass
class Desk:
    """``directory`` holds messages/ and tasks/. ``asker`` says, at each turn, who asks; None: nobody who may ask.
    ``said``: a message to the asker's own chat is in the outbox, and must be noted before its request goes."""

    office: Office
    directory: Path
    answers: Path
    folder: str
    asker: Callable[[], Asker | None]
    run: str | None = None
    said: Callable[[], None] = lambda: None
    _ours: deque[str] = field(default_factory=deque)
    _passed: set[tuple[str, int]] = field(default_factory=set)
    _refusals: int = 0

    def turn(self, now: float, final: bool = False) -> float | None:
        """Take what is ready at Unix time ``now``; returns the seconds after which to look again, None: when something
        comes. ``final``: nobody writes any more, so what is half-written stays so."""
        again: float | None = None
        for kind in KINDS:
            with ExitStack() as opened:
                try:
                    fd = opened.enter_context(untrusted.directory(self.directory / kind))
                except FileNotFoundError:
                    continue
                except untrusted.Refused as error:
                    if (kind, 0) not in self._passed:
                        self._passed.add((kind, 0))
                        log.error("IPC requests of %s are not read: %s", self.directory / kind, error)
                    continue
                waits = self._take_all(fd, kind, now, final)
            if waits is not None:
                again = waits if again is None else min(again, waits)
        return again

    def _take_all(self, fd: int, kind: str, now: float, final: bool) -> float | None:
        ready = [(n, s) for n, s in untrusted.entries(fd) if n.endswith(".json") and is_candidate(n)]
        ready = [(name, status) for name, status in ready if (name, status.st_ino) not in self._passed]
        again = 0.0 if len(ready) > AT_ONCE else None
        for name, status in ready[:AT_ONCE]:
            if not self._take(fd, kind, name, status, now, final) and again is None:
                again = AGAIN_SECONDS
        return again

    def _take(self, fd: int, kind: str, name: str, status: os.stat_result, now: float, final: bool) -> bool:
        """False when the file must be looked at again soon."""
        data = None
        try:
            if self.run is not None and not _AGENT_NAME.fullmatch(name):
                raise untrusted.Refused("its name: expected letters, digits, dots, - and _ (at most 100) and .json")
            try:
                data = untrusted.read_bytes(fd, name, REQUEST_BYTES)
            except FileNotFoundError:
                return True
            if not final and not _is_same(fd, name, status):
                return False  # written anew since the listing: as another request, in the next turn
            request = requests.parse(data)
            asker = self.asker()
            if asker is None:
                raise UserError(f"{self.folder} is not registered (any more), or stands for another chat.")
            if why := why_refused(request.kind, self.office.is_own(request, asker), asker):
                raise UserError(why)
            answer = HANDLERS[request.kind](self.office, request, asker, self._identity(name, status))
            if "id" in answer and self.office.is_own(request, asker):
                self.said()
            reach("request-done")
        except requests.HalfWritten as error:
            if not final and 0 <= now - status.st_mtime < EMPTY_SECONDS:
                return False
            self._refuse(fd, kind, name, status, str(error), data)
        except (untrusted.Refused, requests.BadRequest, UserError) as error:
            self._refuse(fd, kind, name, status, str(error), data)
        else:
            log.info("IPC request done group=%s run=%s type=%s file=%r", self.folder, self.run, request.kind, name)
            self._answer(name, {"ok": True, **answer})
            reach("request-answered")
            if not _is_same(fd, name, status):
                return final  # written anew while it was done: that is another request
            _remove(fd, name)
        return True

    def _identity(self, name: str, status: os.stat_result) -> str:
        """The same at each try, another one for each file: inodes and times come again where scripts copy."""
        times = f"{status.st_mtime_ns}\0{status.st_ctime_ns}"
        about = f"{self.folder}\0{name}\0{status.st_ino}\0{times}".encode("utf-8", "replace")
        return f"{self.run or 'script-' + self.folder}-ipc-{hashlib.sha256(about).hexdigest()[:16]}"

    def _refuse(self, fd: int, kind: str, name: str, status: os.stat_result, reason: str, data: bytes | None) -> None:
        shown = name.encode("utf-8", "replace").decode()
        place = f"state/ipc/{self.folder}/{kind}/{shown}"
        log.warning("IPC request refused group=%s run=%s file=%r: %s", self.folder, self.run, shown, reason)
        home = self.office.home
        # A script's file that cannot be read is kept by moving it; what a container wrote is never followed or moved.
        move = self.directory / kind / name if self.run is None and data is None else None
        answer: dict[str, Any] = {"ok": False, "error": reason}
        self._refusals += 1
        if self.run is None or self._refusals <= aside.KEPT:
            kept_as = aside.put(
                home, "agent" if self.run else "ipc", reason, place, data=data, move=move, bounded=self.run is not None
            )
            reach("refusal-kept")
            answer["kept"] = str(kept_as.relative_to(home.root))
        self._answer(name, answer)
        if _is_same(fd, name, status) and not _remove(fd, name):
            self._passed.add((name, status.st_ino))  # a directory: it stays, and is not looked at again

    def _answer(self, name: str, answer: dict[str, Any]) -> None:
        with suppress(OSError, ValueError):  # nobody may be held up by an answer that cannot be written
            self.answers.mkdir(exist_ok=True, mode=0o755)
            write_volatile(self.answers / name, json_bytes(answer), 0o644 if self.run else 0o600)
            if not self._ours:
                found = sorted(os.scandir(self.answers), key=lambda entry: entry.stat().st_mtime_ns)
                self._ours.extend(entry.name for entry in found if entry.name != name)
            if name in self._ours:
                self._ours.remove(name)
            self._ours.append(name)
            while len(self._ours) > ANSWERS:
                (self.answers / self._ours.popleft()).unlink(missing_ok=True)


def _is_same(fd: int, name: str, status: os.stat_result) -> bool:
    """Does the name still stand for the file that was listed, as it was?"""
    try:
        now = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (now.st_ino, now.st_mtime_ns, now.st_size) == (status.st_ino, status.st_mtime_ns, status.st_size)


def _remove(fd: int, name: str) -> bool:
    try:
        os.unlink(name, dir_fd=fd)
    except FileNotFoundError:
        return True
    except OSError:
        with suppress(OSError):
            os.rmdir(name, dir_fd=fd)
            return True
        return False
    return True
