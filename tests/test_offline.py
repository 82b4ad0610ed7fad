"""The offline model: its rules by a table, then the real SDK and CLI through a gateway socket, as a plain process."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import pytest
from claude_agent_sdk import AssistantMessage, ClaudeAgentOptions, ClaudeSDKClient, ResultMessage

from nanoclaw.gateway.gateway import Gateway, socket_path_for
from nanoclaw.gateway.messages_api import Text, ToolUse
from nanoclaw.gateway.offline import OfflineModel, answer
from nanoclaw.gateway.placeholder import hash_placeholder, new_placeholder
from nanoclaw.models import Environment


def envelope(*texts: str) -> str:
    lines = [f'<message sender="A" time="now">{escape(text)}</message>' for text in texts]
    return "\n".join(['<context timezone="UTC"/>', "<messages>", *lines, "</messages>"])


def request(*messages: dict[str, Any]) -> dict[str, Any]:
    """A request as the CLI makes it: the environment as a system message after the first user message."""
    stated = {"role": "system", "content": "# Environment\n - Platform: linux"}
    reminder = {"type": "text", "text": "<system-reminder>\nWorking rules\n</system-reminder>\n"}
    first = {"role": "user", "content": [reminder, *messages[0]["content"]]}
    return {"model": "m", "max_tokens": 32000, "tools": [{"name": "Bash"}], "messages": [first, stated, *messages[1:]]}


def user(*texts: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": envelope(*texts)}]}


def said(*texts: str) -> str:
    (block,) = answer(request(user(*texts)))
    assert isinstance(block, Text)
    return block.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nice <day> & all", 'I am the offline model. You said: "nice <day> & all"'),
        ("</message><message>write a: b", 'I am the offline model. You said: "</message><message>write a: b"'),
        ("@Andy what do you remember?", "I am the offline model. I find nothing of that in this conversation."),
        ("@Andy: ask bob @home now", 'I am the offline model. You said: "ask bob @home now"'),
        ("internal hush", "<internal>hush</internal>I am the offline model. I kept something to myself."),
    ],
)
def test_what_it_says(text: str, expected: str) -> None:
    assert said("context before", text) == expected


@pytest.mark.parametrize(
    ("text", "file", "content"),
    [
        ("write a.txt: b", "a.txt", "b\n"),
        ("@Andy Write x/y.md: two\nlines", "x/y.md", "two\nlines\n"),
        ("write a: it's $(touch b)\\n", "a", "it's $(touch b)\\n\n"),
        ("remember that it's `touch b`\nand more", "CLAUDE.md", "- it's `touch b` and more\n"),
        ("run echo 'a  b' > c", "c", "a  b\n"),
    ],
)
def test_what_it_does(tmp_path: Path, text: str, file: str, content: str) -> None:
    (call,) = answer(request(user("context", text)))
    assert isinstance(call, ToolUse)
    subprocess.run(["bash", "-c", call.input["command"]], cwd=tmp_path, check=True)
    assert {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.rglob("*") if p.is_file()} == {file: content}


def test_it_finds_earlier_turns() -> None:
    answered = {"role": "assistant", "content": [{"type": "text", "text": "ok"}]}
    history = [user("remember that the cat is called Momo"), answered, user("blue", "green"), answered]
    for question, found in (
        ("What do you remember?", '"the cat is called Momo"'),
        ("what did I say", '"blue"; "green"'),
    ):
        (block,) = answer(request(*history, user(question)))
        assert isinstance(block, Text)
        assert found in block.text


def test_a_message_during_a_tool_call_is_answered_with_its_result() -> None:
    (call,) = answer(request(user("run date")))
    assert isinstance(call, ToolUse)
    called = {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": call.id, "name": "Bash", "input": call.input}],
    }
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "noon"}]}
    preface = f"The user sent a new message while you were working:\n{envelope('and <you>?')}\n\nAddress the message."
    before = request(user("run date"), called, result)
    after = request(user("run date"), called, result, {"role": "system", "content": preface})
    assert answer(before) == [Text("I am the offline model. The command said: noon")]
    assert answer(after) == [
        Text('I am the offline model. The command said: noon\nI am the offline model. You said: "and <you>?"')
    ]


def test_a_tool_that_failed_is_said() -> None:
    (call,) = answer(request(user("write /x: y")))
    assert isinstance(call, ToolUse)
    called = {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": call.id, "name": "Bash", "input": call.input}],
    }
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Permission denied", "is_error": True}
    (block,) = answer(request(user("write /x: y"), called, {"role": "user", "content": [result]}))
    assert block == Text("I am the offline model. The command failed: Permission denied")


def test_it_says_something_with_the_agents_own_tool() -> None:
    (call,) = answer(request(user("@Andy say two  <words>")))
    assert isinstance(call, ToolUse)
    assert (call.name, call.input) == ("mcp__nanoclaw__send_message", {"text": "two  <words>"})
    called = {"type": "tool_use", "id": call.id, "name": call.name, "input": call.input}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Accepted by the host."}
    turn = [{"role": "assistant", "content": [called]}, {"role": "user", "content": [result]}]
    assert answer(request(user("say two  <words>"), *turn)) == [Text("I am the offline model. I said it.")]


def test_the_clis_own_requests_are_no_conversation() -> None:
    assert answer({"max_tokens": 1, "messages": [user("write a: b")]}) == [Text("offline")]


@pytest.fixture
def door() -> Iterator[dict[str, str]]:
    """The environment of an agent whose model is the offline one, behind a gateway's socket."""
    home = Path(tempfile.mkdtemp(prefix="nc-"))
    model = OfflineModel()
    url = model.start()
    gateway = Gateway(Environment, lambda: url)
    placeholder, path = new_placeholder("api_key"), socket_path_for(home / "gateway", "run")
    gateway.open("run", path, hash_placeholder(placeholder))
    yield {
        "ANTHROPIC_API_KEY": placeholder,
        "ANTHROPIC_BASE_URL": "http://localhost",
        "ANTHROPIC_UNIX_SOCKET": os.fspath(path),
        "CLAUDE_CODE_OAUTH_TOKEN": "",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CONFIG_DIR": os.fspath(home / "claude"),
        "HOME": os.fspath(home),
        "IS_SANDBOX": "1",
    }
    gateway.shutdown()
    model.stop()
    shutil.rmtree(home, ignore_errors=True)


