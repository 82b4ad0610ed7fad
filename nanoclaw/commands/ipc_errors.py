"""``ipc errors``: files that were refused, and what becomes of them."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import Any

from nanoclaw.commands.asking import clock, printable
from nanoclaw.commands.output import Result, table
from nanoclaw.paths import Home
from nanoclaw.stores import refused
from nanoclaw.stores.refused import Refused

SHOWN_BYTES = 10_000


def list_errors(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: one object a file, the oldest first."""
    found = refused.listed(home)
    shown = clock(home)
    rows = [[printable(one.name), shown(one.time), _size(one), printable(one.reason)] for one in found]
    text = table(rows, ("NAME", "REFUSED", "SIZE", "REASON"))
    return Result([_value(one) for one in found], text or "Nothing was refused.")


def show(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: as in the list, and ``content``: at most ``SHOWN_BYTES`` of it as text, null where it has none."""
    one = refused.find(home, arguments.name)
    data = refused.content(one.path, SHOWN_BYTES)
    content = None if data is None else data.decode("utf-8", "replace")
    lines = [f"reason: {one.reason}", f"from:   {one.came_from or 'unknown'}", f"time:   {clock(home)(one.time)}"]
    lines += [f"size:   {_size(one)}", f"file:   {one.path}", ""]
    lines.append("(no content that could be shown)" if content is None else content)
    if one.size is not None and data is not None and one.size > len(data):
        lines.append(f"… {one.size - len(data)} bytes more")
    return Result({**_value(one), "content": content}, "\n".join(map(printable, lines)))


def retry(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: ``{"name", "path"}``, where it lies now."""
    path = refused.retry(home, arguments.name)
    where = printable(str(path))
    return Result({"name": arguments.name, "path": where}, f"Put back as {where}.")


def drop(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: ``{"name"}``."""
    refused.drop(home, arguments.name)
    return Result({"name": arguments.name}, f"Deleted {printable(arguments.name)}.")


def _value(one: Refused) -> dict[str, Any]:
    when = datetime.fromtimestamp(one.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"name": one.name, "reason": one.reason, "from": one.came_from, "time": when, "size": one.size}


def _size(one: Refused) -> str:
    return "not kept" if one.size is None else f"{one.size} B"
