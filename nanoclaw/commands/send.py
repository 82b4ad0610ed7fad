"""``send``: say something in a group's chat, as the assistant."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from nanoclaw.commands.asking import ask, choose, with_lock
from nanoclaw.commands.output import Result
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import read_json
from nanoclaw.paths import Home
from nanoclaw.stores.settings import Settings

TEXT_BYTES = 900_000
SENT_SECONDS = 2.0
"""So long a living host is given to deliver it, before the person is told that it is on its way."""


def run(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: ``{"id", "state"}``, the state ``sent``, ``waiting`` (no host lives) or ``sending``."""
    text = _from_standard_input() if arguments.text == "-" else arguments.text
    if not text.strip() or len(text.encode("utf-8", "replace")) > TEXT_BYTES:
        fix = "Put long texts into a file in the group's folder and name the file."
        raise UserError(f"A message has 1 to {TEXT_BYTES // 1000} kB of text.", fix)
    group = choose(Settings(home), arguments.group)
    reply = str(ask(home, group.folder, {"type": "message", "chatJid": group.jid, "text": text}).get("id"))
    state = _delivery(home, reply)
    said = {
        "sent": "sent",
        "waiting": "kept in the outbox: no host is running, it is sent when one runs",
        "sending": "kept in the outbox: its channel has not taken it yet, it is sent when it does",
    }
    value: dict[str, Any] = {"id": reply, "state": state}
    return Result(value, said[state])


def _delivery(home: Home, reply: str) -> str:
    """Where a reply is: gone from the outbox = delivered. UserError: the channel refused it."""
    deadline = time.monotonic() + SENT_SECONDS
    waiting, failed = home.outbox / f"{reply}.json", home.outbox / "failed" / f"{reply}.json"
    while waiting.exists():
        if with_lock(home, lambda: None):
            return "waiting"
        if time.monotonic() > deadline:
            return "sending"
    if (refused := read_json(failed)) is not None:
        raise UserError(f"Not sent: {refused.get('reason')}.", f"It is kept as {failed}.")
    return "sent"


def _from_standard_input() -> str:
    data = sys.stdin.buffer.read(TEXT_BYTES + 1)
    try:
        return data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        if len(data) > TEXT_BYTES:
            return data.decode("utf-8", "replace")  # cut within a character: it is too long anyway
        raise UserError(f"Standard input is not UTF-8 text (byte {error.start + 1}).", "Send text only.") from None
