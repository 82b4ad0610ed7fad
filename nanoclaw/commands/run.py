"""``run``: the host. ``run --once``: work off what is pending, close what is idle, end (for cron).

A service manager starts a host again that ended, however often. Where one ends uncleanly (a crash, kill -9, a
config.toml that it cannot start with) again and again, the next one waits before it works: ``starts`` in
state/host.json keeps when the last ones began, and whether they ended as they should.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from nanoclaw.errors import UserError
from nanoclaw.files.home_lock import HomeLock
from nanoclaw.files.stamps import stamp_of
from nanoclaw.host import Host
from nanoclaw.paths import Home
from nanoclaw.stores.home import note_host, read_host_file, write_host_file

SIGNAL_SECONDS = 1.0
"""A signal that the kernel gave to another thread is seen so late at most."""
STOP_SECONDS = 8.0
"""A host that has not ended by then says where it hangs and is gone: all that counts is on disk."""
COMMAND_SECONDS = 1.0
"""A command that works without a host holds the lock no longer."""
UNDELIVERED_SECONDS = 10.0
"""So long ``--once`` waits for a channel that does not take its replies; they stay in the outbox."""
LOOP_SECONDS = 300.0
"""Unclean ends count as one loop while each start came so soon after the one before, at most."""
BACKOFF = (0.0, 0.0, 0.0, 5.0, 10.0, 20.0, 40.0, 60.0)
"""Seconds to wait after so many unclean ends in a row; after more, the last."""

Start = tuple[float, bool]
"""When a host began its work (Unix time, s), and whether it ended as it should."""


def command(home: Home, arguments: argparse.Namespace) -> int:
    """Be the host of a home until SIGTERM or SIGINT; with ``--once`` until all is done that can be done now."""
    once = arguments.once
    home.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = HomeLock(home.state)
    if not _acquire(lock, home, once):
        return 0
    if not once and (seconds := backoff_seconds(_starts(home), time.time())) and _is_service():
        lock.release()  # a person may take the home meanwhile
        _back_off(home, seconds)
        _acquire(lock, home, once)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stop.set())
    try:
        with suppress(OSError):  # a full disk: what it says is for people only
            write_host_file(home, "once" if once else "run")
            if not once:
                _note_start(home)
        host = Host(home, drain=once, to_stderr=logging.WARNING if once else logging.INFO)
        try:
            host.start()
            if once:
                _until_settled(host, stop)
            else:
                while not stop.wait(SIGNAL_SECONDS):
                    pass
        finally:
            faulthandler.dump_traceback_later(STOP_SECONDS, exit=True)
            host.stop()
            faulthandler.cancel_dump_traceback_later()
        if not once:
            with suppress(OSError):
                _note_clean_end(home)
    finally:
        lock.release()
    return 0


def backoff_seconds(starts: Sequence[Start], now: float) -> float:
    """How long a host must wait that would begin at Unix time ``now``, after ``starts``, the oldest first. A clock that
    was set ends a loop: it is counted anew."""
    loop = 0
    for began, clean in reversed(starts):
        if clean or not 0 <= now - began <= LOOP_SECONDS:
            break
        loop, now = loop + 1, began
    return BACKOFF[min(loop, len(BACKOFF) - 1)]


def _is_service() -> bool:
    """A person at a terminal does not wait, nor does who says NANOCLAW_RESTART_BACKOFF=0."""
    at_terminal = sys.stdin is not None and sys.stdin.isatty()
    return not at_terminal and os.environ.get("NANOCLAW_RESTART_BACKOFF") != "0"


def _back_off(home: Home, seconds: float) -> None:
    """Wait, until config.toml changes at most. No signal is handled: SIGTERM ends this process as it is."""
    text = "nanoclaw: host after host ended uncleanly (the lines above and state/logs/nanoclaw.log say why): waiting"
    how = "until config.toml changes; at a terminal, or with NANOCLAW_RESTART_BACKOFF=0, `run` does not wait"
    print(f"{text} {seconds:.0f} s, or {how}.", file=sys.stderr, flush=True)
    deadline, before = time.monotonic() + seconds, stamp_of(home.config_file)
    while time.monotonic() < deadline and stamp_of(home.config_file) == before:
        time.sleep(min(SIGNAL_SECONDS, max(0.0, deadline - time.monotonic())))


def _starts(home: Home) -> list[Start]:
    found = read_host_file(home).get("starts")
    try:
        return [(float(one["at"]), one["clean"] is True) for one in found or ()]
    except (LookupError, TypeError, ValueError):  # edited by hand
        return []


def _note_start(home: Home) -> None:
    _note(home, [*_starts(home), (time.time(), False)])


def _note_clean_end(home: Home) -> None:
    *earlier, (began, _) = _starts(home) or [(time.time(), False)]
    _note(home, [*earlier, (began, True)])


def _note(home: Home, starts: list[Start]) -> None:
    kept = starts[-len(BACKOFF) :]
    note_host(home, starts=[{"at": round(began, 3), "clean": clean} for began, clean in kept])


def _acquire(lock: HomeLock, home: Home, once: bool) -> bool:
    """False: a living host does the work already. Waits for a host that ends by itself (``chat``, ``run --once``)."""
    deadline = time.monotonic() + COMMAND_SECONDS
    while not (held := lock.acquire()) and time.monotonic() < deadline:
        pass
    if held or once:
        return held
    host = read_host_file(home)
    if host.get("mode") not in ("chat", "once"):
        raise UserError(
            f"Another host runs on {home.root} already (pid {host.get('pid', '?')}, since {host.get('started', '?')}).",
            "Leave it running, or stop it first: kill -TERM " + str(host.get("pid", "PID")),
        )
    print(f"Waiting for `{host['mode']}` (pid {host.get('pid')}) to end …", file=sys.stderr)
    return lock.acquire(blocking=True)


def _until_settled(host: Host, stop: threading.Event) -> None:
    undelivered_since: float | None = None
    while not stop.wait(0.05):
        if not host.dispatcher.settled.is_set():
            undelivered_since = None
            continue
        if host.is_settled():
            return
        undelivered_since = undelivered_since or time.monotonic()
        if time.monotonic() > undelivered_since + UNDELIVERED_SECONDS:
            if behind := host.exchange.behind():
                print(f"nanoclaw: no answer of {', '.join(behind)}: what was written there waits.", file=sys.stderr)
            return
