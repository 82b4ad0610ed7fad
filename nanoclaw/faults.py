"""Fault points: the named steps between which a crash must lose nothing (README.md, "Order of writing").

The crash test (tests/crash) sets ``NANOCLAW_FAULT=STEP`` or ``STEP:N``: this process then kills itself, as ``kill -9``
would, when it comes to that step for the N-th time. Without the variable a step costs one look into a dictionary.
"""

from __future__ import annotations

import os
import signal
from typing import Literal, get_args

Step = Literal[
    "message-stored",
    "claim-drafted",
    "claimed",
    "follow-up-claimed",
    "cursor-moved",
    "errand-claimed",
    "container-started",
    "run-started",
    "reply-put",
    "output-accepted",
    "cursor-done",
    "session-stored",
    "request-done",
    "request-answered",
    "refusal-kept",
    "sending",
    "sent",
    "reply-stored",
    "reply-failing",
    "reply-failed",
    "delivered",
    "run-ended",
    "container-removed",
    "settled",
    "told",
    "judged",
    "stop-asked",
    "stop-cancelled",
    "stopped",
]
"""Each is reached when what it says is on disk (or was done) and the next step is not."""

STEPS: tuple[str, ...] = get_args(Step)

_step, _, _count = os.environ.get("NANOCLAW_FAULT", "").partition(":")
_left = {_step: int(_count or 1)} if _step else {}


def reach(step: Step) -> None:
    """A step is reached. Any thread."""
    if step in _left:
        _left[step] -= 1
        if _left[step] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