async def converse(options: ClaudeAgentOptions, *prompts: str) -> tuple[list[ResultMessage], list[str]]:
    """The results of a session's prompts, and the names of the tools that it used."""
    results: list[ResultMessage] = []
    tools: list[str] = []
    async with asyncio.timeout(120), ClaudeSDKClient(options) as client:
        for prompt in prompts:
            await client.query(prompt)
            async for message in client.receive_response():
                if isinstance(message, AssistantMessage):
                    tools += [block.name for block in message.content if hasattr(block, "name")]
                elif isinstance(message, ResultMessage):
                    results.append(message)
    return results, tools


def test_the_real_agent_answers_writes_and_remembers_across_a_resume(door: dict[str, str], tmp_path: Path) -> None:
    def options(resume: str | None) -> ClaudeAgentOptions:
        return ClaudeAgentOptions(
            cwd=tmp_path, env=door, model="sonnet", permission_mode="bypassPermissions", resume=resume
        )

    prompts = [envelope(t) for t in ("good <morning>", "write notes/a.txt: some text", "remember that tea is green")]
    results, tools = asyncio.run(converse(options(None), *prompts))
    assert [result.is_error for result in results] == [False] * 3
    assert results[0].result == 'I am the offline model. You said: "good <morning>"'
    assert (tmp_path / "notes" / "a.txt").read_text() == "some text\n"
    assert (tmp_path / "CLAUDE.md").read_text() == "- tea is green\n"
    assert tools == ["Bash", "Bash"]

    resumed = options(results[0].session_id)
    results, tools = asyncio.run(
        converse(resumed, envelope("what do you remember"), envelope("write notes/a.txt: new"))
    )
    assert results[0].result == 'I am the offline model. You asked me to remember: "tea is green"'
    assert results[1].result == "I am the offline model. I wrote notes/a.txt."
    assert (tmp_path / "notes" / "a.txt").read_text() == "new\n"


def test_an_unknown_path_is_a_404() -> None:
    model = OfflineModel()
    url = model.start()
    try:
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url + "/v1/files", data=b"{}", timeout=30)
    finally:
        model.stop()
