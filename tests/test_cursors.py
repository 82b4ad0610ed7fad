"""The cursor through hand-over, answers, ends of runs and crashes between any two writes, read from disk again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nanoclaw.files.atomic import BrokenFile
from nanoclaw.models import Group
from nanoclaw.paths import Home
from nanoclaw.runs import claims
from nanoclaw.runs.judge import VERDICTS
from nanoclaw.runs.records import Run
from nanoclaw.stores.cursors import Cursor, Retry
from nanoclaw.stores.transcripts import Position
from tests.support.parts import Parts, new_run

NOW = 1_000_000.0


def stored(home: Home, folder: str = "main") -> dict[str, Any]:
    return dict(json.loads((home.cursors / f"{folder}.json").read_bytes()))


def edit(home: Home, folder: str = "main", **fields: Any) -> None:
    path = home.cursors / f"{folder}.json"
    value = stored(home, folder) if path.exists() else {}
    path.write_text(json.dumps({**value, **fields}))


def end(parts: Parts, run: Run, cause: str = "crash", now: float = NOW) -> bool:
    """Judge a run; True when its retries are used up."""
    return parts.handover.settle(run, VERDICTS[cause], claims.settle(run.claims), now)


def answer(parts: Parts, run: Run, *numbers: int) -> None:
    for number in numbers:
        claims.finish(run.claims, [run.claims[number - 1].uuid])
    parts.handover.answered(run)


def consume(run: Run, *numbers: int) -> None:
    claims.consume(run.claims, [run.claims[number - 1].uuid for number in numbers])


def test_a_message_handed_and_answered(home: Home) -> None:
    parts, run = Parts(home), new_run()
    assert parts.handover.waits_until(parts.group()) is None
    parts.say("one")
    parts.say("two")
    assert parts.handover.waits_until(parts.group()) == 0.0
    batch = parts.offer(run)
    assert batch is not None and [line.seq for line in batch.lines] == [1, 2]
    assert (stored(home)["handed"], stored(home)["done"]) == (2, 0)
    assert parts.handover.waits_until(parts.group()) is None
    assert parts.offer(run) is None
    parts.say("three")
    assert parts.offer(run) is not None
    answer(parts, run, 2)
    assert stored(home)["done"] == 0, "the first is not finished yet"
    answer(parts, run, 1)
    assert (stored(home)["handed"], stored(home)["done"]) == (3, 3)
    end(parts, run, "finished")
    assert "retry" not in stored(home) and Parts(home).handover.waits_until(parts.group()) is None


@pytest.mark.parametrize(
    ("states", "cause", "waits", "retry"),
    [
        # A row: the states of two prompts, the verdict, which messages wait then, retries counted.
        (["offered", "offered"], "finished", ["a", "b"], 0),
        (["offered", "offered"], "not_started", ["a", "b"], 0),
        (["offered", "offered"], "crash", ["a", "b"], 1),
        (["offered", "offered"], "engine", ["a", "b"], 0),
        (["finished", "offered"], "finished", ["b"], 0),
        (["finished", "offered"], "crash", ["b"], 0),
        (["finished", "offered"], "killed", ["b"], 0),
        (["finished", "consumed"], "killed", ["b"], 1),
        (["finished", "consumed"], "finished", ["b"], 1),
        (["finished", "consumed"], "network", ["b"], 0),
        (["consumed", "finished"], "crash", ["a"], 1),
        (["consumed", "offered"], "stale_session", ["a", "b"], 1),
        (["finished", "finished"], "crash", [], 0),
        (["output", "offered"], "crash", ["b"], 0),
        (["output", "output"], "crash", [], 0),
    ],
)
def test_what_waits_after_a_run(home: Home, states: list[str], cause: str, waits: list[str], retry: int) -> None:
    parts, run = Parts(home), new_run()
    for text, _ in zip("ab", states, strict=True):
        parts.say(text)
        parts.offer(run)
    for claim, state in zip(run.claims, states, strict=True):
        claim.state, claim.output = ("consumed", True) if state == "output" else (state, False)
    assert end(parts, run, cause) is False
    for view in (parts, Parts(home)):
        until = view.handover.waits_until(view.group())
        assert until == (None if not waits else NOW + 5 if retry else 0.0)
    parts = Parts(home)
    cursor = parts.handover.cursor(parts.group())
    assert (cursor.retry.count if cursor.retry else 0) == retry
    again = new_run("main-2")
    batch = parts.offer(again)
    assert ([line.message.text for line in batch.lines] if batch else []) == waits
    if batch and "output" in states:
        assert parts.prompt(again).count("broke off") == 1, "the agent learns of it in the next prompt"
        parts.say("c")
        parts.offer(again)
        assert "broke off" not in parts.prompt(again, 2)


def test_the_retries_and_what_is_kept_then(home: Home) -> None:
    Parts(home).say("a")
    now, delays = NOW, []
    for number in range(6):
        parts, run = Parts(home), new_run(f"main-{number}")
        assert parts.offer(run) is not None
        consume(run, 1)
        used_up = end(parts, run, now=now)
        until = Parts(home).handover.waits_until(parts.group())
        assert used_up == (until is None)
        delays.append(None if until is None else until - now)
        now = until or now
    assert delays == [5, 10, 20, 40, 80, None]
    assert stored(home)["handed"] == 0, "kept"
    parts, run = Parts(home), new_run("main-6")
    parts.say("b")
    assert parts.handover.waits_until(parts.group()) == 0.0
    batch = parts.offer(run)
    assert batch is not None and [line.message.text for line in batch.lines] == ["a", "b"]
    assert end(parts, run) is False
    assert parts.handover.waits_until(parts.group()) == NOW + 5, "and the count starts anew"


def test_an_answer_ends_the_counting(home: Home) -> None:
    parts, run = Parts(home), new_run()
    parts.say("a")
    parts.offer(run)
    end(parts, run)
    assert parts.handover.say_once("main", "killed") and not parts.handover.say_once("main", "killed")
    second = new_run("main-2")
    parts.offer(second)
    answer(parts, second, 1)
    assert not {"retry", "said"} & set(stored(home))
    assert parts.handover.say_once("main", "killed"), "a new episode"


def test_a_run_is_counted_once(home: Home) -> None:
    parts, run = Parts(home), new_run()
    parts.say("a")
    parts.offer(run)
    consume(run, 1)
    end(parts, run)
    before = stored(home)
    for view in (parts, Parts(home)):
        view.handover.raise_to(run)
        assert end(view, run) is False
        assert stored(home) == before


def test_a_crash_after_counting_still_tells_that_the_retries_are_used_up(home: Home) -> None:
    parts, run = Parts(home), new_run()
    parts.say("a")
    parts.offer(run)
    parts.cursors.update("main", retry=Retry(5, NOW))
    assert end(parts, run) is True
    assert end(Parts(home), run) is True


# -- crashes between two writes: the disk as it is then, and the restart -----------------------------------------------


def test_the_claim_is_on_disk_and_the_cursor_is_not(home: Home) -> None:
    parts, run = Parts(home), new_run()
    parts.say("a")
    parts.handover.cursor(parts.group())
    before = stored(home)
    parts.offer(run)
    parts.records.save(run)
    (home.cursors / "main.json").write_text(json.dumps(before))
    parts = Parts(home)
    found = parts.records.load(run.id)
    parts.handover.raise_to(found)
    assert parts.handover.waits_until(parts.group()) is None, "an unjudged run has it"
    end(parts, found, "not_started")
    assert parts.handover.waits_until(parts.group()) == 0.0, "and gives it back"


def test_a_follow_up_is_in_its_file_and_nowhere_else(home: Home) -> None:
    parts, run = Parts(home), new_run()
    parts.say("a")
    parts.offer(run)
    parts.records.save(run)
    before = stored(home)
    parts.say("b")
    parts.offer(run)
    (home.cursors / "main.json").write_text(json.dumps(before))
    parts = Parts(home)
    found = parts.records.load(run.id)
    assert [(claim.n, claim.place.seq, claim.state) for claim in found.claims] == [(1, 1, "offered"), (2, 2, "offered")]
    assert found.claims[1].uuid == run.claims[1].uuid
    parts.handover.raise_to(found)
    assert stored(home)["handed"] == 2
    answer(parts, found, 1)
    end(parts, found, "finished")
    batch = parts.offer(new_run("main-2"))
    assert batch is not None and [line.message.text for line in batch.lines] == ["b"]


def test_judged_in_the_cursor_and_not_in_the_record(home: Home) -> None:
    parts, run = Parts(home), new_run()
    parts.say("a")
    parts.offer(run)
    parts.records.save(run)
    consume(run, 1)
    end(parts, run)
    parts = Parts(home)
    found = parts.records.load(run.id)
    parts.handover.raise_to(found)
    assert stored(home)["handed"] == 0
    assert parts.handover.waits_until(parts.group()) == NOW + 5
    end(parts, found)
    cursor = parts.handover.cursor(parts.group())
    assert cursor.retry is not None and cursor.retry.count == 1


# -- what people do to the file ----------------------------------------------------------------------------------------


def test_a_missing_cursor_is_recovered_from_the_last_answer(home: Home) -> None:
    parts = Parts(home)
    assert parts.handover.cursor(parts.group()).handed == 0
    parts.say("a")
    parts.say("answer", is_bot=True, run="main-1")
    parts.say("b")
    parts.say("notice", is_bot=True)
    (home.cursors / "main.json").unlink()
    for view in (parts, Parts(home)):
        cursor = view.handover.cursor(view.group())
        assert (cursor.handed, cursor.done) == (2, 2)
    batch = parts.offer(new_run())
    assert batch is not None and [line.message.text for line in batch.lines] == ["b"]


@pytest.mark.parametrize("what", ["answered", "settle", "say_once", "over"])
def test_a_cursor_that_goes_missing_during_a_run_does_not_hand_the_whole_chat_again(home: Home, what: str) -> None:
    parts, run = Parts(home), new_run()
    for number in range(3):
        parts.say(f"old {number}")
        parts.say("answer", is_bot=True, run="main-0")
    parts.handover.cursor(parts.group())
    parts.say("new")
    parts.offer(run)
    (home.cursors / "main.json").unlink()
    if what == "answered":
        answer(parts, run, 1)
    elif what == "settle":
        end(parts, run, "not_started")
    elif what == "say_once":
        assert parts.handover.say_once("main", "engine")
    else:
        parts.handover.over("main", ["engine"])
    batch = parts.offer(new_run("main-2"))
    assert batch is not None and [line.message.text for line in batch.lines] == ["new"]


def test_handed_can_be_edited(home: Home) -> None:
    parts = Parts(home)
    for text in "abcd":
        parts.say(text)
    parts.offer(new_run())
    edit(home, handed=2)
    batch = parts.offer(new_run("main-2"))
    assert batch is not None and [line.message.text for line in batch.lines] == ["c", "d"]
    edit(home, handed=100)
    assert parts.offer(new_run("main-3")) is None
    assert parts.say("e") == 101, "so that it waits"
    batch = parts.offer(new_run("main-4"))
    assert batch is not None and [line.message.text for line in batch.lines] == ["e"]


def test_a_reset_during_a_run_holds(home: Home) -> None:
    parts, run = Parts(home), new_run()
    for text in "abc":
        parts.say(text)
        parts.offer(run)
    answer(parts, run, 1, 2)
    edit(home, handed=1)
    end(parts, run, "not_started")
    batch = Parts(home).offer(new_run("main-2"))
    assert batch is not None and [line.message.text for line in batch.lines] == ["b", "c"]


def test_a_shortened_chat_loses_no_later_message(home: Home) -> None:
    parts = Parts(home)
    for text in "abc":
        parts.say(text)
    parts.offer(new_run())
    for path in home.chat("local:main").iterdir():
        path.unlink()
    parts = Parts(home)
    assert parts.handover.waits_until(parts.group()) is None
    parts.say("d")
    assert parts.handover.waits_until(parts.group()) == 0.0
    batch = parts.offer(new_run("main-2"))
    assert batch is not None and [line.message.text for line in batch.lines] == ["d"]


def test_a_group_that_moves_to_another_chat_starts_there_afresh(home: Home) -> None:
    parts, run = Parts(home), new_run()
    for text in "abc":
        parts.say(text)
    parts.offer(run)
    home.group_file("main").write_text('jid = "local:other"\nis_main = true\n')
    assert parts.settings.refresh()
    parts.say("x", "local:other")
    assert parts.handover.waits_until(parts.group()) == 0.0
    parts.handover.answered(run)
    parts.handover.raise_to(run)
    assert end(parts, run) is False, "what became of the old chat's run does not count here"
    batch = parts.offer(new_run("main-2", jid="local:other"))
    assert batch is not None and [line.message.text for line in batch.lines] == ["x"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"handed": "7"}', '{"handed": -1}', '{"handed": 1, "retry": 7}']
)
def test_a_broken_cursor_stops_one_group_and_is_never_overwritten(home: Home, content: str) -> None:
    parts = Parts(home)
    parts.say("a")
    parts.say("@Andy b", "local:team")
    parts.handover.cursor(parts.group())
    (home.cursors / "main.json").write_text(content)
    run = new_run()
    for _ in range(2):
        with pytest.raises(BrokenFile) as broken:
            parts.offer(run)
        assert str(home.cursors / "main.json") in broken.value.problem
    assert run.claims == []
    with pytest.raises(BrokenFile):
        parts.handover.answered(run)
    assert parts.handover.say_once("main", "engine") is False
    parts.handover.over("main", ["engine"])
    assert (home.cursors / "main.json").read_text() == content
    assert parts.handover.waits_until(parts.group("team")) == 0.0
    (home.cursors / "main.json").write_text('{"handed": 0, "done": 0}')
    assert parts.offer(run) is not None


def test_everything_in_a_cursor_comes_back(home: Home) -> None:
    full = Cursor(
        jid="local:main",
        place=Position(7, 1, 70),
        done=5,
        finished=((8, 9), (11, 11)),
        retry=Retry(2, 12.5, 7),
        judged="main-1",
        said=("engine", "network"),
        note="n",
        skipped=3,
        skipped_place=Position(9, 1, 90),
    )
    parts = Parts(home)
    parts.cursors.put("main", full)
    assert Parts(home).cursors.get("main") == full
    assert (stored(home)["handed"], stored(home)["done"]) == (7, 5)
    edit(home, handed=6)
    edited = Parts(home).cursors.get("main")
    assert edited is not None
    assert (edited.place, edited.skipped, edited.skipped_place) == (Position(6), 0, None), "the hints are not believed"
    assert edited.finished == full.finished
    moved = full.at(Position(10, 1, 100))
    assert (moved.finished, moved.skipped, moved.skipped_place) == (((11, 11),), 0, None)


def test_the_omitted_are_said_in_the_prompt(home: Home) -> None:
    parts = Parts(home, groups={"team": 'jid = "local:team"\n'})
    run = new_run("team-1", "team", "local:team")
    for number in range(13):
        parts.say(f"t{number}", "local:team")
    assert parts.offer(run, "team") is None
    parts.say("@Andy now", "local:team")
    assert parts.offer(run, "team") is not None
    prompt = parts.prompt(run)
    assert '<omitted count="3">' in prompt
    assert "t2<" not in prompt and "t3<" in prompt and "@Andy now<" in prompt


def test_two_groups_do_not_know_of_each_other(home: Home) -> None:
    parts = Parts(home)
    parts.say("a")
    team: Group = parts.group("team")
    assert parts.handover.waits_until(team) is None
    parts.offer(new_run())
    assert parts.handover.cursor(team).handed == 0
