"""The way from the gateway to the model's API: open connections that are kept, the headers a call goes on with, and
what an answer that fails says (the only witness of it: containers are not believed).

``http.client`` rather than a pooling library: a call must be ended from another thread when its container hangs up,
also before the answer's first byte, and that needs the socket. For https the host's own HTTPS_PROXY and NO_PROXY count
(but no proxy that speaks TLS itself or asks for a login). CAs are the system's, or those of SSL_CERT_FILE.
"""

from __future__ import annotations

import http.client
import itertools
import json
import math
import select
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from functools import cached_property
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from nanoclaw.models import Credential

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 600.0
IDLE_LIMIT = 45.0  # s; a connection idle for longer may have been forgotten on its way without a word
MOST_IDLE = 16
OAUTH_BETA = "oauth-2025-04-20"
ERROR_BYTES = 64 * 1024  # of a failed answer's body that are looked at
ERROR_LENGTH = 300
LONGEST_WAIT = 8 * 86400.0  # s; the longest limit of the platform is a week
SHORT_WAIT = 10.0  # s; so long the SDK may wait for itself
FAILURES_RETRIED = 2  # in a row, of one run

# Headers that belong to one connection, or that the gateway itself has to say: passed on in neither direction.
NOT_PASSED_ON = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding"}
    | {"upgrade", "content-length", "host", "expect", "accept-encoding", "cookie", "set-cookie"}
    | {"x-api-key", "authorization"}
)


class Refusal(Exception):
    """An answer that the gateway gives itself; ``reason`` is for the host's events. No text names a credential."""

    def __init__(self, status: int, reason: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason


def request_headers(offered: Message, credential: Credential | None) -> dict[str, str]:
    """The container's headers without those that are not its business, and with the real credential."""
    headers = {
        name.lower(): value
        for name, value in offered.items()
        if name.lower() not in NOT_PASSED_ON and value.isascii() and value.isprintable()
    }
    betas = headers.pop("anthropic-beta", "").replace(" ", "").split(",")
    betas = [beta for beta in betas if beta not in ("", OAUTH_BETA)]
    if credential is not None and credential.kind == "oauth_token":
        headers["authorization"] = f"Bearer {credential.secret}"
        betas.append(OAUTH_BETA)
    elif credential is not None:
        headers["x-api-key"] = credential.secret
    return headers | ({"anthropic-beta": ",".join(betas)} if betas else {})


def may_retry(status: int, until: float | None, now: float, failures: int) -> bool:
    """Whether the SDK may try a call again by itself that was answered with ``status``; ``failures``: how many calls
    of the run failed in a row by 5xx, with this one. ``until`` as of ``retry_at``, ``now``: Unix time in s."""
    if status == 429:
        return until is not None and until - now <= SHORT_WAIT
    return failures <= FAILURES_RETRIED if status >= 500 else status not in (401, 402, 403)


def error_text(status: int, body: bytes, secret: str = "") -> str:
    """What a failed answer says: ``type: message`` on one line, at most ERROR_LENGTH characters, without ``secret``;
    ``HTTP <status>`` where its body (cut at ERROR_BYTES) is not of the API's shape."""
    try:
        error = json.loads(body)["error"]
        text = f"{error['type']}: {error['message']}"
    except (ValueError, LookupError, TypeError, RecursionError):
        return f"HTTP {status}"
    text = text.replace(secret, "[credential]") if secret else text
    return "".join(c for c in " ".join(text.split()) if c.isprintable())[:ERROR_LENGTH]


def retry_at(status: int, headers: Mapping[str, str], now: float) -> float | None:
    """The Unix time at which the platform says that a failed call may be tried again, at most LONGEST_WAIT after
    ``now`` (Unix time), None where it does not say; ``headers`` by lower-case name.

    ``retry-after``, and of a 429 the resets of the limits that are exhausted: the latest counts. Points in time are
    taken against the answer's ``date``, so that a clock that is wrong here changes no wait.
    """
    there = _date(headers.get("date", "")) or now
    waits = []
    with suppress(ValueError):
        waits.append(float(headers.get("retry-after", "")))
    if (day := _date(headers.get("retry-after", ""))) is not None:
        waits.append(day - there)
    if status == 429 and not headers.get("anthropic-ratelimit-unified-status", "").startswith("allowed"):
        with suppress(ValueError):
            waits.append(float(headers.get("anthropic-ratelimit-unified-reset", "")) - there)
    for limit in ("requests", "tokens", "input-tokens", "output-tokens"):
        if status == 429 and headers.get(f"anthropic-ratelimit-{limit}-remaining") == "0":
            with suppress(ValueError, OverflowError):
                reset = datetime.fromisoformat(headers.get(f"anthropic-ratelimit-{limit}-reset", ""))
                waits.append(reset.timestamp() - there)
    waits = [wait for wait in waits if math.isfinite(wait)]
    return now + min(max(0.0, *waits), LONGEST_WAIT) if waits else None


def _date(text: str) -> float | None:
    """The Unix time of an HTTP date."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


class Pool:
    """Idle connections by base URL. ``take`` gives a usable one, ``give`` brings it back after a whole answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _idle
        self._idle: defaultdict[str, list[tuple[float, http.client.HTTPConnection]]] = defaultdict(list)

    def take(self, base_url: str) -> http.client.HTTPConnection:
        """An open connection, an idle one if one is still good; Refusal (502) if none can be made."""
        while True:
            with self._lock:
                if not self._idle[base_url]:
                    break
                since, connection = self._idle[base_url].pop()
            if time.monotonic() - since < IDLE_LIMIT and not _readable(connection):
                return connection
            connection.close()
        return self._connect(base_url)

    def give(self, base_url: str, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle[base_url]) < MOST_IDLE:
                self._idle[base_url].append((time.monotonic(), connection))
                return
        connection.close()

    def close(self) -> None:
        with self._lock:
            for _, connection in itertools.chain(*self._idle.values()):
                connection.close()
            self._idle.clear()

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    def _connect(self, base_url: str) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection
        try:
            url = urlsplit(base_url)
            host, port = url.hostname or "", url.port
            if url.scheme == "http":
                connection = http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT)
            elif (proxy := _proxy_to(host)) is None:
                connection = http.client.HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT, context=self._tls)
            else:
                way = proxy.hostname or "", proxy.port or 80
                connection = http.client.HTTPSConnection(*way, timeout=CONNECT_TIMEOUT, context=self._tls)
                connection.set_tunnel(host, port)
            connection.connect()
        except (OSError, ValueError, http.client.HTTPException) as error:
            # A ValueError may quote the proxy's URL, and with it a password.
            why = str(error) if isinstance(error, OSError) else "its URL, or the proxy's, cannot be used"
            raise Refusal(502, "upstream", f"the gateway cannot reach {base_url}: {why}") from None
        connection.sock.settimeout(READ_TIMEOUT)
        return connection


def _proxy_to(host: str) -> SplitResult | None:
    """The URL of the proxy by which this machine reaches https://``host``, if it needs one."""
    proxy = getproxies().get("https")
    if not proxy or proxy_bypass(host):
        return None
    return urlsplit(proxy if "://" in proxy else f"http://{proxy}")


def _readable(connection: http.client.HTTPConnection) -> bool:
    """Whether something came in while it was idle: its end, or bytes nobody asked for."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))
