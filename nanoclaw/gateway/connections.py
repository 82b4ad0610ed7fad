"""What both HTTP servers here stand on: a thread that sleeps in accept(), one for each connection, hang-ups noticed.

``socketserver`` would wake each server twice a second; here an idle host has nothing to do.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

MOST_CONNECTIONS = 16  # of one server at a time; one too many is closed at once


class Server:
    """Calls ``serve(connection)`` in a thread of its own for each connection to ``listener``, until ``stop``."""

    def __init__(self, listener: socket.socket, serve: Callable[[socket.socket], object]) -> None:
        self._listener = listener
        self._serve = serve
        self._stopped = threading.Event()
        self._lock = threading.Lock()  # guards _open
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, name="accept", daemon=True).start()

    def stop(self) -> None:
        """Refuse new connections and end the open ones. ``listener`` is closed."""
        self._stopped.set()
        end_connection(self._listener)  # this wakes accept() on Linux, closing does elsewhere
        self._listener.close()
        with self._lock:
            for connection in self._open:
                end_connection(connection)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._run, args=(connection,), name="connection", daemon=True).start()
            except (OSError, RuntimeError):  # stopped, or no descriptor or thread to be had at the moment
                if self._stopped.wait(0.1):
                    return

    def _run(self, connection: socket.socket) -> None:
        with connection:
            with self._lock:
                if self._stopped.is_set() or len(self._open) >= MOST_CONNECTIONS:
                    return
                self._open.add(connection)
            try:
                with contextlib.suppress(OSError):  # the peer hung up
                    self._serve(connection)
            finally:
                with self._lock:
                    self._open.discard(connection)


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 on one connection. Nothing is logged: what passes here is conversation."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any, **kwargs: Any) -> None: ...

    def send_json(self, status: int, value: dict[str, Any], headers: dict[str, str]) -> None:
        """A whole answer; where ``close_connection`` is set, it is said to be the last one."""
        data = json.dumps(value).encode()
        self.send_response_only(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)


def chunk(data: bytes) -> bytes:
    """A piece of a chunked body; an empty one ends it."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def end_connection(connection: socket.socket) -> None:
    """Make every read and write on ``connection`` end at once, in whatever thread; closing stays its owner's."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # TLS's own shutdown is not for a second thread


def has_hung_up(connection: socket.socket) -> bool:
    """Whether the peer hung up, or :func:`end_connection` did. Does not wait."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


@contextlib.contextmanager
def ending_with(client: socket.socket, upstream: socket.socket) -> Iterator[None]:
    """While the block runs, a hang-up of ``client`` ends ``upstream``; after it nothing touches ``upstream``."""
    block_runs, block_over = socket.socketpair()

    def watch() -> None:
        poll = select.poll()
        poll.register(client, select.POLLIN)
        poll.register(block_over, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll()]
        if block_over.fileno() not in ready and has_hung_up(client):
            end_connection(upstream)

    watcher = threading.Thread(target=watch, name="hang-up", daemon=True)
    with block_over:
        watcher.start()
        try:
            yield
        finally:
            block_runs.close()
            watcher.join()
