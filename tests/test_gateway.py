"""The gateway between real Unix socket clients and a real Messages API endpoint on loopback."""

from __future__ import annotations

import http.client
import json
import os
import select
import shutil
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.gateway.connections import MOST_CONNECTIONS, Server, end_connection
from nanoclaw.gateway.endpoint import Endpoint, Request, _Handler
from nanoclaw.gateway.gateway import Gateway, socket_path_for
from nanoclaw.gateway.placeholder import hash_placeholder, new_placeholder
from nanoclaw.gateway.upstream import error_text, retry_at
from nanoclaw.models import Credential, Environment
from tests.support.scripted_model import Error, Hang, ScriptedModel, Text

SECRET = "sk-ant-api03-the-real-secret-of-this-test"
KEY = Credential("api_key", SECRET)
TOKEN = Credential("oauth_token", SECRET)
BODY = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]}
DEADLINE = 30.0


class UnixConnection(http.client.HTTPConnection):
    """What a container does: HTTP over the socket that was mounted."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=DEADLINE)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(os.fspath(self.path))


class Bench:
    """A gateway with one open run, whose environment a test may change between calls."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = Environment(KEY)
        self.override: str | None = None
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.answered = threading.Condition()
        self.placeholder = new_placeholder("api_key")
        self.path = socket_path_for(directory, "run-1")
        self.gateway = self.another()
        self.gateway.open("run-1", self.path, hash_placeholder(self.placeholder))

    def another(self) -> Gateway:
        return Gateway(lambda: self.environment, lambda: self.override, self._record)

    def _record(self, run_id: str, kind: str, details: dict[str, Any]) -> None:
        with self.answered:
            self.events.append((run_id, kind, details))
            self.answered.notify_all()

    def event(self, number: int) -> dict[str, Any]:
        """The details of the event ``number``, waiting for it."""
        with self.answered:
            assert self.answered.wait_for(lambda: len(self.events) > number, DEADLINE)
            return self.events[number][2]

    def call(
        self,
        path: str = "/v1/messages?beta=true",
        body: dict[str, Any] | None = None,
        connection: UnixConnection | None = None,
        **headers: str,
    ) -> http.client.HTTPResponse:
        connection = connection or UnixConnection(self.path)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if not {"x-api-key", "authorization"} & named.keys():
            named["x-api-key"] = self.placeholder
        connection.request("POST", path, json.dumps(body or BODY), named)
        return connection.getresponse()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    directory = tmp_path / "gateway" if len(str(tmp_path)) < 70 else Path(f"/tmp/nc-test-{os.getpid()}")
    one = Bench(directory)
    yield one
    one.gateway.shutdown()
    shutil.rmtree(directory, ignore_errors=True)


def error_of(response: http.client.HTTPResponse) -> str:
    value = json.loads(response.read())
    assert value["type"] == "error"
    return str(value["error"]["type"])


def test_an_api_key_takes_the_placeholders_place(bench: Bench) -> None:
    with ScriptedModel() as model:
        bench.environment = Environment(KEY, model.url + "/prefix/")
        response = bench.call(anthropic_version="2023-06-01", authorization=f"Bearer {bench.placeholder}")
        assert json.loads(response.read())["content"][0]["text"] == "echo: hello"
        (request,) = model.requests
    assert request.path == "/prefix/v1/messages?beta=true"
    assert request.body == BODY
    assert request.headers["x-api-key"] == SECRET
    assert "authorization" not in request.headers
    assert request.headers["anthropic-version"] == "2023-06-01"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["host"] == model.url.removeprefix("http://")


def test_an_oauth_token_goes_as_bearer_with_its_beta(bench: Bench) -> None:
    with ScriptedModel() as model:
        bench.environment = Environment(TOKEN, model.url)
        bench.call(anthropic_beta="one-beta", connection=None).read()
        (request,) = model.requests
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    assert "x-api-key" not in request.headers
    assert request.headers["anthropic-beta"] == "one-beta,oauth-2025-04-20"


def test_an_override_gets_the_call_but_no_credential(bench: Bench) -> None:
    with ScriptedModel() as model:
        bench.override = model.url
        assert bench.call().status == 200
        (request,) = model.requests
    assert not {"x-api-key", "authorization"} & request.headers.keys()


