"""Connections to the model's API, kept open between requests.

``http.client`` rather than a pooling library: the proxy must be able to end a call from another thread when the
container hangs up, so it needs the socket. HTTP proxies on the host's own way out are not supported.
"""

from __future__ import annotations

import http.client
import select
import ssl
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 600.0
IDLE_LIMIT = 45.0  # a connection idle for longer may have been forgotten on its way without a word
MOST_IDLE = 16


class UpstreamError(Exception):
    """No answer could be had. ``status`` is what to tell the client; the text names no credential."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Upstream:
    """Where calls go: ``prefix`` is the path of the base URL, without a slash at its end."""

    scheme: str
    host: str
    port: int
    prefix: str

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"


def parse_base_url(base_url: str) -> Upstream:
    """The parts of a base URL; UpstreamError (502) where it is not http(s)://HOST[:PORT][/PREFIX]."""
    try:
        parts = urlsplit(base_url.strip())
        port = parts.port
    except ValueError:
        raise UpstreamError(502, "the gateway's ANTHROPIC_BASE_URL is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UpstreamError(502, "the gateway's ANTHROPIC_BASE_URL must be http://HOST or https://HOST")
    return Upstream(
        parts.scheme, parts.hostname, port or {"http": 80, "https": 443}[parts.scheme], parts.path.rstrip("/")
    )


class Pool:
    """Idle connections by upstream. ``take`` gives a usable one, ``give`` brings it back after a whole response."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _idle and _tls
        self._idle: dict[Upstream, list[tuple[float, http.client.HTTPConnection]]] = {}
        self._tls: ssl.SSLContext | None = None

    def take(self, upstream: Upstream) -> http.client.HTTPConnection:
        """An open connection, from the pool if one is still good; UpstreamError (502) if none can be made."""
        while True:
            with self._lock:
                kept = self._idle.get(upstream)
                since, connection = kept.pop() if kept else (0.0, None)
            if connection is None:
                return self._connect(upstream)
            if time.monotonic() - since < IDLE_LIMIT and not _readable(connection):
                return connection
            connection.close()

    def give(self, upstream: Upstream, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if self._idle.keys() - {upstream}:
                self._drop_all()  # the base URL changed: the old one's connections are of no use
            kept = self._idle.setdefault(upstream, [])
            if len(kept) < MOST_IDLE:
                kept.append((time.monotonic(), connection))
                return
        connection.close()

    def close(self) -> None:
        with self._lock:
            self._drop_all()

    def _drop_all(self) -> None:
        for kept in self._idle.values():
            for _, connection in kept:
                connection.close()
        self._idle.clear()

    def _connect(self, upstream: Upstream) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection
        if upstream.scheme == "https":
            with self._lock:
                self._tls = self._tls or ssl.create_default_context()
            connection = http.client.HTTPSConnection(
                upstream.host, upstream.port, timeout=CONNECT_TIMEOUT, context=self._tls
            )
        else:
            connection = http.client.HTTPConnection(upstream.host, upstream.port, timeout=CONNECT_TIMEOUT)
        try:
            connection.connect()
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise UpstreamError(502, f"the gateway cannot reach {upstream.host_header}: {reason}") from None
        connection.sock.settimeout(READ_TIMEOUT)
        return connection


def _readable(connection: http.client.HTTPConnection) -> bool:
    """Whether something came in while it was idle: its end, or bytes nobody asked for."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))
