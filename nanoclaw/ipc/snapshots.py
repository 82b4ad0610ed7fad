"""Snapshots: what agents and scripts may know of the house, as files beside their requests (SPEC 6).

``current_tasks.json`` for all; ``available_groups.json`` for main only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanoclaw.files.atomic import json_bytes, write_volatile
from nanoclaw.paths import Home
from nanoclaw.stores.chats import Chats
from nanoclaw.stores.settings import Settings


def groups(settings: Settings, chats: Chats) -> list[dict[str, Any]]:
    """All registered groups, then the known chats that are not registered, the latest first."""
    registered = {group.jid: group for group in settings.groups.values()}
    found: list[dict[str, Any]] = [
        {"jid": g.jid, "name": g.name, "folder": g.folder, "registered": True, "is_main": g.is_main}
        for g in registered.values()
    ]
    for jid, chat in chats.all().items():
        if jid not in registered:
            about = {"jid": jid, "name": str(chat.get("name", "")), "folder": None, "registered": False}
            found.append({**about, "last_seen": chat.get("last_seen")})
    return found


def write(home: Home, settings: Settings, chats: Chats) -> None:
    """For scripts."""
    for group in settings.groups.values():
        directory = home.ipc / group.folder
        if not (directory / "current_tasks.json").exists() and directory.is_dir():
            _write(directory / "current_tasks.json", {"tasks": []}, 0o600)
        if group.is_main and directory.is_dir():
            _write(directory / "available_groups.json", {"groups": groups(settings, chats)}, 0o600)


def write_for_run(directory: Path, settings: Settings, chats: Chats, is_main: bool) -> None:
    """For an agent: into its run's ipc/, which it cannot write."""
    _write(directory / "ipc" / "current_tasks.json", {"tasks": []}, 0o644)
    if is_main:
        _write(directory / "ipc" / "available_groups.json", {"groups": groups(settings, chats)}, 0o644)


def _write(path: Path, value: dict[str, Any], mode: int) -> None:
    write_volatile(path, json_bytes(value), mode)
