"""One thread that waits on every listening socket, and notices when a client hangs up during a call.

``socketserver`` would cost one thread per socket, each waking twice a second. Here an idle host has one thread that
sleeps in the kernel until something happens. Connections themselves get a thread each, made by the caller's handler.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable
from typing import Any


def end_connection(connection: socket.socket) -> None:
    """Make every read and write on ``connection`` end at once, in whatever thread; closing stays its owner's."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


class Acceptor:
    """Calls ``handle(connection)`` in a thread of its own for each connection to a listener that was added."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._lock = threading.Lock()  # guards the selector's table and _thread
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, listener: socket.socket, handle: Callable[[socket.socket], None]) -> None:
        """Accept on ``listener`` from now on; the first call starts the thread."""
        listener.setblocking(False)

        def accept() -> None:
            with contextlib.suppress(OSError, RuntimeError):  # gone already, or no thread to be had
                connection, _ = listener.accept()
                connection.setblocking(True)
                threading.Thread(target=handle, args=(connection,), name=self._name, daemon=True).start()

        self._register(listener, accept)

    def watch(self, connection: socket.socket, hung_up: Callable[[], None]) -> None:
        """Call ``hung_up`` (in the accepting thread, so it must not block) when the peer of ``connection`` ends it."""

        def peek() -> None:
            try:
                data = connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            self.remove(connection)
            if not data:
                hung_up()

        self._register(connection, peek)

    def remove(self, one: socket.socket) -> None:
        """Forget a listener or a watched connection; unknown ones are ignored."""
        with self._lock, contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(one)

    def close(self) -> None:
        """End the thread. The listeners stay the caller's to close."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        self._wake.send(b"x")
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _register(self, one: socket.socket, callback: Callable[[], None]) -> None:
        with self._lock:
            if self._closed:
                return
            self._selector.register(one, selectors.EVENT_READ, callback)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name=f"{self._name}-accept", daemon=True)
                self._thread.start()
        self._wake.send(b"x")  # not every system's selector sees what is registered while it waits

    def _loop(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select():
                callback: Any = key.data
                if callback is None:
                    self._woken.recv(4096)
                else:
                    callback()
        self._selector.close()
        self._wake.close()
        self._woken.close()
