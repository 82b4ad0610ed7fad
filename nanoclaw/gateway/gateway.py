"""The only way from a container to the model: one Unix socket per run.

Each socket has a directory of its own, which is what the container gets mounted. The parent ``state/gateway`` is 0700,
so that on the host only its user reaches a socket; inside a container any user may connect, hence 0666. A new host
binds again at the same path: the SDK in the container survives the gap. Where Unix sockets do not pass into containers
(engines in a virtual machine), TCP on 127.0.0.1 belongs in ``open``.

What happens to a call is in ``call.py``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanoclaw.errors import UserError
from nanoclaw.gateway.call import Call, Door
from nanoclaw.gateway.connections import Server
from nanoclaw.gateway.upstream import Pool, Refusal
from nanoclaw.models import Credential, Environment

LONGEST_PATH = 99  # bytes; the kernel takes 107, other systems' 103


def socket_path_for(state_gateway: Path, run_id: str) -> Path:
    """Where the socket of ``run_id`` lies: ``state/gateway/<8 hex>/s``, always the same for the same run.

    Where that is too long for a socket's address, a private directory of this user under /tmp stands in for
    ``state_gateway`` (not $TMPDIR, which differs between cron and a shell).
    """
    name = hashlib.sha256(run_id.encode()).hexdigest()[:8]
    path = state_gateway / name / "s"
    if len(os.fsencode(path)) <= LONGEST_PATH:
        return path
    home = hashlib.sha256(os.fsencode(state_gateway.absolute())).hexdigest()[:8]
    return Path("/tmp") / f"nanoclaw-{os.getuid()}-{home}" / name / "s"


@dataclass(eq=False)
class Gateway:
    """The doors of all runs.

    ``environment`` and ``upstream_override`` are asked at each request. An override is a base URL that takes every call
    without any credential: the offline model. ``on_event(run_id, "response", details)`` is called in a connection's
    thread for each answer, before its end is sent: who acts on an answer finds the event there. ``details`` holds
    ``status`` (0: the container hung up first; 502, too, where the answer broke off upstream), ``seconds``, ``path``
    and ``reason``: None for the model's own answers, ``no_credential`` and ``upstream`` for what the host is a witness
    of as well; ``placeholder``, ``path`` and ``too_large`` are the container's own doing. From status 400 on it also
    holds ``error`` (``type: message``, one line) and ``until`` (Unix time from which the platform takes it again, None
    where it does not say).
    """

    environment: Callable[[], Environment]
    upstream_override: Callable[[], str | None] = lambda: None
    on_event: Callable[[str, str, dict[str, Any]], None] = lambda run_id, kind, details: None

    def __post_init__(self) -> None:
        self._pool = Pool()
        self._lock = threading.Lock()  # guards _open
        self._open: dict[str, tuple[Path, Server]] = {}

    def open(self, run_id: str, socket_path: Path, placeholder_hash: str) -> None:
        """Listen for ``run_id`` at ``socket_path``, in place of whatever socket an earlier host left there."""
        _make_private(socket_path.parent.parent)
        socket_path.parent.mkdir(mode=0o755, exist_ok=True)
        socket_path.parent.chmod(0o755)
        socket_path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.fspath(socket_path))
        socket_path.chmod(0o666)
        listener.listen(64)
        door = Door(run_id, placeholder_hash, self.destination, self._pool, self.on_event)
        server = Server(listener, lambda connection: Call(connection, door))
        with self._lock:
            _, earlier = self._open.get(run_id, (None, None))
            self._open[run_id] = socket_path, server
        if earlier is not None:
            earlier.stop()

    def close(self, run_id: str) -> None:
        """Revoke a run's door: no new connection, the open ones end, socket and directory are removed."""
        with self._lock:
            path, server = self._open.pop(run_id, (None, None))
        if path is not None and server is not None:
            server.stop()
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                path.parent.rmdir()

    def shutdown(self) -> None:
        """Stop listening and end the calls; the sockets' paths stay for the next host."""
        with self._lock:
            for _, server in self._open.values():
                server.stop()
            self._open.clear()
        self._pool.close()

    def destination(self) -> tuple[str, Credential | None]:
        """Where a call goes and with which credential, as of now; Refusal (401) without a usable one."""
        if (override := self.upstream_override()) is not None:
            return override, None
        environment = self.environment()
        credential = environment.credential
        # The library's error about a header that cannot be would quote it.
        if credential is None or not (credential.secret.isascii() and credential.secret.isprintable()):
            raise Refusal(401, "no_credential", "no credential in .env on the host")
        return environment.base_url, credential


def _make_private(directory: Path) -> None:
    """Make ``directory`` this user's own, mode 0700; UserError where somebody else's lies there."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UserError(f"{directory} is not a directory of this user.", "Remove it, or run NanoClaw as its owner.")
    directory.chmod(0o700)
