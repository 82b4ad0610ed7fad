"""The offline model: a Messages API endpoint that answers by a few rules, for the demo and for people without a key.

Only the model is replaced: the SDK, its tools, its sessions and the container are the real ones. It understands what is
listed in ``HELP`` and repeats everything else; it is no model and says so.
"""

from __future__ import annotations

import html
import json
import posixpath
import re
import shlex
from typing import Any

from nanoclaw.gateway.endpoint import Endpoint
from nanoclaw.gateway.messages_api import FOLDED_IN, Block, Text, ToolUse, texts_of, tool_results, user_texts

HELP = (
    'I understand: "write FILE: TEXT", "remember TEXT", "what do you remember", "what did I say", "run COMMAND", '
    '"internal TEXT". Everything else I repeat.'
)
NAME = "I am the offline model"
MEMORY_FILE = "CLAUDE.md"
LONGEST_QUOTE = 500
PROBE_TOKENS = 64  # a request for so few tokens is the CLI's own (quota, title), not a conversation
SUMMARY_ASKED = "create a detailed summary of the conversation"

_NOBODYS = ("<local-command", "<command-", "This session is being continued", "CRITICAL: Respond with TEXT ONLY")
_MESSAGE = re.compile(r"<message\b[^>]*>(.*?)</message>", re.DOTALL)
_QUOTED = re.compile(r"<quoted_message\b.*?</quoted_message>", re.DOTALL)
_WORKING_DIRECTORY = re.compile(r"[Ww]orking directory: *(/[^\n<]*)")
_WRITE = re.compile(r"write\s+([^\s:]+)\s*:\s*(.+)", re.IGNORECASE | re.DOTALL)
_REMEMBER = re.compile(r"remember\s+(?:that\s+)?(.+)", re.IGNORECASE | re.DOTALL)
_RUN = re.compile(r"run\s+(.+)", re.IGNORECASE | re.DOTALL)
_INTERNAL = re.compile(r"internal\s+(.+)", re.IGNORECASE | re.DOTALL)
_TRIGGER = re.compile(r"\s*@\w+[,:]?\s+")


class OfflineModel:
    """``start`` returns the base URL on 127.0.0.1 of an endpoint that lives until ``stop``."""

    def __init__(self) -> None:
        self._endpoint = Endpoint(lambda request: answer(request.body))

    def start(self) -> str:
        return self._endpoint.start()

    def stop(self) -> None:
        self._endpoint.stop()


def answer(body: dict[str, Any]) -> list[Block]:
    """The answer to a request of the Messages API: a pure function of its body."""
    if not body.get("tools") or body.get("max_tokens", PROBE_TOKENS) < PROBE_TOKENS:
        return [Text(_aside(body))]
    said, directory = conversation(body), working_directory(body)
    if SUMMARY_ASKED in "".join(user_texts(body)[-1:]):
        return [Text(_summary(said))]
    if results := tool_results(body):
        blocks = _after_tool(body, results[-1])
        if folded_in(body) and said:
            blocks += _respond(said[-1], said[:-1], directory)
        return _joined(blocks)
    return _joined(_respond(said[-1] if said else "", said[:-1], directory))


def conversation(body: dict[str, Any]) -> list[str]:
    """What people said in this session, oldest first: the texts inside the prompts' envelopes, unescaped."""
    said: list[str] = []
    for text in user_texts(body):
        inner = _MESSAGE.findall(text) or ([text] if not text.startswith(_NOBODYS) else [])
        said += [html.unescape(_QUOTED.sub("", one)).strip() for one in inner]
    return [one for one in said if one]


def folded_in(body: dict[str, Any]) -> bool:
    """Whether a prompt came in during this turn and waits to be answered along with the tool's result."""
    for message in reversed(body.get("messages", [])):
        if user_texts({"messages": [message]}):
            return True
        if message.get("role") != "system":
            return False
    return False


def working_directory(body: dict[str, Any]) -> str:
    """The agent's working directory, as the CLI (never a person) states it in the request."""
    texts = texts_of(body.get("system"))
    for message in body.get("messages", []):
        if message.get("role") == "system":
            texts += [text for text in texts_of(message.get("content")) if not text.startswith(FOLDED_IN)]
        elif message.get("role") == "user":
            texts += [text for text in texts_of(message.get("content")) if text.startswith("<system-reminder>")]
    found = [match.group(1).strip() for text in texts for match in _WORKING_DIRECTORY.finditer(text)]
    return found[-1] if found else "/workspace/group"


