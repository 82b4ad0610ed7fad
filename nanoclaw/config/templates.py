"""The first content of files, as it stands in texts/: settings, in which a person finds every key with its default, and
agents' memories, in which ``{name}`` is the assistant's name."""

from __future__ import annotations

from pathlib import Path

_TEXTS = Path(__file__).parent / "texts"

CONFIG_TEMPLATE = (_TEXTS / "config.toml").read_text(encoding="utf-8")
GROUP_TEMPLATE = (_TEXTS / "group.toml").read_text(encoding="utf-8")
MEMORY_TEMPLATE = (_TEXTS / "CLAUDE.md").read_text(encoding="utf-8")
MAIN_MEMORY_TEMPLATE = (_TEXTS / "CLAUDE-main.md").read_text(encoding="utf-8")
