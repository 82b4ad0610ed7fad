"""A call that comes in at a run's door: what of it goes on to the model, what comes back, what the host hears of it.

What comes from the container is hostile: only three targets exist, headers are rebuilt, bodies are bounded and pass
through in pieces.

Retrying: status codes and ``retry-after`` pass through, and the SDK tries for 180 s. Where waiting is the host's to do,
``x-should-retry: false`` ends that at once: 401, 402, 403; 429 with more than 10 s to wait, or nobody knows how long;
5xx, the gateway's own 502 and 504 among them, from the third failure in a row of a run on (a blip costs no turn). An
answer that breaks off counts as a failure, but its head is gone: nothing can be said in it.
"""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from nanoclaw.gateway import upstream
from nanoclaw.gateway.connections import Handler, chunk, ending_with, has_hung_up
from nanoclaw.gateway.messages_api import error_body
from nanoclaw.gateway.placeholder import matches
from nanoclaw.gateway.upstream import Refusal
from nanoclaw.models import Credential

POSTS = frozenset({"/v1/messages", "/v1/messages/count_tokens"})
MAX_BODY = 32 * 1024 * 1024
CHUNK = 64 * 1024


@dataclass
class Door:
    """One run's. ``failures``: its calls that failed by 5xx in a row; threads that lose a count cost one more try."""

    run_id: str
    placeholder_hash: str
    destination: Callable[[], tuple[str, Credential | None]]
    pool: upstream.Pool
    on_event: Callable[[str, str, dict[str, Any]], None]
    failures: int = 0


class Call(Handler):
    """A connection from a container; each request on it is one turn of ``do_POST``. ``ends_retries``: the SDK is told
    not to try the present one again."""

    ends_retries = True

    def __init__(self, connection: socket.socket, door: Door) -> None:
        self.door = door
        super().__init__(connection, "", None)  # type: ignore[arg-type]  # a Unix peer has no address

    def do_HEAD(self) -> None:
        self.send_response_only(200 if self.path == "/api/hello" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.started, self.is_reported, self.ends_retries = time.monotonic(), False, True
        path = self.path.partition("?")[0]
        stated = self.headers.get("content-length", "")
        length = int(stated) if stated.isdecimal() and len(stated) < 16 else MAX_BODY + 1
        body = self._body(length)
        try:
            self._check(path, length)
            self._forward(length, body)
        except Refusal as refusal:
            self._weigh(refusal.status, None)
            self._report(refusal.status, refusal.reason, f"{refusal.reason}: {refusal}")
            self.send_error(refusal.status, str(refusal))
        finally:
            self._report(0)
        for _ in body:
            pass  # closed on a client that is still sending, the connection might not carry the refusal to it

    def _weigh(self, status: int, until: float | None) -> None:
        """Count a call that failed, and decide whether the SDK may try it again."""
        self.door.failures += status >= 500
        self.ends_retries = not upstream.may_retry(status, until, time.time(), self.door.failures)

    def _report(self, status: int, reason: str | None = None, error: str = "", until: float | None = None) -> None:
        """Tell the host of this call, once."""
        if self.is_reported:
            return
        self.is_reported = True
        path = self.path.partition("?")[0]
        event: dict[str, Any] = {"status": status, "reason": reason, "path": path if path in POSTS else "other"}
        event["seconds"] = time.monotonic() - self.started
        if status >= 400:
            event |= {"error": error, "until": until}
        self.door.on_event(self.door.run_id, "response", event)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Every answer of the gateway's own, in the API's shape; the base class calls it too."""
        headers = {"x-should-retry": "false"} if code < 500 or self.ends_retries else {}
        self.send_json(code, error_body(code, f"NanoClaw: {message or 'bad request'}"), headers)

    def _body(self, left: int) -> Iterator[bytes]:
        while left > 0:
            piece = self.rfile.read(min(left, CHUNK))
            if not piece:
                raise ConnectionAbortedError("the container hung up in its request")
            left -= len(piece)
            yield piece

    def _check(self, path: str, length: int) -> None:
        offered = self.headers.get("x-api-key") or self.headers.get("authorization", "").removeprefix("Bearer ")
        if not matches(offered, self.door.placeholder_hash):
            raise Refusal(401, "placeholder", "this is not the placeholder of this run")
        if path not in POSTS or not (self.path.isascii() and self.path.isprintable()):
            raise Refusal(403, "path", "the gateway does not serve this path")
        if length > MAX_BODY:
            self.close_connection = True
            raise Refusal(413, "too_large", f"a request states its length, at most {MAX_BODY} bytes")

    def _forward(self, length: int, body: Iterator[bytes]) -> None:
        """Pass the call on and its answer back. An answer that breaks off upstream breaks off here too; Refusal where
        none began."""
        base_url, credential = self.door.destination()
        headers = upstream.request_headers(self.headers, credential) | {"content-length": str(length)}
        connection = self.door.pool.take(base_url)
        response, reusable = None, False
        try:
            connection.request("POST", urlsplit(base_url).path.rstrip("/") + self.path, body, headers)
            with ending_with(self.connection, connection.sock):
                response = connection.getresponse()
                end = self._pass_back(response, credential)
            reusable = not response.will_close
            self.wfile.write(end)  # no sooner: a container that leaves with its answer would cost the connection
        except (OSError, http.client.HTTPException) as error:
            self.close_connection = True
            if has_hung_up(self.connection):
                return
            text = f"{connection.host} broke the connection off ({type(error).__name__})"
            if response is None:
                raise Refusal(504 if isinstance(error, TimeoutError) else 502, "upstream", text) from None
            self._weigh(502, None)
            self._report(502, "upstream", f"upstream: {text}")
        finally:
            if reusable:
                self.door.pool.give(base_url, connection)
            else:
                connection.close()

    def _pass_back(self, response: http.client.HTTPResponse, credential: Credential | None) -> bytes:
        """Pass back the head and the body as it arrives, and report it; but for its end, which is returned."""
        status = response.status
        headers = {name.lower(): value for name, value in response.getheaders()}
        until = upstream.retry_at(status, headers, time.time()) if status >= 400 else None
        self._weigh(status, until)
        if self.ends_retries:
            headers["x-should-retry"] = "false"
        self.send_response_only(status, response.reason)
        for name, value in headers.items():
            if name not in upstream.NOT_PASSED_ON:
                self.send_header(name, value)
        if response.length is not None:
            self.send_header("Content-Length", str(response.length))
            self.end_headers()
            seen = end = response.read()
        else:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            seen, end = b"", chunk(b"")
            while piece := response.read1(CHUNK):
                seen += piece if status >= 400 and len(seen) < upstream.ERROR_BYTES else b""
                self.wfile.write(chunk(piece))
        if status < 400:
            self.door.failures = 0
            self._report(status)
        else:
            secret = credential.secret if credential else ""
            self._report(status, None, upstream.error_text(status, seen[: upstream.ERROR_BYTES], secret), until)
        return end
