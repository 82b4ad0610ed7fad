"""One run from start to verdict, turn by turn on an invented clock; only the container is stood in for.

``Engine`` implements the Runtime protocol, ``Runner`` writes out/ as the agent runner does. Everything else is real.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.deadlines import CLOSE_GRACE, CLOSE_MARGIN, HUNG_AFTER, SILENT_AFTER, START_GRACE
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import BrokenFile
from nanoclaw.files.watch import Watcher
from nanoclaw.gateway.gateway import Gateway
from nanoclaw.gateway.witness import Failure
from nanoclaw.house import House
from nanoclaw.models import Environment
from nanoclaw.notices import Notices
from nanoclaw.paths import Home
from nanoclaw.pending import Batch
from nanoclaw.runs.judge import Verdict
from nanoclaw.runs.launch import Preparation, Start, new_claim
from nanoclaw.runs.marks import mark
from nanoclaw.runs.records import Run
from nanoclaw.runs.runtime import Look, StartFailed
from nanoclaw.stores.cursors import Cursor
from nanoclaw.stores.sessions import Session
from nanoclaw.supervision import KILL_AGAIN, STOP_AGAIN
from nanoclaw.worker import TOUCH_EVERY, Worker
from tests.support.parts import Parts, lines_of
from tests.support.waiting import wait_for

IDLE, TIMEOUT = 100.0, 300.0
CONFIG = f"""timezone = "UTC"
progress_after = 0
[container]
runtime = "process"
idle_timeout = {IDLE:g}
timeout = {TIMEOUT:g}
[model]
offline = true
"""


class Engine:
    """A container engine with one container: ``state`` is what ``look`` says; ``stop`` obeys unless ``deaf``."""

    def __init__(self) -> None:
        self.state = Look("absent")
        self.refuses: str | None = None
        self.deaf = False
        self.calls: list[str] = []

    def start(self, run_directory: Path, argv: list[str], environment: dict[str, str], cwd: Path) -> str:
        self.calls.append("start")
        if self.refuses is not None:
            raise StartFailed(125, self.refuses)
        assert json.loads((run_directory / "run.json").read_bytes())["claims"], "the claim is on disk before"
        self.state = Look("running")
        return "id-1"

    def look(self, run_directory: Path, name: str, container_id: str | None) -> Look:
        return self.state

    def stop(self, name: str, container_id: str | None, grace: float) -> None:
        self.calls.append("stop")
        if not self.deaf:
            self.state = Look("exited", 137)

    def identify(self, run_directory: Path) -> str | None:
        return None

    def kill(self, name: str, container_id: str | None) -> None:
        self.calls.append("kill")
        if not self.deaf and self.state.state == "running":
            self.state = Look("exited", 137)

    def clean_up(self, run_directory: Path, name: str) -> None:
        self.calls.append("clean up")
        self.state = Look("absent")

    def names(self, home_id: str) -> list[str] | None:
        return []

    def why_unavailable(self, image_name: str, project: Path) -> tuple[str, UserError] | None:
        return None

    def follow(self, home_id: str, ended: Callable[[str | None], None], stop: threading.Event) -> None:
        stop.wait()


class Runner:
    """The container's side of a run's folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.n = 0

    def prompts(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_bytes()) for path in sorted((self.directory / "in").glob("0*.json"))]

    def write(self, kind: str, **fields: Any) -> None:
        self.n += 1
        draft = self.directory / "out" / f".{self.n:06d}"
        draft.write_text(json.dumps({"n": self.n, "type": kind, **fields}))
        draft.rename(draft.with_name(f"{self.n:06d}.json"))

    def consume(self, *numbers: int) -> list[str]:
        uuids = [self.prompts()[number - 1]["uuid"] for number in numbers]
        self.write("consumed", uuids=uuids)
        return uuids

    def answer(self, *numbers: int, text: str = "answer", session: str = "s-1") -> None:
        self.write("result", uuids=self.consume(*numbers), text=text, session=session, anchor="a-1")

    def idle(self) -> None:
        self.write("state", state="idle")

    def beat(self) -> None:
        heart = self.directory / "out" / "heartbeat"
        with suppress(OSError):  # a hostile one may have put anything in the place of out/
            heart.touch()
            os.utime(heart, ns=(0, heart.stat().st_mtime_ns + 1))

    def is_told_to_close(self) -> bool:
        return (self.directory / "in" / "_close").exists()


