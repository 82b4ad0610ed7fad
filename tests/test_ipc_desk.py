"""Desks: a file is taken once, whatever it is and whenever the host dies; what is refused is kept, and said."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.files import untrusted
from nanoclaw.files.intake import EMPTY_SECONDS
from nanoclaw.ipc import desk as desks
from nanoclaw.ipc.desk import AT_ONCE, KINDS, Desk
from nanoclaw.ipc.handlers import Office
from nanoclaw.ipc.policy import Asker
from nanoclaw.ipc.scripts import ScriptDesks, handle_one
from nanoclaw.paths import Home
from nanoclaw.rounds import Rounds
from nanoclaw.runs.records import Claim
from nanoclaw.stores import refused
from nanoclaw.stores.cursors import Cursor
from nanoclaw.stores.registry import load_all
from nanoclaw.stores.sessions import Session
from nanoclaw.stores.transcripts import Position
from nanoclaw.turns import RESCAN_SECONDS
from tests.support.home import put
from tests.support.parts import Parts, message, new_run
from tests.support.waiting import wait_for

RUN = "team-20261122-093000-000"
HI = {"type": "message", "chatJid": "local:team", "text": "hi"}


class Crash(BaseException):
    """The host dies here."""


class Place:
    """A home with main and team; its desks, made anew by ``restart``. ``hooks``: what an effect sets off."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.restart()

    def restart(self, **hooks: Any) -> None:
        self.parts = Parts(self.home)
        self.office: Office = self.parts.office(**hooks)
        self.scripts = ScriptDesks(self.office)
        self.scripts.turn(time.time())

    def ask(self, request: Any, folder: str = "team", name: str = "x.json", kind: str = "tasks") -> Path:
        """Drop a script's request."""
        path = self.home.ipc / folder / kind / name
        put(path, request if isinstance(request, str) else json.dumps(request))
        return path

    def take(self, path: Path, later: float = 0.0) -> dict[str, Any]:
        """Let the host take it; its answer."""
        self.scripts.touched(str(path))
        self.scripts.turn(time.time() + later)
        answer = path.parent.parent / "answers" / path.name
        return dict(json.loads(answer.read_bytes())) if answer.exists() else {}

    def asked(self, request: Any, folder: str = "team", name: str = "x.json") -> dict[str, Any]:
        return self.take(self.ask(request, folder, name))

    def agent(self, folder: str = "team", is_main: bool = False) -> Desk:
        """The desk of a run's agent."""
        run = self.parts.records.path(RUN)
        for part in ("in", "ipc/messages", "ipc/tasks"):
            (run / part).mkdir(parents=True, exist_ok=True)
        asker = Asker(folder, f"local:{folder}", is_main, RUN)
        return Desk(self.office, run / "ipc", run / "in" / "answers", folder, lambda: asker, RUN)

    def replies(self) -> list[tuple[str, str]]:
        found = [json.loads(path.read_bytes()) for path in self.home.outbox.glob("[!.]*.json")]
        return [(r["jid"], r["text"]) for r in sorted(found, key=lambda reply: reply["order"])]

    def kept(self) -> list[refused.Refused]:
        return refused.listed(self.home)


@pytest.fixture
def place(home: Home) -> Place:
    return Place(home)


def record(place: Place, run_id: str = RUN, folder: str = "team", prompts: tuple[str, ...] = ("one",)) -> None:
    """A run that is there, unjudged, with its prompts."""
    place.parts.records.create(new_run(run_id, folder, f"local:{folder}"), lambda draft: (draft / "in").mkdir())
    for n, text in enumerate(prompts, start=1):
        claim = Claim(n, f"uuid-{n}", Position(), Position())
        place.parts.records.write_prompt(place.parts.records.path(run_id) / "in", claim, text, durable=True)


def messages(desk: Desk) -> Path:
    return desk.directory / "messages"


def answer(desk: Desk, name: str = "x.json") -> dict[str, Any]:
    return dict(json.loads((desk.answers / name).read_bytes()))


# -- a request's way ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["messages", "tasks"])
def test_a_scripts_message(place: Place, kind: str) -> None:
    path = place.ask(HI, kind=kind)
    done = place.take(path)
    assert done["ok"] and place.replies() == [("local:team", "hi")] and not path.exists()
    assert (place.home.outbox / f"{done['id']}.json").exists() and not place.kept()


