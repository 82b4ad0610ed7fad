"""``cursor``: how far each chat was handed to its agent, and moving it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from nanoclaw.commands.asking import ask, clock
from nanoclaw.commands.output import Result
from nanoclaw.config.senders import CLOSED, Senders, load_senders
from nanoclaw.config.settings import load_config
from nanoclaw.config.strict import FileProblems
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import BrokenFile
from nanoclaw.files.locks import Locks
from nanoclaw.models import Config, Group
from nanoclaw.paths import Home
from nanoclaw.pending import Pending
from nanoclaw.runs.judge import VERDICTS
from nanoclaw.stores import registry
from nanoclaw.stores.cursors import Cursor, Cursors
from nanoclaw.stores.transcripts import Position, Transcripts


def show(home: Home, arguments: argparse.Namespace) -> Result:
    """The value: one object a group: ``folder``, ``jid``, ``cursor`` (false: none yet, it will stand behind the
    assistant's last answer), ``handed``, ``done`` and ``last`` (seqs), ``waiting`` (messages that wake the agent),
    ``context`` (messages that do not), ``retry``, ``said``, ``note``; or ``problem``."""
    settings = load_config(home.config_file), _senders(home)
    groups = [registry.choose(home, arguments.folder)] if arguments.folder else registry.load_all(home)[0]
    cursors, transcripts = Cursors(home, Locks()), Transcripts(home, Locks())
    found = []
    for group in groups:
        try:
            found.append(_look(home, group, settings, cursors, transcripts))
        except (BrokenFile, OSError) as error:
            found.append({"folder": group.folder, "problem": str(error)})
    shown = clock(home)
    return Result(found, "\n".join(_words(one, shown) for one in found) or "No group is registered.")


def _senders(home: Home) -> Senders:
    try:
        return load_senders(home.sender_allowlist)
    except FileProblems:
        return CLOSED


def _look(
    home: Home, group: Group, settings: tuple[Config, Senders], cursors: Cursors, transcripts: Transcripts
) -> dict[str, Any]:
    config, senders = settings
    stored = cursors.get(group.folder)
    known = stored is not None and stored.jid in (None, group.jid)
    cursor = stored if stored is not None and known else Cursor(jid=group.jid)
    last = waiting = context = 0
    if home.chat(group.jid).is_dir():
        if not known and (own := transcripts.last_where_run(group.jid)):
            cursor = Cursor(jid=group.jid, place=Position(own.seq), done=own.seq)
        pending = Pending(transcripts)
        pending.refresh(group, config, cursor, senders)
        batch = pending.batch(cursor)
        waiting = len(batch.wakers) if batch else 0
        last = transcripts.last(group.jid).seq
        context = len(batch.lines) + batch.omitted - waiting if batch else 0
    found = {"folder": group.folder, "jid": group.jid, "cursor": known, "handed": cursor.handed, "last": last}
    told = {key: value for key, value in asdict(cursor).items() if key in ("done", "retry", "said", "note")}
    return {**found, **told, "waiting": waiting, "context": context}


def _words(one: dict[str, Any], shown: Callable[[str | float | None], str]) -> str:
    if "problem" in one:
        return f"{one['folder']}: {one['problem']}"
    head = f"{one['folder']}: handed to the agent through message {one['handed']} of {one['last']}, finished through "
    lines = [f"{head}{one['done']}"]
    if not one["cursor"]:
        lines.append("no cursor yet: it begins behind the assistant's last answer")
    if one["waiting"]:
        lines.append(f"{one['waiting']} wait for the agent, with {one['context']} as context")
    elif one["last"] > one["handed"]:
        lines.append("what came later did not wake the agent")
    if retry := one["retry"]:
        again = f"tried again at {shown(float(retry['not_before']))}"
        kept = "kept, tried again with the next message"
        lines.append(f"failed {retry['count']} times; {again if retry['kept_through'] is None else kept}")
    if one["said"]:
        verdict = VERDICTS.get(one["said"][-1])
        lines.append(f"held back ({one['said'][-1]}): {verdict.chat if verdict and verdict.chat else 'see the log'}")
    if one["note"]:
        lines.append(f"the next prompt mentions: {one['note']}")
    return "\n  ".join(lines)


def reset(home: Home, arguments: argparse.Namespace) -> Result:
    """Ask for the cursor to be moved. The value: ``{"folder", "handed"}``."""
    folder = registry.choose(home, arguments.folder).folder
    to: str | int = arguments.to or "answer"
    if to not in ("answer", "end"):
        if not (str(to).isascii() and str(to).isdigit()) or len(str(to)) > 15:
            raise UserError(
                f"--to: expected a message's number or `end`, found {to!r}.", "`messages --json` shows seq."
            )
        to = int(to)
    handed = ask(home, folder, {"type": "reset_cursor", "folder": folder, "to": to}).get("handed")
    text = f"The cursor of {folder} stands behind message {handed}: what follows is handed to the agent (again)."
    return Result({"folder": folder, "handed": handed}, text)
