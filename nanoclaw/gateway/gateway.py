"""The only way from a container to the model: one Unix socket per run, and what happens to a call that comes in there.

Each socket has a directory of its own, which is what the container gets mounted. The parent ``state/gateway`` is 0700,
so that on the host only its user reaches a socket; inside a container any user may connect, hence 0666. A new host
binds again at the same path: the SDK in the container survives the gap. Where Unix sockets do not pass into containers
(engines in a virtual machine), TCP on 127.0.0.1 belongs in ``open``.

What comes from the container is hostile: only three targets exist, headers are rebuilt, bodies are bounded and pass
through in pieces. Retrying is the SDK's business: status codes and ``retry-after`` pass through.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nanoclaw.errors import UserError
from nanoclaw.gateway.connections import Handler, Server, chunk, ending_with, has_hung_up
from nanoclaw.gateway.messages_api import error_body
from nanoclaw.gateway.placeholder import matches
from nanoclaw.gateway.upstream import NOT_PASSED_ON, Pool, Refusal, request_headers
from nanoclaw.models import Credential, Environment

LONGEST_PATH = 99  # bytes; the kernel takes 107, other systems' 103
POSTS = frozenset({"/v1/messages", "/v1/messages/count_tokens"})
MAX_BODY = 32 * 1024 * 1024
CHUNK = 64 * 1024


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


class Gateway:
    """The doors of all runs.

    ``environment`` and ``upstream_override`` are asked at each request. An override is a base URL that takes every call
    without any credential: the offline model. ``on_event(run_id, "response", details)`` is called in a connection's
    thread after each answer; ``details`` holds ``status`` (0: the container hung up first), ``seconds``, ``path`` and
    ``reason``: None for the model's own answers, else placeholder, path, too_large, no_credential or upstream.
    """

    def __init__(
        self,
        environment: Callable[[], Environment],
        upstream_override: Callable[[], str | None] = lambda: None,
        on_event: Callable[[str, str, dict[str, Any]], None] = lambda run_id, kind, details: None,
    ) -> None:
        self.on_event = on_event
        self.pool = Pool()
        self._environment = environment
        self._upstream_override = upstream_override
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
        server = Server(listener, lambda connection: _Call(connection, self, run_id, placeholder_hash))
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
        self.pool.close()

    def destination(self) -> tuple[str, Credential | None]:
        """Where a call goes and with which credential, as of now; Refusal (401) without a usable one."""
        override = self._upstream_override()
        if override is not None:
            return override, None
        environment = self._environment()
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


class _Call(Handler):
    """A connection from a container; each request on it is one turn of ``do_POST``."""

    def __init__(self, connection: socket.socket, gateway: Gateway, run_id: str, placeholder_hash: str) -> None:
        self.gateway = gateway
        self.run_id = run_id
        self.placeholder_hash = placeholder_hash
        super().__init__(connection, "", None)  # type: ignore[arg-type]  # a Unix peer has no address

    def do_HEAD(self) -> None:
        self.send_response_only(200 if self.path == "/api/hello" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        started = time.monotonic()
        path = self.path.partition("?")[0]
        stated = self.headers.get("content-length", "")
        length = int(stated) if stated.isdecimal() and len(stated) < 16 else MAX_BODY + 1
        body = self._body(length)
        status, reason = 0, None
        try:
            self._check(path, length)
            status = self._forward(length, body)
        except Refusal as refusal:
            status, reason = refusal.status, refusal.reason
            self.send_error(status, str(refusal))
        finally:
            path = path if path in POSTS else "other"
            event = {"status": status, "reason": reason, "path": path, "seconds": time.monotonic() - started}
            self.gateway.on_event(self.run_id, "response", event)
        for _ in body:
            pass  # closed on a client that is still sending, the connection might not carry the refusal to it

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Every answer of the gateway's own, in the API's shape; the base class calls it too."""
        headers = {"x-should-retry": "false"} if code < 500 else {}
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
        if not matches(offered, self.placeholder_hash):
            raise Refusal(401, "placeholder", "this is not the placeholder of this run")
        if path not in POSTS or not (self.path.isascii() and self.path.isprintable()):
            raise Refusal(403, "path", "the gateway does not serve this path")
        if length > MAX_BODY:
            self.close_connection = True
            raise Refusal(413, "too_large", f"a request states its length, at most {MAX_BODY} bytes")

    def _forward(self, length: int, body: Iterator[bytes]) -> int:
        """Pass the call on and its answer back; returns the status, 0 where the container hung up first.

        An answer that breaks off upstream breaks off here too; Refusal where none began.
        """
        base_url, credential = self.gateway.destination()
        headers = request_headers(self.headers, credential) | {"content-length": str(length)}
        connection = self.gateway.pool.take(base_url)
        status, reusable = 0, False
        try:
            connection.request("POST", urlsplit(base_url).path.rstrip("/") + self.path, body, headers)
            with ending_with(self.connection, connection.sock):
                response = connection.getresponse()
                status = response.status
                end = self._pass_back(response)
            reusable = not response.will_close
            self.wfile.write(end)  # no sooner: a container that leaves with its answer would cost the connection
        except (OSError, http.client.HTTPException) as error:
            self.close_connection = True
            if has_hung_up(self.connection):
                return 0
            if not status:
                text = f"{connection.host} broke the connection off ({type(error).__name__})"
                raise Refusal(504 if isinstance(error, TimeoutError) else 502, "upstream", text) from None
        finally:
            if reusable:
                self.gateway.pool.give(base_url, connection)
            else:
                connection.close()
        return status

    def _pass_back(self, response: http.client.HTTPResponse) -> bytes:
        """Pass back the head and the body as it arrives, but for its end, which is returned."""
        self.send_response_only(response.status, response.reason)
        headers = {name.lower(): value for name, value in response.getheaders() if name.lower() not in NOT_PASSED_ON}
        if response.status in (401, 403):
            headers["x-should-retry"] = "false"  # a person must act; the SDK would try for three minutes first
        for name, value in headers.items():
            self.send_header(name, value)
        if response.length is not None:
            self.send_header("Content-Length", str(response.length))
            self.end_headers()
            return response.read()
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while piece := response.read1(CHUNK):
            self.wfile.write(chunk(piece))
        return chunk(b"")
