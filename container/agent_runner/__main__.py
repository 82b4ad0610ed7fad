"""The agent runner: `python3 agent_runner IN_DIR`. It works as nanoclaw/README.md ("The run protocol") says.

It runs in the container, with the SDK but without NanoClaw's own modules. This file decides when the run ends.
"""

from __future__ import annotations

import asyncio
import importlib
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from protocol import Failure, RunFiles

if TYPE_CHECKING:
    from conversation import Conversation

DEADLINE_GRACE = 30.0  # s for the turn that runs when the deadline passes


class Ending:
    """Why the run ends, if it does."""

    def __init__(self, files: RunFiles) -> None:
        self._files = files
        self._deadline = time.monotonic() + files.settings["deadline"]
        self.sigterm = False

    def why(self) -> str | None:
        """The strongest reason that holds now."""
        if self.sigterm:
            return "sigterm"
        if time.monotonic() > self._deadline:
            return "deadline"
        if self._files.host_silence() > self._files.settings["host_silence"]:
            return "host_gone"
        return "closed" if self._files.closing() else None

    def interrupts(self) -> bool:
        """The running turn is not waited for."""
        return self.sigterm or time.monotonic() > self._deadline + DEADLINE_GRACE


async def converse(files: RunFiles, conversation: Conversation, ending: Ending) -> str:
    """Hand prompts over until the run ends; return why it does. Raises Failure."""
    while True:
        conversation.check()
        why = ending.why()
        if why == "closed" and conversation.awaits_command:
            why = None  # the host closes such a run from its start: it is there for that one prompt
        if why and conversation.settled:
            return why
        if why and ending.interrupts():
            await conversation.interrupt(patience=0.4)
            return why
        prompts = [] if why else files.take(conversation.room)
        if prompts:
            await conversation.push(prompts)
        else:
            await files.changed()


async def run(files: RunFiles) -> int:
    """The whole run; returns the exit code. SIGTERM is heard from here on, also while the SDK is imported."""
    ending = Ending(files)
    starting = asyncio.current_task()

    def terminate() -> None:
        nonlocal starting
        ending.sigterm = True
        files.wake.set()
        if starting is not None:
            starting.cancel()
            starting = None

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    heart = asyncio.create_task(files.heartbeat())
    files.watch()
    conversation: Conversation | None = None
    try:
        await asyncio.sleep(0)  # the first heartbeat
        # Here, and in a thread, because the SDK takes half a second, and many at once on a small machine ten.
        conversation = (await asyncio.to_thread(importlib.import_module, "conversation")).Conversation(files)
        await conversation.connect()
        starting = None
        files.emit("ready")
        why = await converse(files, conversation, ending)
    except asyncio.CancelledError:
        why = "sigterm"
    except Exception as error:
        why = "error"
        failure = error if isinstance(error, Failure) else Failure("sdk", repr(error))
        traceback.print_exc()
        files.emit("error", reason=failure.reason, status=failure.status, text=failure.text)
    if conversation is not None:
        await conversation.close(patience=0.5 if ending.sigterm else 10.0)
    heart.cancel()
    files.emit("ended", why=why)
    return 1 if why == "error" else 0


async def main() -> int:
    return await run(RunFiles(Path(sys.argv[1])))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
