"""Who gets a container, whose idle one gives way: the table of ``queue.plan``."""

from __future__ import annotations

import pytest

from nanoclaw.queue import Plan, Running, Waiting, plan

A, B, C = Waiting("a", 1), Waiting("b", 2), Waiting("c", 3)
TASK = Waiting("t", 9, "task")
BUSY = Running("x", "run-x")
IDLE_LONG, IDLE = Running("y", "run-y", idle_since=10.0), Running("z", "run-z", idle_since=20.0)
CLOSING = Running("w", "run-w", idle_since=5.0, closing=True)


@pytest.mark.parametrize(
    ("waiting", "running", "limit", "expected"),
    [
        ([], [], 5, Plan()),
        ([], [IDLE], 1, Plan()),
        ([B, A], [], 5, Plan(start=("a", "b"))),
        ([A, B, C], [], 2, Plan(start=("a", "b"), limited=("c",))),
        ([A, TASK], [], 1, Plan(start=("t",), limited=("a",))),
        ([A], [BUSY], 1, Plan(limited=("a",))),
        ([A], [IDLE], 1, Plan(close=("run-z",), limited=("a",))),
        ([A], [IDLE, IDLE_LONG], 2, Plan(close=("run-y",), limited=("a",))),
        ([A, B], [IDLE, BUSY, IDLE_LONG], 3, Plan(close=("run-y", "run-z"), limited=("a", "b"))),
        ([A, B, C], [IDLE], 1, Plan(close=("run-z",), limited=("a", "b", "c"))),
        # What closes already provides for one; a slot that is free for another.
        ([A], [CLOSING, IDLE], 2, Plan(limited=("a",))),
        ([A, B], [CLOSING, IDLE], 2, Plan(close=("run-z",), limited=("a", "b"))),
        ([A, B], [IDLE], 2, Plan(start=("a",), close=("run-z",), limited=("b",))),
        # One that closes but still works gives its slot when it is done, nobody knows when.
        ([A], [Running("w", "run-w", closing=True), IDLE], 2, Plan(close=("run-z",), limited=("a",))),
        # One conversation per group: its own container takes the message.
        ([Waiting("z", 1)], [IDLE], 1, Plan()),
        ([Waiting("z", 1), A], [IDLE], 2, Plan(start=("a",))),
        # The limit was lowered: nothing starts, nobody is closed for nothing.
        ([A], [BUSY, Running("v", "run-v")], 1, Plan(limited=("a",))),
        ([], [IDLE, IDLE_LONG], 1, Plan()),
        # Idle since 0.0 is idle.
        ([A], [Running("v", "run-v", idle_since=0.0), IDLE], 2, Plan(close=("run-v",), limited=("a",))),
    ],
)
def test_plan(waiting: list[Waiting], running: list[Running], limit: int, expected: Plan) -> None:
    assert plan(waiting, running, limit) == expected
