"""Sessions at the host: what is too large is not resumed, and what a container makes of its home misleads nobody."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.paths import Home
from nanoclaw.runs.launch import Preparation, errand_claim
from nanoclaw.runs.records import Run
from nanoclaw.stores.errands import Errand
from nanoclaw.stores.sessions import Session, transcript_bytes
from nanoclaw.stores.transcripts import Position
from tests.support.parts import Parts

SESSION = "0f3c1b52-7f6e-4d0a-9a58-1c6b2f0e9d11"


@pytest.fixture
def claude(home: Home) -> Path:
    """The agent's home of the group main, with one project in it."""
    path = home.sessions / "main"
    (path / "projects" / "-workspace-group").mkdir(parents=True)
    return path


def transcript(claude: Path, size: int) -> Path:
    path = claude / "projects" / "-workspace-group" / f"{SESSION}.jsonl"
    path.write_bytes(b"x" * size)
    return path


def prepare(home: Home, session: Session | None, kind: str = "message") -> tuple[Run, dict[str, Any]]:
    """A run as it is on disk, and what its runner is told."""
    parts = Parts(home, 'timezone = "UTC"\nsession_max_bytes = "1kB"\n[container]\nruntime = "process"\n')
    preparation = Preparation(home, parts.home_id, parts.settings, parts.records)
    errand = Errand("e", "main", "/compact", 0.0, "test", kind)
    run, _start = preparation.prepare(parts.group(), session, errand.text, errand_claim(Position()), errand)
    told = json.loads((parts.records.path(run.id) / "in" / "settings.json").read_bytes())
    return parts.records.load(run.id), told


def test_a_session_is_resumed_up_to_the_limit(home: Home, claude: Path) -> None:
    transcript(claude, 1000)
    run, told = prepare(home, Session(SESSION, "anchor"))
    assert (run.session, run.anchor, run.rotated_from) == (SESSION, "anchor", None)
    assert (told["session"], told["anchor"], told["rotated_from"]) == (SESSION, "anchor", None)


def test_beyond_the_limit_a_fresh_session_begins(home: Home, claude: Path) -> None:
    transcript(claude, 1001)
    run, told = prepare(home, Session(SESSION, "anchor"))
    assert (run.session, run.anchor, run.rotated_from) == (None, None, SESSION)
    assert (told["session"], told["anchor"], told["rotated_from"]) == (None, None, SESSION)


def test_without_a_transcript_nothing_is_rotated(home: Home, claude: Path) -> None:
    run, told = prepare(home, Session(SESSION))
    assert (run.session, told["rotated_from"]) == (SESSION, None)
    run, told = prepare(home, None)
    assert (run.session, told["rotated_from"]) == (None, None)


@pytest.mark.parametrize(("kind", "verbatim"), [("message", True), ("compact", False)])
def test_only_a_compaction_is_a_command_to_the_cli(home: Home, claude: Path, kind: str, verbatim: bool) -> None:
    run, told = prepare(home, None, kind)
    assert (run.kind, told["verbatim"]) == (kind, verbatim)


def test_the_directory_of_the_transcript_is_found_among_others(claude: Path) -> None:
    for name in ("-a", "-z"):
        (claude / "projects" / name).mkdir()
    (claude / "projects" / "note.txt").write_text("x")
    os.mkfifo(claude / "projects" / "fifo")
    transcript(claude, 7)
    assert transcript_bytes(claude, SESSION) == 7


@pytest.mark.parametrize("trick", ["linked file", "linked directory", "linked projects", "fifo", "directory"])
def test_what_is_no_plain_file_has_no_size(claude: Path, tmp_path: Path, trick: str) -> None:
    projects, path = claude / "projects", transcript(claude, 5000)
    if trick == "linked file":
        path.rename(tmp_path / "t")
        path.symlink_to(tmp_path / "t")
    elif trick == "linked directory":
        path.parent.rename(tmp_path / "p")
        path.parent.symlink_to(tmp_path / "p")
    elif trick == "linked projects":
        projects.rename(tmp_path / "p")
        projects.symlink_to(tmp_path / "p")
    else:
        path.unlink()
        os.mkfifo(path) if trick == "fifo" else path.mkdir()
    assert transcript_bytes(claude, SESSION) is None


@pytest.mark.parametrize("name", ["../t", "../../t", "", ".", "a/b", "x\0", "n" * 1000])
def test_an_id_is_no_path(claude: Path, name: str) -> None:
    transcript(claude, 1)
    (claude / "projects" / "t.jsonl").write_bytes(b"x")
    (claude / "t.jsonl").write_bytes(b"x")
    assert transcript_bytes(claude, name) is None
