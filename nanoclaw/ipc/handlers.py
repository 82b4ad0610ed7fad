"""What a permitted request does: one short function a kind. Each may be repeated after a crash, to the same effect:
the reply's id, the errand's, the group's file are made from the request itself.

A handler returns what the answer says beside ``ok``; UserError refuses; OSError (a full disk) leaves the request
where it is, to be tried again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nanoclaw import router
from nanoclaw.config.settings import load_group
from nanoclaw.errors import UserError
from nanoclaw.files import untrusted
from nanoclaw.files.atomic import BrokenFile, read_json, replacing
from nanoclaw.ipc import snapshots
from nanoclaw.ipc.office import Office as Office
from nanoclaw.ipc.office import runs_of
from nanoclaw.ipc.policy import Asker
from nanoclaw.ipc.requests import Request
from nanoclaw.models import Group
from nanoclaw.moments import utc_now
from nanoclaw.runs.layout import container_user
from nanoclaw.stores import groups
from nanoclaw.stores.cursors import Cursor
from nanoclaw.stores.journal import Journal
from nanoclaw.stores.transcripts import Position

NOT_YET = "scheduled tasks are not there yet"


Handler = Callable[[Office, Request, Asker, str], dict[str, Any]]
"""The last argument identifies the request: the same at each try."""


def _message(office: Office, request: Request, asker: Asker, identity: str) -> dict[str, Any]:
    text = router.visible(request.values["text"])
    if not text:
        raise UserError("text: nothing of it is meant to be seen.", "Leave out <internal>, or send nothing.")
    if sender := request.values.get("sender"):
        text = f"{sender}: {text}"
    return _say(office, office.target(request, asker), asker, identity, text)


def _say(
    office: Office, group: Group, asker: Asker, identity: str, text: str, file: str | None = None
) -> dict[str, Any]:
    if not office.transcripts.mentions(group.jid, identity):
        office.outbox.put(identity, group.jid, group.folder, text, utc_now(), asker.run, file=file)
    office.delivery()
    return {"id": identity}


def _file(office: Office, request: Request, asker: Asker, identity: str) -> dict[str, Any]:
    path, target = request.values["path"].removeprefix("/workspace/group/"), office.target(request, asker)
    root = office.home.group_folder(asker.folder)
    if not office.transcripts.mentions(target.jid, identity):
        office.outbox.files.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with replacing(office.outbox.files / identity) as draft:
                untrusted.copy_out(root, path, office.limit_of_files(target.jid), draft)
        except (untrusted.Refused, FileNotFoundError) as error:
            why = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
            raise UserError(f"path: {path!r} cannot be sent: {why}.", "Name a file in the group's folder.") from None
    text = router.visible(request.values.get("caption", ""))
    last = [part for part in path.split("/") if part not in ("", ".")][-1:]  # as copy_out reads it
    name = "".join(c if c.isprintable() and c != "\\" else "_" for c in "".join(last)) or "file"
    return _say(office, target, asker, identity, text, name[:100])


def _not_yet(office: Office, request: Request, asker: Asker, identity: str) -> dict[str, Any]:
    raise UserError(f"{request.kind}: not yet: {NOT_YET}.", "The request is kept; `ipc errors retry` repeats it later.")


def _list_tasks(office: Office, request: Request, asker: Asker, identity: str) -> dict[str, Any]:
    return {"tasks": [], "note": NOT_YET}


def _register_group(office: Office, request: Request, asker: Asker, identity: str) -> dict[str, Any]:
    wanted = request.values
    folder, container = wanted["folder"], wanted.get("containerConfig", {})
    table: dict[str, Any] = {"timeout": container["timeout"] / 1000} if "timeout" in container else {}
    if asked := container.get("additionalMounts"):
        names = {"hostPath": "host_path", "containerPath": "container_path", "readonly": "readonly"}
        table["mounts"] = [{"readonly": True, **{names[key]: mount[key] for key in mount}} for mount in asked]
    values = {"jid": wanted["jid"], "name": wanted["name"], "trigger": wanted.get("trigger")}
    values |= {"requires_trigger": wanted.get("requiresTrigger"), "container": table or None}
    office.settings.refresh()
    there = office.settings.groups.get(folder)
    if there is None or there != load_group(office.home.group_file(folder), groups.as_toml(values)):
        groups.register(office.home, folder, values)
        name, user = office.settings.config.assistant_name, container_user(office.home)
        groups.make_folder(office.home, folder, name, False, user)
        office.settings.refresh()
    office.changed(folder)
    return {"folder": folder, "note": "it was registered already" if there else "registered"}


def _list_groups(office: Office, request: Request, asker: Asker, identity: str) -> dict[str, Any]:
    known = snapshots.groups(office.settings, office.chats)
    return {"groups": known if asker.is_main else [group for group in known if group["folder"] == asker.folder]}


def _refresh_groups(office: Office, request: Request, asker: Asker, identity: str) -> dict[str, Any]:
    office.settings.refresh()
    snapshots.write(office.home, office.settings, office.chats)
    if asker.run is not None:
        snapshots.write_for_run(office.records.path(asker.run), office.settings, office.chats, asker.is_main)
    return _list_groups(office, request, asker, identity)


def _reset_cursor(office: Office, request: Request, asker: Asker, identity: str) -> dict[str, Any]:
    group, to = office.target(request, asker), request.values["to"]
    last = office.transcripts.last(group.jid)
    if to == "answer":
        own = office.transcripts.last_where_run(group.jid)
        place = Position(own.seq) if own else Position()
    elif to == "end" or to == last.seq:
        place = last
    elif to > last.seq:
        raise UserError(f"{group.folder} has no message {to}.", f"The last one is {last.seq}.")
    else:
        place = Position(to)
    cursor, living = office.cursors.get(group.folder) or Cursor(), office.living(group.folder)
    reset = (living, len(office.records.load(living).claims)) if living else None
    moved = Cursor(jid=group.jid, place=place, done=place.seq, judged=cursor.judged, reset=reset)
    office.cursors.put(group.folder, moved)
    office.changed(group.folder)
    return {"handed": place.seq, "before": cursor.handed}


def _clear_session(office: Office, request: Request, asker: Asker, identity: str) -> dict[str, Any]:
    group = office.target(request, asker)
    office.sessions.clear(group.folder, office.living(group.folder))
    office.close(group.folder)
    return {"folder": group.folder}


def _run_again(office: Office, request: Request, asker: Asker, identity: str) -> dict[str, Any]:
    run_id = request.values["run"]
    if run_id not in office.records.ids():
        raise UserError(f"There is no run {run_id!r}.", "`runs list` shows them.")
    try:
        run = office.records.load(run_id)
        texts = [read_json(p) or {} for p in sorted((office.records.path(run_id) / "in").glob("[0-9]*.json"))]
    except (FileNotFoundError, BrokenFile, KeyError, TypeError, ValueError) as error:
        raise UserError(f"The record of {run_id} cannot be read: {error}.") from None
    if run.folder not in office.settings.groups:
        raise UserError(f"{run.folder}, the group of {run_id}, is not registered any more.", "Register it again first.")
    if run.folder != asker.folder and not asker.is_main:
        raise UserError(f"{run_id} is a run of {run.folder}, not of {asker.folder}.")
    if not _is_run_already(office, run.folder, identity):
        office.errands.put(identity, run.folder, "\n".join(str(t.get("text", "")) for t in texts), f"again {run_id}")
        office.changed(run.folder)
    return {"folder": run.folder, "errand": identity}


def _is_run_already(office: Office, folder: str, errand: str) -> bool:
    """A run has claimed the errand: the request was done before a crash."""
    return any(run.errand == errand for run in runs_of(office.records, folder))


def _compact(office: Office, request: Request, asker: Asker, identity: str) -> dict[str, Any]:
    folder = office.target(request, asker).folder
    if not _is_run_already(office, folder, identity):
        if office.sessions.get(folder) is None:
            raise UserError(f"{folder} has no session to compact.", "Its next message begins one.")
        office.errands.put(identity, folder, "/compact", "compact", kind="compact")
        office.changed(folder)
    return {"folder": folder, "errand": identity}


def _retry_reply(office: Office, request: Request, asker: Asker, identity: str) -> dict[str, Any]:
    reply = office.outbox.find(request.values["reply"])
    _check_reply_of(reply.folder, reply.id, asker)
    if office.transcripts.contains(reply.jid, reply.id):
        raise UserError(f"{reply.id} was delivered.", f"`outbox drop {reply.id}` takes it out of the list.")
    office.outbox.retry(reply.id, request.values.get("from_start", False))
    office.delivery()
    return {"reply": reply.id, "folder": reply.folder}


def _drop_reply(office: Office, request: Request, asker: Asker, identity: str) -> dict[str, Any]:
    name = request.values["reply"]
    try:
        folder = office.outbox.find(name).folder
    except BrokenFile:
        folder = None  # nobody knows whose it was
    _check_reply_of(folder, name, asker)
    office.outbox.drop(name)
    journal = Journal(office.home.logs)  # opened for this one line: it happens once in a while
    journal.event("reply_dropped", reply=name, folder=folder)
    journal.close()
    office.delivery()
    return {"reply": name, "folder": folder}


def _check_reply_of(folder: str | None, name: str, asker: Asker) -> None:
    if folder != asker.folder and not asker.is_main:
        raise UserError(f"{name} is a reply of {folder or 'nobody knows whom'}, not of {asker.folder}.")


HANDLERS: dict[str, Handler] = {
    "message": _message,
    "file": _file,
    **dict.fromkeys(("schedule_task", "update_task", "pause_task", "resume_task", "cancel_task"), _not_yet),
    "list_tasks": _list_tasks,
    "register_group": _register_group,
    "refresh_groups": _refresh_groups,
    "list_groups": _list_groups,
    "reset_cursor": _reset_cursor,
    "clear_session": _clear_session,
    "compact": _compact,
    "run_again": _run_again,
    "retry_reply": _retry_reply,
    "drop_reply": _drop_reply,
}