def test_what_a_crash_repeats_has_one_effect(place: Place) -> None:
    """The host dies between the effect and the unlink, at each kind that has an effect."""

    def die(*_: Any) -> None:
        raise Crash

    (place.home.groups / "team").mkdir()
    put(place.home.groups / "team" / "a.txt", "content")
    place.parts.say("one", "local:team")
    record(place)
    requests = [
        HI,
        {"type": "file", "chatJid": "local:team", "path": "a.txt"},
        {"type": "run_again", "run": RUN},
        {"type": "reset_cursor", "folder": "team", "to": "end"},
        {"type": "clear_session", "folder": "team"},
        {"type": "register_group", "jid": "local:new", "name": "New", "folder": "new"},
    ]
    for number, request in enumerate(requests):
        folder = "main" if request["type"] == "register_group" else "team"
        path = place.ask(request, folder, f"{number}.json")
        place.scripts = ScriptDesks(place.parts.office(delivery=die, changed=die, close=die))
        with pytest.raises(Crash):
            place.take(path)
        assert path.exists() and not (place.home.ipc / folder / "answers" / path.name).exists()
        place.restart()
        place.take(path)
        done = json.loads((place.home.ipc / folder / "answers" / path.name).read_bytes())
        assert done["ok"] and not path.exists(), request
    assert place.replies() == [("local:team", "hi"), ("local:team", "")]
    (file,) = (place.home.outbox / "files").iterdir()
    assert file.read_text() == "content"
    (errand,) = place.parts.errands.all()
    assert errand.text == "one" and errand.origin == f"again {RUN}"
    assert place.parts.settings.groups["new"].jid == "local:new"


def test_a_message_that_was_delivered_before_the_crash_is_not_sent_again(place: Place) -> None:
    path = place.ask(HI)
    place.scripts.touched(str(path))
    status = path.stat()
    place.take(path)
    (reply,) = place.parts.outbox.heads()
    place.parts.transcripts.append(message("hi", "local:team", id=reply.id, is_bot=True))
    place.parts.outbox.delivered(reply)
    desk = place.scripts._desk("team")
    request = desks.requests.parse(json.dumps(HI).encode())
    done = desks.HANDLERS["message"](
        place.office, request, Asker("team", "local:team", False), desk._identity(path.name, status)
    )
    assert done == {"id": reply.id} and place.replies() == []


def test_a_file_written_anew_while_it_is_handled_is_another_request(place: Place) -> None:
    """``echo … > x.json`` twice in a row: the second is not removed with the first."""
    again = [json.dumps({**HI, "text": "second"})]

    def script() -> None:
        if again:
            path.write_text(again.pop())

    path = place.ask(HI, "team")
    place.scripts = ScriptDesks(place.parts.office(delivery=script))
    place.take(path)
    place.scripts.turn(time.time() + 1.0)
    assert place.replies() == [("local:team", "hi"), ("local:team", "second")] and not path.exists()


def test_a_full_disk_leaves_the_request_for_later(place: Place) -> None:
    """What fails is the host's, not the asker's: the outbox's directory is away."""
    aside = place.home.outbox.rename(place.home.state / "aside")
    path = place.ask(HI)
    assert place.take(path) == {} and path.exists() and not place.kept()
    aside.rename(place.home.outbox)
    place.scripts.turn(time.time() + 6.0)
    assert place.replies() == [("local:team", "hi")] and not path.exists()


@pytest.fixture
def small_disk(place: Place) -> Iterator[Path]:
    """The outbox on a file system of 64 kB."""
    if os.getuid() != 0:
        pytest.skip("only root may mount")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place.home.outbox], check=False)
    if done.returncode:
        pytest.skip("tmpfs cannot be mounted here")
    place.parts.outbox.load()
    yield place.home.outbox
    subprocess.run(["umount", place.home.outbox], check=True)


def test_a_full_disk(place: Place, small_disk: Path) -> None:
    (place.home.groups / "team").mkdir()
    (place.home.groups / "team" / "big").write_bytes(b"x" * 100_000)
    path = place.ask({"type": "file", "chatJid": "local:team", "path": "big"})
    other = place.ask({**HI, "chatJid": "local:main"}, "main")
    place.scripts.touched(str(other))
    assert place.take(path) == {} and path.exists() and not place.kept()
    assert not other.exists(), "the other group's request is not held up"
    assert [p.name for p in (small_disk / "files").iterdir()] == [], "no draft is left"
    (place.home.groups / "team" / "big").write_bytes(b"small now")
    place.scripts.turn(time.time() + 6.0)
    assert not path.exists() and ("local:team", "") in place.replies()