def test_hop_by_hop_and_smuggled_headers_stay_behind(bench: Bench) -> None:
    with ScriptedModel() as model:
        bench.environment = Environment(KEY, model.url)
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(DEADLINE)
            raw.connect(os.fspath(bench.path))
            raw.sendall(
                b"POST /v1/messages HTTP/1.1\r\nHost: evil\r\nConnection: keep-alive\r\nProxy-Authorization: a\r\n"
                b"Folded: a\r\n x-api-key: b\r\nCookie: c\r\nX-Kept: 2\r\nX-Api-Key: %s\r\nContent-Length: 2\r\n\r\n{}"
                % bench.placeholder.encode()
            )
            response = http.client.HTTPResponse(raw)
            response.begin()
            assert response.status == 200
        (request,) = model.requests
    assert request.headers["x-kept"] == "2"
    assert not {"proxy-authorization", "folded", "cookie", "connection"} & request.headers.keys()
    assert request.headers["host"] != "evil"


@pytest.mark.parametrize("offered", ["", "sk-ant-api03-wrong", SECRET, "é"])
def test_only_the_runs_own_placeholder_opens(bench: Bench, offered: str) -> None:
    with ScriptedModel() as model:
        bench.environment = Environment(KEY, model.url)
        response = bench.call(x_api_key=offered)
        assert (response.status, response.headers["x-should-retry"]) == (401, "false")
        assert error_of(response) == "authentication_error"
        assert model.requests == []
    assert bench.event(0)["reason"] == "placeholder"


def test_a_refusal_reaches_a_client_that_is_still_sending(bench: Bench) -> None:
    large = BODY | {"metadata": {"user_id": "x" * 5_000_000}}
    connection = UnixConnection(bench.path)
    assert error_of(bench.call(x_api_key="wrong", body=large, connection=connection)) == "authentication_error"
    assert error_of(bench.call("/v1/files", connection=connection)) == "permission_error"


def test_another_runs_placeholder_is_refused(bench: Bench) -> None:
    other = new_placeholder("api_key")
    bench.gateway.open("run-2", socket_path_for(bench.directory, "run-2"), hash_placeholder(other))
    assert bench.call(x_api_key=other).status == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/files", 403),
        ("POST", "/v1/messages/batches", 403),
        ("POST", "/v1/messages/../organizations", 403),
        ("POST", "http://other.example/v1/files", 403),
        ("GET", "/v1/messages", 501),
        ("CONNECT", "other.example:443", 501),
        ("HEAD", "/api/hello", 200),
        ("HEAD", "/v1/messages", 404),
    ],
)
def test_only_three_targets_exist(bench: Bench, method: str, path: str, status: int) -> None:
    with ScriptedModel() as model:
        bench.environment = Environment(KEY, model.url)
        connection = UnixConnection(bench.path)
        connection.request(method, path, b"{}" if method == "POST" else None, {"x-api-key": bench.placeholder})
        assert connection.getresponse().status == status
        assert model.requests == []


def test_count_tokens_passes(bench: Bench) -> None:
    with ScriptedModel() as model:
        bench.environment = Environment(KEY, model.url)
        counted = json.loads(bench.call("/v1/messages/count_tokens?beta=true").read())["input_tokens"]
        answered = json.loads(bench.call().read())["usage"]["input_tokens"]
    assert counted == answered > 0


def test_no_credential_is_a_401_that_is_not_retried(bench: Bench) -> None:
    bench.environment = Environment(None)
    response = bench.call()
    assert (response.status, response.headers["x-should-retry"]) == (401, "false")
    assert error_of(response) == "authentication_error"
    event = bench.event(0)
    assert (event["status"], event["reason"], event["path"]) == (401, "no_credential", "/v1/messages")
    assert (event["error"], event["until"]) == ("no_credential: no credential in .env on the host", None)


def test_a_body_over_the_limit_is_refused_unread(bench: Bench) -> None:
    connection = UnixConnection(bench.path)
    connection.putrequest("POST", "/v1/messages")
    connection.putheader("x-api-key", bench.placeholder)
    connection.putheader("Content-Length", str(32 * 1024 * 1024 + 1))
    connection.endheaders()
    response = connection.getresponse()
    assert (response.status, error_of(response)) == (413, "request_too_large")


