"""What a container writes into out/ is read by number, and cannot turn the host: refused, cleaned or cut to size."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.files.atomic import write_json
from nanoclaw.runs import mailbox
from nanoclaw.runs.mailbox import Event


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for part in ("in", "out"):
        (tmp_path / part).mkdir()
    return tmp_path


def put(run: Path, n: int, value: Any) -> None:
    (run / "out" / f"{n:06d}.json").write_text(value if isinstance(value, str) else json.dumps(value))


def test_events_come_by_number(run: Path) -> None:
    assert mailbox.next_event(run, 1) is None
    put(run, 2, {"n": 2, "type": "ready"})
    (run / "out" / ".000001.json").write_text('{"type": "ready"}')
    assert mailbox.next_event(run, 1) is None
    put(
        run,
        1,
        {
            "n": 1,
            "type": "result",
            "uuids": ["a"],
            "text": "t",
            "session": "s",
            "anchor": "x",
            "cost_usd": 1,
            "usage": {"input_tokens": 5, "note": "y" * 5000, "service": None, "speed": -1},
            "unknown": 1,
        },
    )
    assert mailbox.next_event(run, 1) == Event(
        1, "result", ("a",), "t", "s", "x", usage={"input_tokens": 5}, cost_usd=1.0
    )
    assert mailbox.next_event(run, 2) == Event(2, "ready")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "{",
        "[]",
        '{"type": "unknown"}',
        '{"type": ["result"]}',
        "{}",
        '{"type": "consumed", "uuids": "a"}',
        '{"type": "consumed", "uuids": [1]}',
        {"type": "consumed", "uuids": ["a"] * (mailbox.UUIDS + 1)},
        '{"type": "result", "text": 7}',
        '{"type": "result", "session": {}}',
        {"type": "result", "session": "s" * 2000},
        {"type": "result", "text": "x" * (mailbox.TEXT_CHARACTERS + 1)},
        '{"type": "result", "text": "' + "x" * mailbox.EVENT_BYTES + '"}',
        '{"a":' * 50_000,
        "[" * 100_000,
        '{"type": "result", "cost_usd": ' + "9" * 5000 + "}",
        "\x00" * 100,
    ],
)
def test_what_does_not_fit_is_passed_over(run: Path, value: Any) -> None:
    put(run, 1, value)
    event = mailbox.next_event(run, 1)
    assert event is not None and event.type == "refused"
    assert "xxxx" not in event.text, "the reason quotes nothing"


@pytest.mark.parametrize("kind", ["symlink", "fifo", "hard link", "directory"])
def test_what_is_no_plain_file_is_refused_at_once(run: Path, tmp_path: Path, kind: str) -> None:
    path, other = run / "out" / "000001.json", tmp_path / "other"
    other.write_text('{"type": "ready"}')
    {
        "symlink": lambda: path.symlink_to(other),
        "fifo": lambda: os.mkfifo(path),
        "hard link": lambda: os.link(other, path),
        "directory": lambda: path.mkdir(),
    }[kind]()
    event = mailbox.next_event(run, 1)
    assert event is not None and event.type == "refused"


def test_an_out_that_is_a_link_is_not_followed(run: Path, tmp_path: Path) -> None:
    put(run, 1, {"type": "ready"})
    (run / "out").rename(tmp_path / "elsewhere")
    (run / "out").symlink_to(tmp_path / "elsewhere")
    assert mailbox.next_event(run, 1) is None, "and so never ends in a loop"


@pytest.mark.parametrize(
    "odd",
    [
        '{"type": "result", "text": "half \\ud800 a character", "session": "\\udfff", "cost_usd": NaN}',
        '{"type": "result", "text": "half \\ud800 a character", "session": "\\udfff", "cost_usd": Infinity}',
        '{"type": "result", "text": "half \\ud800 a character", "session": "\\udfff", "cost_usd": 1' + "0" * 400 + "}",
        '{"type": "result", "text": "half \\ud800 a character", "session": "\\udfff", "cost_usd": -1}',
        '{"type": "result", "text": "half \\ud800 a character", "session": "\\udfff", "usage": {"a": NaN, "b": 1e400}}',
    ],
)
def test_what_is_taken_can_be_stored(run: Path, odd: str) -> None:
    put(run, 1, odd)
    event = mailbox.next_event(run, 1)
    assert event is not None and event.type == "result"
    assert (event.text, event.session) == ("half \ufffd a character", "\ufffd")
    assert event.cost_usd is None
    assert all(math.isfinite(number) for number in (event.usage or {}).values())
    write_json(run / "record.json", vars(event))


def test_statuses(run: Path) -> None:
    for n, (status, read) in enumerate([(401, 401), (None, None), ("401", None), (10**30, None), (-1, None)], 1):
        put(run, n, {"type": "error", "reason": "api", "status": status, "text": "t"})
        assert mailbox.next_event(run, n) == Event(n, "error", text="t", reason="api", status=read)


def test_the_hosts_side(run: Path) -> None:
    (run / "in" / "host").touch()
    os.utime(run / "in" / "host", (0, 0))
    mailbox.touch_host(run)
    assert os.stat(run / "in" / "host").st_mtime > 0
    mailbox.write_close(run)
    assert os.stat(run / "in" / "_close").st_mode & 0o777 == 0o644