def test_without_a_host_what_waits_of_one_group_is_done(place: Place) -> None:
    path, other = place.ask(HI), place.ask({**HI, "chatJid": "local:main"}, "main")
    handle_one(place.home, "team")
    assert place.replies() == [("local:team", "hi")] and not path.exists() and other.exists()


def test_answers_are_no_news(place: Place) -> None:
    """What the host itself writes below state/ipc makes it look nowhere; what others write does."""
    rounds = Rounds(place.home.ipc, KINDS)
    for own in ("main/answers/x.json", "main/current_tasks.json", "errors/x.json"):
        assert not rounds.touched(str(place.home.ipc / own))
    for other in ("team", "team/tasks", "team/tasks/x.json"):
        assert rounds.touched(str(place.home.ipc / other))


def test_rounds_look_where_something_was_touched_and_everywhere_from_time_to_time(place: Place) -> None:
    rounds, groups = Rounds(place.home.ipc, KINDS), {"main": 1, "team": 1}
    assert rounds.due(groups, 0.0) == ["main", "team"] and rounds.wait(0.0) == RESCAN_SECONDS
    rounds.touched(str(place.home.ipc / "team/tasks/x.json"))
    assert rounds.due(groups, 1.0) == ["team"]
    rounds.again("main", 2.5)
    assert rounds.wait(1.0) == 1.5
    rounds.touched(str(place.home.ipc / "team/tasks/x.json"))
    assert rounds.due(groups, 2.0) == ["team"] and rounds.due(groups, 2.5) == ["main"]
    rounds.touched(str(place.home.ipc / "team/tasks/x.json"))
    assert rounds.due(groups, 31.0) == ["main", "team"], "the slow rescan"
    rounds.wait(31.0)
    assert rounds.due(dict(groups), 32.0) == ["main", "team"], "groups changed"


def test_many_files_hold_up_no_other_group(place: Place) -> None:
    """Each turn takes a bounded number of a group; all are done in the end."""
    place.restart()
    for number in range(2 * AT_ONCE + 50):
        path = place.ask({"type": "list_groups"}, "main", f"{number:04d}.json")
    place.scripts.touched(str(path))
    theirs = place.ask(HI)
    place.scripts.touched(str(theirs))
    assert place.scripts.turn(time.time()) == 0.0
    assert not theirs.exists() and len(list(path.parent.glob("*.json"))) == AT_ONCE + 50
    assert not (path.parent / "0000.json").exists(), "the oldest first"
    while place.scripts.turn(time.time()) == 0.0:
        pass
    assert not list(path.parent.glob("*.json"))


def test_20_000_files_cost_a_bounded_listing(place: Place) -> None:
    desk = place.agent()
    for number in range(20_000):
        (messages(desk) / f"{number}.json").touch()
    with untrusted.directory(messages(desk)) as fd:
        assert len(untrusted.entries(fd)) == untrusted.LISTED
    assert desk.turn(time.time() + EMPTY_SECONDS + 1.0) == 0.0
    assert len(list(messages(desk).iterdir())) == 20_000 - AT_ONCE


# -- what is no request ------------------------------------------------------------------------------------------------


def test_half_written_then_complete(place: Place) -> None:
    path = place.ask("", name="x.json")
    assert place.take(path) == {} and path.exists()
    path.write_text('{"type": "message", "chatJid": "lo')
    assert place.take(path) == {} and path.exists()
    path.write_text(json.dumps(HI))
    assert place.take(path)["ok"] and place.replies() == [("local:team", "hi")]


@pytest.mark.parametrize(("text", "why"), [("", "empty"), ('{"type": "mess', "not valid JSON")])
def test_half_written_for_ever(place: Place, text: str, why: str) -> None:
    path = place.ask(text)
    assert place.take(path, EMPTY_SECONDS - 1.0) == {}
    said = place.take(path, EMPTY_SECONDS + 1.0)
    assert said["ok"] is False and why in said["error"] and not path.exists()
    assert why in place.kept()[0].reason


