"""The queue: who gets a container, and whose idle container gives way. A pure function with a table of tests (SPEC
2.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Waiting:
    """Work without a container. ``since``: the order of arrival (any increasing number)."""

    folder: str
    since: float
    kind: Literal["message", "task"] = "message"


@dataclass(frozen=True)
class Running:
    """A container that holds a slot. ``idle_since``: monotonic time in s, None while it works."""

    folder: str
    run: str
    idle_since: float | None = None
    closing: bool = False


@dataclass(frozen=True)
class Plan:
    """What to do now: folders to start, in order; runs to close; folders that must wait because all slots are taken."""

    start: tuple[str, ...] = ()
    close: tuple[str, ...] = ()
    limited: tuple[str, ...] = ()


def plan(waiting: Sequence[Waiting], running: Sequence[Running], limit: int) -> Plan:
    """Tasks before messages, each in order of arrival; one conversation per group; at most ``limit`` containers.
    When somebody must wait, as many idle containers close, longest idle first, as there are waiting ones not yet
    provided for."""
    busy = {run.folder for run in running}
    order = sorted((w for w in waiting if w.folder not in busy), key=lambda w: (w.kind != "task", w.since))
    free = max(0, limit - len(running))
    start, rest = order[:free], order[free:]
    wanted = len(rest) - sum(run.closing and run.idle_since is not None for run in running)
    idle = sorted((r for r in running if r.idle_since is not None and not r.closing), key=lambda r: r.idle_since or 0)
    return Plan(
        tuple(w.folder for w in start), tuple(r.run for r in idle[: max(0, wanted)]), tuple(w.folder for w in rest)
    )
