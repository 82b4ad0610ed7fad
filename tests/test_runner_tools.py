"""The agent's tools: the real runner, SDK and CLI; the model is scripted, a thread here is the host that answers."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.scripted_model import ScriptedModel, ToolUse, echo, last_user_text, tool_results
from tests.test_runner import Run

NAME = re.compile(r"0\d{19}-[0-9a-f]{8}\.json")


class Host(threading.Thread):
    """Answers each request of a run's agent by ``judge(request)``; None: not at all. ``taken``: directory, request."""

    def __init__(self, run: Run, judge: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
        super().__init__(daemon=True)
        self.ipc, self.answers = Path(run.settings["ipc"]), run.incoming / "answers"
        self.judge = judge
        self.taken: list[tuple[str, dict[str, Any]]] = []
        self.over = threading.Event()
        self.start()

    def run(self) -> None:
        seen: set[str] = set()
        while not self.over.wait(0.01):
            for path in sorted(self.ipc.glob("*/[!.]*")):
                if path.name not in seen:
                    assert NAME.fullmatch(path.name), path
                    seen.add(path.name)
                    self.answer(path)

    def answer(self, path: Path) -> None:
        request = json.loads(path.read_text())
        answer = self.judge(request)
        self.taken.append((path.parent.name, request))
        if answer is not None:
            self.answers.mkdir(exist_ok=True)  # late: a runner that found no directory to watch must do, too
            draft = self.answers / f".{path.name}"
            draft.write_text(json.dumps(answer))
            draft.rename(self.answers / path.name)


Start = Callable[..., tuple[Run, Host]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start(model, judge, **settings)``: a run that has tools, not yet started, and its host."""
    pytest.importorskip("claude_agent_sdk")
    made: list[tuple[Run, Host]] = []

    def one(model: ScriptedModel, judge: Callable[[dict[str, Any]], Any], **settings: Any) -> tuple[Run, Host]:
        ipc = tmp_path / "ipc"
        for name in ("messages", "tasks"):
            (ipc / name).mkdir(parents=True)
        run = Run(tmp_path, model.url, 1, **{"ipc": str(ipc), "jid": "local:main", "is_main": True} | settings)
        made.append((run, Host(run, judge)))
        return made[-1]

    yield one
    for run, host in made:
        run.kill()
        host.over.set()
        host.join()


class Calls:
    """A rule for the model: one tool after the other, each in a request of its own; ``results`` is what came back."""

    def __init__(self, *calls: tuple[str, dict[str, Any]]) -> None:
        self.calls = calls
        self.results: list[tuple[bool, str]] = []

    def __call__(self, request: dict[str, Any]) -> Any:
        self.results += [(result["is_error"], result["text"]) for result in tool_results(request)]
        if len(self.results) == len(self.calls):
            return "done"
        name, arguments = self.calls[len(self.results)]
        return ToolUse(f"mcp__nanoclaw__{name}", arguments)


def test_each_tool_is_a_request_and_returns_what_the_host_answers(start: Start) -> None:
    task = {"prompt": "water", "schedule_type": "cron", "schedule_value": "0 9 * * *", "context_mode": "group"}
    group = {"jid": "tg:7", "name": "Family", "folder": "family", "trigger": "@Andy"}
    expected = [
        ("send_message", {"text": "ä\n<b>"}, "messages",
         {"type": "message", "chatJid": "local:main", "text": "ä\n<b>"}),
        ("send_message", {"text": "you", "sender": "Bob", "chat_jid": "tg:1"}, "messages",
         {"type": "message", "chatJid": "tg:1", "text": "you", "sender": "Bob"}),
        ("send_file", {"path": "sub/../a.txt", "caption": "A"}, "messages",
         {"type": "file", "chatJid": "local:main", "path": "a.txt", "caption": "A"}),
        ("list_tasks", {}, "tasks", {}),
        ("schedule_task", task | {"script": "true", "target_jid": "tg:1", "task_id": "t"}, "tasks",
         task | {"script": "true", "targetJid": "tg:1", "taskId": "t"}),
        ("update_task", {"task_id": "t", "prompt": "no"}, "tasks", {"taskId": "t", "prompt": "no"}),
        ("pause_task", {"task_id": "t"}, "tasks", {"taskId": "t"}),
        ("resume_task", {"task_id": "t"}, "tasks", {"taskId": "t"}),
        ("cancel_task", {"task_id": "t"}, "tasks", {"taskId": "t"}),
        ("register_group", group | {"requires_trigger": False}, "tasks", group | {"requiresTrigger": False}),
        ("refresh_groups", {}, "tasks", {}),
        ("list_groups", {}, "tasks", {}),
    ]  # fmt: skip
    groups = [{"jid": "tg:1", "name": "Käthe", "folder": "k", "registered": True}]
    rule = Calls(*[(name, arguments) for name, arguments, _, _ in expected])
    with ScriptedModel(rule) as model:
        run, host = start(model, lambda r: {"ok": True} | ({"groups": groups} if r["type"] == "list_groups" else {}))
        (run.group / "sub").mkdir()
        (run.group / "a.txt").write_text("a")
        (run.incoming / "answers").mkdir()
        name = run.prompt("go")
        run.start()
        assert run.result(name)["text"] == "done"
        assert host.taken == [(where, {"type": tool} | fields) for tool, _, where, fields in expected]
        assert rule.results[:-1] == [(False, "Accepted by the host.")] * 11
        failed, text = rule.results[-1]
        assert not failed and json.loads(text.partition(": ")[2]) == {"groups": groups}
        assert "mcp__nanoclaw__send_file sends" in json.dumps(model.bodies()[0]["system"])
        assert run.close() == ("closed", 0)


def test_what_cannot_be_done_is_told_to_the_agent_in_one_line(start: Start, tmp_path: Path) -> None:
    (tmp_path / "inotify_simple.py").write_text("raise ImportError")
    (tmp_path / "secret.txt").write_text("s")
    rule = Calls(
        ("send_message", {"text": "x", "chat_jid": "tg:9"}),
        ("send_file", {"path": "../secret.txt"}),
        ("send_file", {"path": "link.txt"}),
        ("send_file", {"path": "gone.txt"}),
        ("send_message", {"words": "x"}),
        ("schedule_task", {"prompt": "p", "schedule_type": "daily", "schedule_value": "9"}),
        ("register_group", {"jid": "tg:9", "name": "n", "folder": "f"}),
    )
    with ScriptedModel(rule) as model:
        run, host = start(model, lambda r: {"ok": False, "error": "tg:9 is not your chat."}, is_main=False)
        (run.group / "link.txt").symlink_to(tmp_path / "secret.txt")
        name = run.prompt("go")
        run.start(PYTHONPATH=str(tmp_path))
        assert run.result(name)["text"] == "done"
        assert [(where, request["type"]) for where, request in host.taken] == [("messages", "message")]
        texts = [text for failed, text in rule.results if failed and "\n" not in text]
        assert len(texts) == len(rule.calls), rule.results
        assert texts[0] == "The host refused: tg:9 is not your chat."
        assert all("only files below the working directory" in text for text in texts[1:3])
        assert "no such file" in texts[3]
        assert "words" in texts[4] or "text" in texts[4]
        assert "daily" in texts[5]
        offered = {tool["name"] for tool in model.bodies()[0]["tools"]}
        assert "mcp__nanoclaw__list_groups" in offered
        assert not offered & {"mcp__nanoclaw__register_group", "mcp__nanoclaw__refresh_groups"}


def test_a_host_that_does_not_answer_is_said_and_the_request_stays(start: Start) -> None:
    rule = Calls(("send_message", {"text": "x"}))
    with ScriptedModel(rule) as model:
        run, _host = start(model, lambda r: None, answer_seconds=0.2)
        name = run.prompt("go")
        run.start()
        assert run.result(name)["text"] == "done"
        ((failed, text),) = rule.results
        assert failed and text.startswith("The host has not answered within 0.2 s") and "will be carried out" in text
        assert len(list(Path(run.settings["ipc"]).rglob("*.json"))) == 1


def test_waiting_for_the_host_stops_nothing_and_can_be_broken_off(start: Start) -> None:
    with ScriptedModel(Calls(("send_message", {"text": "x"}))) as model:
        run, host = start(model, lambda r: None, answer_seconds=600)
        run.prompt("go")
        run.start()
        run.wait(lambda: host.taken)
        second = run.prompt("and this")
        run.wait(lambda: [event for event in run.events("consumed") if second in event["uuids"]])
        assert run.process is not None
        run.process.send_signal(signal.SIGTERM)
        assert run.ended() == ("sigterm", 0)
        assert not run.events("error") and not run.events("result")
        (left,) = [path for path in Path(run.settings["ipc"]).rglob("*") if path.is_file()]
        assert json.loads(left.read_text())["text"] == "x"


def test_a_subagent_has_the_tools_too(start: Start) -> None:
    results: list[dict[str, Any]] = []

    def rule(request: dict[str, Any]) -> Any:
        if "work below" in last_user_text(request):
            results.extend(tool_results(request))
            return "sub done" if results else ToolUse("mcp__nanoclaw__send_message", {"text": "from below"})
        if tool_results(request) or "go" not in last_user_text(request):
            return "all done"
        return ToolUse("Agent", {"description": "d", "prompt": "work below", "subagent_type": "general-purpose"})

    with ScriptedModel(rule) as model:
        run, host = start(model, lambda r: {"ok": True, "id": "r-1"})
        name = run.prompt("go")
        run.start()
        assert run.result(name)["text"] == "all done"
        run.wait(lambda: results)
        assert [request["text"] for _, request in host.taken] == ["from below"]
        assert results[0]["text"] == 'Accepted by the host: {"id": "r-1"}' and not results[0]["is_error"]


def test_settings_without_requests_give_no_tools(start: Start) -> None:
    with ScriptedModel(echo) as model:
        run, _host = start(model, lambda r: None)
        del run.settings["ipc"]
        run._put("settings.json", run.settings)
        name = run.prompt("hello")
        run.start()
        assert run.result(name)["text"] == "echo: hello"
        assert "mcp__nanoclaw" not in json.dumps(model.bodies()[0])
