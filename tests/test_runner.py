"""The agent runner: the real runner, the real SDK and CLI, as a process of its own; only the model is scripted."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.gateway.gateway import Gateway
from nanoclaw.gateway.placeholder import hash_placeholder, new_placeholder
from nanoclaw.models import Environment
from tests.support.scripted_model import Error, Gate, ScriptedModel, ToolUse, echo, last_user_text, tool_results

PROJECT = Path(__file__).resolve().parent.parent
RUNNER = PROJECT / "container" / "agent_runner"
DEADLINE = 60.0


class Run:
    """One run of the runner in ``root``, which keeps the group's folder and the agent's home from run to run."""

    def __init__(self, root: Path, model: str, number: int, **settings: Any) -> None:
        self.root = root
        self.directory = root / f"run-{number}"
        self.incoming, self.outgoing = self.directory / "in", self.directory / "out"
        self.group, self.claude = root / "group", root / "claude"
        for path in (self.incoming, self.outgoing, self.group):
            path.mkdir(parents=True, exist_ok=True)
        self.model = model
        self.settings = {
            "run": "r", "out": str(self.outgoing), "cwd": str(self.group), "assistant_name": "Andy",
            "model": "sonnet", "session": None, "anchor": None, "memory_files": [], "additional_directories": [],
            "conversations": str(self.group / "conversations"), "host_silence": 600, "deadline": 86400,
        } | settings  # fmt: skip
        self._put("settings.json", self.settings)
        (self.incoming / "host").touch()
        self.prompts = 0
        self.process: subprocess.Popen[bytes] | None = None

    def _put(self, name: str, value: Any) -> None:
        draft = self.incoming / f".{name}"
        draft.write_text(json.dumps(value))
        draft.rename(self.incoming / name)

    def prompt(self, text: str, name: str = "") -> str:
        """Offer the next prompt; returns its uuid."""
        self.prompts += 1
        name = name or str(uuid.uuid4())
        self._put(f"{self.prompts:06d}.json", {"n": self.prompts, "uuid": name, "text": text, "from": 1, "through": 1})
        return name

    def start(self, **environment: str) -> Run:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("ANTHROPIC_", "CLAUDE_"))}
        env |= {"ANTHROPIC_BASE_URL": self.model, "ANTHROPIC_API_KEY": "sk-ant-api03-placeholder"}
        env |= {"CLAUDE_CONFIG_DIR": str(self.claude)}
        return self.execute([sys.executable, str(RUNNER), str(self.incoming)], env | environment)

    def execute(self, argv: list[str], env: dict[str, str] | None = None) -> Run:
        with open(self.directory / "log", "wb") as log:
            self.process = subprocess.Popen(argv, env=env, stdout=log, stderr=log, start_new_session=True)
        return self

    def kill(self) -> None:
        """End what is left of it, the CLI too, which may have background work."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        found = [json.loads(path.read_text()) for path in sorted(self.outgoing.glob("[0-9]*.json"))]
        assert [event["n"] for event in found] == list(range(1, len(found) + 1))
        return [event for event in found if not kind or event["type"] == kind]

    def wait(self, what: Callable[[], Any]) -> Any:
        """What ``what`` returns as soon as it is true."""
        assert self.process is not None
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            over = self.process.poll() is not None
            if found := what():
                return found
            if over:
                break
            time.sleep(0.005)
        raise AssertionError(f"it did not come: {self.events()}\n{(self.directory / 'log').read_text()[-3000:]}")

    def result(self, name: str) -> dict[str, Any]:
        """The result that answers the prompt ``name``."""
        found = self.wait(lambda: [r for r in self.events("result") if name in r["uuids"]])
        assert len(found) == 1
        return dict(found[0])

    def idle(self) -> None:
        self.wait(lambda: (self.events("state") or [{}])[-1].get("state") == "idle")

    def ended(self) -> tuple[str, int]:
        """Why the run ended, and its exit code; `ended` must be the last event."""
        assert self.process is not None
        code = self.process.wait(DEADLINE)
        assert self.events()[-1]["type"] == "ended", (self.directory / "log").read_text()
        return self.events()[-1]["why"], code

    def close(self) -> tuple[str, int]:
        (self.incoming / "_close").touch()
        return self.ended()


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a run: ``start(model, prompt, **settings)``."""
    if importlib.util.find_spec("claude_agent_sdk") is None:
        pytest.skip("claude-agent-sdk is not installed in this environment")
    runs: list[Run] = []

    def one(model: ScriptedModel, **settings: Any) -> Run:
        runs.append(Run(tmp_path, model.url, len(runs) + 1, **settings))
        return runs[-1]

    yield one
    for run in runs:
        run.kill()


def test_answer_follow_up_and_close(start: Start) -> None:
    seen_at_request: list[list[dict[str, Any]]] = []

    def rule(request: dict[str, Any]) -> Any:
        seen_at_request.append(run.events("consumed"))
        return echo(request)

    with ScriptedModel(rule) as model:
        run = start(model)
        first = run.prompt("hello")
        run.start()
        result = run.result(first)
        assert result["text"] == "echo: hello"
        assert result["session"]
        assert result["anchor"]
        assert result["usage"]["output_tokens"]
        assert result["cost_usd"] > 0
        # Claimed on disk before the model could hear of it.
        assert seen_at_request[0][0]["uuids"] == [first]
        run.idle()
        second = run.prompt("again")
        follow_up = run.result(second)
        assert follow_up["text"] == "echo: again"
        assert follow_up["session"] == result["session"]
        assert follow_up["anchor"] != result["anchor"]
        assert run.close() == ("closed", 0)
        assert (run.outgoing / "heartbeat").exists()
        assert [e["type"] for e in run.events() if e["type"] != "state"] == [
            "ready", "consumed", "result", "consumed", "result", "ended"
        ]  # fmt: skip


def test_prompts_are_taken_in_order_without_gaps_and_without_inotify(start: Start, tmp_path: Path) -> None:
    (tmp_path / "inotify_simple.py").write_text("raise ImportError")
    with ScriptedModel() as model:
        run = start(model)
        run.start(PYTHONPATH=str(tmp_path))
        run.wait(lambda: run.events("ready"))
        run.prompts = 1
        second = run.prompt("two")
        run.prompts = 0
        first = run.prompt("one")
        run.result(first), run.result(second)
        consumed = [name for event in run.events("consumed") for name in event["uuids"]]
        assert consumed == [first, second]
        assert run.close() == ("closed", 0)


def test_tools_act_and_commands_in_the_chat_do_not(start: Start) -> None:
    def rule(request: dict[str, Any]) -> Any:
        if tool_results(request):
            return "written"
        if "please" in last_user_text(request):
            return ToolUse("Write", {"file_path": str(run.group / "note.txt"), "content": "hi"})
        return echo(request)

    with ScriptedModel(rule) as model:
        run = start(model)
        name = run.prompt("please write")
        run.start()
        assert run.result(name)["text"] == "written"
        assert (run.group / "note.txt").read_text() == "hi"
        assert run.result(run.prompt("/clear"))["text"] == "echo: /clear"
        assert run.result(run.prompt("@/etc/hostname"))["text"] == "echo: @/etc/hostname"
        assert "written" in json.dumps(model.bodies()[-1]["messages"])
        assert run.close() == ("closed", 0)


def test_the_next_run_resumes_at_the_anchor_with_the_present_memory(start: Start, tmp_path: Path) -> None:
    memory = tmp_path / "memory.md"
    memory.write_text("The colour is green.")
    with ScriptedModel() as model:
        run = start(model, memory_files=[str(memory), "/nowhere/CLAUDE.md"])
        first, run = run.prompt("one"), run.start()
        kept = run.result(first)
        run.result(run.prompt("two"))
        run.close()
        assert "The colour is green." in json.dumps(model.bodies()[0]["system"])
        memory.write_text("The colour is blue.")
        again = start(model, session=kept["session"], anchor=kept["anchor"], memory_files=[str(memory)])
        name, again = again.prompt("three"), again.start()
        result = again.result(name)
        assert result["session"] == kept["session"]
        body = model.bodies()[-1]
        said = json.dumps(body["messages"])
        assert "echo: one" in said
        assert "echo: two" not in said  # after the anchor: not resumed
        assert "The colour is blue." in json.dumps(body["system"])
        assert "green" not in json.dumps(body["system"])
        again.close()
        lost = start(model, session=kept["session"], anchor=str(uuid.uuid4()))
        name, lost = lost.prompt("four"), lost.start()
        assert lost.result(name)["session"] == kept["session"]  # an unknown anchor does not cost the session


def test_a_prompt_that_is_offered_again_is_answered_again(start: Start) -> None:
    with ScriptedModel() as model:
        run = start(model)
        first, run = run.prompt("one"), run.start()
        kept = run.result(first)
        second = run.prompt("two")
        run.result(second)
        run.close()
        again = start(model, session=kept["session"], anchor=kept["anchor"])
        again.prompt("two", second)  # the CLI skips a uuid that it has seen
        assert again.start().result(second)["text"] == "echo: two"


def test_sigterm_breaks_off_the_turn_without_a_result(start: Start) -> None:
    never = threading.Event()
    with ScriptedModel(lambda request: Gate(never, "late")) as model:
        run = start(model)
        run.prompt("hello")
        run.start()
        model.wait_for_requests(1)
        assert run.process is not None
        run.process.send_signal(signal.SIGTERM)
        assert run.ended() == ("sigterm", 0)
        assert not run.events("result")
        assert not run.events("error")
        assert run.events("consumed")


def test_sigterm_when_idle(start: Start) -> None:
    with ScriptedModel() as model:
        run = start(model)
        name, run = run.prompt("hello"), run.start()
        run.result(name), run.idle()
        assert run.process is not None
        run.process.send_signal(signal.SIGTERM)
        assert run.ended() == ("sigterm", 0)


def test_sigterm_while_starting(start: Start) -> None:
    with ScriptedModel() as model:
        run = start(model)
        run.start()
        run.wait(lambda: (run.outgoing / "heartbeat").exists())
        assert run.process is not None
        run.process.send_signal(signal.SIGTERM)
        assert run.ended() == ("sigterm", 0)


def test_a_rejected_credential_is_an_api_error(start: Start) -> None:
    with ScriptedModel(lambda request: Error(401, headers={"x-should-retry": "false"})) as model:
        run = start(model)
        run.prompt("hello")
        run.start()
        assert run.ended() == ("error", 1)
        (error,) = run.events("error")
        assert (error["reason"], error["status"]) == ("api", 401)
        assert not run.events("result")


def test_a_lost_transcript_is_a_stale_session(start: Start) -> None:
    with ScriptedModel() as model:
        run = start(model, session=str(uuid.uuid4()), anchor=str(uuid.uuid4()))
        run.prompt("hello")
        run.start()
        assert run.ended() == ("error", 1)
        assert [e["reason"] for e in run.events("error")] == ["stale_session"]
        assert not run.events("consumed")


def test_a_home_that_cannot_be_written_is_said(start: Start) -> None:
    with ScriptedModel() as model:
        run = start(model)
        run.claude.write_text("in the way")
        run.start()
        assert run.ended() == ("error", 1)
        assert "not writable" in run.events("error")[0]["text"]
        assert run.events("error")[0]["reason"] == "sdk"


def test_background_work_ends_in_an_unasked_result_and_only_then_is_idle(start: Start) -> None:
    def rule(request: dict[str, Any]) -> Any:
        if tool_results(request):
            return "started"
        if last_user_text(request) == "go":
            command = "until [ -e done ]; do sleep 0.05; done"
            return ToolUse("Bash", {"command": command, "description": "wait", "run_in_background": True})
        return "it is finished"

    with ScriptedModel(rule) as model:
        run = start(model)
        name = run.prompt("go")
        run.start()
        assert run.result(name)["text"] == "started"
        assert run.result(run.prompt("and?"))["text"] == "it is finished"  # a turn beside it
        assert "idle" not in [event["state"] for event in run.events("state")]
        (run.group / "done").touch()
        run.idle()
        unasked = [event for event in run.events("result") if not event["uuids"]]
        assert [event["text"] for event in unasked] == ["it is finished"]
        assert run.close() == ("closed", 0)


def test_close_lets_the_turn_finish_and_takes_nothing_more(start: Start) -> None:
    gate = threading.Event()
    with ScriptedModel(lambda request: Gate(gate, echo(request))) as model:
        run = start(model)
        name = run.prompt("one")
        run.start()
        model.wait_for_requests(1)
        (run.incoming / "_close").touch()
        late = run.prompt("two")
        gate.set()
        assert run.ended() == ("closed", 0)
        assert run.result(name)["text"] == "echo: one"
        assert late not in [uuid for event in run.events("consumed") for uuid in event["uuids"]]


@pytest.mark.parametrize(("setting", "why"), [("host_silence", "host_gone"), ("deadline", "deadline")])
def test_it_ends_by_itself(start: Start, setting: str, why: str) -> None:
    with ScriptedModel() as model:
        run = start(model, **{setting: 0.5}).start()
        assert run.ended() == (why, 0)


def test_a_huge_answer_is_cut(start: Start) -> None:
    with ScriptedModel(lambda request: "ä" * 1_500_000) as model:
        run = start(model)
        name = run.prompt("hello")
        run.start()
        text = run.result(name)["text"]
        assert len(text.encode()) < 1_000_200
        assert text.startswith("ää")
        assert "cut here: 3000000 bytes" in text


def test_the_conversation_is_archived_before_it_is_compacted(start: Start) -> None:
    def rule(request: dict[str, Any]) -> Any:
        return "word " * 9000 if "tell" in last_user_text(request) else "ok"

    with ScriptedModel(rule) as model:
        run = start(model)
        name = run.prompt('<message sender="Ada">tell a story</message>')
        run.start(CLAUDE_CODE_AUTO_COMPACT_WINDOW="30000")
        for _ in range(8):
            run.result(name)
            if archives := sorted((run.group / "conversations").glob("*.md")):
                break
            name = run.prompt("tell another one")
        text = archives[0].read_text()
        assert archives[0].name.endswith("-tell-a-story.md")
        assert "tell a story</message>\n\n**Andy:**\n\nword word" in text


def summarising(request: dict[str, Any]) -> Any:
    """Echo, but for the CLI's call that makes the summary of a compaction."""
    wants_summary = "<summary>" in last_user_text(request)
    return "<analysis>a</analysis><summary>It was about tea.</summary>" if wants_summary else echo(request)