def test_a_piece_of_the_stream_arrives_before_the_model_has_finished(bench: Bench) -> None:
    more = threading.Event()

    def rule(_: dict[str, Any]) -> Iterator[Text]:
        yield Text("first")
        assert more.wait(DEADLINE)
        yield Text("second")

    with ScriptedModel(rule) as model:
        bench.environment = Environment(KEY, model.url)
        response = bench.call(body=BODY | {"stream": True})
        assert response.headers["content-type"].startswith("text/event-stream")
        seen = b""
        while b"first" not in seen:
            seen += response.read1(65536)
        assert b"second" not in seen
        more.set()
        rest = response.read()
        assert b"second" in rest
        assert rest.endswith(b'data: {"type": "message_stop"}\n\n')


def test_the_clients_hang_up_ends_the_call_upstream(bench: Bench) -> None:
    with ScriptedModel(lambda _: Hang()) as model:
        bench.environment = Environment(KEY, model.url)
        connection = UnixConnection(bench.path)
        connection.request("POST", "/v1/messages", json.dumps(BODY), {"x-api-key": bench.placeholder})
        model.wait_for_requests(1)
        connection.close()
        model.wait_for_hangups(1, DEADLINE)
    assert bench.event(0)["status"] == 0


def test_a_hang_up_in_a_silent_stream_ends_it_upstream(bench: Bench) -> None:
    ended = threading.Event()

    def rule(_: dict[str, Any]) -> Iterator[Text]:
        yield Text("first")
        assert select.select([model.requests[-1].connection], [], [], DEADLINE)[0]
        ended.set()

    with ScriptedModel(rule) as model:
        bench.environment = Environment(KEY, model.url)
        connection = UnixConnection(bench.path)
        response = bench.call(body=BODY | {"stream": True}, connection=connection)
        seen = b""
        while b"content_block_stop" not in seen:
            seen += response.read1(65536)
        response.close()
        connection.close()
        assert ended.wait(DEADLINE)
    assert bench.event(0)["status"] == 0


