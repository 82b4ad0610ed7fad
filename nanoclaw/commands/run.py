"""``run``: the host. ``run --once``: work off what is pending, close what is idle, end (for cron)."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import signal
import sys
import threading
import time

from nanoclaw.errors import UserError
from nanoclaw.files.locks import HomeLock
from nanoclaw.host import Host, read_host_file, write_host_file
from nanoclaw.paths import Home

SIGNAL_SECONDS = 1.0
"""A signal that the kernel gave to another thread is seen so late at most."""
STOP_SECONDS = 8.0
"""A host that has not ended by then says where it hangs and is gone: all that counts is on disk."""
COMMAND_SECONDS = 1.0
"""A command that works without a host holds the lock no longer."""
UNDELIVERED_SECONDS = 10.0
"""So long ``--once`` waits for a channel that does not take its replies; they stay in the outbox."""


def command(home: Home, arguments: argparse.Namespace) -> int:
    """Be the host of a home until SIGTERM or SIGINT; with ``--once`` until all is done that can be done now."""
    once = arguments.once
    home.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = HomeLock(home.state)
    if not _acquire(lock, home, once):
        return 0
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stop.set())
    try:
        write_host_file(home, "once" if once else "run")
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
    finally:
        lock.release()
    return 0


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