def test_a_compacted_session_is_resumed_compacted(start: Start) -> None:
    with ScriptedModel(summarising) as model:
        run = start(model)
        first, run = run.prompt("tea is good"), run.start()
        run.result(first)
        kept = run.result(run.prompt("and green tea"))
        run.close()

        run = start(model, session=kept["session"], anchor=kept["anchor"], verbatim=False)
        name, run = run.prompt("/compact"), run.start()
        compacted = run.result(name)
        assert compacted["text"] == "Compacted."
        assert compacted["session"] == kept["session"]
        assert compacted["anchor"] not in (None, kept["anchor"])
        assert run.result(run.prompt("/clear"))["text"] == "echo: /clear"  # only the first prompt is a command
        run.idle()
        assert run.close() == ("closed", 0)
        (archived,) = (run.group / "conversations").glob("*.md")
        assert "tea is good" in archived.read_text()

        run = start(model, session=compacted["session"], anchor=compacted["anchor"])
        name, run = run.prompt("what was it about"), run.start()
        assert run.result(name)["session"] == kept["session"]
        said = json.dumps(model.bodies()[-1]["messages"])
        assert "It was about tea." in said
        assert "tea is good" not in said
        assert "/clear" not in said  # after the anchor
        run.close()
        assert "has no message" not in (run.directory / "log").read_text()


