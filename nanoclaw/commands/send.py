"""``send``: say something in a group's chat, as the assistant."""

from __future__ import annotations

import argparse
import sys
import time

from nanoclaw.commands.asking import TEXT_BYTES, ask, check_text, with_lock
from nanoclaw.commands.output import Result
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import read_json
from nanoclaw.paths import Home
from nanoclaw.stores import registry

SENT_SECONDS = 2.0
"""So long a living host is given to deliver it, before the person is told that it is on its way."""


def run(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: ``{"id", "state"}``, the state ``sent``, ``waiting`` (no host lives) or ``sending``."""
    text = check_text(_from_standard_input() if arguments.text == "-" else arguments.text)
    group = registry.choose(home, arguments.group)
    reply = str(ask(home, group.folder, {"type": "message", "chatJid": group.jid, "text": text}).get("id"))
    state, words = _delivery(home, reply)
    return Result({"id": reply, "state": state}, words)


def _delivery(home: Home, reply: str) -> tuple[str, str]:
    """Where a reply is, also in words: gone from the outbox = delivered. UserError: the channel refused it."""
    deadline = time.monotonic() + SENT_SECONDS
    waiting, failed = home.outbox / f"{reply}.json", home.outbox / "failed" / f"{reply}.json"
    while waiting.exists():
        if with_lock(home, lambda: None):
            return "waiting", "kept in the outbox: no host is running, it is sent when one runs"
        if time.monotonic() > deadline:
            return "sending", "kept in the outbox: its channel has not taken it yet, it is sent when it does"
    if (refused := read_json(failed)) is not None:
        raise UserError(f"Not sent: {refused.get('reason')}.", f"It is kept as {failed}.")
    return "sent", "sent"


def _from_standard_input() -> str:
    data = sys.stdin.buffer.read(TEXT_BYTES + 1)
    try:
        return data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        if len(data) > TEXT_BYTES:
            return data.decode("utf-8", "replace")  # cut within a character: it is too long anyway
        raise UserError(f"Standard input is not UTF-8 text (byte {error.start + 1}).", "Send text only.") from None
