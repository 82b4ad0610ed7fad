"""``groups``: the registered chats, one file each. Written here or by hand is the same: a host reads the files again
when they change, and none needs to live."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from nanoclaw.commands import runs
from nanoclaw.commands.output import Result, table
from nanoclaw.config.mounts import check_mounts
from nanoclaw.config.settings import load_config
from nanoclaw.config.strict import FileProblems
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import BrokenFile
from nanoclaw.files.locks import Locks
from nanoclaw.models import Config, Group
from nanoclaw.paths import Home
from nanoclaw.runs.layout import container_user
from nanoclaw.stores import registry
from nanoclaw.stores.chats import Chats
from nanoclaw.stores.cursors import Cursor, Cursors
from nanoclaw.stores.home import make_home
from nanoclaw.stores.sessions import Session, Sessions
from nanoclaw.stores.transcripts import Transcripts


def list_groups(home: Home, arguments: argparse.Namespace) -> Result:
    """The groups that stand, the files that are refused, and with ``--known`` the chats that are no group."""
    groups, problems = registry.load_all(home)
    assistant = _assistant(home)
    rows = [(g.folder, g.name, g.jid, _trigger(g, assistant), g.is_main) for g in groups]
    keys = ("folder", "name", "jid", "trigger", "main")
    standing = [dict(zip(keys, row, strict=True)) for row in rows]
    value: dict[str, Any] = {"groups": standing, "refused": [asdict(problem) for problem in problems]}
    shown = [(*row, "main" if is_main else "") for *row, is_main in rows]
    parts = [table(shown, [key.upper() for key in keys]) or "No group is registered."]
    if problems:
        parts.append("\n".join(["Refused:", *(f"  {problem}" for problem in problems)]))
    if arguments.known:
        value["known"] = known = _known(home, {group.jid for group in groups})
        chats = [(chat["jid"], chat["name"], chat["last_seen"]) for chat in known]
        parts.append(table(chats, ["KNOWN CHAT", "NAME", "LAST SEEN"]) or "No other chat is known.")
        if known:
            parts.append("To register one: python3 nanoclaw.py groups add FOLDER --jid JID")
    return Result(value, "\n\n".join(parts))


def add(home: Home, arguments: argparse.Namespace) -> Result:
    """Make a group's file, and its folder with a CLAUDE.md where there is none."""
    config = load_config(home.config_file)
    make_home(home)
    values = {
        "jid": arguments.jid,
        "name": arguments.name,
        "trigger": arguments.trigger,
        "requires_trigger": False if arguments.no_trigger else None,
        "is_main": arguments.main or None,
    }
    path = registry.register(home, arguments.folder, values)
    registry.make_folder(home, arguments.folder, config.assistant_name, arguments.main, container_user(home))
    directory = home.group_folder(arguments.folder)
    group = registry.find(home, arguments.folder)
    wakes = _trigger(group, config.assistant_name) or "every message"
    text = f"{group.folder} is registered: {path}\n{wakes} wakes its agent, whose files are in {directory}"
    return Result({"folder": group.folder, "jid": group.jid, "file": str(path), "directory": str(directory)}, text)


def show(home: Home, arguments: argparse.Namespace) -> Result:
    """All that is known of a group, without reading its transcript."""
    group = registry.find(home, arguments.folder)
    problems = [problem for problem in registry.load_all(home)[1] if problem.path == str(home.group_file(group.folder))]
    locks, chat = Locks(), home.chat(group.jid)
    value: dict[str, Any] = {
        **asdict(group),
        "trigger": _trigger(group, _assistant(home)),
        "refused": [problem.text for problem in problems],
        "file": str(home.group_file(group.folder)),
        "directory": str(home.group_folder(group.folder)),
        "transcript": str(chat),
        "last_seq": Transcripts(home, locks).last(group.jid).seq if chat.exists() else 0,
        "mounts": [
            {**asdict(mount), "mounted": resolved is not None, "reason": reason}
            for mount, resolved, reason in check_mounts(group, home)
        ],
        "last_run": _last_run(home, group.folder),
    }
    cursor = _unless_broken(lambda: Cursors(home, locks).get(group.folder))
    value["cursor"] = {"handed": cursor.handed, "done": cursor.done} if isinstance(cursor, Cursor) else cursor
    session = _unless_broken(lambda: Sessions(home, locks).get(group.folder))
    value["session"] = session.id if isinstance(session, Session) else session
    return Result(value, "\n".join(f"{key:<17} {_shown(item)}".rstrip() for key, item in value.items()))


def set_keys(home: Home, arguments: argparse.Namespace) -> Result:
    """``KEY=VALUE`` … in a group's file; ``KEY=`` takes a key out."""
    changes: dict[str, str | None] = {}
    for item in arguments.changes:
        key, equals, text = item.partition("=")
        if not equals or not key:
            example = "For example: requires_trigger=false, or trigger= to remove it."
            raise UserError(f"{item!r} is not KEY=VALUE.", example)
        changes[key.strip()] = text.strip() or None
    changed = registry.change(home, arguments.folder, changes)
    text = f"{home.group_file(arguments.folder)}: {'saved' if changed else 'nothing changed'}"
    return Result({"folder": arguments.folder, "changed": changed}, text)


def remove(home: Home, arguments: argparse.Namespace) -> Result:
    """Answer a chat no longer. Its file is kept under another name, all others stay where they are."""
    group = registry.find(home, arguments.folder)
    kept = registry.remove(home, group.folder)
    places = [kept, home.group_folder(group.folder), home.chat(group.jid), home.sessions / group.folder]
    stay = [str(path) for path in places if path.exists()]
    text = f"{group.folder} is no longer registered. Its files stay:\n" + "\n".join(f"  {path}" for path in stay)
    return Result({"folder": group.folder, "kept": stay}, text)


def _assistant(home: Home) -> str:
    try:
        return load_config(home.config_file).assistant_name
    except FileProblems:
        return Config.assistant_name


def _trigger(group: Group, assistant: str) -> str:
    """The word that wakes the agent, "" where every message does."""
    return (group.trigger or f"@{assistant}") if group.requires_trigger else ""


def _known(home: Home, registered: set[str]) -> list[dict[str, str]]:
    """The chats that wrote and are not registered, the last one first."""
    keys = ("name", "channel", "first_seen", "last_seen")
    return [
        {"jid": jid, **{key: str(chat.get(key) or "") for key in keys}}
        for jid, chat in Chats(home, Locks()).all().items()
        if jid not in registered
    ]


def _last_run(home: Home, folder: str) -> dict[str, Any] | None:
    """The newest run of a group; of a broken record only its id."""
    ids = runs.ids_of(home, folder)
    if not ids:
        return None
    known = runs.summary(home, ids[-1])
    return {"id": ids[-1], **{key: known[key] for key in ("status", "outcome") if key in known}}


def _unless_broken(look: Callable[[], Any]) -> Any:
    """What a state file holds, or what is wrong with it."""
    try:
        return look()
    except BrokenFile as error:
        return str(error)


def _shown(item: Any) -> str:
    if isinstance(item, dict):
        return ", ".join(f"{key} {_shown(inner)}" for key, inner in item.items())
    if isinstance(item, list | tuple):
        return "; ".join(_shown(inner) for inner in item) or "-"
    if isinstance(item, bool):
        return "yes" if item else "no"
    return "-" if item in (None, "") else str(item)
