"""The runner's side of the run protocol (nanoclaw/README.md): prompts come in as files, events go out as files.

It knows the two directories and nothing of the SDK. The file system's events only wake the runner; what is new is found
by looking, at least once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

POLL = 1.0  # s
HEARTBEAT = 5.0  # s
ANSWER_POLL = 0.25  # s


class Failure(Exception):
    """The run cannot go on: an `error` event. ``reason``: "api", "stale_session" or "sdk"; ``status``: HTTP or None."""

    def __init__(self, reason: str, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text
        self.status = status


class RunFiles:
    """in/ and out/ of one run. ``wake`` is set when something may be new; whoever waits for it looks at everything."""

    def __init__(self, incoming: Path) -> None:
        self.incoming = incoming
        self.settings: dict[str, Any] = json.loads((incoming / "settings.json").read_text("utf-8"))
        self.outgoing = Path(self.settings["out"])
        self.wake = asyncio.Event()
        self._news = asyncio.Event()  # set once, at the next change, for all who wait; then another takes its place
        self._next_prompt = 1
        self._next_event = 1
        self._host_mtime: int | None = None
        self._host_seen = time.monotonic()

    def emit(self, kind: str, **fields: Any) -> None:
        """Write the next event. On return it is durable and in place."""
        name = f"{self._next_event:06d}.json"
        draft = self.outgoing / f".{name}"
        text = json.dumps({"n": self._next_event, "type": kind, **fields}, ensure_ascii=False)
        with open(draft, "wb") as file:
            file.write(text.encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self.outgoing / name)
        directory = os.open(self.outgoing, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self._next_event += 1

    def take(self, at_most: int) -> list[dict[str, Any]]:
        """The next prompts, in order of their numbers, without gaps."""
        prompts: list[dict[str, Any]] = []
        while len(prompts) < at_most:
            try:
                text = (self.incoming / f"{self._next_prompt:06d}.json").read_text("utf-8")
            except FileNotFoundError:
                break
            prompts.append(json.loads(text))
            self._next_prompt += 1
        return prompts

    def closing(self) -> bool:
        """The host wants the runner to end when its turn is over."""
        return (self.incoming / "_close").exists()

    def host_silence(self) -> float:
        """Seconds since in/host was last seen to change. Wall clocks are never compared."""
        try:
            mtime: int | None = (self.incoming / "host").stat().st_mtime_ns
        except OSError:
            mtime = None
        if mtime != self._host_mtime:
            self._host_mtime = mtime
            self._host_seen = time.monotonic()
        return time.monotonic() - self._host_seen

    async def heartbeat(self) -> None:
        """Touch out/heartbeat for ever. It runs on the loop, so that a loop that hangs is seen to hang."""
        while True:
            (self.outgoing / "heartbeat").touch()
            await asyncio.sleep(HEARTBEAT)

    def watch(self) -> None:
        """Let inotify set ``wake``. Where there is none (macOS, no watch left), the poll alone must do."""
        try:
            from inotify_simple import INotify, flags

            inotify = INotify(nonblocking=True)
            inotify.add_watch(str(self.incoming), flags.MOVED_TO | flags.CLOSE_WRITE)
        except (ImportError, AttributeError, OSError):
            return
        with contextlib.suppress(OSError):
            inotify.add_watch(str(self.incoming / "answers"), flags.MOVED_TO | flags.CLOSE_WRITE)

        def changed() -> None:
            inotify.read(timeout=0)
            self.wake.set()
            self._news.set()
            self._news = asyncio.Event()

        asyncio.get_running_loop().add_reader(inotify.fileno(), changed)

    async def changed(self) -> None:
        """Return when something may be new: woken, or one poll later."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.wake.wait(), POLL)
        self.wake.clear()

    async def answer(self, name: str, seconds: float) -> dict[str, Any] | None:
        """The host's answer to the request ``name``; None where there is none within ``seconds``."""
        path, end = self.incoming / "answers" / name, time.monotonic() + seconds
        while True:
            with contextlib.suppress(FileNotFoundError):
                return dict(json.loads(path.read_text("utf-8")))
            left = end - time.monotonic()
            if left <= 0:
                return None
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), min(left, ANSWER_POLL))
