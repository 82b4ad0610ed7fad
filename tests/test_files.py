"""Files, locks and doors: atomic replacement, what a container left, files being written, lock order, file events."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nanoclaw.files import atomic, intake, untrusted
from nanoclaw.files.atomic import BrokenFile, JsonFile
from nanoclaw.files.home_lock import HomeLock
from nanoclaw.files.locks import ORDER, Locks
from nanoclaw.files.watch import Watcher
from nanoclaw.paths import PROJECT
from tests.support.waiting import wait_for

# -- atomic ------------------------------------------------------------------------------------------------------------


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic.write_json(path, {"a": "ö"}, mode=0o640)
    assert path.read_text() == '{\n "a": "ö"\n}\n'
    assert os.stat(path).st_mode & 0o777 == 0o640

    def fail() -> None:
        with atomic.replacing(path) as draft:
            draft.write(b"half")
            assert len(os.listdir(tmp_path)) == 2 and path.read_text().startswith("{")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with pytest.raises(TypeError):
        atomic.write_json(path, {"a": object()})
    assert os.listdir(tmp_path) == ["a.json"] and json.loads(path.read_text()) == {"a": "ö"}


def test_readers_never_see_a_half(tmp_path: Path) -> None:
    path, over = tmp_path / "a.json", threading.Event()
    atomic.write_json(path, {"n": 0})

    def write() -> None:
        for n in range(200):
            atomic.write_json(path, {"n": n, "filling": "x" * 10_000}, durable=False)
        over.set()

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    while not over.is_set():
        assert atomic.read_json(path) is not None
    for writer in writers:
        writer.join()
    assert os.listdir(tmp_path) == ["a.json"]


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ":1: not valid JSON"),
        (b'{\n"a": 1,\n}', ":3: not valid JSON"),
        (b"[1]", ":1: expected a JSON object"),
        (b'{"a":\n "\xff"}', ":2: not UTF-8"),
        (b'{"a":' * 100_000, ": nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", ": not valid JSON"),
    ],
)
def test_a_broken_file_names_its_line_and_is_never_overwritten(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.json"
    file = JsonFile(path)
    assert file.read() is None
    file.write({"good": 1})
    path.write_bytes(content)
    assert file.read() == {"good": 1}, "the last good value stays in force"
    assert file.broken is not None and said in file.broken.problem and str(path) in file.broken.problem
    with pytest.raises(BrokenFile):
        file.write({"other": 2})
    with pytest.raises(BrokenFile):
        JsonFile(path).read()
    assert path.read_bytes() == content
    path.write_text('{"mended": 1}')
    assert file.read() == {"mended": 1} and file.broken is None
    path.unlink()
    assert file.read() is None


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path), bind])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a.json")
    with pytest.raises(BrokenFile, match="not a regular file"):
        atomic.read_json(tmp_path / "a.json")


def test_a_link_to_a_file_is_read_and_one_to_nothing_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.json").symlink_to(tmp_path / "b.json")
    assert atomic.read_json(tmp_path / "a.json") is None
    (tmp_path / "b.json").write_text('{"n": 1}')
    assert atomic.read_json(tmp_path / "a.json") == {"n": 1}


def test_a_persons_edit_is_seen_before_it_could_be_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    file = JsonFile(path)
    file.write({"n": 1})
    path.write_text("{")
    with pytest.raises(BrokenFile):
        file.write({"n": 2})
    assert path.read_text() == "{"


# -- untrusted ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def out(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A container's directory, and the descriptor by which the host reads there."""
    directory = tmp_path / "out"
    directory.mkdir()
    with untrusted.directory(directory) as fd:
        yield directory, fd


def test_a_plain_file_is_read_up_to_its_limit(out: tuple[Path, int]) -> None:
    directory, fd = out
    (directory / "a").write_bytes(b"x" * 100)
    assert untrusted.read_bytes(fd, "a", 100) == b"x" * 100
    with pytest.raises(untrusted.Refused, match="larger than 99"):
        untrusted.read_bytes(fd, "a", 99)
    with pytest.raises(FileNotFoundError):
        untrusted.read_bytes(fd, "b", 100)
    (directory / "a").chmod(0o000)
    (directory / "empty").touch()
    assert untrusted.read_bytes(fd, "empty", 0) == b""


