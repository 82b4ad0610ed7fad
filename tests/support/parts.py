"""Parts of the house on a temporary home. Making them again is a restart: everything is read from disk."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from nanoclaw.files.locks import Locks
from nanoclaw.handover import Handover
from nanoclaw.ipc.handlers import Office
from nanoclaw.models import Group, Message
from nanoclaw.paths import Home
from nanoclaw.pending import Batch
from nanoclaw.runs.launch import new_claim
from nanoclaw.runs.records import Records, Run
from nanoclaw.stores.chats import Chats
from nanoclaw.stores.cursors import Cursor, Cursors
from nanoclaw.stores.errands import Errands
from nanoclaw.stores.home import make_home
from nanoclaw.stores.journal import Journal
from nanoclaw.stores.outbox import Outbox
from nanoclaw.stores.sessions import Sessions
from nanoclaw.stores.settings import Settings
from nanoclaw.stores.transcripts import Transcripts

MAIN = 'jid = "local:main"\nis_main = true\n'
TEAM = 'jid = "local:team"\nname = "Team"\n'
CONFIG = 'timezone = "UTC"\n[container]\nruntime = "process"\n[model]\noffline = true\n'


class Parts:
    """What handover and workers are made of. ``config`` and ``groups`` are written only where no file is yet."""

    def __init__(self, home: Home, config: str = CONFIG, groups: dict[str, str] | None = None) -> None:
        self.home = home
        self.home_id = make_home(home)
        marker = home.state / ".made"
        if not marker.exists():
            marker.touch()
            home.config_file.write_text(config)
            for folder, text in (groups or {"main": MAIN, "team": TEAM}).items():
                home.group_file(folder).write_text(text)
        self.locks = Locks()
        self.settings = Settings(home)
        self.transcripts = Transcripts(home, self.locks)
        self.cursors = Cursors(home, self.locks)
        self.outbox = Outbox(home, self.locks)
        self.outbox.load()
        self.sessions = Sessions(home, self.locks)
        self.records = Records(home)
        self.chats = Chats(home, self.locks)
        self.errands = Errands(home)
        self.errands.load()
        self.journal = Journal(home.logs)
        self.handover = Handover(self.locks, self.settings, self.transcripts, self.cursors)

    def office(self, **hooks: Any) -> Office:
        """What requests are handled with; ``hooks``: what they set off."""
        names = ("home", "settings", "outbox", "transcripts", "cursors", "sessions", "records", "chats", "errands")
        return Office(**{name: getattr(self, name) for name in names}, **hooks)

    def group(self, folder: str = "main") -> Group:
        return self.settings.groups[folder]

    def say(self, text: str, jid: str = "local:main", **fields: Any) -> int:
        """A person's message; returns its seq."""
        line = self.transcripts.append(message(text, jid, **fields))
        assert line is not None
        return line.seq

    def offer(self, run: Run, folder: str = "main") -> Batch | None:
        """Hand what waits to a run as its next prompt, the claim in its directory first."""
        directory = self.records.path(run.id) / "in"
        directory.mkdir(parents=True, exist_ok=True)

        def claim(batch: Batch, prompt: str, cursor: Cursor) -> None:
            made = new_claim(len(run.claims) + 1, batch, cursor.place)
            self.records.write_prompt(directory, made, prompt, durable=True)
            run.claims.append(made)

        return self.handover.hand(self.group(folder), claim)

    def prompt(self, run: Run, n: int = 1) -> str:
        path = self.records.path(run.id) / "in" / f"{n:06d}.json"
        return str(json.loads(path.read_bytes())["text"])


def message(text: str, jid: str = "local:main", **fields: Any) -> Message:
    """A person's message with an id of its own."""
    known = {"id": str(uuid.uuid4()), "sender": "owner", "sender_name": "Owner", "timestamp": "2026-11-22T09:30:00Z"}
    return Message(**{**known, "jid": jid, "text": text, **fields})


def new_run(run_id: str = "main-20261122-093000-000", folder: str = "main", jid: str = "local:main") -> Run:
    """A run that has claimed nothing yet."""
    return Run(
        id=run_id,
        folder=folder,
        jid=jid,
        container=f"nanoclaw-{run_id}",
        runtime="process",
        image="",
        group={},
        timeout=1800.0,
        idle_timeout=1800.0,
        placeholder_hash="",
        socket="",
        created="2026-11-22T09:30:00Z",
    )


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file with one on each line; none where there is no file."""
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
