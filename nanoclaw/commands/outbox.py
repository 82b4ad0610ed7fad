"""``outbox``: replies that are not delivered, and what a person decides about one. The outbox lives in the host's
memory, so retry and drop are requests."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from nanoclaw.commands.asking import ask, clock, listing, printable
from nanoclaw.commands.output import Result
from nanoclaw.errors import UserError
from nanoclaw.paths import Home
from nanoclaw.status.wording import span
from nanoclaw.stores import registry
from nanoclaw.stores.outbox import Reply, read_replies


def list_replies(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: one object a reply, waiting ones first, each in their order: ``reply``, ``group``, ``chat``, ``state``
    (``ready``, ``sending``: nobody knows whether the platform took it, ``failed``), ``created``, ``age`` (s, null:
    unknown), ``tries``, ``parts_sent``, ``reason``, ``file``; or ``reply`` and ``problem``."""
    found = [_value(name, one, failed) for name, one, failed in _all(home)]

    def row(one: dict[str, Any]) -> list[Any]:
        age = "" if one["age"] is None else span(one["age"])
        return [one["reply"], one["group"], age, one["state"], one["tries"], one["reason"]]

    return listing(found, row, ("REPLY", "GROUP", "AGE", "STATE", "TRIES", "REASON"), "Every reply is delivered.")


def show(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: as in the list, and ``text``."""
    name, one, failed = _find(home, arguments.reply)
    value = _value(name, one, failed)
    if not isinstance(one, Reply):
        raise UserError(str(one))
    value["text"] = one.text
    shown = {**value, "created": clock(home)(one.created), "age": None if value["age"] is None else span(value["age"])}
    lines = [f"{key + ':':12}{item}" for key, item in shown.items() if item is not None and key != "text"]
    return Result(value, printable("\n".join([*lines, "", one.text])))


def retry(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: ``{"reply", "group"}``."""
    asked = {"type": "retry_reply", "from_start": arguments.from_start}
    return _decide(home, arguments.reply, asked, "is sent when a host runs and its channel is connected.")


def drop(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: ``{"reply", "group"}``; the group null where the file does not say it."""
    return _decide(home, arguments.reply, {"type": "drop_reply"}, "is deleted.")


def _decide(home: Home, reply: str, request: dict[str, Any], done: str) -> Result:
    name, one, _ = _find(home, reply)
    group = one.folder if isinstance(one, Reply) else None
    # Main decides for a group that is gone, and where nobody knows whose it is.
    asker = group if group in {known.folder for known in registry.load_all(home)[0]} else None
    ask(home, registry.choose(home, asker).folder, {**request, "reply": name})
    return Result({"reply": name, "group": group}, printable(f"{name} {done}"))


def _find(home: Home, reply: str) -> tuple[str, Reply | Exception, bool]:
    for found in _all(home):
        if found[0] == reply:
            return found
    raise UserError(f"There is no reply {printable(reply)!r} in the outbox.", "`outbox list` shows what is there.")


def _all(home: Home) -> Iterator[tuple[str, Reply | Exception, bool]]:
    """Name, reply or why it is none, and whether it was given up."""
    for directory, failed in ((home.outbox, False), (home.outbox / "failed", True)):
        found = [(path.stem, one, failed) for path, one in read_replies(directory)]
        yield from sorted(found, key=lambda f: f[1].order if isinstance(f[1], Reply) else 0)


def _value(name: str, one: Reply | Exception, failed: bool) -> dict[str, Any]:
    if not isinstance(one, Reply):
        return {"reply": name, "problem": str(one)}
    return {
        "reply": one.id,
        "group": one.folder,
        "chat": one.jid,
        "state": "failed" if failed else one.state,
        "created": one.created,
        "age": _age(one.created),
        "tries": one.tries,
        "parts_sent": one.sent,
        "reason": one.reason,
        "file": one.file,
    }


def _age(created: str) -> float | None:
    try:
        return max(0.0, round(time.time() - datetime.fromisoformat(created).timestamp()))
    except (ValueError, OverflowError):
        return None
