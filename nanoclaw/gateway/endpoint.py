"""A server of the Messages API on loopback: the offline model and the tests' scripted model are both this, with another
answer function.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from nanoclaw.gateway.accept import Acceptor, end_connection
from nanoclaw.gateway.messages_api import Block, Error, error_body, events_of, input_tokens, message_of


@dataclass(frozen=True)
class Request:
    """What a client sent. Header names are lower-case; ``connection`` is its socket, for answers that watch it."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    connection: socket.socket = field(repr=False, compare=False)


Answer = Callable[[Request], Iterable[Block] | Error]


class Endpoint:
    """A server of the Messages API on 127.0.0.1; ``answer`` is called in the thread of each connection.

    ``start`` returns the base URL; ``stop`` refuses new connections and ends the open ones.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self._acceptor = Acceptor("model")
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()  # guards _open
        self._open: set[socket.socket] = set()

    def start(self) -> str:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._acceptor.add(self._listener, self._serve)
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def stop(self) -> None:
        self._acceptor.close()
        if self._listener is not None:
            self._listener.close()
        with self._lock:
            for connection in self._open:
                end_connection(connection)

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _Handler(connection, ("127.0.0.1", 0), self)  # type: ignore[arg-type]
        except OSError:
            pass  # the client hung up
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint  # type: ignore[assignment]

    def log_message(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: a request is conversation."""

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/api/hello" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if path.endswith("/v1/messages/count_tokens"):
            self._send_json(200, {"input_tokens": input_tokens(body)})
        elif path.endswith("/v1/messages"):
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._answer(Request("POST", self.path, headers, body, self.connection))
        else:
            self._send_json(404, error_body(404, f"no such path: {path}"))

    def _answer(self, request: Request) -> None:
        answer = self.server.answer(request)
        if isinstance(answer, Error):
            body = answer.body if answer.body is not None else error_body(answer.status, answer.message)
            self._send_json(answer.status, body, answer.headers)
        elif request.body.get("stream"):
            self._stream(events_of(request.body, answer))
        else:
            self._send_json(200, message_of(request.body, answer))

    def _send_json(self, status: int, value: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, events: Iterator[bytes]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in events:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")
