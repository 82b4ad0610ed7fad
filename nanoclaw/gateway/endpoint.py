"""A server of the Messages API on loopback: the offline model and the tests' scripted model are both this."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from nanoclaw.gateway.connections import Handler, Server, chunk
from nanoclaw.gateway.messages_api import Block, Error, error_body, events_of, input_tokens, message_of


@dataclass(frozen=True)
class Request:
    """A POST. Header names are lower-case; ``connection`` is the client's socket, for answers that watch it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    connection: socket.socket = field(repr=False, compare=False)


class Endpoint:
    """``start`` returns its base URL on 127.0.0.1; ``stop`` refuses new connections and ends the open ones.

    ``answer`` is called in the thread of each connection.
    """

    def __init__(self, answer: Callable[[Request], Iterable[Block] | Error]) -> None:
        self.answer = answer
        self._server: Server | None = None

    def start(self) -> str:
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._server = Server(listener, self._serve)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _Handler(connection, "", self)  # type: ignore[arg-type]


class _Handler(Handler):
    server: Endpoint  # type: ignore[assignment]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        path = self.path.partition("?")[0]
        if path.endswith("/v1/messages/count_tokens"):
            self.send_json(200, {"input_tokens": input_tokens(body)}, {})
        elif path.endswith("/v1/messages"):
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._send(body, self.server.answer(Request(self.path, headers, body, self.connection)))
        else:
            self.send_json(404, error_body(404, f"no such path: {path}"), {})

    def _send(self, body: dict[str, Any], answer: Iterable[Block] | Error) -> None:
        if isinstance(answer, Error):
            self.send_json(answer.status, error_body(answer.status, answer.message), answer.headers)
        elif not body.get("stream"):
            self.send_json(200, message_of(body, answer), {})
        else:
            self.send_response_only(200)
            self.send_header("Content-Type", "text/event-stream; charset=utf-8")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for event in events_of(body, answer):
                self.wfile.write(chunk(event))
            self.wfile.write(chunk(b""))
