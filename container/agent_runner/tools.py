"""The agent's own tools: the MCP server `nanoclaw`. Each call is one request to the host (nanoclaw/README.md).

It runs within the runner's process, for the agent and its subagents. It decides nothing: what an agent may ask for is
the host's to judge, and its refusal is the tool's answer. A request that was put stays, whatever becomes of the call.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from claude_agent_sdk import McpSdkServerConfig, SdkMcpTool, create_sdk_mcp_server
from protocol import RunFiles

ANSWER_SECONDS = 30.0


class Refusal(Exception):
    """Why a call was not carried out, in one line for the agent."""


@dataclass(frozen=True)
class Tool:
    """A tool and the request it becomes. ``fields``: the JSON Schemas of its arguments; "name?" may be left out."""

    name: str
    about: str
    request: str = ""  # its type; the tool's own name where empty
    fields: dict[str, dict[str, Any]] = field(default_factory=dict)
    main_only: bool = False

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the arguments."""
        properties = {name.rstrip("?"): schema for name, schema in self.fields.items()}
        required = [name for name in self.fields if not name.endswith("?")]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _text(about: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": about} | more


CHAT = _text("The chat's address (JID). Left out: this chat. Only main may name another.")
TASK = {"task_id": _text("The task's id, as list_tasks shows it.")}
WORK = _text("What the agent is told to do when the task is due. It must make sense without this conversation.")
TYPE = _text("Which kind of time schedule_value is.", enum=["cron", "interval", "once"])
VALUE = _text('cron: an expression ("0 9 * * 1"); interval: milliseconds; once: local time ("2026-11-23T09:00:00").')
OPTIONAL = {
    "context_mode?": _text("group: in this chat's session; isolated (default): afresh.", enum=["group", "isolated"]),
    "script?": _text('Bash that runs first; its last line is {"wakeAgent": bool, "data": …}; false: no agent starts.'),
}
TOOLS = [
    Tool(
        "send_message",
        "Say something in the chat at once, while you still work. Your final answer is sent anyway: do not repeat it.",
        request="message",
        fields={"text": _text("The message."), "sender?": _text("The name to speak under."), "chat_jid?": CHAT},
    ),
    Tool(
        "send_file",
        "Send a file to the chat. Only files below the working directory can be sent.",
        request="file",
        fields={"path": _text("The file."), "caption?": _text("Text beside it."), "chat_jid?": CHAT},
    ),
    Tool("list_tasks", "The scheduled tasks of this chat; in main, of all."),
    Tool(
        "schedule_task",
        "Schedule work for later: the agent is started with the prompt, and its answer goes to the chat.",
        fields={"prompt": WORK, "schedule_type": TYPE, "schedule_value": VALUE}
        | OPTIONAL
        | {"target_jid?": CHAT, "task_id?": _text("An id of your choice.")},
    ),
    Tool(
        "update_task",
        "Change a scheduled task: what is left out stays as it is.",
        fields=TASK | {"prompt?": WORK, "schedule_type?": TYPE, "schedule_value?": VALUE} | OPTIONAL,
    ),
    Tool("pause_task", "Keep a scheduled task from running until it is resumed.", fields=TASK),
    Tool("resume_task", "Let a paused task run again.", fields=TASK),
    Tool("cancel_task", "Delete a scheduled task.", fields=TASK),
    Tool("list_groups", "The registered chats that you may know of: JID, name, folder."),
    Tool(
        "register_group",
        "Register a chat, so that it gets an agent of its own. list_groups shows the chats that are known.",
        fields={
            "jid": _text("The chat's address."),
            "name": _text("What people call it."),
            "folder": _text("Its folder: letters, digits, - and _."),
            "trigger?": _text("The word that wakes the agent there, such as @Andy."),
            "requires_trigger?": {"type": "boolean", "description": "false: each message there wakes the agent."},
        },
        main_only=True,
    ),
    Tool("refresh_groups", "Ask the channels again which chats there are.", main_only=True),
]
RENAMED = {"chat_jid": "chatJid", "target_jid": "targetJid", "task_id": "taskId", "requires_trigger": "requiresTrigger"}


def server(files: RunFiles) -> McpSdkServerConfig:
    """The server with the tools that the run's settings allow; they need ``ipc``, the directory of requests.

    alwaysLoad: else the CLI keeps the tools' schemas out of the prompt until the agent has searched for them.
    """
    offered = [tool for tool in TOOLS if files.settings.get("is_main") or not tool.main_only]
    made = create_sdk_mcp_server("nanoclaw", tools=[_served(files, tool) for tool in offered])
    return cast(McpSdkServerConfig, {**made, "alwaysLoad": True})


def _served(files: RunFiles, tool: Tool) -> SdkMcpTool[Any]:
    async def call(arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            text, failed = await _call(files, tool, arguments), False
        except Refusal as refusal:
            text, failed = str(refusal), True
        except Exception as error:
            text, failed = f"{type(error).__name__}: {error}", True
        return {"content": [{"type": "text", "text": " ".join(text.split()) if failed else text}], "is_error": failed}

    return SdkMcpTool(tool.name, tool.about, tool.schema(), call)


async def _call(files: RunFiles, tool: Tool, arguments: dict[str, Any]) -> str:
    settings = files.settings
    request = {"type": tool.request or tool.name}
    request |= {RENAMED.get(name, name): value for name, value in arguments.items()}
    if "chat_jid?" in tool.fields:
        request.setdefault("chatJid", settings["jid"])
    if tool.request == "file":
        request["path"] = sendable(Path(settings["cwd"]), request["path"])
    name = put(Path(settings["ipc"]) / ("messages" if tool.request else "tasks"), request)
    seconds = settings.get("answer_seconds", ANSWER_SECONDS)
    answer = await files.answer(name, seconds)
    if answer is None:
        raise Refusal(
            f"The host has not answered within {seconds:g} s (is it running?). "
            "The request stays and will be carried out: do not repeat it."
        )
    if not answer.pop("ok"):
        raise Refusal(f"The host refused: {answer['error']}")
    return "Accepted by the host" + (f": {json.dumps(answer, ensure_ascii=False)}" if answer else ".")


def sendable(directory: Path, path: str) -> str:
    """``path`` relative to ``directory``, links resolved. Raises Refusal unless it is a regular file below it."""
    root = directory.resolve()
    file = (root / path).resolve()
    if not file.is_relative_to(root):
        raise Refusal(f"{path} cannot be sent: only files below the working directory {directory} can. Copy it there.")
    if not file.is_file():
        raise Refusal(f"{path} cannot be sent: there is no such file in {directory}.")
    return str(file.relative_to(root))


def put(directory: Path, request: dict[str, Any]) -> str:
    """Put ``request`` into ``directory``, whole or not at all; returns its name (it sorts by time). Raises OSError."""
    name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
    draft = directory / f".{name}"
    draft.write_text(json.dumps(request), "ascii")
    os.rename(draft, directory / name)
    return name
