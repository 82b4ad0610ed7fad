"""What becomes of a run's prompts when it ends: every row of the claims rule (README, "Claims")."""

from __future__ import annotations

import pytest

from nanoclaw.runs import claims
from nanoclaw.runs.claims import Settlement
from nanoclaw.runs.records import Claim, Run
from nanoclaw.stores.transcripts import Position
from tests.support.parts import new_run

P0, P3, P5, P9 = (Position(seq) for seq in (0, 3, 5, 9))


def claim(n: int, after: Position, place: Position, state: str, output: bool = False) -> Claim:
    return Claim(n, f"uuid-{n}", after, place, state, output)


@pytest.mark.parametrize(
    ("made", "expected", "states"),
    [
        ([], Settlement(None, (), False, False, False), []),
        ([("finished", False)], Settlement(None, (), False, False, True), ["finished"]),
        ([("offered", False)], Settlement(P0, (), False, False, False), ["offered"]),
        ([("consumed", False)], Settlement(P0, (), True, False, False), ["consumed"]),
        ([("consumed", True)], Settlement(None, (), False, True, True), ["finished"]),
        ([("finished", False), ("offered", False)], Settlement(P3, (), False, False, True), ["finished", "offered"]),
        ([("finished", False), ("consumed", False)], Settlement(P3, (), True, False, True), ["finished", "consumed"]),
        ([("consumed", True), ("offered", False)], Settlement(P3, (), False, True, True), ["finished", "offered"]),
        # A later prompt was answered and an earlier one was not: it is not answered again.
        (
            [("consumed", False), ("finished", False), ("offered", False)],
            Settlement(P0, ((4, 5),), True, False, True),
            ["consumed", "finished", "offered"],
        ),
        (
            [("offered", False), ("consumed", True), ("finished", False)],
            Settlement(P0, ((4, 5), (6, 9)), False, True, True),
            ["offered", "finished", "finished"],
        ),
    ],
)
def test_settle(made: list[tuple[str, bool]], expected: Settlement, states: list[str]) -> None:
    places = [P0, P3, P5, P9]
    run = [claim(n, places[n - 1], places[n], state, output) for n, (state, output) in enumerate(made, 1)]
    assert claims.settle(run) == expected
    assert [c.state for c in run] == states
    assert claims.settle(run) == expected, "settled twice is settled once"


def test_the_way_of_a_prompt() -> None:
    one, two = claim(1, P0, P3, "offered"), claim(2, P3, P5, "offered")
    both = [one, two]
    claims.note_output(both)
    assert not one.output, "what nobody consumed has no output"
    claims.consume(both, ["uuid-1", "unknown"])
    assert (one.state, two.state) == ("consumed", "offered")
    claims.note_output(both)
    assert (one.output, two.output) == (True, False)
    claims.finish(both, ["uuid-1"])
    claims.consume(both, ["uuid-1"])
    assert one.state == "finished", "a late event takes nothing back"
    claims.finish(both, ["uuid-2"])
    assert two.state == "finished", "a result finishes also what was not said to be consumed"


@pytest.mark.parametrize(
    ("states", "through"),
    [([], None), (["offered"], 0), (["finished", "consumed"], 3), (["consumed", "finished"], 0), (["finished"], 3)],
)
def test_done_is_the_highest_contiguous_finished_number(states: list[str], through: int | None) -> None:
    places = [P0, P3, P5]
    run: Run = new_run()
    run.claims = [claim(n, places[n - 1], places[n], state) for n, state in enumerate(states, 1)]
    assert run.done_through == through
