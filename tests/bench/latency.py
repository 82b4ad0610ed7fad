"""How long a person waits: a first message, which needs a container, and a follow-up to a living one."""

from __future__ import annotations

from tests.bench.bare import Bare
from tests.bench.figures import Figure, calm, median_ms, say, spread
from tests.bench.household import Events, Household

COLD = 12
FOLLOW_UPS = 40


def cold() -> list[Figure]:
    """A message to a group without container, session or history, ours and bare in turn; then a second one, when that
    container is gone.

    *docker run issued*: from just before the message file is renamed into the inbox (the last thing its sender does) to
    the first line of a ``docker`` that stands first on the host's PATH: the host's fork, exec and that shell's start
    are in it; the baseline is these three alone. The first message of a chat also makes its directories. *answer*: from
    the same instant until the local channel's far side has the answer to the first message. The bare turn replays the
    run that the host just made (``bare.py``), from just before `docker run` until its result event.
    """
    first, second, bare_issued, ours, bare = [], [], [], [], []
    with Household(COLD + 1) as household:
        for number, folder in enumerate(household.folders):
            issued, answered = _cold_message(household, folder)
            run = household.runs(folder)[0]
            replay = Bare(household, run, [run / "in" / "000001.json"])
            try:
                calm()
                before = len(household.docker_runs())
                begun = replay.start()
                done = replay.events.wait("result")
                replay.close()
            finally:
                replay.remove()
            again, _ = _cold_message(household, folder)
            if number == 0:  # the engine's and the page cache's first time, and the host's first look at the engine
                continue
            first.append(issued)
            second.append(again)
            bare_issued.append(household.docker_runs()[before] - begun)
            ours.append(answered)
            bare.append(done - begun)
            times = (issued, again, bare_issued[-1], answered, bare[-1])
            say(
                "cold {}: issued {:.1f}, again {:.1f}, bare {:.1f}; answered {:.0f}, bare {:.0f} ms".format(
                    number, *(1000 * seconds for seconds in times)
                )
            )
    floor, turn, bare_turn = median_ms(bare_issued), median_ms(ours), median_ms(bare)
    how = "inbox file renamed into place -> exec of `docker run`; {}; baseline: a bare fork + exec of it"
    return [
        Figure(
            "message -> docker run issued", median_ms(second), "ms", floor, "1,267 ms", "<= 10 ms",
            median_ms(second) <= 10, how.format(spread(second)),
        ),
        Figure(
            "first message of a chat -> same", median_ms(first), "ms", floor, "1,267 ms", "<= 10 ms",
            median_ms(first) <= 10, how.format(spread(first)),
        ),
        Figure(
            "cold message -> answer", turn, "ms", bare_turn, "4,600-5,400 ms", "<= 1.2 x bare", turn <= 1.2 * bare_turn,
            f"inbox file -> delivered; {spread(ours)}; bare `docker run` of the same turn: {spread(bare)}",
        ),
    ]  # fmt: skip


def _cold_message(household: Household, folder: str) -> tuple[float, float]:
    """Write to a group without container, and end its container again; the seconds until `docker run` was issued and
    until the answer was delivered."""
    calm()
    before, delivered = len(household.docker_runs()), household.delivered_bytes(folder)
    start = household.drop(folder, "a message")
    answered = household.await_delivery(folder, delivered)
    household.close(folder)
    return household.docker_runs()[before] - start, answered - start


def follow_ups() -> list[Figure]:
    """Messages to a group whose container is idle, ours and bare in turn.

    *in the agent's hands*: from just before the inbox rename to the runner's ``consumed`` event, which it makes durable
    right before it writes to the SDK. The bare follow-up is the prompt's file renamed straight into in/ of a bare
    container.
    """
    consumed, answered, bare_consumed, bare_answered = [], [], [], []
    with Household(1) as household:
        folder = household.folders[0]
        household.drop(folder, "first")
        household.await_delivery(folder, 0)
        run = household.runs(folder)[0]
        events = Events(run / "out")
        events.wait("state", state="idle")
        replay = Bare(household, run, [run / "in" / "000001.json"])
        try:
            replay.start()
            replay.events.wait("state", state="idle")
            for number in range(FOLLOW_UPS + 2):
                calm()
                before = household.delivered_bytes(folder)
                start = household.drop(folder, f"follow-up {number}")
                handed = events.wait("consumed")
                done = household.await_delivery(folder, before)
                events.wait("state", state="idle")
                bare = replay.follow_up(f"<messages><message>follow-up {number}</message></messages>")
                replay.events.wait("state", state="idle")
                if number >= 2:
                    consumed.append(handed - start)
                    answered.append(done - start)
                    bare_consumed.append(bare[0])
                    bare_answered.append(bare[1])
        finally:
            replay.remove()
    hands, answer = median_ms(consumed), median_ms(answered)
    return [
        Figure(
            "follow-up -> in the agent's hands", hands, "ms", median_ms(bare_consumed), "", "<= 10 ms", hands <= 10,
            f"inbox file -> the runner's `consumed` event; {spread(consumed)}; bare: file put into in/ directly",
        ),
        Figure(
            "follow-up -> answer", answer, "ms", median_ms(bare_answered), "1,340 ms", "<= 100 ms", answer <= 100,
            f"inbox file -> delivered; {spread(answered)}; bare: file in in/ -> result event, {spread(bare_answered)}",
        ),
    ]  # fmt: skip