def test_a_hang_up_within_the_request_ends_it_upstream(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as upstream, socket.socket(socket.AF_UNIX) as raw:
        bench.environment = Environment(KEY, f"http://127.0.0.1:{upstream.getsockname()[1]}")
        raw.connect(os.fspath(bench.path))
        head = f"POST /v1/messages HTTP/1.1\r\nx-api-key: {bench.placeholder}\r\nContent-Length: 200000\r\n\r\n"
        raw.sendall(head.encode() + b"x" * 100000)
        called, _ = upstream.accept()
        with called:
            called.settimeout(DEADLINE)
            assert called.recv(10) == b"POST /v1/m"  # in pieces: it is there before the body is whole
            raw.close()
            while called.recv(65536):
                pass
    assert bench.event(0)["status"] == 0


def test_clients_that_leave_after_their_answer_share_connections_upstream(bench: Bench) -> None:
    with ScriptedModel() as model:
        bench.environment = Environment(KEY, model.url)
        for number in range(50):
            connection = UnixConnection(bench.path)
            response = bench.call(body=BODY | {"stream": True}, connection=connection)
            assert b"message_stop" in response.read()
            connection.close()
            bench.event(number)
        # The next call may come an instant before the connection is back in the pool.
        assert len({id(request.connection) for request in model.requests}) <= 5


def test_closing_a_run_ends_its_calls_and_removes_its_directory(bench: Bench) -> None:
    with ScriptedModel(lambda _: Hang()) as model:
        bench.environment = Environment(KEY, model.url)
        connection = UnixConnection(bench.path)
        connection.request("POST", "/v1/messages", json.dumps(BODY), {"x-api-key": bench.placeholder})
        model.wait_for_requests(1)
        bench.gateway.close("run-1")
        model.wait_for_hangups(1, DEADLINE)
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            connection.getresponse()
    assert not bench.path.parent.exists()
    bench.gateway.close("run-1")


def test_a_stream_that_breaks_off_upstream_breaks_off_here(bench: Bench) -> None:
    def rule(_: dict[str, Any]) -> Iterator[Text]:
        yield Text("first")
        end_connection(model.requests[-1].connection)
        yield Text("second")

    with ScriptedModel(rule) as model:
        bench.environment = Environment(KEY, model.url)
        response = bench.call(body=BODY | {"stream": True})
        with pytest.raises(http.client.IncompleteRead):
            response.read()
    assert (bench.event(0)["status"], bench.event(0)["reason"]) == (502, "upstream")


def test_a_container_cannot_hold_any_number_of_threads(bench: Bench) -> None:
    connections = [socket.socket(socket.AF_UNIX) for _ in range(MOST_CONNECTIONS + 1)]
    for connection in connections:
        connection.connect(os.fspath(bench.path))
    refused, _, _ = select.select(connections, [], [], DEADLINE)
    assert [connection.recv(1) for connection in refused] == [b""]
    refused[0].close()
    for connection in set(connections) - set(refused):
        connection.close()


def test_an_upstream_that_is_down_is_a_502_in_the_apis_shape(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    bench.environment = Environment(KEY, f"http://127.0.0.1:{port}")
    response = bench.call()
    assert (response.status, response.headers["x-should-retry"]) == (502, None)
    assert error_of(response) == "api_error"
    assert bench.event(0)["reason"] == "upstream"
    assert f"cannot reach http://127.0.0.1:{port}" in bench.event(0)["error"]
    assert [bench.call().headers["x-should-retry"] for _ in range(2)] == [None, "false"]


def test_status_and_retry_after_pass_through(bench: Bench) -> None:
    with ScriptedModel(lambda _: Error(429, headers={"Retry-After": "17"})) as model:
        bench.environment = Environment(KEY, model.url)
        response = bench.call()
        assert (response.status, response.headers["retry-after"]) == (429, "17")
        assert error_of(response) == "rate_limit_error"
    assert bench.event(0)["reason"] is None


def test_a_refused_credential_is_not_tried_again(bench: Bench) -> None:
    with ScriptedModel(lambda _: Error(401, headers={"X-Should-Retry": "true"})) as model:
        bench.environment = Environment(KEY, model.url)
        response = bench.call()
        assert (response.status, response.headers.get_all("x-should-retry")) == (401, ["false"])


@pytest.mark.parametrize(
    ("status", "headers", "retry"),
    [
        (400, {}, None),
        (401, {}, "false"),
        (402, {}, "false"),
        (403, {}, "false"),
        (429, {}, "false"),
        (429, {"retry-after": "10"}, None),
        (429, {"retry-after": "11"}, "false"),
        (429, {"retry-after": "1", "anthropic-ratelimit-unified-reset": "9999999999"}, "false"),
        (500, {}, None),
        (529, {"retry-after": "100"}, None),
    ],
)
def test_the_sdk_waits_only_where_it_is_short(
    bench: Bench, status: int, headers: dict[str, str], retry: str | None
) -> None:
    with ScriptedModel(lambda _: Error(status, headers)) as model:
        bench.environment = Environment(KEY, model.url)
        assert bench.call().headers["x-should-retry"] == retry


def test_the_third_failure_in_a_row_of_a_run_ends_the_retries(bench: Bench) -> None:
    answers = iter([Error(500), Error(529), "well again", Error(503), Error(500), Error(429), Error(500)])
    with ScriptedModel(lambda _: next(answers)) as model:
        bench.environment = Environment(KEY, model.url)
        retry = [bench.call().headers["x-should-retry"] for _ in range(7)]
    assert retry == [None, None, None, None, None, "false", "false"]


def test_the_host_hears_what_was_said_before_the_container_does(bench: Bench) -> None:
    """The container's word for it comes later, and is believed only then."""
    message = f"you sent {SECRET}:\nno\x1b " + "x" * 500
    with ScriptedModel(lambda _: Error(429, {"retry-after": "60"}, message)) as model:
        bench.environment = Environment(KEY, model.url)
        before = time.time()
        assert len(bench.call().read()) > 500
        (event,) = [details for _, _, details in bench.events]
        assert before + 60 <= event["until"] <= time.time() + 60
        assert event["error"].startswith("rate_limit_error: you sent [credential]: no xxx")
        assert len(event["error"]) == 300
        bench.environment = Environment(None)
        bench.call().read()
        assert bench.events[1][2]["error"].startswith("no_credential: ")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error": "x"}', b"[" * 70_000, b'{"error": {"type"'])
def test_an_error_in_no_known_shape(body: bytes) -> None:
    assert error_text(503, body) == "HTTP 503"


@pytest.mark.parametrize(
    ("status", "headers", "wait"),
    [
        (429, {}, None),
        (429, {"retry-after": "17"}, 17),
        (529, {"retry-after": "1.5"}, 1.5),
        (429, {"retry-after": "-3"}, 0),
        (429, {"retry-after": "nan"}, None),
        (429, {"retry-after": "soon"}, None),
        (429, {"retry-after": "9e99"}, 8 * 86400),
        (429, {"retry-after": "Sun, 22 Nov 2026 12:01:00 GMT"}, 60),
        (429, {"retry-after": "Sun, 22 Nov 2026 12:01:00 GMT", "date": "Sun, 22 Nov 2026 12:00:50 GMT"}, 10),
        (429, {"anthropic-ratelimit-unified-reset": "1795348920"}, 120),
        (429, {"anthropic-ratelimit-unified-reset": "1795348920", "date": "Sun, 22 Nov 2026 11:02:00 GMT"}, 3600),
        (429, {"anthropic-ratelimit-unified-reset": "1795348920", "retry-after": "5"}, 120),
        (
            429,
            {
                "anthropic-ratelimit-unified-reset": "1795348920",
                "anthropic-ratelimit-unified-status": "allowed_warning",
                "retry-after": "5",
            },
            5,
        ),
        (529, {"anthropic-ratelimit-unified-reset": "1795348920"}, None),
        (
            429,
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2026-11-22T12:00:30Z",
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": "2026-11-22T12:00:40Z",
                "anthropic-ratelimit-output-tokens-remaining": "7",
                "anthropic-ratelimit-output-tokens-reset": "2026-11-22T13:00:00Z",
            },
            40,
        ),
    ],
)
def test_when_the_platform_takes_it_again(status: int, headers: dict[str, str], wait: float | None) -> None:
    noon = 1795348800.0  # 2026-11-22 12:00 UTC
    until = retry_at(status, headers, noon)
    assert until == (None if wait is None else noon + wait)


def test_connections_are_kept_on_both_sides_and_a_dead_one_is_replaced(bench: Bench) -> None:
    with ScriptedModel() as model:
        bench.environment = Environment(KEY, model.url)
        connection = UnixConnection(bench.path)
        for stream in (False, True):
            response = bench.call(body=BODY | {"stream": stream}, connection=connection)
            response.read()
            used = connection.sock
            assert used is not None
        first, second = model.requests
        assert first.connection is second.connection
        end_connection(second.connection)
        assert bench.call(connection=connection).status == 200
        assert connection.sock is used
        assert model.requests[2].connection is not second.connection


def test_the_next_host_binds_again_at_the_same_path(bench: Bench) -> None:
    with ScriptedModel() as model:
        bench.environment = Environment(KEY, model.url)
        old = UnixConnection(bench.path)
        bench.call(connection=old).read()
        bench.gateway.shutdown()
        assert bench.path.exists()
        with pytest.raises(ConnectionRefusedError):
            UnixConnection(bench.path).connect()
        bench.gateway = bench.another()
        bench.gateway.open("run-1", bench.path, hash_placeholder(bench.placeholder))
        assert bench.call().status == 200


def test_modes_are_right_whatever_the_umask(bench: Bench) -> None:
    before = os.umask(0o077)
    try:
        path = socket_path_for(bench.directory, "run-2")
        bench.gateway.open("run-2", path, hash_placeholder("x"))
    finally:
        os.umask(before)
    assert [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent, bench.directory)] == [0o666, 0o755, 0o700]


def test_a_home_with_a_long_path_gets_a_short_private_one(bench: Bench) -> None:
    path = socket_path_for(Path("/home") / ("x" * 120) / str(os.getpid()), "run-2")
    assert len(os.fsencode(path)) < 100
    assert path == socket_path_for(Path("/home") / ("x" * 120) / str(os.getpid()), "run-2")
    try:
        bench.gateway.open("run-2", path, hash_placeholder("x"))
        assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700
        UnixConnection(path).connect()
        bench.gateway.close("run-2")
    finally:
        path.parent.parent.rmdir()


@pytest.mark.parametrize("secret", [SECRET, SECRET + "\n", SECRET + "\r\nx: y", SECRET + "é", f"\x00{SECRET}"])
def test_the_credential_shows_nowhere(
    bench: Bench, secret: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    with ScriptedModel() as model, socket.create_server(("127.0.0.1", 0)) as closed:
        bench.environment = Environment(Credential("api_key", secret), model.url)
        responses = [bench.call()]
        bench.environment = Environment(Credential("api_key", secret), f"http://127.0.0.1:{closed.getsockname()[1]}")
        closed.close()
        responses.append(bench.call())
        assert [r.status for r in responses] == ([200, 502] if secret == SECRET else [401, 401])
        shown = [str(r.headers) + r.read().decode() for r in responses]
        assert len(model.requests) == (secret == SECRET)
    bench.event(1)
    written = capfd.readouterr()
    shown += [
        repr(bench.events),
        repr(bench.environment),
        repr(vars(bench.gateway)),
        written.out,
        written.err,
        caplog.text,
    ]
    assert "the-real-secret" not in "".join(shown)


@pytest.fixture
def tls_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, threading.Event]]:
    """The port of a model at https://localhost whose certificate this machine trusts, and whether it saw a hang-up."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    argv = [*command.split(), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(argv, check=True, capture_output=True)
    hung_up = threading.Event()

    def answer(request: Request) -> list[Text]:
        if request.body.get("wait"):
            assert select.select([request.connection], [], [], DEADLINE)[0]
            hung_up.set()
        return [Text(request.headers["x-api-key"])]

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
    server = Server(listener, lambda connection: _Handler(connection, "", Endpoint(answer)))  # type: ignore[arg-type]
    for variable in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    yield listener.getsockname()[1], hung_up
    server.stop()


def test_https_is_checked_and_a_hang_up_passes_through_it(
    bench: Bench, tls_model: tuple[int, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, hung_up = tls_model
    bench.environment = Environment(KEY, f"https://localhost:{port}")
    assert SECRET in bench.call().read().decode()
    connection = UnixConnection(bench.path)
    connection.request("POST", "/v1/messages", json.dumps(BODY | {"wait": True}), {"x-api-key": bench.placeholder})
    connection.close()
    assert hung_up.wait(DEADLINE)
    monkeypatch.delenv("SSL_CERT_FILE")
    stranger = bench.another()
    stranger.open("run-2", socket_path_for(bench.directory, "run-2"), hash_placeholder(bench.placeholder))
    response = bench.call(connection=UnixConnection(socket_path_for(bench.directory, "run-2")))
    assert response.status == 502
    assert "CERTIFICATE_VERIFY_FAILED" in response.read().decode()
    stranger.shutdown()


def test_the_hosts_proxy_is_used_for_https_only(
    bench: Bench, tls_model: tuple[int, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    def tunnel(client: socket.socket) -> None:
        asked.append(client.recv(4096).split(b"\r\n")[0])
        with socket.create_connection(("127.0.0.1", tls_model[0])) as upstream:
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while ready := select.select([client, upstream], [], [], DEADLINE)[0]:
                data = ready[0].recv(65536)
                if not data:
                    return
                (upstream if ready[0] is client else client).sendall(data)

    listener = socket.create_server(("127.0.0.1", 0))
    proxy = Server(listener, tunnel)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{listener.getsockname()[1]}")
    with ScriptedModel() as model:
        bench.environment = Environment(KEY, model.url)
        assert bench.call().status == 200
    bench.environment = Environment(KEY, f"https://localhost:{tls_model[0]}/")
    assert SECRET in bench.call().read().decode()
    monkeypatch.setenv("NO_PROXY", "localhost")
    bench.environment = Environment(KEY, f"https://localhost:{tls_model[0]}")
    assert SECRET in bench.call().read().decode()
    proxy.stop()
    assert [line.rpartition(b" ")[0] for line in asked] == [f"CONNECT localhost:{tls_model[0]}".encode()]