def test_nobody_writes_to_a_request_of_an_ended_run(place: Place) -> None:
    desk = place.agent()
    (messages(desk) / "x.json").write_text('{"type": "mess')
    assert desk.turn(time.time()) is not None and not (desk.answers / "x.json").exists()
    assert desk.turn(time.time(), final=True) is None
    assert "not valid JSON" in answer(desk)["error"]


@pytest.mark.parametrize(
    "text", ["[1]", "[" * 10_000 + "]" * 10_000, '{"type": "mesage"}', '{"type": "message", "text": {"a": 1}}']
)
@pytest.mark.parametrize("whose", ["script", "agent"])
def test_what_is_refused_is_kept_with_its_reason_and_can_be_put_back(place: Place, text: str, whose: str) -> None:
    if whose == "script":
        path = place.ask(text, kind="messages")
        said = place.take(path)
    else:
        desk = place.agent()
        path = messages(desk) / "x.json"
        path.write_text(text)
        desk.turn(time.time())
        said = answer(desk)
    (kept,) = place.kept()
    assert said == {"ok": False, "error": kept.reason, "kept": str(kept.path.relative_to(place.home.root))}
    assert kept.came_from == "state/ipc/team/messages/x.json" and kept.path.read_text() == text
    assert not path.exists() and place.replies() == []
    assert refused.retry(place.home, kept.name) == place.home.ipc / "team" / "messages" / "x.json"


def test_too_large(place: Place) -> None:
    """A script's file is moved, not lost; what an agent wrote is not kept, only said."""
    big = json.dumps({**HI, "text": "x" * desks.REQUEST_BYTES})
    assert "larger than 1000000 bytes" in place.asked(big)["error"]
    assert place.kept()[0].path.read_text() == big
    desk = place.agent()
    (messages(desk) / "x.json").write_text(big)
    desk.turn(time.time())
    assert "larger than" in answer(desk)["error"] and place.kept()[1].size is None
    assert not list(messages(desk).iterdir())


@pytest.mark.parametrize("whose", ["script", "agent"])
@pytest.mark.parametrize("what", ["fifo", "symlink", "hard link", "directory", "full directory", "socket", "device"])
def test_what_is_no_file_is_refused_without_being_opened(place: Place, what: str, whose: str, tmp_path: Path) -> None:
    """The other requests go on; nothing is followed, nothing is waited for, nothing is reported twice."""
    desk = place.agent() if whose == "agent" else place.scripts._desk("team")
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps(HI))
    path = messages(desk) / "x.json"
    bound = socket.socket(socket.AF_UNIX)
    match what:
        case "fifo":
            os.mkfifo(path)
        case "symlink":
            path.symlink_to(secret)
        case "hard link":
            os.link(secret, path)
        case "directory":
            path.mkdir()
        case "full directory":
            path.mkdir()
            (path / "y.json").write_text(json.dumps(HI))
        case "device":
            if os.getuid() != 0:
                pytest.skip("only root may make a device")
            os.mknod(path, 0o20666, os.makedev(1, 5))
        case _:
            bound.bind(str(path))
    bound.close()
    (messages(desk) / "good.json").write_text(json.dumps(HI))
    for _ in range(3):
        desk.turn(time.time())
    assert answer(desk)["ok"] is False and answer(desk, "good.json")["ok"] is True
    assert len(place.kept()) == 1 and secret.exists()
    assert place.replies() == [("local:team", "hi")]
    assert path.exists() == (what == "full directory" and whose == "agent"), "what a container made is not followed"


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        (b"a-Z_0.9.json", True),
        (b"a" * 100 + b".json", True),
        (b"a" * 101 + b".json", False),
        (b"a" * 250 + b".json", False),
        (b"two\nlines.json", False),
        (b"a b.json", False),
        (b"-x.json", False),
        (b"\xff\xfe.json", False),
        ("ü.json".encode(), False),
    ],
)
def test_names_of_agents_requests(place: Place, name: bytes, taken: bool, caplog: pytest.LogCaptureFixture) -> None:
    desk = place.agent()
    with open(os.fsencode(messages(desk)) + b"/" + name, "w") as file:
        json.dump(HI, file)
    desk.turn(time.time())
    assert os.listdir(messages(desk)) == []
    assert place.replies() == ([("local:team", "hi")] if taken else [])
    assert [("name" in kept.reason) for kept in place.kept()] == ([] if taken else [True])
    assert all(len(record.getMessage().encode("utf-8").splitlines()) == 1 for record in caplog.records)