def test_too_little_to_compact_is_an_answer(start: Start) -> None:
    with ScriptedModel(summarising) as model:
        run = start(model, verbatim=False)
        name, run = run.prompt("/compact"), run.start()
        result = run.result(name)
        assert result["text"] == "No messages to compact"
        assert result["session"] is None  # nothing that could be resumed
        kept = run.result(run.prompt("hello"))
        assert kept["text"] == "echo: hello"
        assert run.close() == ("closed", 0)
        for reason in ("Compacted.", "Not enough messages to compact."):
            run = start(model, session=kept["session"], anchor=kept["anchor"], verbatim=False)
            name, run = run.prompt("/compact"), run.start()
            kept = run.result(name)
            assert kept["text"] == reason
            assert run.close() == ("closed", 0)
            assert not run.events("error")
        run = start(model, session=kept["session"], anchor=kept["anchor"])
        name, run = run.prompt("again"), run.start()
        run.result(name)
        assert "It was about tea." in json.dumps(model.bodies()[-1]["messages"])


def test_a_run_for_a_command_that_is_closed_from_its_start_obeys_it(start: Start) -> None:
    with ScriptedModel(summarising) as model:
        run = start(model, verbatim=False)
        (run.incoming / "_close").touch()
        name, run = run.prompt("/compact"), run.start()
        assert run.ended() == ("closed", 0)
        assert run.result(name)["text"] == "No messages to compact"


