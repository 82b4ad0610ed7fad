"""``messages``: what was said last in a group's chat. Reads the transcript from its end, segment by segment."""

from __future__ import annotations

import argparse
import json
from itertools import islice
from typing import Any

from nanoclaw.commands.asking import clock, printable
from nanoclaw.commands.output import Result
from nanoclaw.models import Message
from nanoclaw.paths import Home
from nanoclaw.stores import registry
from nanoclaw.stores.lines import to_json
from nanoclaw.stores.transcripts import Chat


def run(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: the lines as they stand in the transcript, the oldest first."""
    group = registry.choose(home, arguments.group)
    directory = home.chat(group.jid)
    newest = islice(Chat(directory, group.jid).backwards(), arguments.n) if directory.is_dir() else ()
    lines = list(newest)[::-1]
    shown = clock(home)
    texts = [f"{shown(line.message.timestamp)}  {_said(line.message)}" for line in lines]
    return Result([json.loads(to_json(line)) for line in lines], "\n".join(texts) or "Nothing was said yet.")


def _said(message: Message) -> str:
    parts = [message.text] if message.text else []
    parts += [_attachment(attachment) for attachment in message.attachments]
    sender = " ".join((message.sender_name or message.sender or "?").split())
    return printable(f"{sender}: " + "\n".join(parts)).replace("\n", "\n    ")


def _attachment(attachment: dict[str, Any]) -> str:
    where = attachment.get("path") or attachment.get("problem") or "not kept"
    return f"[{attachment.get('kind', 'file')} {attachment.get('name') or ''}: {where}]".replace(" :", ":")
