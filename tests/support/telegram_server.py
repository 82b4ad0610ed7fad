"""A Telegram on loopback: the part of the Bot API that a bot's program uses, and its faults.

    with TelegramServer() as telegram:
        # config.toml: [channels.telegram] api_url = telegram.url; .env: TELEGRAM_BOT_TOKEN = telegram.token
        telegram.message(42, "hello", name="Ann")            # a person writes (negative chat: a group); returns its id
        telegram.push({"message": {...}})                    # any update; update_id is given where it is missing
        telegram.wait_sent(1)[0]["text"]                     # what chats show: the text without its tags
        telegram.fail("sendMessage", 429, "Too Many Requests: retry after 3", retry_after=3)
        telegram.fail("getUpdates", how="cut", times=2)      # also "garbage" and "hang" (until release() or close)
        telegram.calls("sendMessage")                        # the parameters of each call, refused ones too

Like the real one: updates below ``offset`` are gone for good; a second poller ends the first with 409; ``webhook`` and
``revoked``, where True, are 409 and 401; texts have at most 4096 (captions 1024) UTF-16 units after parsing and are not
empty; HTML must be balanced and of known tags. Unlike it: every chat exists, nothing is rate-limited, by itself.

``sent``: a dict each with method, message_id, chat_id, text (visible), html (as sent, None: plain), reply_to, file
(name, bytes) or None. ``confirmed``: the offset of the last poll. ``pending``: ids of updates that are not confirmed.
"""

from __future__ import annotations

import html
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.waiting import wait_for

BOT = {"id": 7000001, "is_bot": True, "first_name": "Andy", "username": "andy_test_bot"}
TAGS = {
    "b",
    "strong",
    "i",
    "em",
    "u",
    "ins",
    "s",
    "strike",
    "del",
    "a",
    "code",
    "pre",
    "blockquote",
    "span",
    "tg-spoiler",
}


class Refusal(Exception):
    """An answer with ok: false."""

    def __init__(self, code: int, description: str, **parameters: Any) -> None:
        super().__init__(description)
        self.code = code
        self.parameters = parameters


def visible(text: str) -> str:
    """What is seen of HTML; Refusal where Telegram cannot parse it."""
    stack: list[str] = []
    for slash, tag in re.findall(r"<(/?)([^\s>]*)[^>]*>?", text):
        if tag not in TAGS:
            raise Refusal(400, f'Bad Request: can\'t parse entities: Unsupported start tag "{tag}" at byte offset 0')
        if not slash:
            stack.append(tag)
        elif not stack or stack.pop() != tag:
            raise Refusal(400, "Bad Request: can't parse entities: Unmatched end tag at byte offset 0")
    if stack:
        text = f'Can\'t find end tag corresponding to start tag "{stack[-1]}"'
        raise Refusal(400, f"Bad Request: can't parse entities: {text}")
    return html.unescape(re.sub(r"<[^>]*>", "", text))


