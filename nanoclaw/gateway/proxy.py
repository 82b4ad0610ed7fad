"""One container's call: checked, given the real credential, passed on, and its answer passed back as it arrives.

What comes from the container is hostile: only three targets exist, headers are rebuilt, bodies are bounded. Retrying is
the SDK's business: status codes and ``retry-after`` pass through.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from nanoclaw.gateway.accept import end_connection
from nanoclaw.gateway.doors import HOP_BY_HOP, Door, Refusal, Services, request_headers
from nanoclaw.gateway.messages_api import error_body
from nanoclaw.gateway.placeholder import matches
from nanoclaw.gateway.upstream import READ_TIMEOUT, UpstreamError

MAX_BODY = 32 * 1024 * 1024
MAX_BODIES = 4 * MAX_BODY  # of one run's calls together
CHUNK = 64 * 1024
LINGER = 5.0  # s
POSTS = frozenset({"/v1/messages", "/v1/messages/count_tokens"})


class _Exchange:
    """Ends the connection upstream when the container hangs up, but never once the exchange is settled."""

    def __init__(self, upstream: socket.socket) -> None:
        self._upstream = upstream
        self._lock = threading.Lock()  # guards the two below
        self._settled = False
        self.abandoned = False

    def abandon(self) -> None:
        with self._lock:
            if not self._settled:
                self.abandoned = True
                end_connection(self._upstream)

    def settle(self) -> bool:
        """From now on the connection is left alone; False where it was ended already."""
        with self._lock:
            self._settled = True
            return not self.abandoned


class Call(BaseHTTPRequestHandler):
    """A connection from a container; each request on it is one turn of ``do_POST``."""

    protocol_version = "HTTP/1.1"

    def __init__(self, connection: socket.socket, door: Door, services: Services) -> None:
        self.door = door
        self.services = services
        self.refused = False
        super().__init__(connection, "", None)  # type: ignore[arg-type]  # a Unix peer has no address

    def log_message(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: what the host wants to know it learns by events."""

    def do_HEAD(self) -> None:
        self.send_response_only(200 if self.path == "/api/hello" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        started = time.monotonic()
        path = urlsplit(self.path).path
        status, reason = 0, None
        try:
            self._admit(path)
            body = self._read_body()
            try:
                status = self._forward(body)
            finally:
                with self.door.lock:
                    self.door.body_bytes -= len(body)
        except Refusal as refusal:
            status, reason = refusal.status, refusal.reason
            self._say(status, str(refusal))
        except UpstreamError as error:
            status, reason = error.status, "upstream"
            self._say(status, str(error))
        finally:
            self.connection.settimeout(None)  # waiting for the next request has no limit
            seconds = time.monotonic() - started
            event = {"status": status, "reason": reason, "path": path if path in POSTS else "other", "seconds": seconds}
            self.services.on_event(self.door.run_id, "response", event)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The base class's refusals (a request that does not parse, an unknown method), in the API's shape."""
        self._say(code, "the gateway cannot serve such a request")

    def _admit(self, path: str) -> None:
        kind, _, bearer = self.headers.get("authorization", "").partition(" ")
        offered = self.headers.get("x-api-key") or (bearer.strip() if kind.lower() == "bearer" else "")
        if not matches(offered, self.door.placeholder_hash):
            raise Refusal(401, "placeholder", "NanoClaw: this is not the placeholder of this run")
        if path not in POSTS or not (self.path.isascii() and self.path.isprintable()):
            raise Refusal(403, "path", "NanoClaw: the gateway does not serve this path")
        if self.request_version != "HTTP/1.1":
            raise Refusal(400, "version", "NanoClaw: the gateway speaks HTTP/1.1")

    def _read_body(self) -> bytes:
        """The whole body, counted in ``door.body_bytes``; Refusal where it is too large or has no plain length."""
        lengths = self.headers.get_all("content-length", [])
        if "transfer-encoding" in self.headers or len(lengths) != 1 or not lengths[0].isdecimal():
            raise Refusal(411, "length", "NanoClaw: a body needs one Content-Length")
        length = int(lengths[0]) if len(lengths[0]) < 12 else MAX_BODY + 1
        with self.door.lock:
            if length > MAX_BODY or self.door.body_bytes + length > MAX_BODIES:
                raise Refusal(413, "too_large", f"NanoClaw: a request may hold {MAX_BODY} bytes")
            self.door.body_bytes += length
        try:
            self.connection.settimeout(READ_TIMEOUT)
            body = self.rfile.read(length)
            if len(body) < length:
                raise ConnectionAbortedError("the client hung up in its request")
        except BaseException:
            with self.door.lock:
                self.door.body_bytes -= length
            raise
        return body

    def _forward(self, body: bytes) -> int:
        """Pass the call on and its answer back; returns the status, 0 where the client hung up first."""
        upstream, credential = self.services.destination()
        headers = [*request_headers(self.headers, upstream, credential), ("Content-Length", str(len(body)))]
        parts = urlsplit(self.path)
        target = upstream.prefix + parts.path + (f"?{parts.query}" if parts.query else "")
        connection = self.services.pool.take(upstream)
        exchange = _Exchange(connection.sock)
        self.services.acceptor.watch(self.connection, exchange.abandon)
        whole = False
        try:
            response = _call(connection, target, headers, body)
            self._send_head(response)
            whole = self._send_body(response)
            return response.status
        except UpstreamError:
            if exchange.abandoned:
                self.close_connection = True
                return 0
            raise
        finally:
            self.services.acceptor.remove(self.connection)
            if exchange.settle() and whole:
                self.services.pool.give(upstream, connection)
            else:
                self.close_connection = True
                connection.close()

    def _send_head(self, response: http.client.HTTPResponse) -> None:
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in HOP_BY_HOP | {"set-cookie"}:
                self.send_header(name, value)
        if response.length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(response.length))
        self.end_headers()

    def _send_body(self, response: http.client.HTTPResponse) -> bool:
        """Each piece at once; whether the connection upstream can be used again. A cut answer cuts the client's too."""
        chunked, reusable = response.length is None, not response.will_close
        try:
            for piece in _pieces(response):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        except http.client.IncompleteRead:
            return False
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        response.close()
        return reusable

    def _say(self, status: int, text: str) -> None:
        """An error of the gateway's own. The body may be unread, so it is the connection's last answer."""
        self.refused = self.close_connection = True
        data = json.dumps(error_body(status, text)).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status < 500:
            self.send_header("x-should-retry", "false")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def finish(self) -> None:
        """After a refusal, take what the client still sends: closed on unread data, it might never read the answer."""
        if self.refused:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_WR)
                self.connection.settimeout(LINGER)
                left = 2 * MAX_BODY
                while left > 0 and (taken := len(self.connection.recv(CHUNK))):
                    left -= taken
        super().finish()


def _call(
    connection: http.client.HTTPConnection, target: str, headers: list[tuple[str, str]], body: bytes
) -> http.client.HTTPResponse:
    """Send one request and wait for the head of its answer; UpstreamError where none comes."""
    try:
        connection.putrequest("POST", target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders(body)
        return connection.getresponse()
    except TimeoutError:
        raise UpstreamError(504, f"{connection.host} did not answer in {READ_TIMEOUT:.0f} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise UpstreamError(502, f"{connection.host} broke the connection off ({type(error).__name__})") from None


def _pieces(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body as it arrives; http.client.IncompleteRead where it ends early."""
    left = response.length
    while left is None or left > 0:
        try:
            piece = response.read1(CHUNK if left is None else min(CHUNK, left))
        except (OSError, ValueError, http.client.HTTPException):
            raise http.client.IncompleteRead(b"") from None
        if not piece:
            if left is None:
                return
            raise http.client.IncompleteRead(b"")
        left = None if left is None else left - len(piece)
        yield piece
