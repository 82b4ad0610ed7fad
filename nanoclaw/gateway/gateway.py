"""The doors: one Unix socket per run, each in a directory of its own, which is what a container gets mounted.

The parent ``state/gateway`` is 0700, so that on the host only its user reaches a socket; inside a container any user
may connect, hence 0666. A new host binds again at the same path: the SDK in the container survives the gap. Where Unix
sockets do not pass into containers (engines in a virtual machine), TCP on 127.0.0.1 belongs in ``open``.
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
from nanoclaw.gateway.accept import Acceptor, end_connection
from nanoclaw.gateway.doors import Door, Services
from nanoclaw.gateway.proxy import Call
from nanoclaw.models import Environment

LONGEST_PATH = 99  # bytes; the kernel takes 107, other systems' 103
MOST_CONNECTIONS = 64  # of one run at a time
BACKLOG = 64


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


def private_directory(path: Path) -> None:
    """Make ``path`` this user's own, mode 0700; UserError where somebody else's lies there."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UserError(f"{path} is not a directory of this user.", "Remove it, or run NanoClaw as its owner.")
    if stat.S_IMODE(found.st_mode) != 0o700:
        path.chmod(0o700)


@dataclass(frozen=True)
class _Open:
    door: Door
    path: Path
    listener: socket.socket


class Gateway:
    """The only way from a container to the model.

    ``environment`` and ``upstream_override`` are asked at each request. An override is a base URL that takes every call
    without any credential: the offline model. ``on_event(run_id, "response", details)`` is called in a connection's
    thread after each answer; ``details`` holds ``status`` (0: the container hung up first), ``seconds``, ``path`` and
    ``reason``: None for the model's own answers, else ``placeholder``, ``path``, ``version``, ``length``,
    ``too_large``, ``no_credential`` or ``upstream``.
    """

    def __init__(
        self,
        directory: Path,
        environment: Callable[[], Environment],
        upstream_override: Callable[[], str | None] = lambda: None,
        on_event: Callable[[str, str, dict[str, Any]], None] = lambda run_id, kind, details: None,
    ) -> None:
        self.directory = directory
        self._acceptor = Acceptor("gateway")
        self._services = Services(environment, upstream_override, on_event, self._acceptor)
        self._lock = threading.Lock()  # guards _open
        self._open: dict[str, _Open] = {}

    def open(self, run_id: str, socket_path: Path, placeholder_hash: str) -> None:
        """Listen for ``run_id`` at ``socket_path``, in place of whatever socket an earlier host left there.

        From the first connection that a container can make, the socket has its mode and its listener.
        """
        private_directory(socket_path.parent.parent)
        socket_path.parent.mkdir(mode=0o755, exist_ok=True)
        socket_path.parent.chmod(0o755)
        draft = socket_path.with_name(".s")
        draft.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(os.fspath(draft))
            draft.chmod(0o666)
            listener.listen(BACKLOG)
            draft.rename(socket_path)
        except OSError:
            listener.close()
            raise
        door = Door(run_id, placeholder_hash)
        with self._lock:
            earlier = self._open.pop(run_id, None)
            self._open[run_id] = _Open(door, socket_path, listener)
        if earlier is not None:
            self._stop_listening(earlier)
        self._acceptor.add(listener, lambda connection: self._serve(connection, door))

    def close(self, run_id: str) -> None:
        """Revoke a run's door: no new connection, the open ones end, socket and directory are removed."""
        with self._lock:
            one = self._open.pop(run_id, None)
        if one is None:
            return
        self._stop_listening(one)
        one.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            one.path.parent.rmdir()

    def shutdown(self) -> None:
        """Stop listening and end the calls; the sockets' paths stay for the next host. Nothing can be opened after."""
        with self._lock:
            left = list(self._open.values())
            self._open.clear()
        for one in left:
            self._stop_listening(one)
        self._acceptor.close()
        self._services.pool.close()

    def _stop_listening(self, one: _Open) -> None:
        self._acceptor.remove(one.listener)
        one.listener.close()
        with one.door.lock:
            one.door.closed = True
            for connection in one.door.connections:
                end_connection(connection)

    def _serve(self, connection: socket.socket, door: Door) -> None:
        with door.lock:
            admitted = not door.closed and len(door.connections) < MOST_CONNECTIONS
            if admitted:
                door.connections.add(connection)
        try:
            if admitted:
                Call(connection, door, self._services)
        except OSError:
            pass  # the container hung up
        finally:
            with door.lock:
                door.connections.discard(connection)
            connection.close()