@pytest.mark.parametrize("name", [".x.json", "x.json~", "x.json.tmp", "x", "x.txt", "x.JSON"])
def test_what_is_no_request_by_its_name_is_left_alone(place: Place, name: str) -> None:
    desk = place.agent()
    (messages(desk) / name).write_text(json.dumps(HI))
    assert desk.turn(time.time(), final=True) is None
    assert os.listdir(messages(desk)) == [name] and not place.kept() and place.replies() == []


def test_a_scripts_file_of_any_name(place: Place) -> None:
    """The owner's hand may call a file what it likes; one whose answer has no room is done all the same."""
    for name in (b"\xff.json", b"a" * 250 + b".json", b"a b\nc.json"):
        with open(os.fsencode(place.home.ipc / "team" / "messages") + b"/" + name, "w") as file:
            json.dump(HI, file)
    place.scripts.touched(str(place.home.ipc / "team" / "messages"))
    place.scripts.turn(time.time())
    assert place.replies() == [("local:team", "hi")] * 3 and not place.kept()


def test_a_directory_of_requests_that_is_a_link_is_not_read(place: Place, tmp_path: Path) -> None:
    desk = place.agent()
    messages(desk).rmdir()
    (tmp_path / "x.json").write_text(json.dumps(HI))
    messages(desk).symlink_to(tmp_path)
    desk.turn(time.time())
    assert place.replies() == [] and (tmp_path / "x.json").exists()


# -- who asks for what -------------------------------------------------------------------------------------------------


def test_another_chat_is_for_main_only(place: Place) -> None:
    desk = place.agent()
    (messages(desk) / "x.json").write_text(json.dumps({**HI, "chatJid": "local:main", "groupFolder": "main"}))
    desk.turn(time.time())
    assert "only the main group" in answer(desk)["error"] and place.replies() == []
    assert place.asked(HI, "main")["ok"] and place.replies() == [("local:team", "hi")]
    said = place.asked({**HI, "chatJid": "local:nobody"}, "main", "y.json")
    assert "local:nobody is no registered chat" in said["error"] and "main, team" in said["error"]


def test_an_agent_cannot_ask_for_what_the_owner_may(place: Place) -> None:
    desk = place.agent("main", is_main=True)
    for kind, fields in {
        "reset_cursor": {"folder": "main", "to": 0},
        "clear_session": {"folder": "main"},
        "run_again": {"run": RUN},
        "compact": {"folder": "main"},
        "retry_reply": {"reply": "x"},
        "drop_reply": {"reply": "x"},
    }.items():
        (desk.directory / "tasks" / f"{kind}.json").write_text(json.dumps({"type": kind, **fields}))
        desk.turn(time.time())
        assert "not for agents" in answer(desk, f"{kind}.json")["error"]


def test_a_group_that_is_not_registered_any_more(place: Place) -> None:
    """Its agent's request is refused with the reason; put back when it is registered again, it is done."""
    desk = place.agent()
    desk.asker = lambda: place.scripts._asker("team")
    text = place.home.group_file("team").read_text()
    place.home.group_file("team").unlink()
    settings = place.parts.settings
    wait_for(lambda: settings.refresh() and "team" not in settings.groups, 5, "the group gone")
    (messages(desk) / "x.json").write_text(json.dumps(HI))
    desk.turn(time.time())
    assert "team is not registered" in answer(desk)["error"]
    put(place.home.group_file("team"), text)
    path = refused.retry(place.home, place.kept()[0].name)
    assert place.take(path)["ok"] and place.replies() == [("local:team", "hi")]


def test_what_a_reply_is_not(place: Place) -> None:
    assert "meant to be seen" in place.asked({**HI, "text": "<internal>x</internal>"})["error"]
    place.asked({**HI, "text": "<internal>x</internal> seen", "sender": "Bob"}, name="y.json")
    assert place.replies() == [("local:team", "Bob: seen")]


@pytest.mark.parametrize("kind", ["schedule_task", "update_task", "pause_task", "resume_task", "cancel_task"])
def test_scheduling_is_answered_not_yet(place: Place, kind: str) -> None:
    fields = (
        {"prompt": "p", "schedule_type": "once", "schedule_value": "x"} if kind == "schedule_task" else {"taskId": "t"}
    )
    said = place.asked({"type": kind, **fields})
    assert said["ok"] is False and "not yet" in said["error"] and len(place.kept()) == 1