def test_nothing_but_a_plain_file_is_read(out: tuple[Path, int], tmp_path: Path) -> None:
    directory, fd = out
    secret = tmp_path / "secret"
    secret.write_text('{"a": 1}')
    (directory / "link").symlink_to(secret)
    (directory / "loop").symlink_to("loop")
    (directory / "dir").mkdir()
    os.mkfifo(directory / "fifo")
    os.link(secret, directory / "hard")
    (directory / "device").symlink_to("/dev/zero")
    for name in ("link", "loop", "dir", "fifo", "hard", "device"):
        with pytest.raises(untrusted.Refused) as refused:
            untrusted.read_object(fd, name, 1000)
        assert "secret" not in str(refused.value)
    secret.unlink()
    assert untrusted.read_object(fd, "hard", 1000) == {"a": 1}, "with one link it is the container's own"


def test_a_file_that_grows_meanwhile_ends_at_the_limit(out: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> None:
    directory, fd = out
    path, real = directory / "a", os.read
    path.write_bytes(b"x" * 10)

    def growing(descriptor: int, size: int) -> bytes:
        with path.open("ab") as file:
            file.write(b"x" * 3_000)
        return real(descriptor, size)

    monkeypatch.setattr(untrusted.os, "read", growing)
    with pytest.raises(untrusted.Refused, match="larger than 5000"):
        untrusted.read_bytes(fd, "a", 5_000)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"7", b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"9" * 5_000]
)
def test_what_is_no_object_is_refused(out: tuple[Path, int], content: bytes) -> None:
    directory, fd = out
    (directory / "a").write_bytes(content)
    with pytest.raises(untrusted.Refused):
        untrusted.read_object(fd, "a", 1_000_000)


def test_a_directory_that_is_a_link_or_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "file", "fifo"):
        with pytest.raises(untrusted.Refused), untrusted.directory(tmp_path / name):
            pass
    with pytest.raises(FileNotFoundError), untrusted.directory(tmp_path / "nowhere"):
        pass


# -- intake ------------------------------------------------------------------------------------------------------------


