"""A Unix socket between the docker client and the real engine, where a test breaks what lies between them.

    with EngineProxy(path) as proxy:
        house.environment["DOCKER_HOST"] = proxy.url
        proxy.stop()                 # nobody listens, all connections are cut: the engine is down
        proxy.start()                # it is back
        proxy.stall()                # it accepts and never answers: the engine hangs
        proxy.resume()               # what was asked meanwhile arrives now, as it does at an engine that wakes up
        caught = proxy.cut(START)    # the next request of this kind reaches the engine, its answer nobody

Limits: it forwards bytes and knows of HTTP only the first line of a request, as the clients send it: in one piece.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

CREATE = rb"POST \S*/containers/create"
START = rb"POST \S*/containers/\w+/start"


def engine_socket() -> Path | None:
    """Where the real engine listens; None where that is no Unix socket."""
    address = urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    return Path(address.path) if address.scheme == "unix" else None


class EngineProxy:
    """A context manager; open from the start."""

    def __init__(self, path: Path, engine: Path) -> None:
        self.url = f"unix://{path}"
        self._path = path
        self._engine = engine
        self._listener: socket.socket | None = None
        self._guard = threading.Lock()  # guards _connections and _traps
        self._connections: set[socket.socket] = set()
        self._traps: list[tuple[re.Pattern[bytes], bool, threading.Event]] = []
        self._flow = threading.Event()
        self._flow.set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._flow.set()
        self.stop()

    def start(self) -> None:
        self._listener = listener = socket.socket(socket.AF_UNIX)
        draft = self._path.with_name(f".{self._path.name}")
        listener.bind(str(draft))
        listener.listen(64)
        draft.rename(self._path)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def stop(self) -> None:
        """Nobody listens, and every connection is cut."""
        self._path.unlink(missing_ok=True)
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self._guard:
            for connection in self._connections:
                _end(connection)

    def stall(self) -> None:
        """From here on nothing passes, in both directions; connections are accepted."""
        self._flow.clear()

    def resume(self) -> None:
        self._flow.set()

    def cut(self, request: bytes) -> threading.Event:
        """The next request that matches reaches the engine; when it has answered, the client is cut off without the
        answer, and the event is set."""
        return self._trap(request, True)

    def hold(self, request: bytes) -> threading.Event:
        """The next request that matches stays here, and the event is set: as if the engine were about to read it. Only
        this one connection hangs, until its client is gone."""
        return self._trap(request, False)

    def _trap(self, request: bytes, passes: bool) -> threading.Event:
        caught = threading.Event()
        with self._guard:
            self._traps.append((re.compile(request), passes, caught))
        return caught

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        engine = socket.socket(socket.AF_UNIX)
        with self._guard:
            self._connections |= {client, engine}
        try:
            engine.connect(str(self._engine))
            answers_to: list[threading.Event] = []
            back = threading.Thread(target=self._answers, args=(engine, client, answers_to), daemon=True)
            back.start()
            self._requests(client, engine, answers_to)
            back.join()
        except OSError:
            pass
        finally:
            with self._guard:
                self._connections -= {client, engine}
            for connection in (client, engine):
                _end(connection)
                connection.close()

    def _requests(self, client: socket.socket, engine: socket.socket, answers_to: list[threading.Event]) -> None:
        while data := _receive(client):
            self._flow.wait()
            passes, caught = self._caught(data)
            if caught is not None and not passes:
                caught.set()
                _receive(client)  # its client is killed
                break
            if caught is not None:
                answers_to.append(caught)
            engine.sendall(data)
        _end(engine, socket.SHUT_WR)

    def _answers(self, engine: socket.socket, client: socket.socket, answers_to: list[threading.Event]) -> None:
        while data := _receive(engine):
            self._flow.wait()
            if answers_to:
                _end(client)
                answers_to.pop().set()
                return
            try:
                client.sendall(data)
            except OSError:
                break
        _end(client)

    def _caught(self, data: bytes) -> tuple[bool, threading.Event | None]:
        with self._guard:
            for trap in self._traps:
                if trap[0].match(data):
                    self._traps.remove(trap)
                    return trap[1], trap[2]
        return True, None


def _receive(connection: socket.socket) -> bytes:
    """Some bytes; none when it is over."""
    try:
        return connection.recv(65536)
    except OSError:
        return b""


def _end(connection: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(how)