def test_groups_are_listed_to_main_as_a_whole_to_others_in_part(place: Place) -> None:
    place.parts.chats.saw("tg:7", "Stranger", "tg", "2026-11-22T09:30:00Z")
    assert [g["jid"] for g in place.asked({"type": "list_groups"}, "main")["groups"]] == [
        "local:main",
        "local:team",
        "tg:7",
    ]
    assert [g["jid"] for g in place.asked({"type": "list_groups"})["groups"]] == ["local:team"]
    assert "only the main group" in place.asked({"type": "refresh_groups"}, name="y.json")["error"]
    assert not (place.home.ipc / "team" / "available_groups.json").exists()
    assert place.asked({"type": "refresh_groups"}, "main", "y.json")["ok"]
    listed = json.loads((place.home.ipc / "main" / "available_groups.json").read_bytes())
    assert listed["groups"][2]["jid"] == "tg:7"
    assert place.asked({"type": "list_tasks"}, name="z.json")["tasks"] == []


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(place: Place, tmp_path: Path) -> Path:
    """groups/team with all sorts of things in it."""
    folder = place.home.groups / "team"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.txt").write_text("content")
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "linked").symlink_to(tmp_path)
    os.link(tmp_path / "secret", folder / "hard")
    os.mkfifo(folder / "fifo")
    with (folder / "huge").open("wb") as file:
        file.truncate(Office.limit_of_files("local:team") + 1)
    return folder


@pytest.mark.parametrize("path", ["sub/a.txt", "./sub//a.txt", "/workspace/group/sub/a.txt", "sub/a.txt/."])
def test_a_file(place: Place, folder: Path, path: str) -> None:
    done = place.asked({"type": "file", "chatJid": "local:team", "path": path, "caption": "see"})
    (reply,) = place.parts.outbox.heads()
    assert (reply.id, reply.text, reply.file) == (done["id"], "see", "a.txt")
    assert (place.home.outbox / "files" / reply.id).read_text() == "content"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("../main/CLAUDE.md", "not a path below"),
        ("sub/../../main/CLAUDE.md", "not a path below"),
        ("/etc/passwd", "not a path below"),
        ("/workspace/group//etc/passwd", "not a path below"),
        ("/workspace/group/", "not a path below"),
        ("link", "cannot be opened"),
        ("linked/secret", "cannot be opened as a directory"),
        ("hard", "several links"),
        ("fifo", "not a regular file"),
        ("sub", "not a regular file"),
        ("huge", "larger than"),
        ("absent", "no such file"),
        ("sub/a.txt/deeper", "cannot be opened as a directory"),
        ("a\ud800", "no such file"),
        ("x" * 300, "cannot be opened"),
    ],
)
def test_a_file_that_cannot_be_sent(place: Place, folder: Path, path: str, why: str) -> None:
    said = place.asked({"type": "file", "chatJid": "local:team", "path": path})
    assert said["ok"] is False and why in said["error"] and "secret" not in said["error"].replace(path, "")
    assert place.replies() == [] and not list((place.home.outbox / "files").iterdir())


# -- groups, cursors, sessions, runs -----------------------------------------------------------------------------------


def test_a_group_is_registered(place: Place) -> None:
    mount = {"hostPath": "~/docs", "containerPath": "docs"}
    wanted = {"type": "register_group", "jid": "tg:1", "name": "Familie", "folder": "family", "requiresTrigger": False}
    done = place.asked({**wanted, "containerConfig": {"timeout": 60_000, "additionalMounts": [mount]}}, "main")
    assert done["ok"] and done["folder"] == "family"
    (made,) = [group for group in load_all(place.home)[0] if group.folder == "family"]
    assert (made.jid, made.name, made.requires_trigger, made.is_main, made.timeout) == (
        "tg:1",
        "Familie",
        False,
        False,
        60.0,
    )
    assert made.mounts[0].readonly


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"folder": "team"}, "registered already"),
        ({"folder": "Team"}, "case"),
        ({"folder": ".."}, "expected a group's folder"),
        ({"folder": "t\u0435am"}, "expected a group's folder"),
        ({"folder": "errors"}, "expected a group's folder"),
        ({"jid": "local:team"}, "local:team"),
        ({"isMain": True}, "only the owner"),
    ],
)
def test_a_group_that_cannot_be(place: Place, fields: dict[str, Any], why: str) -> None:
    before = sorted(place.home.group_files.iterdir())
    said = place.asked({"type": "register_group", "jid": "tg:1", "name": "N", "folder": "new", **fields}, "main")
    assert said["ok"] is False and why in said["error"]
    assert sorted(p for p in place.home.group_files.iterdir() if not p.name.endswith(".lock")) == before