def test_a_compaction_that_the_model_refuses_for_now_is_an_api_error(start: Start) -> None:
    def rule(request: dict[str, Any]) -> Any:
        refused = Error(429, headers={"x-should-retry": "false"})
        return refused if "<summary>" in last_user_text(request) else echo(request)

    with ScriptedModel(rule) as model:
        run = start(model)
        name, run = run.prompt("hello"), run.start()
        kept = run.result(name)
        run.close()
        run = start(model, session=kept["session"], anchor=kept["anchor"], verbatim=False)
        run.prompt("/compact")
        run.start()
        assert run.ended() == ("error", 1)
        (error,) = run.events("error")
        assert (error["reason"], error["status"]) == ("api", 429)


def test_a_rotated_session_is_archived_once_and_the_agent_told_where(start: Start) -> None:
    with ScriptedModel() as model:
        run = start(model)
        name, run = run.prompt('<message sender="Ada">tea is good</message>'), run.start()
        old = run.result(name)["session"]
        run.close()
        for _ in range(2):  # the second time after a crash
            run = start(model, rotated_from=old)
            name, run = run.prompt("what was it about"), run.start()
            assert run.result(name)["session"] != old
            run.close()
            (archived,) = (run.group / "conversations").iterdir()
            assert archived.name.endswith(f"-tea-is-good-{old[:8]}.md")
            assert "**Andy:**\n\necho: tea is good" in archived.read_text()
            assert f"archived in {archived}" in json.dumps(model.bodies()[-1]["system"])
            assert "tea is good" not in json.dumps(model.bodies()[-1]["messages"])
        lost = start(model, rotated_from="0000-gone", verbatim=False)
        name, lost = lost.prompt("/compact"), lost.start()
        assert lost.result(name)["text"].endswith("a fresh one begins, it could not be archived.")
        lost.result(lost.prompt("hello"))
        assert "could not be archived" in json.dumps(model.bodies()[-1]["system"])


