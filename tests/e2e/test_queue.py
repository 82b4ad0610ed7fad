"""Who gets a container when there are fewer than groups, and what one prompt says of a chat in which much was said."""

from __future__ import annotations

import re
import threading

from tests.support.home import HomeUnderTest, Script
from tests.support.scripted_model import Gate, message_texts
from tests.support.waiting import wait_for


def test_one_slot_goes_round_in_order_of_arrival(house: HomeUnderTest, script: Script) -> None:
    """With the default idle timeout of half an hour: whoever is idle gives way at once."""
    gate = threading.Event()
    script.on("the first", lambda request: Gate(gate))
    house.configure(max_concurrent_containers=1)
    for folder in ("a", "b", "c", "d"):
        house.group(folder)
    house.start()
    house.drop("c", "the first")
    house.model.wait_for_requests(1)
    for place, folder in enumerate(("b", "d", "a")):
        house.drop(folder, f"from {folder}")
        wait_for(lambda n=place: len(house.journal("limited")) == n + 1, 10, "the group waits")  # type: ignore[misc]
    assert len(house.containers()) == 1
    gate.set()
    for folder in ("b", "d", "a"):
        assert house.wait_said(folder) == [f"echo: from {folder}"]
    assert [event["folder"] for event in house.journal("spawn")] == ["c", "b", "d", "a"]
    events = sorted(house.journal("spawn") + house.journal("judged"), key=lambda event: str(event["time"]))
    assert [event["folder"] for event in events] == ["c", "c", "b", "b", "d", "d", "a"], (
        "the next starts when the one before is over"
    )
    assert "concurrency limit" in house.log()


def test_the_longest_idle_one_gives_way(house: HomeUnderTest) -> None:
    house.configure(max_concurrent_containers=2)
    for folder in ("a", "b", "c"):
        house.group(folder)
    house.start()
    for folder in ("b", "a", "c"):
        house.drop(folder, f"from {folder}")
        house.wait_said(folder)
    assert [event["folder"] for event in house.journal("judged")] == ["b"]
    house.drop("a", "still there?")
    house.wait_said("a", 2)
    assert len(house.runs("a")) == 1


def test_context_comes_along_and_wakers_are_never_left_out(house: HomeUnderTest) -> None:
    """All of it waits when the host starts, so that it is one prompt."""
    house.configure(max_messages_per_prompt=2)
    house.group("team", "")
    for number in range(5):
        house.drop("team", f"chatter {number}")
    for number in range(4):
        house.drop("team", f" @ANDY, wake {number}")
    house.drop("team", "@Andyman is somebody else")
    house.start()
    house.wait_said("team")
    (prompt,) = house.prompts("<messages>")
    shown = message_texts(prompt)
    assert shown == ["chatter 4", *(f" @ANDY, wake {number}" for number in range(4)), "@Andyman is somebody else"]
    assert re.search(r'<omitted count="4">4 older messages', prompt)
    house.drop("team", "nobody is asked")
    house.drop("team", "@Andy once more")
    house.wait_said("team", 2)
    assert message_texts(house.prompts("<messages>")[-1]) == ["nobody is asked", "@Andy once more"]
    assert len(house.prompts("<messages>")) == 2 and "omitted" not in house.prompts("<messages>")[-1]


def test_a_message_that_meets_a_closing_container(house: HomeUnderTest) -> None:
    """Each comes as soon as the last answer is there, which is when a container without patience closes."""
    house.configure('idle_timeout = "0.001s"')
    house.group("g")
    house.start()
    for number in range(1, 5):
        house.drop("g", f"message {number}")
        assert house.wait_said("g", number)[-1] == f"echo: message {number}"
    assert house.said("g") == [f"echo: message {number}" for number in range(1, 5)]
    assert len(house.prompts("<messages>")) == 4