@pytest.mark.parametrize(("to", "handed"), [(0, 0), (1, 1), (4, 4), ("end", 4), ("answer", 2)])
def test_the_cursor_is_reset(place: Place, to: object, handed: int) -> None:
    changed: list[str] = []
    place.restart(changed=changed.append)
    place.parts.say("1", "local:team")
    place.parts.say("2", "local:team", is_bot=True, run=RUN)
    place.parts.say("3", "local:team")
    place.parts.say("4", "local:team")
    place.parts.cursors.put("team", Cursor("local:team", Position(3), 3, judged="r"))
    assert place.asked({"type": "reset_cursor", "folder": "team", "to": to}) == {
        "ok": True,
        "handed": handed,
        "before": 3,
    }
    cursor = place.parts.cursors.get("team")
    assert cursor is not None and (cursor.handed, cursor.done, cursor.judged) == (handed, handed, "r")
    assert changed == ["team"]
    said = place.asked({"type": "reset_cursor", "folder": "team", "to": 5}, name="y.json")
    assert said["ok"] is False and "team has no message 5" in said["error"]


def test_a_session_is_cleared_while_its_run_lives(place: Place) -> None:
    """The run is closed, and what it reports later is not kept; the next run's is."""
    closed: list[str] = []
    place.restart(living=lambda folder: RUN, close=closed.append)
    place.parts.sessions.put("team", Session("old"), RUN)
    assert place.asked({"type": "clear_session", "folder": "team"})["ok"] and closed == ["team"]
    place.parts.sessions.put("team", Session("old"), RUN)
    assert place.parts.sessions.get("team") is None
    place.parts.sessions.put("team", Session("new"), "team-next")
    assert place.parts.sessions.get("team") == Session("new")


def test_a_session_is_cleared_without_a_host_while_its_container_lives(place: Place) -> None:
    """The next host adopts the container, which reports the session that was cleared."""
    record(place)
    place.parts.sessions.put("team", Session("old"), RUN)
    place.ask({"type": "clear_session", "folder": "team"})
    handle_one(place.home, "team")
    place.parts.sessions.put("team", Session("old"), RUN)
    assert place.parts.sessions.get("team") is None
    assert (place.parts.records.path(RUN) / "in" / "_close").exists(), "its conversation does not go on"


def test_a_run_again(place: Place) -> None:
    record(place, RUN, "team", ("one", "two"))
    record(place, "main-1", "main")
    assert place.asked({"type": "run_again", "run": RUN})["folder"] == "team"
    assert [(e.folder, e.text) for e in place.parts.errands.all()] == [("team", "one\ntwo")]
    assert place.asked({"type": "run_again", "run": RUN}, "main", "by-main.json")["ok"]
    for run, why in (("main-1", "a run of main"), ("nothing", "There is no run"), ("../main", "There is no run")):
        assert why in place.asked({"type": "run_again", "run": run}, name=f"{why}.json")["error"]
    (place.parts.records.path(RUN) / "run.json").write_text("{}")
    assert "cannot be read" in place.asked({"type": "run_again", "run": RUN}, name="broken.json")["error"]


def test_copies_that_keep_their_times_are_requests_of_their_own(place: Place) -> None:
    """`cp -p` and tar restore the time, and a file system gives the inode of a gone file to the next one."""
    for _ in range(5):
        path = place.ask(HI)
        os.utime(path, (1_700_000_000.0,) * 2)
        assert place.take(path)["ok"] and not path.exists()
    assert place.replies() == [("local:team", "hi")] * 5


def test_registering_again_with_other_settings_is_refused(place: Place) -> None:
    wanted = {"type": "register_group", "jid": "tg:-5", "name": "Fam", "folder": "fam", "trigger": "@X"}
    assert place.asked(wanted, "main")["ok"] and place.asked(wanted, "main")["ok"], "a crash may repeat it"
    assert "registered already" in place.asked({**wanted, "trigger": "@Y"}, "main")["error"]
    assert "@X" in place.home.group_file("fam").read_text()
