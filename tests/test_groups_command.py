"""groups: what is written, what is refused, and that nothing of a person's file is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.cli import main
from nanoclaw.config.settings import load_group
from nanoclaw.errors import UserError
from nanoclaw.files.locks import Locks, editing
from nanoclaw.models import Group, Mount
from nanoclaw.paths import PROJECT, Home
from nanoclaw.stores import registry
from nanoclaw.stores.chats import Chats
from nanoclaw.stores.home import make_home
from nanoclaw.stores.transcripts import Transcripts
from tests.support.parts import MAIN, message

Capture = pytest.CaptureFixture[str]
FAMILY = """\
# my family
jid = "tg:-5"   # found by /chatid
trigger = "@Andy"

# they are slow
[[container.mounts]]
host_path = "~/photos"      # read-only
container_path = "photos"
"""


@pytest.fixture
def ready(home: Home) -> Home:
    make_home(home)
    home.group_file("main").write_text(MAIN)
    home.config_file.write_text('assistant_name = "Zoe"\n')
    return home


def called(capture: Capture, *arguments: str) -> tuple[int, str, str]:
    code = main(["groups", *arguments])
    out, err = capture.readouterr()
    return code, out, err


def value(capture: Capture, *arguments: str) -> Any:
    code, out, err = called(capture, *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def snapshot(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.endswith(".lock")}


def test_add_makes_a_file_and_a_folder_with_a_memory(ready: Home, capsys: Capture) -> None:
    code, out, _ = called(capsys, "add", "family", "--jid", "tg:-5", "--name", 'The "Fam"', "--trigger", "@Bob")
    assert code == 0 and "family" in out
    assert load_group(ready.group_file("family")) == Group("family", "tg:-5", 'The "Fam"', "@Bob")
    memory = ready.groups / "family" / "CLAUDE.md"
    assert memory.read_text().startswith("# Zoe\n") and "{" not in memory.read_text()
    assert "main chat" not in memory.read_text()
    owner = os.stat(ready.groups / "family")
    assert owner.st_uid == os.stat(memory).st_uid != 0 or os.getuid() != 0, "its agent can write it"
    assert os.listdir(ready.groups / "family") == ["CLAUDE.md"]
    called(capsys, "add", "all", "--jid", "tg:-6", "--no-trigger")
    assert not load_group(ready.group_file("all")).requires_trigger


def test_a_memory_comes_from_the_owners_template_and_replaces_nothing(ready: Home) -> None:
    (ready.state / "CLAUDE.template.md").write_text("I am {name}. {other}")
    (ready.groups / "old").mkdir()
    (ready.groups / "dangling").symlink_to(ready.root / "elsewhere")
    assert registry.make_folder(ready, "new", "Zoe", False, None)
    assert (ready.groups / "new" / "CLAUDE.md").read_text() == "I am Zoe. {other}"
    for there in ("new", "old", "dangling"):
        assert not registry.make_folder(ready, there, "Eve", False, None)
    assert (ready.groups / "new" / "CLAUDE.md").read_text() == "I am Zoe. {other}"
    assert not os.listdir(ready.groups / "old") and not (ready.root / "elsewhere").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["main", "--jid", "tg:1"], "registered already"),
        (["MAIN", "--jid", "tg:1"], "differs only in case"),
        (["other", "--jid", "local:main"], "already registered by main.toml"),
        (["other", "--jid", "tg:1", "--main"], "can be only one"),
        (["other", "--jid", "nonsense"], "a chat's address"),
        (["other", "--jid", "tg:1", "--trigger", ""], "trigger"),
        (["../main", "--jid", "tg:1"], "cannot be a group's folder"),
        (["a/b", "--jid", "tg:1"], "cannot be a group's folder"),
        (["m\u0430in", "--jid", "tg:1"], "cannot be a group's folder"),
        (["global", "--jid", "tg:1"], "cannot be a group's folder"),
    ],
)
def test_what_cannot_be_a_group_is_one_line(ready: Home, capsys: Capture, arguments: list[str], reason: str) -> None:
    before = snapshot(ready.group_files)
    code, out, err = called(capsys, "add", *arguments)
    assert (code, out) == (1, "") and reason in err and len(err.splitlines()) == 1
    assert snapshot(ready.group_files) == before and os.listdir(ready.groups) == ["global"]


def test_an_old_cursor_of_a_new_group_displaces_nobody(ready: Home) -> None:
    (ready.cursors / "aaa.json").write_text('{"handed": 1, "done": 1}')
    with pytest.raises(UserError, match=r"main\.toml is the main group already"):
        registry.register(ready, "aaa", {"jid": "tg:1", "is_main": True})


def test_of_two_at_once_one_is_registered(ready: Home) -> None:
    start, refused = threading.Barrier(8), []

    def add(number: int) -> None:
        start.wait()
        try:
            registry.register(ready, f"g{number}", {"jid": "tg:7"})
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7 and all("already registered by g" in text for text in refused)
    assert len(registry.files(ready)) == 2


def test_set_changes_keys_and_leaves_the_rest(ready: Home, capsys: Capture) -> None:
    path = ready.group_file("family")
    path.write_text(FAMILY)
    path.chmod(0o640)
    assert value(capsys, "set", "family", "trigger=@Bob", "requires_trigger=false", "container.timeout=1h", "name=7")
    text = path.read_text()
    expected = Group("family", "tg:-5", "7", "@Bob", False, False, 3600.0, (Mount("~/photos", "photos"),))
    assert load_group(path) == expected and path.stat().st_mode & 0o777 == 0o640
    for line in ("# my family", 'jid = "tg:-5"   # found by /chatid', "# they are slow", "# read-only"):
        assert line in text
    assert value(capsys, "set", "family", "trigger=", "container.timeout=") == {"folder": "family", "changed": True}
    assert load_group(path).trigger is None and load_group(path).timeout is None
    assert not value(capsys, "set", "family", "name=7")["changed"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("triger=@Bob", "did you mean 'trigger'?"),
        ("requires_trigger=maybe", "expected true or false"),
        ("jid=", "jid: expected"),
        ("jid=local:main", "already registered by main.toml"),
        ("is_main=true", "there can be only one"),
        ("container.timeout.x=1", "no table"),
        ("container.mounts=no", "a list of tables"),
        ("trigger", "is not KEY=VALUE"),
    ],
)
def test_set_refuses_in_one_line(ready: Home, capsys: Capture, change: str, reason: str) -> None:
    ready.group_file("family").write_text('jid = "tg:-5"\n[container]\ntimeout = 5\n')
    before = snapshot(ready.group_files)
    code, out, err = called(capsys, "set", "family", change)
    assert (code, out) == (1, "") and reason in err and len(err.splitlines()) == 1
    assert snapshot(ready.group_files) == before


def test_a_broken_file_is_named_with_its_line_and_not_written(ready: Home, capsys: Capture) -> None:
    ready.group_file("family").write_text('jid = "tg:-5"\nnam = 3\ntriger = 4\n')
    before = snapshot(ready.group_files)
    for command in (["set", "family", "name=x"], ["remove", "family"], ["show", "family"]):
        code, _, err = called(capsys, *command)
        assert code == 1 and "family.toml:2: unknown key 'nam'" in err and len(err.splitlines()) == 1
    assert called(capsys, "add", "Family", "--jid", "tg:1")[0] == 1, "its name is taken"
    assert snapshot(ready.group_files) == before
    listed = value(capsys, "list")
    assert [group["folder"] for group in listed["groups"]] == ["main"]
    assert listed["refused"][0]["line"] == 2
    assert "Refused:" in called(capsys, "list")[1]
    assert called(capsys, "add", "friends", "--jid", "tg:1")[0] == 0, "one broken file does not stop the others"


def test_list_names_the_chats_that_could_be_registered(ready: Home, capsys: Capture) -> None:
    chats = Chats(ready, Locks())
    chats.saw("local:main", "Main", "local", "2026-11-22T09:00:00Z")
    chats.saw("tg:-9", "Chess", "telegram", "2026-11-22T09:00:00Z")
    listed = value(capsys, "list", "--known")
    assert [(chat["jid"], chat["name"]) for chat in listed["known"]] == [("tg:-9", "Chess")]
    assert listed["groups"] == [{"folder": "main", "name": "main", "jid": "local:main", "trigger": "", "main": True}]
    ready.group_file("team").write_text('jid = "local:team"\n')
    out = called(capsys, "list", "--known")[1]
    assert "@Zoe" in out and "Chess" in out and "groups add" in out


def test_show_says_what_is_known(ready: Home, capsys: Capture) -> None:
    transcripts = Transcripts(ready, Locks())
    for text in ("one", "two"):
        transcripts.append(message(text, "tg:-5"))
    ready.group_file("family").write_text(FAMILY)
    (ready.cursors / "family.json").write_text('{"handed": 1, "done": 1}')
    (ready.sessions / "family.json").write_text("{")
    for run in ("family-20261122-093000-000", "family-b-20261123-093000-000"):
        (ready.runs / run).mkdir()
    shown = value(capsys, "show", "family")
    assert shown["jid"] == "tg:-5" and shown["last_seq"] == 2 and shown["cursor"] == {"handed": 1, "done": 1}
    assert "family.json:1" in shown["session"] and shown["last_run"] == {"id": "family-20261122-093000-000"}
    assert shown["mounts"][0]["mounted"] is False and "no allowlist" in shown["mounts"][0]["reason"]
    assert "handed 1" in called(capsys, "show", "family")[1]
    assert not ready.chat("local:main").exists()
    assert value(capsys, "show", "main")["last_seq"] == 0
    assert not ready.chat("local:main").exists(), "looking makes nothing"
    code, _, err = called(capsys, "show", "famly")
    assert code == 1 and "Did you mean family?" in err


def test_remove_keeps_every_file(ready: Home, capsys: Capture) -> None:
    called(capsys, "add", "family", "--jid", "tg:-5")
    Transcripts(ready, Locks()).append(message("hello", "tg:-5"))
    content = ready.group_file("family").read_bytes()
    kept = [Path(place) for place in value(capsys, "remove", "family")["kept"]]
    assert kept[0].read_bytes() == content and kept[0].parent == ready.group_files
    assert kept[1:] == [ready.groups / "family", ready.chat("tg:-5")] and all(place.exists() for place in kept)
    assert [group["folder"] for group in value(capsys, "list")["groups"]] == ["main"]
    assert called(capsys, "add", "family", "--jid", "tg:-5")[0] == 0, "and comes back"


def test_another_process_that_edits_is_named(ready: Home, capsys: Capture) -> None:
    code = (
        "import sys; from pathlib import Path; from nanoclaw.files.locks import editing\n"
        "with editing(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    held = ready.group_file("main")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(held)], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        exit_code, _, err = called(capsys, "set", "main", "name=x")
        assert exit_code == 1 and f"is being edited by pid {other.pid}" in err and len(err.splitlines()) == 1
        other.kill()
    with editing(held, wait=0.0):
        pass
    assert called(capsys, "set", "main", "name=x")[0] == 0, "a lock goes with its process"
