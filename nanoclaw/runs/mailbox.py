"""The host's side of a run's in/ and out/ directories (the run protocol of ../README.md).

out/ is written by the container: events are read by number through ``files.untrusted``, so nothing else that lies
there costs anything. What does not fit the protocol is passed over with a warning; it can only harm the run that
wrote it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanoclaw.files import untrusted
from nanoclaw.files.atomic import write_bytes

EVENT_BYTES = 4_000_000
TEXT_CHARACTERS = 1_100_000
WORD_CHARACTERS = 1000
UUIDS = 10_000
LOG_BYTES = 10_000_000
_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character: JSON can carry it, UTF-8 and so our files cannot."""


@dataclass(frozen=True)
class Event:
    """One event of the runner. ``type`` is one of those of the protocol, or ``refused`` with the reason as ``text``."""

    n: int
    type: str
    uuids: tuple[str, ...] = ()
    text: str = ""
    session: str | None = None
    anchor: str | None = None
    state: str = ""
    reason: str = ""
    status: int | None = None
    why: str = ""
    usage: dict[str, Any] | None = None
    cost_usd: float | None = None


def next_event(run_directory: Path, n: int) -> Event | None:
    """Event ``n`` of a run, None while it is not there (or there is no out/ that could be read)."""
    try:
        with untrusted.directory(run_directory / "out") as fd:
            try:
                return _event(n, untrusted.read_object(fd, f"{n:06d}.json", EVENT_BYTES))
            except untrusted.Refused as error:
                return Event(n, "refused", text=str(error))
    except (FileNotFoundError, untrusted.Refused):
        return None


def _event(n: int, value: dict[str, Any]) -> Event:
    kind = value.get("type")
    if kind not in ("ready", "consumed", "result", "state", "error", "ended"):
        return Event(n, "refused", text="no event type of the protocol")
    uuids = value.get("uuids") or []
    if not isinstance(uuids, list) or len(uuids) > UUIDS or not all(isinstance(u, str) for u in uuids):
        return Event(n, "refused", text="uuids: expected a list of texts")
    texts: dict[str, Any] = {}
    for key in ("text", "session", "anchor", "state", "reason", "why"):
        text = value.get(key)
        if text is None:
            continue
        if not isinstance(text, str) or len(text) > (TEXT_CHARACTERS if key == "text" else WORD_CHARACTERS):
            return Event(n, "refused", text=f"{key}: expected a text")
        texts[key] = _SURROGATE.sub("\ufffd", text)
    status, cost = value.get("status"), value.get("cost_usd")
    status = status if isinstance(status, int) and 0 <= status < 1000 else None
    cost = float(cost) if isinstance(cost, int | float) and 0 <= cost < 1e9 else None
    return Event(n, kind, tuple(uuids), status=status, usage=_usage(value.get("usage")), cost_usd=cost, **texts)


def _usage(value: Any) -> dict[str, Any] | None:
    """The counters in what the SDK says of a result; nothing that could make the record grow without end."""
    if not isinstance(value, dict):
        return None
    counters = {k: v for k, v in value.items() if len(k) < 100 and isinstance(v, int | float) and 0 <= v < 1e15}
    return dict(list(counters.items())[:50])


def write_close(run_directory: Path) -> None:
    """The ``_close`` sentinel: take no further prompt, finish the turn, end."""
    write_bytes(run_directory / "in" / "_close", b"", mode=0o644, durable=False)


def touch_host(run_directory: Path) -> None:
    """Tell the runner that a host lives."""
    os.utime(run_directory / "in" / "host")