class Told(Notices):
    """Notices that remember which verdicts were told."""

    def of_run(self, run: Run, verdict: Verdict, used_up: bool) -> None:
        self.journal.event("told", cause=verdict.cause, used_up=used_up)


class Scene:
    """A home with one group, its engine, and the worker of its run. ``at(s)`` is a turn ``s`` s after the start."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.engine = Engine()
        self.watcher = Watcher()
        self.watcher.start()
        self.parts = Parts(home, CONFIG)
        self.restart()

    def restart(self) -> None:
        """The next host: all parts anew; ``adopt`` or ``start`` makes the worker."""
        self.parts = parts = Parts(self.home)
        self.judged: list[Verdict] = []
        self.changes = 0
        self.gateway = Gateway(Environment)
        self.model_said = {401, 429, 500, 502, 529}
        self.house = House(
            **{name: getattr(parts, name) for name in ("records", "transcripts", "outbox", "sessions", "settings")},
            journal=parts.journal,
            handover=parts.handover,
            notices=Told(
                *(parts.settings, parts.handover, parts.transcripts, parts.outbox, parts.journal), delivery=lambda: None
            ),
            gateway=self.gateway,
            watcher=self.watcher,
            office=parts.office(),
            start_slots=threading.Semaphore(2),
            delivery=lambda: None,
            changed=self._changed,
            settings_read=lambda: None,
            model_said=lambda run_id, status: Failure(status or 0, "", None) if status in self.model_said else None,
            over=lambda run, verdict: self.judged.append(verdict),
        )

    def _changed(self) -> None:
        self.changes += 1

    @property
    def told(self) -> list[tuple[str, bool]]:
        """What the notices heard of ends, over all restarts."""
        found = [line for path in self.home.logs.glob("journal-*") for line in lines_of(path)]
        return [(line["cause"], line["used_up"]) for line in found if line["event"] == "told"]

    def close(self) -> None:
        self.gateway.shutdown()
        self.watcher.stop()

    def prepare(self) -> tuple[Run, Start]:
        """Claim what waits, as the dispatcher does."""
        parts, made = self.parts, []
        preparation = Preparation(self.home, parts.home_id, parts.settings, parts.records)

        def claim(batch: Batch, prompt: str, cursor: Cursor) -> None:
            session = parts.sessions.get("main")
            made.append(
                preparation.prepare(parts.group(), session, prompt, new_claim(1, batch, cursor.place, cursor.note))
            )

        assert parts.handover.hand(parts.group(), claim) is not None
        return made[0]

    def start(self) -> Runner:
        run, start = self.prepare()
        return self._work(run, start)

    def adopt(self) -> Runner:
        """Restart on what is on disk."""
        self.restart()
        (run_id,) = [i for i in self.parts.records.ids() if self.parts.records.load(i).status != "judged"]
        return self._work(self.parts.records.load(run_id), None)

    def _work(self, run: Run, start: Start | None) -> Runner:
        self.worker = Worker(self.house, run, self.engine, start)
        self.run = run
        self.runner = runner = Runner(self.parts.records.path(run.id))
        runner.n = len(list((runner.directory / "out").glob("0*.json")))
        self.worker.turn(0.0)
        self.zero = time.monotonic()
        return runner

    def at(self, seconds: float, alive: bool = True) -> float:
        if alive:
            self.runner.beat()
        return self.worker.turn(self.zero + seconds)

    def ended(self, look: Look, seconds: float = 1.0) -> Verdict:
        """The engine says that the container ended."""
        self.engine.state = look
        self.worker.poke(look=True)
        self.at(seconds)
        (verdict,) = self.judged
        return verdict

    def replies(self) -> list[str]:
        return [json.loads(path.read_bytes())["text"] for path in sorted(self.home.outbox.glob("*.json"))]

    def waits(self) -> list[str]:
        """The texts that the next run would be handed."""
        parts, found = Parts(self.home), []
        run = replace(self.run, id="main-next", claims=[])
        if parts.handover.waits_until(parts.group()) is not None:
            batch = parts.offer(run)
            found = [line.message.text for line in batch.lines] if batch else []
        return found


@pytest.fixture
def scene(home: Home) -> Iterator[Scene]:
    made = Scene(home)
    yield made
    made.close()


def test_an_answer(scene: Scene) -> None:
    scene.parts.say("hello")
    runner = scene.start()
    assert scene.engine.calls == ["start"] and scene.run.status == "started"
    (prompt,) = runner.prompts()
    assert ">hello</message>" in prompt["text"] and (prompt["from"], prompt["through"]) == (1, 1)
    runner.write("ready")
    runner.answer(1, text="<internal>hm</internal> hi")
    runner.idle()
    scene.at(1.0)
    assert scene.replies() == ["hi"]
    record = scene.parts.records.load(scene.run.id)
    assert (record.accepted_through, record.replies, record.claims[0].state) == (4, 1, "finished")
    assert scene.parts.sessions.get("main") == Session("s-1", "a-1")
    assert scene.parts.handover.cursor(scene.parts.group()).done == 1
    assert scene.worker.idle_since == scene.zero + 1.0 and scene.changes == 1
    assert scene.ended(Look("exited", 0)).cause == "finished"
    assert scene.engine.calls == ["start", "clean up"]
    assert scene.parts.records.load(scene.run.id).status == "judged" and scene.waits() == []


def test_an_idle_agent_is_told_to_close_and_stopped_if_it_does_not(scene: Scene) -> None:
    scene.parts.say("hello")
    runner = scene.start()
    runner.answer(1)
    runner.idle()
    scene.at(10.0)
    assert scene.at(10.0 + IDLE - 1.0) <= 1.0
    assert not runner.is_told_to_close()
    scene.at(10.0 + IDLE)
    scene.at(10.0 + IDLE)
    assert runner.is_told_to_close() and scene.worker.closing
    scene.parts.say("too late for this run")
    scene.at(11.0 + IDLE)
    assert len(runner.prompts()) == 1
    scene.at(10.0 + IDLE + CLOSE_GRACE - 1.0)
    assert scene.engine.calls == ["start"]
    scene.at(10.0 + IDLE + CLOSE_GRACE)
    scene.at(10.0 + IDLE + CLOSE_GRACE)
    assert scene.engine.calls == ["start", "stop", "clean up"]
    assert [verdict.cause for verdict in scene.judged] == ["idle_stop"]
    assert scene.waits() == ["too late for this run"]


def test_a_follow_up_goes_into_the_living_run(scene: Scene) -> None:
    scene.parts.say("one")
    runner = scene.start()
    runner.answer(1)
    runner.idle()
    scene.at(1.0)
    assert scene.worker.idle_since is not None
    scene.parts.say("two")
    scene.parts.say("three")
    scene.at(50.0)
    assert scene.worker.idle_since is None
    second = runner.prompts()[1]
    assert (second["n"], second["from"], second["through"]) == (2, 2, 3)
    runner.idle()
    scene.at(51.0)
    assert scene.worker.idle_since is None, "idle is who has nothing unanswered"
    scene.at(50.0 + IDLE + 1.0)
    assert not runner.is_told_to_close()
    runner.answer(2, text="both")
    runner.idle()
    scene.at(160.0)
    assert scene.replies() == ["answer", "both"]
    assert scene.parts.handover.cursor(scene.parts.group()).done == 3
    assert scene.ended(Look("exited", 0), 161.0).cause == "finished" and scene.waits() == []


def test_a_follow_up_that_meets_the_end_waits_for_the_next_run(scene: Scene) -> None:
    scene.parts.say("one")
    runner = scene.start()
    runner.answer(1)
    scene.at(1.0)
    scene.parts.say("two")
    scene.at(2.0)
    assert len(runner.prompts()) == 2
    runner.write("ended", why="closed")
    scene.ended(Look("exited", 0), 3.0)
    assert scene.told == [("finished", False)]
    assert scene.waits() == ["two"]


def test_silence_is_stopped_at_the_hard_timeout_and_output_puts_it_off(scene: Scene) -> None:
    scene.parts.say("one")
    runner = scene.start()
    scene.at(TIMEOUT - 5.0)
    runner.write("state", state="running")
    runner.write("result", uuids=[], text="")
    scene.at(TIMEOUT - 4.0)
    scene.at(2 * TIMEOUT - 5.0)
    assert scene.engine.calls == ["start"]
    scene.at(2 * TIMEOUT - 3.0)
    assert scene.engine.calls == ["start", "stop"]
    scene.at(2 * TIMEOUT - 3.0)
    assert scene.judged[0].cause == "timeout"
    assert scene.parts.records.load(scene.run.id).timed_out
    cursor = scene.parts.handover.cursor(scene.parts.group())
    assert cursor.retry is not None and cursor.retry.count == 1 and scene.waits() == ["one"]


def test_a_hard_stop_after_output_is_clean_up(scene: Scene) -> None:
    scene.parts.say("one")
    runner = scene.start()
    runner.consume(1)
    runner.write("result", uuids=[], text="I am at it")
    scene.at(1.0)
    scene.at(1.0 + TIMEOUT)
    scene.at(1.0 + TIMEOUT)
    assert scene.judged[0].cause == "idle_stop"
    assert scene.run.claims[0].broken, "the chat is told that it broke off"
    assert scene.waits() == []
    assert Parts(scene.home).cursors.update("main").note is not None


def test_the_hard_timeout_is_never_below_the_idle_one(scene: Scene) -> None:
    scene.home.config_file.write_text(
        CONFIG.replace(f"timeout = {TIMEOUT:g}", "timeout = 5").replace("idle_timeout = 5", f"idle_timeout = {IDLE:g}")
    )
    scene.parts.settings.refresh()
    assert (scene.parts.settings.config.timeout, scene.parts.settings.config.idle_timeout) == (5.0, IDLE)
    scene.parts.say("one")
    scene.start()
    scene.at(IDLE + CLOSE_MARGIN - 1.0)
    assert scene.engine.calls == ["start"]
    scene.at(IDLE + CLOSE_MARGIN + 1.0)
    assert scene.engine.calls == ["start", "stop"]


def test_an_engine_that_does_not_answer_is_told_again(scene: Scene) -> None:
    scene.parts.say("one")
    scene.start()
    scene.engine.deaf, scene.engine.state = True, Look("unknown")
    scene.at(TIMEOUT + 1.0)
    scene.at(TIMEOUT + STOP_AGAIN)
    assert scene.engine.calls == ["start", "stop"] and scene.judged == []
    scene.engine.deaf, scene.engine.state = False, Look("running")
    scene.at(TIMEOUT + 1.0 + STOP_AGAIN)
    scene.at(TIMEOUT + 1.0 + STOP_AGAIN)
    assert scene.engine.calls == ["start", "stop", "stop", "clean up"]
    assert scene.judged[0].cause == "timeout"


@pytest.mark.parametrize(
    ("said", "cause", "retries"),
    [
        ("Cannot connect to the Docker daemon", "engine", 0),
        ("pull access denied for x", "image", 0),
        ("docker: Conflict.", "crash", 1),
    ],
)
def test_a_container_that_does_not_start(scene: Scene, said: str, cause: str, retries: int) -> None:
    scene.parts.say("one")
    scene.engine.refuses = said
    scene.start()
    assert [verdict.cause for verdict in scene.judged] == [cause]
    record = scene.parts.records.load(scene.run.id)
    assert (record.status, record.detail, record.started) == ("judged", said, None)
    cursor = scene.parts.handover.cursor(scene.parts.group())
    assert (cursor.retry.count if cursor.retry else 0) == retries and scene.waits() == ["one"]


def test_only_the_command_that_starts_it_was_cut_off(scene: Scene) -> None:
    """Else the messages go to a second container of the group while the first one lives."""
    scene.parts.say("one")
    scene.engine.refuses, scene.engine.state = "error during connect: EOF", Look("running")
    runner = scene.start()
    assert scene.judged == [] and scene.parts.records.load(scene.run.id).status == "started"
    runner.answer(1)
    scene.at(1.0)
    assert scene.replies() == ["answer"]


def test_a_status_that_the_gateway_never_saw_is_not_believed(scene: Scene) -> None:
    """A refused credential holds back every group: a container cannot make one up."""
    scene.parts.say("one")
    runner = scene.start()
    runner.consume(1)
    scene.model_said = set()
    runner.write("error", reason="api", status=401, text="refused")
    assert scene.ended(Look("exited", 1)).cause == "crash"


def test_an_error_of_the_agent(scene: Scene) -> None:
    scene.parts.sessions.put("main", Session("old", "anchor"))
    scene.parts.say("one")
    runner = scene.start()
    settings = json.loads((runner.directory / "in" / "settings.json").read_bytes())
    assert (settings["session"], settings["anchor"]) == ("old", "anchor")
    runner.write("error", reason="stale_session", status=None, text="No conversation found with session ID: old")
    scene.at(1.0)
    scene.parts.say("two")
    scene.at(2.0)
    assert len(runner.prompts()) == 1, "a run that failed is given no more"
    runner.write("ended", why="error")
    assert scene.ended(Look("exited", 1), 3.0).cause == "stale_session"
    assert scene.parts.sessions.get("main") is None
    assert scene.waits() == ["one", "two"]


def test_a_group_that_is_removed_stops_its_run(scene: Scene) -> None:
    scene.parts.say("one")
    runner = scene.start()
    scene.parts.settings.groups = {}
    scene.parts.say("two")
    scene.at(1.0)
    assert runner.is_told_to_close() and len(runner.prompts()) == 1
    scene.at(2.0)
    assert scene.engine.calls.count("stop") == 1, "it may act for the group no longer"


def test_nonsense_from_the_container_harms_only_its_run(scene: Scene) -> None:
    scene.parts.say("one")
    runner = scene.start()
    runner.n = 1
    (runner.directory / "out" / "000001.json").symlink_to("/etc/passwd")
    runner.write("result", uuids=["unknown"], text="\ud800 unasked", cost_usd=10**400, usage={"a": "x" * 100_000})
    runner.write("result", uuids=["unknown"], text="<internal>only thoughts")
    runner.write("no such type")
    scene.at(1.0)
    assert scene.replies() == ["\ufffd unasked"]
    assert scene.run.accepted_through == 4 and scene.run.claims[0].state == "offered"
    assert os.stat(runner.directory / "run.json").st_size < 5_000
    os.unlink(runner.directory / "out" / "000001.json")
    (runner.directory / "out").rename(runner.directory / "gone")
    os.mkfifo(runner.directory / "out")
    scene.at(2.0)
    assert scene.ended(Look("exited", 0), TIMEOUT).cause == "finished"


def test_the_runner_is_told_that_a_host_lives(scene: Scene) -> None:
    scene.parts.say("one")
    host = scene.start().directory / "in" / "host"
    os.utime(host, (0, 0))
    scene.at(TOUCH_EVERY - 1.0)
    assert host.stat().st_mtime == 0
    assert scene.at(TOUCH_EVERY + 1.0) <= TOUCH_EVERY
    assert host.stat().st_mtime > 0


# -- a run of an earlier host ------------------------------------------------------------------------------------------


def test_a_living_run_is_adopted(scene: Scene) -> None:
    scene.parts.say("one")
    runner = scene.start()
    runner.answer(1)
    scene.at(1.0)
    scene.parts.say("two")
    scene.at(2.0)
    runner.write("state", state="running")
    runner.answer(2, text="written while there was no host")
    runner.idle()
    runner = scene.adopt()
    assert scene.replies() == ["answer", "written while there was no host"]
    assert scene.worker.idle_since is not None
    scene.parts.say("three")
    scene.at(3.0)
    assert (runner.prompts()[2]["from"], runner.prompts()[2]["n"]) == (3, 3)
    runner.answer(3, text="still the same")
    assert scene.ended(Look("exited", 0), 4.0).cause == "finished"
    assert scene.replies()[2:] == ["still the same"] and scene.engine.calls == ["start", "clean up"]
    assert scene.waits() == []


def test_an_idle_adopted_run_says_that_it_can_give_way(scene: Scene) -> None:
    scene.parts.say("one")
    runner = scene.start()
    runner.answer(1)
    runner.idle()
    scene.at(1.0)
    scene.adopt()
    assert scene.worker.idle_since is not None and scene.changes == 1


def test_an_adopted_run_with_background_work_is_not_idle(scene: Scene) -> None:
    scene.parts.say("one")
    runner = scene.start()
    runner.answer(1)
    scene.at(1.0)
    scene.adopt()
    assert scene.worker.idle_since is None


@pytest.mark.parametrize("state", [Look("absent"), Look("exited", 137), Look("created")])
def test_a_run_that_ended_without_a_host_is_drained_and_judged(scene: Scene, state: Look) -> None:
    scene.parts.say("one")
    runner = scene.start()
    scene.parts.say("two")
    scene.at(1.0)
    runner.answer(1)
    scene.engine.state = state
    scene.adopt()
    assert scene.replies() == ["answer"]
    assert len(scene.judged) == 1 and scene.waits() == ["two"]


def test_a_run_that_was_never_started_gives_its_messages_back(scene: Scene) -> None:
    scene.parts.say("one")
    scene.prepare()
    scene.adopt()
    assert [verdict.cause for verdict in scene.judged] == ["not_started"]
    assert scene.engine.calls == [] and scene.waits() == ["one"]
    assert Parts(scene.home).handover.cursor(scene.parts.group()).retry is None


@pytest.mark.parametrize("lost", ["answered", "session", "record"])
def test_a_crash_amid_taking_an_answer(scene: Scene, lost: str) -> None:
    scene.parts.say("one")
    runner = scene.start()
    record, cursor = runner.directory / "run.json", scene.home.cursors / "main.json"
    before = {path: path.read_bytes() for path in (record, cursor)}
    runner.answer(1)
    scene.at(1.0)
    if lost == "record":  # only the outbox has it
        record.write_bytes(before[record])
    if lost in ("record", "answered"):
        cursor.write_bytes(before[cursor])
    (scene.home.sessions / "main.json").unlink()
    scene.adopt()
    assert scene.replies() == ["answer"], "taken once"
    assert scene.parts.sessions.get("main") == Session("s-1", "a-1")
    assert scene.parts.handover.cursor(scene.parts.group()).done == 1
    scene.ended(Look("exited", 0))
    assert scene.waits() == []


def test_an_answer_that_was_delivered_is_not_put_again(scene: Scene) -> None:
    scene.parts.say("one")
    runner = scene.start()
    record = (runner.directory / "run.json").read_bytes()
    runner.answer(1)
    scene.at(1.0)
    (reply,) = scene.parts.outbox.heads()
    scene.parts.say(reply.text, id=reply.id, is_bot=True, run=scene.run.id)
    scene.parts.outbox.delivered(reply)
    (runner.directory / "run.json").write_bytes(record)
    scene.adopt()
    assert scene.replies() == [] and scene.run.accepted_through == 2


@pytest.mark.parametrize("point", ["ended", "counted"])
@pytest.mark.parametrize("refuses", [None, "Cannot connect to the Docker daemon"])
def test_a_crash_amid_the_verdict_comes_to_the_same(scene: Scene, point: str, refuses: str | None) -> None:
    scene.parts.say("one")
    scene.engine.refuses = refuses
    cursor = scene.home.cursors / "main.json"
    saved: dict[str, bytes] = {}

    class Crash(Told):
        def of_run(self, run: Run, verdict: Verdict, used_up: bool) -> None:
            saved["cursor"] = cursor.read_bytes()
            raise KeyboardInterrupt

    told = scene.house.notices
    parts = (told.settings, told.handover, told.transcripts, told.outbox, told.journal)
    scene.house = replace(scene.house, notices=Crash(*parts, delivery=told.delivery))
    run, start = scene.prepare()
    before = cursor.read_bytes()

    def to_the_end() -> None:
        scene._work(run, start).consume(1)
        scene.ended(Look("exited", 1))

    with pytest.raises(KeyboardInterrupt):
        to_the_end()
    if point == "ended":
        cursor.write_bytes(before)
    scene.adopt()
    assert [verdict.cause for verdict in scene.judged] == ["crash" if refuses is None else "engine"]
    found = Parts(scene.home).handover.cursor(scene.parts.group())
    assert (found.retry.count if found.retry else 0) == (1 if refuses is None else 0)
    assert (found.handed, found.judged) == (0, run.id) and scene.waits() == ["one"]
    assert scene.engine.calls.count("start") == 1


def test_a_claim_on_disk_is_carried_out_though_the_cursor_could_not_be_written(scene: Scene) -> None:
    scene.parts.say("one")
    scene.parts.handover.cursor(scene.parts.group())
    cursor = scene.home.cursors / "main.json"
    before = cursor.read_bytes()
    run, start = scene.prepare()
    cursor.write_bytes(before)
    runner = scene._work(run, start)
    scene.at(1.0)
    assert len(runner.prompts()) == 1, "not handed a second time"
    runner.answer(1)
    scene.ended(Look("exited", 0), 2.0)
    assert scene.waits() == []


def test_a_broken_cursor_holds_up_and_loses_nothing(scene: Scene) -> None:
    scene.parts.say("one")
    runner = scene.start()
    cursor = scene.home.cursors / "main.json"
    good = cursor.read_bytes()
    cursor.write_text("{")
    runner.answer(1)
    with pytest.raises(BrokenFile):
        scene.at(1.0)
    assert scene.replies() == ["answer"]
    scene.engine.state = Look("exited", 0)
    for seconds in (20.0, 40.0):
        with pytest.raises(BrokenFile):
            scene.at(seconds)
    cursor.write_bytes(good)
    scene.at(60.0)
    assert scene.judged[0].cause == "finished"
    assert scene.replies() == ["answer"] and scene.waits() == []


def test_the_thread(scene: Scene) -> None:
    """Once with the real clock: events of the file system wake it, halting leaves the run to the next host."""
    scene.parts.say("one")
    run, start = scene.prepare()
    scene.worker = Worker(scene.house, run, scene.engine, start)
    scene.worker.start()
    runner = Runner(scene.parts.records.path(run.id))
    wait_for(lambda: run.status == "started" and Path(run.socket).exists(), 10.0, "the start, and the door")
    runner.answer(1)
    wait_for(scene.replies, 5.0, "the answer, long before the worker would have looked by itself")
    scene.worker.halt()
    scene.worker.join(10.0)
    assert not scene.worker.is_alive() and scene.judged == [] and Path(run.socket).exists()
    scene.gateway.shutdown()
    scene.restart()
    again = Worker(scene.house, scene.parts.records.load(run.id), scene.engine, None)
    scene.engine.state = Look("exited", 0)
    again.start()
    again.join(10.0)
    assert not again.is_alive() and scene.judged[0].cause == "finished" and not Path(run.socket).exists()


def test_a_container_that_writes_without_end_does_not_keep_its_worker(scene: Scene) -> None:
    scene.parts.say("one")
    runner = scene.start()
    for _ in range(350):
        runner.write("state", state="running")
    assert scene.at(1.0) == 0.0, "come back at once"
    assert scene.run.accepted_through < 350
    scene.engine.state = Look("exited", 0)
    scene.worker.poke(look=True)
    scene.at(2.0)
    assert scene.run.accepted_through == 350, "what is left of one that ended is all taken"


def test_a_silent_runner_is_noticed_at_once_and_stopped_in_a_minute(scene: Scene) -> None:
    scene.parts.say("one")
    runner = scene.start()
    runner.consume(1)
    scene.at(1.0)
    silent = [1.0 + SILENT_AFTER - 1.0, 1.0 + SILENT_AFTER, 1.0 + SILENT_AFTER + 2.0]
    assert SILENT_AFTER <= 15.0
    seen = []
    for seconds in silent:
        scene.at(seconds, alive=False)
        seen.append(events(scene, "silent"))
    assert seen == [0, 1, 1], "noticed in time, and said once"
    scene.at(20.0)
    scene.at(20.0 + HUNG_AFTER - 1.0, alive=False)
    assert scene.engine.calls == ["start"] and events(scene, "silent") == 2
    scene.at(20.0 + HUNG_AFTER, alive=False)
    scene.at(20.0 + HUNG_AFTER, alive=False)
    assert scene.engine.calls == ["start", "stop", "clean up"]
    assert [verdict.cause for verdict in scene.judged] == ["hung"] and scene.waits() == ["one"]


def test_a_container_that_starts_slowly_is_given_time(scene: Scene) -> None:
    scene.parts.say("one")
    scene.start()
    scene.at(START_GRACE - 1.0, alive=False)
    assert events(scene, "silent") == 0
    scene.at(START_GRACE + 1.0, alive=False)
    assert events(scene, "silent") == 1


def test_long_work_is_said_once_a_turn_and_never_when_idle(scene: Scene) -> None:
    scene.home.config_file.write_text(CONFIG.replace("progress_after = 0", "progress_after = 60"))
    scene.parts.settings.refresh()
    scene.parts.say("one")
    runner = scene.start()
    for seconds in (1.0, 59.0, 61.0, 70.0, 140.0):
        scene.at(seconds)
    assert scene.replies() == ["I am still at work on this."]
    runner.answer(1)
    runner.idle()
    scene.at(141.0)
    scene.at(210.0)
    assert sorted(scene.replies()) == ["I am still at work on this.", "answer"]
    scene.parts.say("two")
    for seconds in (211.0, 270.0, 272.0, 300.0):
        scene.at(seconds)
    assert scene.replies().count("I am still at work on this.") == 2


def test_a_stopped_run_is_over_when_its_container_is_gone(scene: Scene) -> None:
    scene.parts.say("one")
    runner = scene.start()
    uuids = runner.consume(1)
    scene.at(1.0)
    scene.engine.deaf = True
    scene.worker.cut_off("owner", None)
    mark(runner.directory, "owner")
    runner.write("result", uuids=uuids, text="too late", session="s-9", anchor="a-9")
    scene.at(2.0)
    scene.at(2.0 + KILL_AGAIN)
    assert scene.engine.calls == ["start", "kill", "kill"] and not scene.worker.over.is_set()
    scene.engine.deaf = False
    scene.at(2.0 + 2 * KILL_AGAIN)
    scene.at(2.1 + 2 * KILL_AGAIN)
    assert scene.worker.over.is_set() and [verdict.cause for verdict in scene.judged] == ["stopped"]
    record = scene.parts.records.load(scene.run.id)
    assert (record.stopped, record.claims[0].state, record.new_session) == ("owner", "cancelled", None)
    cursor = Parts(scene.home).handover.cursor(scene.parts.group())
    assert (cursor.handed, cursor.done, cursor.cancelled, cursor.retry) == (1, 1, ((1, 1),), None)
    assert scene.replies() == [] and scene.waits() == [] and "stopped" in str(cursor.note)


@pytest.mark.parametrize("state", [Look("running"), Look("exited", 137), Look("absent")])
def test_the_next_host_ends_what_was_stopped(scene: Scene, state: Look) -> None:
    scene.parts.say("one")
    runner = scene.start()
    uuids = runner.consume(1)
    mark(runner.directory, "owner")
    runner.write("result", uuids=uuids, text="too late")
    scene.engine.state = state
    scene.adopt()
    scene.at(1.0)
    scene.at(2.0)
    assert [verdict.cause for verdict in scene.judged] == ["stopped"]
    assert scene.replies() == [] and scene.waits() == []


def events(scene: Scene, kind: str) -> int:
    """How many events of a kind the journal has."""
    return sum(line["event"] == kind for path in scene.home.logs.glob("journal-*") for line in lines_of(path))


def test_what_came_in_behind_a_stop_is_answered(scene: Scene) -> None:
    through = scene.parts.say("one")
    runner = scene.start()
    runner.consume(1)
    scene.at(1.0)
    scene.parts.say("written after the stop")
    scene.at(2.0)
    assert len(runner.prompts()) == 2
    assert scene.worker.cut_off("owner", through) == 1
    scene.engine.state = Look("exited", 137)
    scene.at(3.0)
    record = scene.parts.records.load(scene.run.id)
    assert [claim.state for claim in record.claims] == ["cancelled", "offered"]
    assert scene.waits() == ["written after the stop"]
    cursor = Parts(scene.home).handover.cursor(scene.parts.group())
    assert cursor.cancelled == ((1, 1),) and cursor.retry is None


def test_no_follow_up_goes_to_a_stopped_run(scene: Scene) -> None:
    scene.parts.say("one")
    runner = scene.start()
    real, hand = scene.parts.handover, scene.parts.handover.hand
    scene.parts.say("two")

    def stopped_meanwhile(*arguments: Any) -> Batch | None:
        scene.worker.cut_off("owner", 1)
        return hand(*arguments)

    real.hand = stopped_meanwhile  # type: ignore[method-assign]
    scene.at(1.0)
    assert len(runner.prompts()) == 1
    scene.engine.state = Look("exited", 137)
    scene.at(2.0)
    assert scene.waits() == ["two"]


def test_output_of_a_prompt_whose_consuming_was_not_seen_yet_is_output(scene: Scene) -> None:
    """The worker was held up: the agent has consumed, spoken and died meanwhile."""
    scene.parts.say("one")
    runner = scene.start()
    runner.consume(1)
    request = {"type": "message", "chatJid": "local:main", "text": "note"}
    (runner.directory / "ipc" / "messages" / "a.json").write_text(json.dumps(request))
    assert scene.ended(Look("exited", 137)).cause == "killed"
    record = scene.parts.records.load(scene.run.id)
    assert record.claims[0].broken and scene.waits() == []
    assert scene.replies() == ["note"]


def test_a_note_comes_back_with_the_prompt_that_came_to_nothing(scene: Scene) -> None:
    scene.parts.say("one")
    scene.parts.handover.cursor(scene.parts.group())
    scene.parts.cursors.update("main", jid="local:main")
    scene.parts.handover.note("main", "remember this")
    runner = scene.start()
    assert "remember this" in runner.prompts()[0]["text"]
    runner.consume(1)
    scene.ended(Look("exited", 137))
    assert "remember this" in str(Parts(scene.home).handover.cursor(scene.parts.group()).note)
