"""What status tells: from files alone, right beside what Pending counts, whatever is broken, and without a trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanoclaw import conditions
from nanoclaw.cli import main
from nanoclaw.files.atomic import write_json
from nanoclaw.files.home_lock import HomeLock
from nanoclaw.models import Line
from nanoclaw.paths import PROJECT, Home
from nanoclaw.pending import Pending
from nanoclaw.status import gather, gathering, text
from nanoclaw.status.gathering import GroupStatus
from nanoclaw.stores.cursors import Cursor, Retry
from nanoclaw.stores.lines import to_json
from nanoclaw.stores.transcripts import Position
from tests.support.parts import CONFIG, Parts, message, new_run

RUN = "main-20261122-093000-000"
NOW = 1_795_345_200.0  # 2026-11-22T11:00:00Z, 90 min after the runs of new_run


def make_run(parts: Parts, run_id: str = RUN, **fields: Any) -> Path:
    folder = run_id.rsplit("-", 3)[0]
    run = replace(new_run(run_id, folder, f"local:{folder}"), **fields)
    return parts.records.create(run, lambda draft: [(draft / part).mkdir() for part in ("in", "out")])  # type: ignore[func-returns-value]


def of(home: Home, folder: str) -> GroupStatus:
    (found,) = (one for one in gather(home, NOW).groups if one.folder == folder)
    return found


def touch(path: Path, ago: float) -> None:
    path.touch()
    os.utime(path, (NOW - ago, NOW - ago))


# -- what waits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handed", [0, 1, 4, 6, 9])
@pytest.mark.parametrize("hint", ["right", "none", "before", "within the next", "behind another", "other segment"])
@pytest.mark.parametrize("trigger", ["@Andy", 'Österreich "quoted"'])
def test_what_waits_is_what_pending_counts(home: Home, handed: int, hint: str, trigger: str) -> None:
    """Wherever the cursor stands, and whether its place in the file is right, wrong or unknown."""
    team = f"jid = \"local:team\"\ntrigger = '{trigger}'\n"
    parts = Parts(home, groups={"main": 'jid = "local:main"\nis_main = true\n', "team": team})
    said = [f"{trigger} one", "two", trigger.upper() + ", three", f" {trigger.lower()} four", "five"]
    for words in said:
        parts.say(words, "local:team")
    parts.say(f"{trigger} mine", "local:team", is_bot=True, run=RUN)
    parts.say("by its own name", "local:team", addressed=True)
    parts.say(f"not at the start {trigger}", "local:team")
    parts.say(f"{trigger} last", "local:team")
    places = {0: Position(), **{line.seq: place for line, place in parts.transcripts.since("local:team", Position())}}
    place = places[handed]
    odd = {"right": place, "none": Position(handed), "before": replace(place, offset=max(0, place.offset - 3))}
    odd |= {
        "within the next": replace(place, offset=place.offset + 20),
        "behind another": replace(places[8], seq=handed),
    }
    place = odd.get(hint, replace(place, segment=7))
    cursor = Cursor("local:team", place, handed, finished=((3, 3),))
    parts.cursors.put("team", cursor)
    pending = Pending(parts.transcripts)
    pending.refresh(parts.group("team"), parts.settings.config, cursor)
    batch = pending.batch(cursor)
    found = of(home, "team")
    assert found.waiting == (len(batch.wakers) if batch else 0)
    assert found.waiting == sum(seq > handed for seq in (1, 4, 7, 9))
    assert found.since == (pending.waits_since() or None)


@pytest.mark.parametrize("said", ["@ANDY, hi", " @andy hi", "hello @Andy", "hello"])
@pytest.mark.parametrize("addressed", [False, True])
def test_a_silent_chat_is_told_from_one_that_waits(home: Home, said: str, addressed: bool) -> None:
    parts = Parts(home)
    parts.say("before", "local:team")
    parts.cursors.put("team", Cursor("local:team", parts.transcripts.last("local:team"), 1))
    parts.say(said, "local:team", addressed=addressed)
    assert of(home, "team").waiting == (1 if addressed or said.strip().lower().startswith("@andy") else 0)


def test_a_chat_without_a_cursor_waits_from_the_last_answer_on(home: Home) -> None:
    parts = Parts(home)
    assert of(home, "main").is_quiet
    parts.say("hello")
    parts.say("an answer", is_bot=True, run=RUN)
    parts.say("and now?")
    assert (of(home, "main").waiting, of(home, "team").waiting) == (1, 0)


def test_retries_and_what_is_kept(home: Home) -> None:
    parts = Parts(home)
    parts.say("hello")
    parts.cursors.put("main", Cursor("local:main", retry=Retry(3, NOW + 40), said=("rate_limit",)))
    found = of(home, "main")
    assert (found.retry_at, found.kept, found.said) == (NOW + 40, False, "rate_limit")
    assert "tried again at 11:00, held back: rate limit" in text(gather(home, NOW), "UTC")
    parts.cursors.put("main", Cursor("local:main", retry=Retry(0, 0.0, kept_through=1)))
    assert of(home, "main").kept and "the next message tries again" in text(gather(home, NOW), "UTC")
    parts.say("again")
    assert not of(home, "main").kept


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_run_in_each_of_its_states(home: Home) -> None:
    parts = Parts(home)
    make_run(parts, "main-20261121-093000-000", status="judged", detail='\n "status": "started"')
    make_run(parts, "team-20261122-093000-000", error={"status": "judged"})
    directory = make_run(parts, status="started", accepted_through=2)
    touch(directory / "out" / "000002.json", 130)
    touch(directory / "out" / "000003.json", 7)
    touch(directory / "out" / "heartbeat", 40)
    assert "team: starting for 90 min" in text(gather(home, NOW), "UTC")
    run = of(home, "main").run
    assert run is not None
    assert (run.id, run.state, run.age, run.output_age, run.heartbeat_age) == (RUN, "working", 5400.0, 130.0, 40.0)
    assert "main: no sign of life for 40 s, last output 2 min ago" in text(gather(home, NOW), "UTC")
    touch(directory / "out" / "heartbeat", 15)
    assert "main: working for 90 min, last output 2 min ago" in text(gather(home, NOW), "UTC")
    record = parts.records.load(RUN)
    parts.records.save(replace(record, idle=True))
    assert "main: idle for" in text(gather(home, NOW), "UTC")
    (directory / "stop").touch()
    assert "main: kill pending for" in text(gather(home, NOW), "UTC")
    parts.records.save(replace(record, status="judged"))
    assert of(home, "main").run is None


def test_what_a_container_makes_of_its_directory_is_no_matter(home: Home, tmp_path: Path) -> None:
    parts = Parts(home)
    directory = make_run(parts, status="started", accepted_through=1)
    touch(tmp_path / "elsewhere", 3000)
    (directory / "out" / "heartbeat").symlink_to(tmp_path / "elsewhere")
    touch(directory / "out" / "000001.json", -1e6)
    run = of(home, "main").run
    assert run is not None and run.output_age == 0.0 and run.heartbeat_age != 3000.0
    os.rename(directory / "out", tmp_path / "out")
    (directory / "out").symlink_to(tmp_path / "out")
    run = of(home, "main").run
    assert run is not None and run.output_age is None


# -- the house ---------------------------------------------------------------------------------------------------------


def test_whether_a_host_lives_and_what_holds_everything_back(home: Home) -> None:
    parts = Parts(home)
    write_json(home.state / "host.json", {"pid": 77, "mode": "run", "started": "2026-11-22T10:30:00Z"})
    states = {"local": {"state": "connected"}, "telegram": {"state": "error", "detail": "Two hosts use this token."}}
    write_json(home.state / "channels.json", states)
    assert text(gather(home, NOW), "UTC").startswith("No host is running") and not gather(home, NOW).channels
    since = {"cause": "rate_limit", "since": "2026-11-21T22:00:00Z", "detail": "/x", "until": "2026-11-22T14:00:00Z"}
    write_json(home.state / "held.json", since)
    lock = HomeLock(home.state)
    assert lock.acquire()
    try:
        said = text(gather(home, NOW), "Europe/Berlin").splitlines()
        assert said[0] == "The host has been running since 11:30 (pid 77, run)."
        assert said[1] == "Nothing has started since 2026-11-21 23:00, until 15:00: rate limit (/x)."
        assert said[2] == "Channel telegram: error. Two hosts use this token."
        assert len(said) == 4 and "quiet" in said[3]
        parts.say("@Andy hi", "local:team")
        other = text(gather(home, NOW), "UTC", "team")
        assert "77" not in other and "/x" not in other and "token" not in other and "rate limit" in other
        assert "team: 1 waiting" in other and "main" not in other
    finally:
        lock.release()


def test_who_looks_is_taken_for_no_host(home: Home) -> None:
    """Two who look at once: a shared lock, as status takes it, is held by another process."""
    Parts(home)
    code = (
        "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_SH); print('held', flush=True); input()"
    )
    argv = [sys.executable, "-c", code, str(home.state)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        assert gather(home, NOW).host is None
        other.communicate()


def test_replies_errands_and_groups_that_are_gone(home: Home) -> None:
    parts = Parts(home)
    for number in range(3):
        parts.outbox.put(f"r{number}", "local:team", "team", "hi", "2026-11-22T09:30:00Z")
    os.rename(home.outbox / "r0.json", home.outbox / "failed" / "r0.json")
    parts.errands.put("e", "gone", "again", "runs again")
    team, gone = of(home, "team"), of(home, "gone")
    assert (team.replies, team.failed, gone.errands) == (2, 1, 1)
    said = text(gather(home, NOW), "UTC")
    assert "team: 2 on the way out, 1 not delivered" in said and said.endswith("gone: it is not registered, 1 errand")


def test_each_broken_file_is_a_finding_and_the_rest_is_told(home: Home) -> None:
    parts = Parts(home, groups={name: f'jid = "local:{name}"\n' for name in ("a", "b", "c")})
    parts.say("@Andy hi", "local:c")
    parts.say("@Andy hi", "local:a")
    (make_run(parts, "a-20261122-093000-000", status="started") / "run.json").write_text("{")
    (make_run(parts, "b-20261122-093000-000", status="started", created="yesterday"))
    broken = ["host.json", "channels.json", "held.json", "cursors/a.json", "outbox/r.json", "errands/e.json"]
    (home.state / "errands").mkdir(exist_ok=True)
    for name in broken:
        (home.state / name).write_text("[")
    home.group_file("b").write_text("jid = 7\n")
    home.config_file.write_text("timezon = 1\n")
    home.sender_allowlist.write_text("{")
    found = gather(home, NOW)
    told = "\n".join([*found.problems, *(one.problem or "" for one in found.groups)])
    names = [
        *broken,
        "a-20261122-093000-000",
        "b-20261122-093000-000",
        "b.toml",
        "config.toml",
        "sender-allowlist.json",
    ]
    assert [name for name in names if name not in told] == []
    assert of(home, "c").waiting == 1 and "c: 1 waiting" in text(found, "UTC")


def test_what_may_not_be_read_or_is_no_file_is_told_in_words(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's refusal is played: a test may run as root, who may read all."""
    Parts(home, groups={"a": 'jid = "local:a"\n'}).say("@Andy hi", "local:a")
    (home.cursors / "a.json").write_text("{}")
    os.mkfifo(home.state / "held.json")
    record = make_run(Parts(home), "a-20261122-093000-000") / "run.json"
    record.unlink()
    os.mkfifo(record)
    opened = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith("cursors/a.json"):
            raise PermissionError(13, "Permission denied", path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    said = text(gather(home, NOW), "UTC")
    assert f"{home.cursors / 'a.json'}: cannot be read (Permission denied). Look at its owner" in said
    assert "held.json: not a regular file" in said and "Errno" not in said


def test_a_full_disk_is_told_although_it_cannot_be_noted(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    Parts(home).home.group_file("team").unlink()
    assert gathering.DISK_FLOOR == conditions.DISK_FLOOR
    assert text(gather(home, NOW), "UTC").endswith("All is quiet: 1 group, nothing runs, nothing waits.")
    monkeypatch.setattr(gathering, "DISK_FLOOR", 1 << 62)
    assert "The disk is full" in text(gather(home, NOW), "UTC")
    write_json(home.state / "held.json", {"cause": "disk", "since": "2026-11-22T10:00:00Z"})
    assert text(gather(home, NOW), "UTC").count("disk") == 1


def test_a_chat_gets_fifteen_lines_at_most(home: Home) -> None:
    groups = {f"g{n:02d}": f'jid = "local:g{n:02d}"\n' for n in range(40)}
    parts = Parts(home, groups=groups)
    for folder in groups:
        parts.say("@Andy hi", f"local:{folder}")
    said = text(gather(home, NOW), "UTC").splitlines()
    assert len(said) == 15 and said[1].startswith("g00: 1 waiting") and said[-1].startswith("… and 27 more")
    assert len(text(gather(home, NOW), "UTC", "g07").splitlines()) == 2


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    parts = Parts(home, CONFIG.replace("UTC", "Europe/Berlin"))
    chat = home.chat("local:team")
    chat.mkdir()
    (chat / "0000000001.jsonl").write_bytes(
        to_json(Line(1, "2026-11-22T09:30:00Z", message("@Andy \x1b[2J", "local:team")))
    )
    (make_run(parts, status="started") / "out" / "heartbeat").touch()
    before = {path: path.stat().st_mtime_ns for path in home.root.rglob("*")}
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "No host is running" in out and "main   working for" in out and RUN in out
    assert "team   1 waiting since" in out and "10:30" in out and "Quiet: 0 of 2 groups." in out
    assert main(["status", "--group", "team", "--json"]) == 0
    (team,) = json.loads(capsys.readouterr().out)["groups"]
    assert (team["folder"], team["waiting"], team["run"]) == ("team", 1, None)
    assert main(["status", "--group", "taem"]) == 1
    assert "Did you mean team?" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in home.root.rglob("*")} == before, "looking leaves a trace"


def test_an_empty_home_has_a_status(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    assert "No host is running" in capsys.readouterr().out
    home.state.rmdir()
    assert main(["status"]) == 0


def test_watching_goes_on_until_it_is_interrupted(home: Home) -> None:
    Parts(home)
    argv = [sys.executable, str(PROJECT / "nanoclaw.py"), "status", "--watch", "--json"]
    # Whoever started the tests in the background made SIGINT ignored for all of them.
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard) as watch:
        assert watch.stdout is not None
        first, second = (json.loads(watch.stdout.readline()) for _ in range(2))
        watch.send_signal(signal.SIGINT)
        assert (watch.wait(30), watch.stderr and watch.stderr.read()) == (130, "")
    assert first["time"] < second["time"] and len(second["groups"]) == 2
