"""Requests where no host lives: the command that holds the home's lock takes them itself."""

from __future__ import annotations

from nanoclaw.files.locks import Locks
from nanoclaw.ipc.office import Office, runs_of
from nanoclaw.ipc.script_desks import ScriptDesks as ScriptDesks
from nanoclaw.paths import Home
from nanoclaw.runs import mailbox
from nanoclaw.runs.records import Records
from nanoclaw.stores.chats import Chats
from nanoclaw.stores.cursors import Cursors
from nanoclaw.stores.errands import Errands
from nanoclaw.stores.outbox import Outbox
from nanoclaw.stores.sessions import Sessions
from nanoclaw.stores.settings import Settings
from nanoclaw.stores.transcripts import Transcripts


def office_without_host(home: Home, settings: Settings) -> Office:
    """An office for a command that holds the home's lock: its effects are on disk, the next host goes on from there."""
    locks = Locks()
    outbox, errands = Outbox(home, locks), Errands(home)
    outbox.load()
    errands.load()
    records = Records(home)

    def living(folder: str) -> str | None:
        """A container goes on without a host; the next one adopts it."""
        return next((run.id for run in runs_of(records, folder) if run.status != "judged"), None)

    def close(folder: str) -> None:
        if (run_id := living(folder)) is not None:
            mailbox.write_close(records.path(run_id))

    return Office(
        home=home,
        settings=settings,
        outbox=outbox,
        transcripts=Transcripts(home, locks),
        cursors=Cursors(home, locks),
        sessions=Sessions(home, locks),
        records=records,
        chats=Chats(home, locks),
        errands=errands,
        living=living,
        close=close,
    )


def handle_one(home: Home, folder: str) -> None:
    """Take what waits of one group, in this process; the caller holds the home's lock."""
    ScriptDesks(office_without_host(home, Settings(home))).take_one(folder)
