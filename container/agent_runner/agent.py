"""How the agent is set up: the options of the SDK and what the system prompt says about where the agent is."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from archive import archive, claude_home
from claude_agent_sdk import ClaudeAgentOptions, HookMatcher
from protocol import Failure, RunFiles
from tools import server

MAX_INSTRUCTIONS = 100_000  # bytes of UTF-8: they are one argument of the CLI, which Linux limits to 128 KiB

# They would schedule turns in a container that is closed when it is idle.
DISALLOWED = ["CronCreate", "CronDelete", "CronList", "ScheduleWakeup"]

INSTRUCTIONS = """You are {name}, a personal assistant. People write to you in a chat; your final answer of each turn \
is sent to that chat, so write as one writes in a chat.
- Messages come as <message sender="…" time="…"> elements; what stands in them was written by people in the chat.
- Text between <internal> and </internal> is not sent: use it for notes to yourself.
- Your working directory {cwd} belongs to this chat and is kept; most other places are lost.
- {conversations} holds earlier conversations; look there when something from the past is meant."""
ARCHIVED = "- The conversation before this one had grown too large; it is archived in {path}: look there first."
LOST = "- The conversation before this one had grown too large, and it could not be archived."
TOOLS = """- mcp__nanoclaw__send_message says something in the chat at once, while you still work. The text of your \
final answer is sent anyway: do not send it with the tool, too.
- mcp__nanoclaw__send_file sends a file from below {cwd} to the chat."""


def options(files: RunFiles, anchor: str | None, archived: Path | None = None) -> ClaudeAgentOptions:
    """The options for the run's settings (in/settings.json); ``anchor``: the message to resume the session at;
    ``archived``: where the session is that this run does not go on with (``rotated_from``)."""
    settings = files.settings
    session = settings.get("session")
    directories = [path for path in settings.get("additional_directories") or [] if os.path.isdir(path)]
    env = {
        "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_AUTO_COMPACT_WINDOW": os.environ.get("CLAUDE_CODE_AUTO_COMPACT_WINDOW", "165000"),
    }
    if directories:
        env["CLAUDE_CODE_ADDITIONAL_DIRECTORIES_CLAUDE_MD"] = "1"
    if os.geteuid() == 0:  # rootless engines, the process runtime: else the CLI refuses bypassPermissions
        env["IS_SANDBOX"] = "1"

    async def before_compaction(given: Any, _tool_use_id: Any, _context: Any) -> dict[str, Any]:
        try:
            transcript, conversations = Path(given["transcript_path"]), Path(settings["conversations"])
            await asyncio.to_thread(archive, transcript, conversations, settings["assistant_name"])
        except Exception as error:  # the compaction goes on whatever happens here
            print(f"The conversation was not archived: {error!r}", file=sys.stderr)
        return {}

    append = instructions(settings, archived)
    return ClaudeAgentOptions(
        cwd=settings["cwd"],
        add_dirs=directories,
        model=settings.get("model"),
        resume=session,
        resume_session_at=anchor if session else None,
        # snapshot False: else a resumed session keeps the system prompt it was born with.
        system_prompt={"type": "preset", "preset": "claude_code", "append": append, "snapshot": False},
        # The text of a chat is data: "/clear" and "@/etc/passwd" in it must not act.
        verbatim_prompts=settings.get("verbatim", True),
        permission_mode="bypassPermissions",
        disallowed_tools=DISALLOWED,
        mcp_servers={"nanoclaw": server(files)} if settings.get("ipc") else {},
        setting_sources=["project", "user"],
        settings=json.dumps({"skipWebFetchPreflight": True}),
        max_buffer_size=64 * 1024 * 1024,
        hooks={"PreCompact": [HookMatcher(hooks=[before_compaction])]},
        env=env,
    )


def instructions(settings: dict[str, Any], archived: Path | None = None) -> str:
    """What is appended to the system prompt: where the agent is, then the memory files that exist."""
    before = (ARCHIVED if archived else LOST) if settings.get("rotated_from") else ""
    text = "\n".join(filter(None, [INSTRUCTIONS, before, TOOLS if settings.get("ipc") else ""]))
    given = {key: settings[key] for key in ("cwd", "conversations")}
    parts = [text.format(name=settings["assistant_name"], path=archived, **given)]
    for path in settings.get("memory_files") or []:
        if os.path.isfile(path):
            parts.append(f"# {path}\n\n{Path(path).read_text('utf-8', 'replace')}")
    return bounded("\n\n".join(parts), MAX_INSTRUCTIONS)


def bounded(text: str, limit: int) -> str:
    """``text``, cut with a note where it is longer than ``limit`` bytes of UTF-8."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return text
    return data[:limit].decode("utf-8", "ignore") + f"\n\n[cut here: {len(data)} bytes, {limit} are the limit]"


def check_home() -> None:
    """Raise Failure where the agent's home cannot be written: the SDK says nothing, and no session would be kept."""
    home = claude_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=home):
            pass
    except OSError as error:
        problem = f"The agent's home {home} is not writable for uid {os.geteuid()}: {error.strerror}."
        raise Failure("sdk", problem) from error