def test_a_writer_in_another_process_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    writer = subprocess.Popen(
        ["sh", "-c", "exec 3>a.txt; echo one >&3; echo ready; read go; echo two >&3"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert writer.stdin is not None and writer.stdout is not None
    with writer:
        assert writer.stdout.readline() == b"ready\n"
        with pytest.raises(intake.NotReady):
            intake.read_settled(path, 1000, time.time() + 100.0)
        writer.stdin.write(b"go\n")
        writer.stdin.close()
    data, status = intake.read_settled(path, 1000, time.time())
    assert data == b"one\ntwo\n" and status.st_size == 8


def test_a_reader_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("text")
    with path.open():
        assert intake.read_settled(path, 1000, time.time())[0] == b"text"


def test_a_clock_that_was_set_back_holds_nothing_up(tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.touch()
    with pytest.raises(intake.NotReady):
        intake.read_settled(path, 1000, time.time() + 1.0)
    with pytest.raises(intake.Unusable, match="empty"):
        intake.read_settled(path, 1000, time.time() - 3600.0)


# -- locks -------------------------------------------------------------------------------------------------------------


def test_the_order_of_locks_is_kept() -> None:
    locks = Locks()
    for outer, inner in itertools.pairwise(ORDER):
        with locks.hold(outer, "a"), locks.hold(inner, "b"):
            pass
        with locks.hold(inner, "a"), pytest.raises(RuntimeError, match=f"{outer!r}"), locks.hold(outer, "a"):
            pass
    with locks.hold("chat", "a"):
        with locks.hold("chat", "a"):
            pass
        with pytest.raises(RuntimeError, match="two 'chat'"), locks.hold("chat", "b"):
            pass
        with locks.hold("outbox"):
            pass
    with locks.hold("config"), locks.hold("chat", "b"):
        pass
    with pytest.raises(ValueError, match="not in tuple"), locks.hold("unknown"):
        pass


def test_a_refused_lock_leaves_the_thread_as_it_was() -> None:
    locks = Locks()
    with pytest.raises(RuntimeError), locks.hold("journal"), locks.hold("config"):
        pass
    with locks.hold("config"), locks.hold("journal"):
        pass


def test_a_lock_is_between_threads() -> None:
    locks, inside, free = Locks(), threading.Event(), threading.Event()
    order: list[str] = []

    def other() -> None:
        with locks.hold("chat", "b"):
            inside.set()
        with locks.hold("chat", "a"):
            order.append("second")
            free.set()

    with locks.hold("chat", "a"):
        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(10.0), "another name is another lock"
        order.append("first")
    assert free.wait(10.0)
    thread.join()
    assert order == ["first", "second"]


HOLDER = """
import sys, pathlib
from nanoclaw.files.home_lock import HomeLock
lock = HomeLock(pathlib.Path(sys.argv[1]))
print(lock.acquire(), flush=True)
sys.stdin.read()
"""


def holder(state: Path) -> subprocess.Popen[bytes]:
    """Another process that holds the home's lock until its stdin ends or it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=PROJECT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"True\n"
    return process


def test_one_host_a_home_also_after_kill_9(tmp_path: Path) -> None:
    lock = HomeLock(tmp_path)
    with holder(tmp_path) as other:
        assert not lock.acquire()
        (tmp_path / "host.json").touch()
        for path in tmp_path.iterdir():
            path.unlink()
        assert not lock.acquire(), "there is no lock file that could be removed"
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert lock.acquire()
    assert not HomeLock(tmp_path).acquire(), "a second one in this process neither"
    lock.release()
    lock.release()
    assert HomeLock(tmp_path).acquire()


def test_waiting_for_the_host_to_end(tmp_path: Path) -> None:
    lock, got = HomeLock(tmp_path), threading.Event()
    with holder(tmp_path) as other:
        thread = threading.Thread(target=lambda: lock.acquire(blocking=True) and got.set())
        thread.start()
        assert not got.is_set()
        other.kill()
        other.wait()
        assert got.wait(10.0)
        thread.join()
    lock.release()


# -- watch -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    made = Watcher()
    made.start()
    yield made
    made.stop()


def test_what_wakes_and_what_does_not(watcher: Watcher, tmp_path: Path) -> None:
    seen: list[str] = []
    directory = tmp_path / "out"
    directory.mkdir()
    (directory / "old").write_text("x")
    watcher.add(directory, lambda path: seen.append(os.path.basename(path)))
    watcher.add(directory, lambda path: seen.append("twice"))
    (directory / "old").read_text()
    os.listdir(directory)
    for number in range(50):
        (directory / f"d{number}").mkdir()
    (directory / "old").unlink()
    with (directory / "open").open("w") as file:
        file.write("x")
        file.flush()
    (tmp_path / "elsewhere").write_text("x")
    (tmp_path / "elsewhere").rename(directory / "moved in")
    atomic.write_bytes(directory / "replaced", b"x")
    wait_for(lambda: "replaced" in seen, 10.0, "the event of the last write")
    drafts = re.compile(r"\.replaced\.\d+\.\d+")
    assert [name for name in seen if not drafts.fullmatch(name)] == ["open", "moved in", "replaced"]
    watcher.remove(directory)
    watcher.remove(directory)
    (directory / "unseen").write_text("x")
    other = tmp_path / "other"
    other.mkdir()
    watcher.add(other, lambda path: seen.append("other"))
    (other / "x").write_text("x")
    wait_for(lambda: "other" in seen, 10.0, "the other directory's event")
    assert "unseen" not in seen


def test_what_cannot_be_watched_stops_nobody(watcher: Watcher, tmp_path: Path) -> None:
    watcher.add(tmp_path / "nowhere", lambda path: None)
    seen = threading.Event()
    watcher.add(tmp_path, lambda path: seen.set(), recursive=True, deletions=True)
    (tmp_path / "new").mkdir()
    assert seen.wait(10.0), "a new directory is news where its files are"
    seen.clear()
    (tmp_path / "new" / "file").write_text("x")
    assert seen.wait(10.0)
