"""``outbox``: replies that are not delivered, and what a person decides about one. The outbox lives in the host's
memory, so retry and drop are requests."""

from __future__ import annotations

import argparse
import textwrap
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from nanoclaw.commands.asking import ask, clock, printable
from nanoclaw.commands.output import Result, table
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import BROKEN_FIX, why_unreadable
from nanoclaw.paths import Home
from nanoclaw.status.gathering import host_lives
from nanoclaw.status.wording import span
from nanoclaw.stores import registry
from nanoclaw.stores.outbox import Reply, read_replies

REASON_WIDTH = 70


def list_replies(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: one object a reply, waiting ones first, each in their order: ``reply``, ``group``, ``chat``, ``state``
    (``ready``, ``sending``: it may not have arrived, ``failed``), ``created``, ``age`` (s, null:
    unknown), ``tries``, ``parts_sent``, ``reason``, ``file``; or ``reply`` and ``problem``."""
    found = [_value(name, one, failed) for name, one, failed in _all(home)]
    if not found:
        return Result(found, "Nothing waits.")
    lines = [table([_row(home, one) for one in found], ("REPLY", "GROUP", "AGE", "STATE", "TRIES", "REASON"))]
    if any(one.get("state") == "failed" for one in found):
        lines.append("`outbox retry ID` lets a failed one go on where it was, `outbox drop ID` forgets it.")
    if any("problem" in one for one in found):
        lines.append("A broken one is no reply any more: mend its file, or delete it.")
    return Result(found, printable("\n".join(lines)))


def _row(home: Home, one: dict[str, Any]) -> list[Any]:
    """The cure that stands in a reason is said once, below the table."""
    if "problem" in one:
        what = one["problem"].replace(f"{home.state}/", "").removesuffix(f". {BROKEN_FIX}")
        return [one["reply"], "", "", "broken", "", what]
    reason = (one["reason"] or "").partition("; `outbox")[0]
    if one["state"] == "sending":
        reason = f"may not have arrived{reason and f': {reason}'}"
    age = "" if one["age"] is None else span(one["age"])
    return [one["reply"], one["group"], age, one["state"], one["tries"], textwrap.shorten(reason, REASON_WIDTH)]


def show(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: as in the list, and ``text``."""
    name, one, failed = _find(home, arguments.reply)
    value = _value(name, one, failed)
    if not isinstance(one, Reply):
        raise UserError(why_unreadable(one))
    value["text"] = one.text
    shown = {**value, "created": clock(home)(one.created), "age": None if value["age"] is None else span(value["age"])}
    lines = [f"{key + ':':12}{item}" for key, item in shown.items() if item is not None and key != "text"]
    return Result(value, printable("\n".join([*lines, "", one.text])))


def retry(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: ``{"reply", "group"}``."""
    asked = {"type": "retry_reply", "from_start": arguments.from_start}
    done = _decide(home, arguments.reply, asked, "is sent")
    when = "as soon as" if host_lives(home) else "when a host runs and"
    return Result(done.value, f"{done.text} {when} its channel is connected.")


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
        return {"reply": name, "problem": why_unreadable(one)}
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
