"""The journal (one event a line, for status, why and tests) and the log (for people).

The journal is written without fsync: it explains, it does not decide. The log holds no conversation unless at debug.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from datetime import datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from nanoclaw.moments import utc_now

LOG_BYTES = 5_000_000
LOG_FILES = 3


class Journal:
    """``journal-DATE.jsonl`` in UTC days."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._day = ""
        self._fd = -1

    def event(self, event: str, **fields: Any) -> None:
        """Append ``{"time", "event", …}``. A full disk costs the line, not the message."""
        line = {"time": (now := utc_now()), "event": event, **fields}
        data = json.dumps(line, ensure_ascii=True, default=str).encode() + b"\n"
        with self._lock:
            try:
                if (day := now[:10]) != self._day:
                    self.close()
                    path = self._directory / f"journal-{day}.jsonl"
                    self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
                    self._day = day
                os.write(self._fd, data)
            except OSError as error:
                logging.getLogger("nanoclaw").warning("journal not written: %s", error)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._day = -1, ""


class _Formatter(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")

    def format(self, record: logging.LogRecord) -> str:
        """One event a line: a line break in a value cannot forge a line of the log."""
        text = super().format(record)
        if record.exc_info:
            return text  # a bug's traceback is shown as it is
        return text.replace("\r", "\\r").replace("\n", "\\n")


def start_log(directory: Path, level: str, to_stderr: int | None) -> None:
    """Log to ``nanoclaw.log`` (rotated, mode 600) and, from the level ``to_stderr`` on, to stderr."""
    log = logging.getLogger("nanoclaw")
    stop_log()
    log.propagate = False
    path = directory / "nanoclaw.log"
    os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))
    rotating = RotatingFileHandler(path, "a", LOG_BYTES, LOG_FILES, "utf-8", errors="backslashreplace")
    handlers: list[logging.Handler] = [rotating]
    if to_stderr is not None:
        handlers.append(logging.StreamHandler(sys.stderr))
        handlers[-1].setLevel(to_stderr)
    for handler in handlers:
        handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
    set_level(level)


def set_level(level: str) -> None:
    logging.getLogger("nanoclaw").setLevel(level.upper())


def stop_log() -> None:
    log = logging.getLogger("nanoclaw")
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.propagate = True
