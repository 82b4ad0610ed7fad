"""What was said before a compaction, or in a session too large to go on with, kept as Markdown in the group's
conversations/: texts only, no tool calls. A large transcript takes seconds: call it in a thread."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def claude_home() -> Path:
    """Where the CLI keeps its sessions."""
    return Path(os.environ.get("CLAUDE_CONFIG_DIR") or Path.home() / ".claude")


def archive_rotated(settings: dict[str, Any]) -> Path | None:
    """The archive of the session that the run does not go on with (``rotated_from``), if there is one. Written once: a
    run that is repeated after a crash finds it by the id in its name. None where the session has no transcript, nothing
    was said in it, or the disk is full: the run goes on whatever happens here."""
    session, conversations = settings.get("rotated_from"), Path(settings["conversations"])
    try:
        return _whole_session(session, conversations, settings["assistant_name"]) if session else None
    except Exception as error:
        print(f"The session {session} was not archived: {error!r}", file=sys.stderr)
        return None


def _whole_session(session: str, conversations: Path, assistant_name: str) -> Path | None:
    mark = f"-{session[:8]}"
    for found in conversations.glob(f"*{mark}.md"):
        return found
    for transcript in (claude_home() / "projects").glob(f"*/{session}.jsonl"):
        return archive(transcript, conversations, assistant_name, mark)
    return None


def archive(transcript: Path, conversations: Path, assistant_name: str, mark: str = "") -> Path | None:
    """Write ``transcript`` (the CLI's JSONL) to ``conversations/<date>-<slug><mark>.md``; None when nothing was
    said."""
    said = list(_said(transcript, assistant_name))
    if not said:
        return None
    conversations.mkdir(parents=True, exist_ok=True)
    stem = f"{time.strftime('%Y-%m-%d')}-{_slug(said[0][1])}{mark}"
    names = itertools.chain([stem], (f"{stem}-{count}" for count in itertools.count(2)))
    path = next(p for p in (conversations / f"{name}.md" for name in names) if not p.exists())
    parts = [f"# Conversation, archived {time.strftime('%Y-%m-%d %H:%M')}"]
    parts += [f"**{who}:**\n\n{text}" for who, text in said]
    draft = conversations / f".{path.name}"
    draft.write_text("\n\n".join(parts) + "\n", "utf-8", "replace")
    return draft.rename(path)


def _said(transcript: Path, assistant_name: str) -> Iterator[tuple[str, str]]:
    with open(transcript, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                entry = json.loads(line)
                kind, content = entry["type"], entry["message"]["content"]
            except (ValueError, KeyError, TypeError):
                continue
            if kind in ("user", "assistant") and not entry.get("isSidechain") and not entry.get("isMeta"):
                text = _text(content).strip()
                if text:
                    yield ("User" if kind == "user" else assistant_name), text


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "\n\n".join(b["text"] for b in blocks if isinstance(b, dict) and b.get("type") == "text")


def _slug(text: str) -> str:
    words = re.findall(r"[a-z0-9]+", re.sub(r"<[^>]*>", " ", text).lower())
    return "-".join(words[:6])[:50].strip("-") or "conversation"
