"""Run records on disk: the claim appears whole, what only in/ knows is found, what is broken is left alone."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from nanoclaw.files.atomic import BrokenFile
from nanoclaw.paths import Home
from nanoclaw.runs.records import Claim, Records
from nanoclaw.stores.transcripts import Position
from tests.support.parts import new_run

CLAIM = Claim(1, "uuid-1", Position(3, 1, 30), Position(7, 1, 70))


@pytest.fixture
def records(home: Home) -> Records:
    home.runs.mkdir()
    return Records(home)


def fill(draft: Path) -> None:
    (draft / "in").mkdir()


def test_a_record_comes_back(records: Records) -> None:
    run = new_run()
    run.claims = [replace(CLAIM, state="finished", output=True, broken=True)]
    run.usage, run.cost_usd, run.error = [{"n": 1, "input_tokens": 5}], 0.25, {"reason": "api"}
    directory = records.create(run, fill)
    assert records.load(run.id) == run
    assert os.stat(directory).st_mode & 0o777 == 0o700
    assert os.stat(directory / "run.json").st_mode & 0o777 == 0o600


def test_a_run_appears_whole_or_not_at_all(records: Records, home: Home) -> None:
    def fails(draft: Path) -> None:
        fill(draft)
        assert os.listdir(home.runs) == [draft.name] and draft.name.startswith(".")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        records.create(new_run(), fails)
    assert os.listdir(home.runs) == []


def test_a_crash_while_preparing_claimed_nothing(records: Records, home: Home) -> None:
    run = new_run()
    records.create(run, fill)
    (home.runs / ".new-main-2" / "in").mkdir(parents=True)
    (home.runs / "notes.txt").write_text("a person's")
    assert records.ids() == [run.id]
    records.remove_drafts()
    assert sorted(os.listdir(home.runs)) == [run.id, "notes.txt"]


def test_claims_that_only_in_knows_were_offered(records: Records) -> None:
    run = new_run()
    run.claims = [replace(CLAIM, state="finished")]
    directory = records.create(run, fill) / "in"
    second = Claim(2, "uuid-2", CLAIM.place, Position(9, 1, 90))
    for claim in (CLAIM, second):
        records.write_prompt(directory, claim, "text \ud800", durable=True)
    (directory / "settings.json").write_text("{}")
    (directory / ".000003.json.1.2").write_text("{")
    assert records.load(run.id).claims == [replace(CLAIM, state="finished"), second]
    assert json.loads((directory / "000002.json").read_bytes())["from"] == 8
    assert os.stat(directory / "000002.json").st_mode & 0o777 == 0o644, "the container's user reads it"
    run.status = "judged"
    records.save(run)
    assert len(records.load(run.id).claims) == 1, "what is judged stays as it was judged"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"claims": 7}', '{"claims": [], "unknown": 1}'])
def test_a_broken_record_says_so(records: Records, content: str) -> None:
    run = new_run()
    directory = records.create(run, fill)
    (directory / "run.json").write_text(content)
    with pytest.raises(BrokenFile, match=r"run\.json"):
        records.load(run.id)
    (directory / "run.json").unlink()
    with pytest.raises(FileNotFoundError):
        records.load(run.id)


def test_ids_are_unique(records: Records) -> None:
    now = datetime(2026, 11, 22, 9, 30, 0, 123_999)
    made = []
    for _ in range(3):
        run = new_run(records.new_id("main", now))
        records.create(run, fill)
        made.append(run.id)
    assert made == [f"main-20261122-093000-{n}" for n in (123, 124, 125)]
    assert records.ids() == made


def test_only_judged_runs_are_pruned_and_no_link_is_followed(records: Records, home: Home, tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("a person's")
    now = time.time()
    for name, status, age in (("old", "judged", 100.0), ("new", "judged", 1.0), ("living", "started", 100.0)):
        run = replace(new_run(name), status=status)
        directory = records.create(run, fill)
        (directory / "in" / "link").symlink_to(tmp_path)
        os.utime(directory, (now - age, now - age))
    (home.runs / "broken").mkdir()
    os.utime(home.runs / "broken", (0, 0))
    assert records.prune(50.0, now) == ["old"]
    assert records.ids() == ["broken", "living", "new"]
    assert (tmp_path / "keep").exists()