def _respond(last: str, earlier: list[str], directory: str) -> list[Block]:
    command = _TRIGGER.sub("", last, count=1) if _TRIGGER.match(last) else last
    asked = command.lower().strip(" ?!.")
    if match := _WRITE.fullmatch(command):
        path = posixpath.normpath(posixpath.join(directory, match.group(1)))
        return [Text(f"I write {path}."), ToolUse("Write", {"file_path": path, "content": match.group(2) + "\n"})]
    if asked.startswith("what did i say"):
        return [Text(_quote("Earlier you said", earlier[-5:]))]
    if asked.startswith("what do you remember"):
        return [Text(_quote("You asked me to remember", _remembered(earlier)))]
    if match := _REMEMBER.fullmatch(command):
        line = shlex.quote("- " + " ".join(match.group(1).split()))  # the Write tool would replace what is there
        command = f"printf '%s\\n' {line} >> {shlex.quote(posixpath.join(directory, MEMORY_FILE))}"
        return [ToolUse("Bash", {"command": command, "description": "Note it in the group's memory"})]
    if match := _RUN.fullmatch(command):
        return [ToolUse("Bash", {"command": match.group(1), "description": "Run what was asked"})]
    if match := _INTERNAL.fullmatch(command):
        return [Text(f"<internal>{match.group(1)}</internal>{NAME}. I kept something to myself.")]
    if asked in ("help", "hello", "hi", ""):
        return [Text(f"{NAME}: a few rules, no intelligence. {HELP}")]
    return [Text(f'{NAME}. You said: "{_short(last)}"')]


def _after_tool(body: dict[str, Any], result: dict[str, Any]) -> list[Block]:
    """The words after a tool ran; a Write over a file that this session has not read yet is read and tried again."""
    calls = _calls(body)
    call: dict[str, Any] = {"name": "The tool", "input": {}}
    call = next((call for call in reversed(calls) if call["id"] == result["tool_use_id"]), call)
    path = call["input"].get("file_path", "")
    retried = len(calls) > 1 and calls[-2]["name"] == "Read"
    if call["name"] == "Write" and result["is_error"] and "read" in result["text"].lower() and not retried:
        return [ToolUse("Read", {"file_path": path})]
    if result["is_error"]:
        return [Text(f"{NAME}. {call['name']} failed: {_short(result['text'])}")]
    if call["name"] == "Read":
        last = next((c for c in reversed(calls) if c["name"] == "Write" and c["input"].get("file_path") == path), None)
        return [ToolUse("Write", last["input"])] if last else [Text(f"{NAME}. I read {path}.")]
    if call["name"] == "Write":
        return [Text(f"{NAME}. I wrote {path}.")]
    if MEMORY_FILE in call["input"].get("command", ""):
        return [Text(f"{NAME}. I noted it in {MEMORY_FILE}.")]
    return [Text(f"{NAME}. The command said: {_short(result['text']) or 'nothing'}")]


def _calls(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The tool calls of this session, oldest first."""
    return [
        block
        for message in body.get("messages", [])
        if message.get("role") == "assistant" and isinstance(message.get("content"), list)
        for block in message["content"]
        if block.get("type") == "tool_use"
    ]


def _remembered(earlier: list[str]) -> list[str]:
    found = [_REMEMBER.fullmatch(_TRIGGER.sub("", text, count=1)) for text in earlier]
    return [match.group(1).strip() for match in found if match]


def _quote(what: str, texts: list[str]) -> str:
    if not texts:
        return f"{NAME}. I find nothing of that in this conversation."
    return f"{NAME}. {what}: " + "; ".join(f'"{_short(text)}"' for text in texts)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE] + "…"


def _joined(blocks: list[Block]) -> list[Block]:
    """Neighbouring texts as one block: the CLI takes only the last block for its result."""
    joined: list[Block] = []
    for block in blocks:
        if isinstance(block, Text) and joined and isinstance(last := joined[-1], Text):
            joined[-1] = Text(f"{last.text}\n{block.text}")
        else:
            joined.append(block)
    return joined


def _summary(said: list[str]) -> str:
    """What a compaction keeps: all that was said, in the shape in which :func:`conversation` finds it again."""
    lines = "\n".join(f"<message>{html.escape(text, quote=False)}</message>" for text in said)
    return f"<analysis>{NAME}.</analysis>\n<summary>\n{lines}\n</summary>"


def _aside(body: dict[str, Any]) -> str:
    """What the CLI asks for its own use, without tools: a title, a quota probe."""
    wanted = body.get("output_config", {}).get("format", {}).get("schema", {}).get("properties", {})
    return json.dumps(dict.fromkeys(wanted, "offline")) if wanted else "offline"