def _multipart(body: bytes, boundary: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for part in body.split(b"--" + boundary)[1:-1]:
        head, _, content = part[2:-2].partition(b"\r\n\r\n")
        names = dict(re.findall(r'(name|filename)="([^"]*)"', head.decode()))
        if "filename" in names:
            fields[names["name"]] = (names["filename"], content)
        else:
            text = content.decode()
            fields[names["name"]] = json.loads(text) if text.startswith("{") else text
    return fields


class TelegramServer:
    """See the module's header. Thread-safe."""

    def __init__(self, token: str = "7000001:AA-loopback_token") -> None:
        self.token = token
        self.revoked = False
        self.webhook = False
        self.sent: list[dict[str, Any]] = []
        self.confirmed = 0
        self._calls: list[tuple[str, dict[str, Any]]] = []
        self._faults: dict[str, list[dict[str, Any]]] = {}
        self._updates: list[tuple[int, Any]] = []
        self._files: dict[str, tuple[str, bytes, int]] = {}
        self._numbers = {"update": 1000, "message": 0, "poll": 0}
        self._changed = threading.Condition()
        self._released = threading.Event()
        self.closed = False
        owner = self

        class Handler(_Handler):
            telegram = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> TelegramServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Nobody answers at ``url`` any more."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    # What the test does

    def push(self, update: Any) -> int:
        """Queue an update for the bot; returns its id."""
        with self._changed:
            self._numbers["update"] += 1
            number = self._numbers["update"]
            self._updates.append((number, {"update_id": number, **update} if isinstance(update, dict) else update))
            self._changed.notify_all()
            return number

    def message(self, chat_id: int, text: str | None = None, name: str = "Ann", user: int = 42, **fields: Any) -> int:
        """A message of a person; returns its message_id. ``fields`` are the Bot API's and replace what is made here."""
        number = self._next("message")
        chat = {"id": chat_id, "type": "private", "first_name": name}
        if chat_id < 0:
            chat = {"id": chat_id, "type": "supergroup", "title": f"Group {-chat_id}"}
        message = {"message_id": number, "date": 1_790_000_000, "chat": chat}
        message["from"] = {"id": user, "is_bot": False, "first_name": name}
        if text is not None:
            message["text"] = text
        self.push({"message": message | fields})
        return number

    def add_file(self, data: bytes, path: str = "documents/file_0.bin", size: int | None = None) -> str:
        """A file that can be fetched; returns its file_id. ``size``: what Telegram says, if not the truth."""
        with self._changed:
            file_id = f"file{len(self._files)}"
            self._files[file_id] = (path, data, len(data) if size is None else size)
            return file_id

    def fail(
        self,
        method: str,
        code: int = 500,
        description: str = "Internal Server Error",
        how: str = "status",
        times: int = 1,
        **parameters: Any,
    ) -> None:
        """The next calls of a method fail. ``method`` may be "file", the download. ``parameters``: retry_after, …"""
        fault = {"how": how, "code": code, "description": description, "parameters": parameters}
        with self._changed:
            self._faults.setdefault(method, []).extend([fault] * times)

    def release(self) -> None:
        """Let the calls that hang end, without an answer."""
        self._released.set()

    # What the test sees

    def calls(self, method: str) -> list[dict[str, Any]]:
        with self._changed:
            return [parameters for name, parameters in self._calls if name == method]

    @property
    def pending(self) -> list[int]:
        with self._changed:
            return [number for number, _ in self._updates]

    def wait_calls(self, method: str, count: int = 1, seconds: float = 10.0) -> list[dict[str, Any]]:
        wait_for(lambda: len(self.calls(method)) >= count, seconds, f"{count} calls of {method}")
        return self.calls(method)

    def wait_sent(self, count: int = 1, seconds: float = 10.0) -> list[dict[str, Any]]:
        wait_for(lambda: len(self.sent) >= count, seconds, f"{count} messages sent to Telegram")
        return list(self.sent)

    # What the bot's program does

    def answer(self, method: str, parameters: dict[str, Any]) -> Any:
        """The result of a call; raises Refusal."""
        if self.revoked:
            raise Refusal(401, "Unauthorized")
        handler = getattr(self, f"_do_{method}", None)
        if handler is None:
            raise Refusal(404, "Not Found: method not found")
        return handler(parameters)

    def record(self, method: str, parameters: dict[str, Any]) -> dict[str, Any] | None:
        """Note a call; returns the fault that it meets."""
        with self._changed:
            self._calls.append((method, parameters))
            faults = self._faults.get(method)
            return faults.pop(0) if faults else None

    def hang(self) -> None:
        self._released.wait()

    def file(self, path: str) -> bytes | None:
        with self._changed:
            return next((data for where, data, _ in self._files.values() if where == path), None)

    def _next(self, name: str) -> int:
        with self._changed:
            self._numbers[name] += 1
            return self._numbers[name]

    def _do_getMe(self, parameters: dict[str, Any]) -> Any:
        return BOT

    def _do_getUpdates(self, parameters: dict[str, Any]) -> Any:
        if self.webhook:
            cure = "use deleteWebhook to delete the webhook first"
            raise Refusal(409, f"Conflict: can't use getUpdates method while webhook is active; {cure}")
        with self._changed:
            self._numbers["poll"] += 1
            mine = self._numbers["poll"]
            self._changed.notify_all()
            offset = parameters.get("offset", 0)
            self.confirmed = max(self.confirmed, offset)
            self._updates = [(number, update) for number, update in self._updates if number >= offset]
            self._changed.wait_for(
                lambda: self._updates or self.closed or self._numbers["poll"] != mine, parameters.get("timeout", 0)
            )
            if self._numbers["poll"] != mine:
                cure = "make sure that only one bot instance is running"
                raise Refusal(409, f"Conflict: terminated by other getUpdates request; {cure}")
            return [update for _, update in self._updates[:100]]

    def _do_sendMessage(self, parameters: dict[str, Any]) -> Any:
        return self._send("sendMessage", parameters, "text", 4096, None)

    def _do_sendDocument(self, parameters: dict[str, Any]) -> Any:
        return self._send("sendDocument", parameters, "caption", 1024, parameters["document"])

    def _do_sendPhoto(self, parameters: dict[str, Any]) -> Any:
        return self._send("sendPhoto", parameters, "caption", 1024, parameters["photo"])

    def _do_sendChatAction(self, parameters: dict[str, Any]) -> Any:
        return True

    def _do_getFile(self, parameters: dict[str, Any]) -> Any:
        if parameters["file_id"] not in self._files:
            raise Refusal(400, "Bad Request: invalid file_id")
        path, _, size = self._files[parameters["file_id"]]
        if size > 20 << 20:
            raise Refusal(400, "Bad Request: file is too big")
        return {"file_id": parameters["file_id"], "file_size": size, "file_path": path}

    def _send(self, method: str, parameters: dict[str, Any], field: str, limit: int, file: Any) -> Any:
        raw = parameters.get(field, "")
        formatted = parameters.get("parse_mode") == "HTML"
        text = visible(raw) if formatted else raw
        if not text.strip() and file is None:
            raise Refusal(400, "Bad Request: message text is empty")
        if len(text.encode("utf-16-le")) // 2 > limit:
            raise Refusal(400, f"Bad Request: message {'caption ' if file else ''}is too long")
        number = self._next("message")
        sent = {"method": method, "message_id": number, "chat_id": int(parameters["chat_id"]), "text": text}
        sent |= {"html": raw if formatted else None, "reply_to": parameters.get("reply_parameters"), "file": file}
        with self._changed:
            self.sent.append(sent)
        return {"message_id": number, "chat": {"id": sent["chat_id"]}, "date": 1_790_000_000}


class _Handler(BaseHTTPRequestHandler):
    telegram: TelegramServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *arguments: Any) -> None:
        return

    def do_GET(self) -> None:
        self._serve({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = self.headers.get("Content-Type", "")
        multipart = kind.startswith("multipart/form-data")
        self._serve(
            _multipart(body, kind.partition("boundary=")[2].encode()) if multipart else json.loads(body or "{}")
        )

    def _serve(self, parameters: dict[str, Any]) -> None:
        file = self.path.startswith("/file")
        token, _, rest = self.path.removeprefix("/file").removeprefix("/bot").partition("/")
        method = "file" if file else rest
        fault = self.telegram.record(method, parameters) or {"how": ""}
        if fault["how"] in ("cut", "hang"):
            if fault["how"] == "hang":
                self.telegram.hang()
            self._cut()
            return
        if fault["how"] == "garbage":
            self._reply(200, b"<html>a proxy's word</html>")
            return
        try:
            if fault["how"] == "status":
                raise Refusal(fault["code"], fault["description"], **fault["parameters"])
            if token != self.telegram.token:
                raise Refusal(401, "Unauthorized")
            if file:
                data = self.telegram.file(rest)
                self._reply(404 if data is None else 200, data or b"")
                return
            answer = {"ok": True, "result": self.telegram.answer(method, parameters)}
            if self.telegram.closed:
                self._cut()
                return
            self._reply(200, json.dumps(answer).encode())
        except Refusal as error:
            answer = {"ok": False, "error_code": error.code, "description": str(error)}
            if error.parameters:
                answer["parameters"] = error.parameters
            self._reply(error.code, json.dumps(answer).encode())

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _reply(self, status: int, body: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()
        except OSError:
            self.close_connection = True  # the program went away
