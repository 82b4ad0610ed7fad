"""edit: an editor at work on a draft, and what becomes of it. The editors are small scripts."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nanoclaw.cli import main
from nanoclaw.paths import PROJECT, Home
from nanoclaw.stores.home import make_home
from tests.support.home import CLI
from tests.support.parts import MAIN, TEAM

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def ready(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    make_home(home)
    home.group_file("main").write_text(MAIN)
    home.group_file("team").write_text(TEAM)
    (tmp_path / "drafts").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "drafts"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delenv("VISUAL", raising=False)
    return home


def edit(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, editor: str, *what: str, answers: str = ""
) -> tuple[int, str, str]:
    """``editor``: a line of shell in which $1 is the draft."""
    monkeypatch.setenv("EDITOR", f"sh -c '{editor}' editor")
    monkeypatch.setattr(sys, "stdin", io.StringIO(answers))
    code = main(["edit", *what])
    out, err = capsys.readouterr()
    return code, out, err


def drafts() -> list[Path]:
    return sorted(Path(os.environ["TMPDIR"]).glob("*/*"))


def kept(err: str) -> Path:
    """The draft that a message names."""
    found = re.search(r"What you wrote is in (\S+)", err)
    assert found
    return Path(found[1])


def test_what_is_right_is_saved_whole(ready: Home, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    path = ready.group_file("team")
    path.chmod(0o644)
    code, out, err = edit(monkeypatch, capsys, 'echo trigger = \\"@Bob\\" >> $1', "group", "team")
    assert (code, err) == (0, "") and "saved" in out
    assert path.read_text() == TEAM + 'trigger = "@Bob"\n' and path.stat().st_mode & 0o777 == 0o644
    code, out, _ = edit(monkeypatch, capsys, 'echo log_level = \\"debug\\" > $1', "config", "--json")
    assert code == 0 and '"changed": true' in out and ready.config_file.read_text() == 'log_level = "debug"\n'
    assert edit(monkeypatch, capsys, "true", "config")[1].endswith("nothing changed\n")
    assert not drafts()


def test_a_link_to_the_persons_own_place_stays_one(
    ready: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    mine = tmp_path / "mine.toml"
    ready.config_file.rename(mine)
    ready.config_file.symlink_to(mine)
    assert edit(monkeypatch, capsys, "echo keep_runs = 5 > $1", "config")[0] == 0
    assert ready.config_file.is_symlink() and mine.read_text() == "keep_runs = 5\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("triger = 7", "team.toml:3: unknown key 'triger'; did you mean 'trigger'?"),
        ("is_main = true", "main.toml is the main group already"),
        ("name = ", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_never_saved(
    ready: Home, monkeypatch: pytest.MonkeyPatch, capsys: Capture, line: str, reason: str
) -> None:
    code, out, err = edit(monkeypatch, capsys, f"echo {line} >> $1", "group", "team")
    assert (code, out) == (1, "") and reason in err and str(ready.group_file("team")) in err
    assert ready.group_file("team").read_text() == TEAM
    assert drafts() == [kept(err)] and kept(err).read_text() == f"{TEAM}{line.strip()}\n"
    assert edit(monkeypatch, capsys, f"echo {line} >> $1", "group", "team", answers="n\n")[0] == 1


def test_one_may_go_on_editing(ready: Home, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    editor = "if grep -q oops $1; then echo keep_runs = 7 > $1; else echo oops > $1; fi"
    code, out, err = edit(monkeypatch, capsys, editor, "config", answers="\n")
    assert code == 0 and "saved" in out and "Go on editing? [Y/n]" in err
    assert ready.config_file.read_text() == "keep_runs = 7\n" and not drafts()


def test_a_broken_file_can_be_mended(ready: Home, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    ready.group_file("team").write_text("jid = ")
    assert edit(monkeypatch, capsys, 'echo jid = \\"local:team\\" > $1', "group", "team")[0] == 0
    assert ready.group_file("team").read_text() == 'jid = "local:team"\n'


@pytest.mark.parametrize("meanwhile", ["echo keep_runs = 1 > {}", "rm {}"])
def test_a_change_of_somebody_else_is_not_overwritten(
    ready: Home, monkeypatch: pytest.MonkeyPatch, capsys: Capture, meanwhile: str
) -> None:
    command = meanwhile.format(ready.config_file)
    code, _, err = edit(monkeypatch, capsys, f"{command}; echo keep_runs = 2 > $1", "config")
    assert code == 1 and "changed by somebody else" in err and kept(err).read_text() == "keep_runs = 2\n"
    assert not ready.config_file.exists() or ready.config_file.read_text() == "keep_runs = 1\n"


def test_an_editor_that_fails_saves_nothing(ready: Home, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    before = ready.config_file.read_bytes()
    code, _, err = edit(monkeypatch, capsys, "echo keep_runs = 2 > $1; exit 3", "config")
    assert code == 1 and "exit code 3" in err and kept(err).read_text() == "keep_runs = 2\n"
    monkeypatch.setenv("VISUAL", "no-such-editor --wait")
    code, _, err = edit(monkeypatch, capsys, "true", "config")
    assert code == 1 and "no-such-editor" in err and "$EDITOR" in err and len(err.splitlines()) == 1
    assert ready.config_file.read_bytes() == before and len(drafts()) == 1
    code, _, err = edit(monkeypatch, capsys, "true", "group", "taem")
    assert code == 1 and "Did you mean team?" in err


def test_one_at_a_time(ready: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """While an editor is open on a file: others are told who has it, other groups can be changed."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    monkeypatch.setenv("EDITOR", f"sh -c 'echo open; cat {fifo} >> $1' editor")
    with subprocess.Popen(
        [sys.executable, "-c", CLI, "edit", "group", "team"], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ) as first:
        try:
            assert first.stdout is not None and first.stdout.readline() == "open\n"
            code, _, err = edit(monkeypatch, capsys, "true", "group", "team")
            assert code == 1 and f"being edited by pid {first.pid}" in err and len(err.splitlines()) == 1
            assert main(["groups", "set", "team", "name=x"]) == 1
            assert main(["groups", "set", "main", "name=x"]) == 0
            fifo.write_text('trigger = "@Bob"\n')
            assert first.wait(10.0) == 0
        finally:
            first.kill()
    assert ready.group_file("team").read_text() == TEAM + 'trigger = "@Bob"\n'