@pytest.mark.docker
def test_in_a_hardened_container_that_is_not_root_and_has_no_network(
    engine: str, agent_image: str, short_path: Path, request: pytest.FixtureRequest
) -> None:
    def rule(body: dict[str, Any]) -> Any:
        if found := tool_results(body):
            return f"uid {found[-1]['text']}"
        if last_user_text(body) == "who":
            return ToolUse("Bash", {"command": "id -u | tee who.txt", "description": "who"})
        return Gate(never, "late") if last_user_text(body) == "wait" else echo(body)

    never = threading.Event()
    with ScriptedModel(rule) as model:
        placeholder = new_placeholder("api_key")
        gateway = Gateway(Environment, lambda: model.url)
        door = short_path / "gateway" / "1" / "s"
        gateway.open("r", door, hash_placeholder(placeholder))
        environment = {"ANTHROPIC_BASE_URL": "http://localhost", "ANTHROPIC_UNIX_SOCKET": "/workspace/gateway/s"}
        environment |= {"ANTHROPIC_API_KEY": placeholder}

        def run_container(number: int, **settings: Any) -> Run:
            name = f"{short_path.name}-{number}"
            inside = {"out": "/workspace/run/out", "cwd": "/workspace/group"}
            run = Run(short_path, "", number, conversations="/workspace/group/conversations", **inside, **settings)
            run.claude.mkdir(exist_ok=True)
            for path in (run.outgoing, run.group, run.claude):
                path.chmod(0o777)
            binds = {
                run.directory / "in": "/workspace/run/in:ro",
                run.outgoing: "/workspace/run/out",
                run.group: "/workspace/group",
                run.claude: "/home/node/.claude",
                door.parent: "/workspace/gateway:ro",
                RUNNER: "/opt/nanoclaw/agent_runner:ro",
            }
            argv = [engine, "run", "--rm", "--init", "--name", name, "--network", "none"]
            argv += ["--user", "1000:1000", "--read-only", "--tmpfs", "/tmp:mode=1777", "--cap-drop", "ALL"]
            argv += ["--tmpfs", "/home/node:uid=1000,gid=1000,mode=700", "--security-opt", "no-new-privileges"]
            for source, target in binds.items():
                argv += ["--volume", f"{source}:{target}"]
            for key, value in environment.items():
                argv += ["--env", f"{key}={value}"]
            argv += [agent_image, "python3", "/opt/nanoclaw/agent_runner", "/workspace/run/in"]
            request.addfinalizer(lambda: subprocess.run([engine, "rm", "--force", name], capture_output=True))
            return run.execute(argv)

        run = run_container(1)
        result = run.result(run.prompt("hello"))
        assert result["text"] == "echo: hello"
        assert run.result(run.prompt("who"))["text"] == "uid 1000"
        assert (run.group / "who.txt").read_text() == "1000\n"
        assert run.close() == ("closed", 0)

        again = run_container(2, session=result["session"], anchor=result["anchor"])
        assert again.result(again.prompt("back"))["session"] == result["session"]
        said = json.dumps(model.bodies()[-1]["messages"])
        assert "echo: hello" in said
        again.prompt("wait")
        model.wait_for_requests(5)
        subprocess.run([engine, "stop", f"{short_path.name}-2"], check=True, capture_output=True)
        assert again.ended() == ("sigterm", 0)
        gateway.shutdown()
