"""What the gateway saw of a run's calls to the model: the witness for causes that hold back every group, of which a
container's word counts for nothing."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

REFUSALS_LOGGED = 20


class Failure(NamedTuple):
    """A call that failed: HTTP status, the API's own words (one line), and the Unix time at which it may be tried
    again, None where nobody said."""

    status: int
    said: str
    until: float | None


@dataclass
class _Calls:
    answers: Counter[int] = field(default_factory=Counter)
    failures: dict[int, Failure] = field(default_factory=dict)
    last: int | None = None


class Witness:
    """Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._calls: dict[str, _Calls] = {}

    def saw(self, run_id: str, details: dict[str, Any]) -> bool:
        """An answer to a run's call (``Gateway.on_event``). False where it is not worth a line of the journal any more:
        a container may knock at its door a thousand times a second."""
        status, reason = details["status"], details["reason"]
        with self._guard:
            if status == 0 and run_id not in self._calls:
                return True  # its connection ended with the run
            calls = self._calls.setdefault(run_id, _Calls())
            calls.answers[status] += 1
            if 0 < status < 400:
                calls.last = None
            elif status >= 400 and reason in (None, "no_credential", "upstream"):
                calls.failures[status] = Failure(status, details["error"], details["until"])
                calls.last = status
            return reason is None or calls.answers[status] <= REFUSALS_LOGGED

    def said(self, run_id: str, status: int | None) -> Failure | None:
        """The failure with this status; None: the last one that no success followed."""
        with self._guard:
            calls = self._calls.get(run_id)
            if calls is None:
                return None
            status = calls.last if status is None else status
            return None if status is None else calls.failures.get(status)

    def forget(self, run_id: str) -> None:
        with self._guard:
            self._calls.pop(run_id, None)
