"""A thin client for Telegram's Bot API (https://core.telegram.org/bots/api), over requests.

The API's address holds the token. So no exception of requests leaves this module, not even as a context, and what
urllib3 logs is masked. Any number of threads: each has its own connections.
"""

from __future__ import annotations

import io
import json
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import requests
from urllib3.filepost import encode_multipart_formdata

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
DOWNLOAD_SECONDS = 15.0
KEEP_SECONDS = 50.0
"""A connection that was not used for so long may be dead without our knowing: what is sent on it would be in doubt."""
LONGEST_WAIT = 3600.0
"""What Telegram asks us to wait is believed up to this many seconds."""
MAX_DOWNLOAD = 20 << 20
"""Bytes of the largest file that the API gives to bots."""


class TelegramError(Exception):
    """A call failed. ``code``: the API's error code, 0 where no sensible answer came. ``retry_after``: seconds to wait.
    ``migrated_to``: the chat's new id. ``uncertain``: it may have had its effect."""

    uncertain = False

    def __init__(
        self, description: str, code: int = 0, retry_after: float | None = None, migrated_to: int | None = None
    ) -> None:
        super().__init__(description)
        self.code = code
        self.retry_after = retry_after
        self.migrated_to = migrated_to


class _Body(io.BytesIO):
    """A request's body that knows whether it left: the client reads it when the connection stands, not before."""

    left = False

    def read(self, size: int | None = -1) -> bytes:
        self.left = True
        return super().read(size)


class Api:
    """The methods of one bot. ``url``: the server, without a path of its own."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._local = threading.local()
        for name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry"):
            logging.getLogger(name).addFilter(self._mask_record)

    @staticmethod
    def is_token(token: str) -> bool:
        """Whether it looks like what @BotFather gives: a number, a colon, letters."""
        return re.fullmatch(r"[0-9]+:[A-Za-z0-9_-]+", token) is not None

    def call(
        self,
        method: str,
        parameters: Mapping[str, Any],
        files: Mapping[str, tuple[str, bytes]] | None = None,
        read: float = READ_SECONDS,
    ) -> Any:
        """The result of a method; raises TelegramError. ``files``: name and content by parameter."""
        data, kind = json.dumps(dict(parameters)).encode(), "application/json"
        if files:
            flat = {key: value if isinstance(value, str) else json.dumps(value) for key, value in parameters.items()}
            data, kind = encode_multipart_formdata({**flat, **files})
        body = _Body(data)
        arguments = {"data": body, "headers": {"Content-Type": kind}}
        try:
            status, answer = self._exchange("POST", f"/bot{self._token}/{method}", read, arguments)
        except TelegramError as error:
            error.uncertain = body.left
            raise
        return self._result(status, answer)

    def download(self, file_path: str) -> Iterator[bytes]:
        """The content of a file that getFile named, in pieces; raises TelegramError, also between two pieces."""
        response = self._request("GET", f"/file/bot{self._token}/{file_path}", DOWNLOAD_SECONDS, {"stream": True})
        with response:
            if response.status_code != 200:
                raise TelegramError(f"the file cannot be had (HTTP {response.status_code})", response.status_code)
            pieces = response.iter_content(1 << 16)
            while piece := self._guarded(lambda: next(pieces, b"")):
                yield piece

    def _exchange(self, verb: str, path: str, read: float, arguments: Mapping[str, Any]) -> tuple[int, bytes]:
        with self._request(verb, path, read, arguments) as response:
            return response.status_code, response.content

    def _request(self, verb: str, path: str, read: float, arguments: Mapping[str, Any]) -> requests.Response:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is not None and time.monotonic() - self._local.used > KEEP_SECONDS:
            session.close()
            session = None
        if session is None:
            session = self._local.session = requests.Session()
        self._local.used = time.monotonic()
        timeout = (min(CONNECT_SECONDS, read), read)
        url = self._url + path
        response: requests.Response = self._guarded(
            lambda: session.request(verb, url, timeout=timeout, allow_redirects=False, **arguments)
        )
        return response

    def _guarded(self, step: Any) -> Any:
        """Run a step of requests. Its errors name the URL: here they end."""
        try:
            return step()
        except requests.Timeout:
            problem = "Telegram did not answer in time"
        except requests.exceptions.SSLError:
            problem = "no secure connection to Telegram (certificate or proxy)"
        except requests.exceptions.ProxyError:
            problem = "the proxy does not let through to Telegram"
        except (requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema, requests.exceptions.InvalidURL):
            problem = "api_url of [channels.telegram] is not an http(s) address"
        except (requests.RequestException, OSError, ValueError) as error:
            cut = re.search("abort|broken", str(error)) is not None
            problem = "the connection to Telegram was cut" if cut else "Telegram cannot be reached"
        raise TelegramError(problem)

    def _result(self, status: int, body: bytes) -> Any:
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
            # What some proxy says of 401, 403 or 404 is not the API's word.
            sure = status == 413 or status >= 500
            failure = TelegramError(f"no answer of the Bot API came (HTTP {status})", status if sure else 0)
            failure.uncertain = not 300 <= status < 500  # what was sent elsewhere or refused did not get there
            raise failure
        if answer["ok"]:
            return answer.get("result")
        more = answer.get("parameters")
        more = more if isinstance(more, dict) else {}
        code, wait, migrated = answer.get("error_code"), more.get("retry_after"), more.get("migrate_to_chat_id")
        failure = TelegramError(
            self._masked(str(answer.get("description", "no reason given")).replace("\n", " ")[:300]),
            code if isinstance(code, int) else status,
            min(max(0.0, float(wait)), LONGEST_WAIT) if isinstance(wait, int | float) else None,
            migrated if isinstance(migrated, int) else None,
        )
        failure.uncertain = failure.code in (502, 504)  # a gateway's, which only knows that it heard nothing
        raise failure

    def _masked(self, text: str) -> str:
        return text.replace(self._token, "[token]")

    def _mask_record(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._masked(record.getMessage()), None
        return True
