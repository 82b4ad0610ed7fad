"""What requests are carried out with: the office of a host, or of a command while no host lives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from nanoclaw.errors import UserError
from nanoclaw.files.atomic import BrokenFile
from nanoclaw.ipc.policy import Asker
from nanoclaw.ipc.requests import Request
from nanoclaw.models import Group
from nanoclaw.paths import Home
from nanoclaw.runs.records import Records, Run
from nanoclaw.stores.chats import Chats
from nanoclaw.stores.cursors import Cursors
from nanoclaw.stores.errands import Errands
from nanoclaw.stores.outbox import Outbox
from nanoclaw.stores.sessions import Sessions
from nanoclaw.stores.settings import Settings
from nanoclaw.stores.transcripts import Transcripts


@dataclass(frozen=True)
class Office:
    """What handlers work with. ``delivery``: the outbox has news. ``changed``: a group may have work. ``living``:
    the run that a group has now, if any; ``close``: let it end. ``limit_of_files``: bytes that can be sent to a
    chat."""

    home: Home
    settings: Settings
    outbox: Outbox
    transcripts: Transcripts
    cursors: Cursors
    sessions: Sessions
    records: Records
    chats: Chats
    errands: Errands
    delivery: Callable[[], None] = lambda: None
    changed: Callable[[str], None] = lambda folder: None
    living: Callable[[str], str | None] = lambda folder: None
    close: Callable[[str], None] = lambda folder: None
    limit_of_files: Callable[[str], int] = lambda jid: 50_000_000

    def target(self, request: Request, asker: Asker) -> Group:
        """The group that a request is about. UserError: there is none."""
        groups = self.settings.groups
        if request.folder is not None:
            found = groups.get(request.folder)
        else:
            found = self.settings.group_of(request.jid) if request.jid else groups.get(asker.folder)
        if found is None:
            known = ", ".join(sorted(groups)) if asker.is_main else asker.folder
            raise UserError(f"{request.jid or request.folder} is no registered chat.", f"Registered: {known}.")
        return found

    def is_own(self, request: Request, asker: Asker) -> bool:
        """Is the request about the asker's own group? Whoever names nobody means himself."""
        if request.folder is not None:
            return request.folder == asker.folder
        return request.jid in (None, asker.jid)


def runs_of(records: Records, folder: str) -> Iterator[Run]:
    """The runs of a group whose record can be read, the oldest first."""
    for run_id in records.ids():
        if run_id.startswith(f"{folder}-"):
            with suppress(FileNotFoundError, BrokenFile):
                if (run := records.load(run_id)).folder == folder:
                    yield run
