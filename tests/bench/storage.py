"""What a message costs on disk, and whether a chat's length makes it dearer. In this process, on a home of its own."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from nanoclaw.commands import cursor, messages
from nanoclaw.files.locks import Locks
from nanoclaw.handover import Handover
from nanoclaw.host import Host
from nanoclaw.models import Line, Message
from nanoclaw.paths import Home
from nanoclaw.stores.cursors import Cursor, Cursors
from nanoclaw.stores.journal import stop_log
from nanoclaw.stores.lines import to_json
from nanoclaw.stores.settings import Settings
from nanoclaw.stores.transcripts import SEGMENT_BYTES, Transcripts
from tests.bench.figures import Figure, median_ms, say, spread

MESSAGES = 500
LENGTHS = (1_000, 1_000_000)
ROUNDS = 40
WHEN = "2026-11-22T09:30:00.000Z"


def _home(root: Path, requires_trigger: bool = False) -> Home:
    home = Home(root / "home", root / "config")
    home.group_files.mkdir(parents=True)
    flag = str(requires_trigger).lower()
    home.group_file("family").write_text(f'jid = "local:family"\nname = "Family"\nrequires_trigger = {flag}\n')
    return home


def _message(number: int) -> Message:
    text = f"message {number}: bread, milk, and somebody should call the plumber about the tap"
    return Message(f"m{number}", "local:family", "ann", "Ann", text, WHEN)


def durable() -> list[Figure]:
    """What a channel calls, ``Host.deliver``, until the message's line is on disk, which is when the transcript's
    ``append`` returns inside it. (``deliver`` goes on to write log and journal, which decide nothing; its whole time is
    told below the table.) The host's threads do not run.

    In turn with a bare ``write`` and ``fsync`` of the same line to a file that is open, in the same directory.
    """
    root = Path(tempfile.mkdtemp(prefix="nc-bench-", dir="/tmp"))
    ours, whole, bare = [], [], []
    stored = 0.0
    try:
        host = Host(_home(root))
        append = host.transcripts.append

        def noting(message: Message) -> Line | None:
            nonlocal stored
            line = append(message)
            stored = time.perf_counter()
            return line

        host.transcripts.append = noting  # type: ignore[method-assign]
        host.deliver(_message(0), "Family")
        fd = os.open(host.home.chat("local:family") / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in range(1, MESSAGES + 1):
            message = _message(number)
            line = to_json(Line(number, WHEN, message))
            start = time.perf_counter()
            host.deliver(message, "Family")
            ours.append(stored - start)
            whole.append(time.perf_counter() - start)
            bare.append(_timed(lambda line=line: (os.write(fd, line), os.fsync(fd))))
        os.close(fd)
        host.journal.close()
        stop_log()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    value, floor = median_ms(ours), median_ms(bare)
    return [
        Figure(
            "a message is durable", value, "ms", floor, "0.86 ms", "<= 2 x bare", value <= 2 * floor,
            f"Host.deliver until its line is on disk; {spread(ours)}; until it returns {median_ms(whole):.3f} ms; "
            f"bare append + fsync {spread(bare)}",
        )
    ]  # fmt: skip


def news() -> list[Figure]:
    """What is new in a chat of 1,000 and of 1,000,000 messages: ``Handover.waits_until`` after one more message.

    *behind the cursor*: the cursor stands before the new message. *silent chat*: a trigger is required and nobody ever
    used it, so the cursor stands at the beginning. *after a restart*: the same two with nothing in memory. *messages*
    and *cursor show* are these commands, without the start of a process. The baseline is the chat of 1,000.
    """
    kinds = {"behind the cursor": (False, False), "silent chat": (True, False)}
    kinds |= {f"{name}, after a restart": (silent, True) for name, (silent, _) in kinds.items()}
    measured: dict[str, list[list[float]]] = {name: [] for name in kinds}
    looks: dict[str, list[list[float]]] = {"messages -n 20": [], "cursor show": []}
    for length in LENGTHS:
        root = Path(tempfile.mkdtemp(prefix="nc-bench-", dir="/tmp"))
        try:
            say(f"news: {length:,} messages ...")
            write_chat(root / "chat", length)
            for name, (silent, restart) in kinds.items():
                measured[name].append(_news(root / name, root / "chat", length, silent, restart))
            for name, look in (("messages -n 20", messages.run), ("cursor show", cursor.show)):
                looks[name].append(_looks(root / "looks", root / "chat", length, look))
        finally:
            shutil.rmtree(root, ignore_errors=True)
    figures = []
    measured |= looks
    for name, (small, large) in measured.items():
        value, floor = median_ms(large), median_ms(small)
        theirs = "" if name in looks else "27 ms" if name.startswith("silent") else "0.1 ms"
        how = f"1,000,000 messages against 1,000; {spread(large)}; 1,000: {spread(small)}"
        figures.append(Figure(f"news, {name}", value, "ms", floor, theirs, "<= 2 x at 1,000", value <= 2 * floor, how))
    return figures


def _looks(root: Path, chat: Path, length: int, look: Callable[[Home, argparse.Namespace], object]) -> list[float]:
    """Seconds of a command that looks at a chat whose cursor stands at its end."""
    home = _home(root)
    try:
        shutil.copytree(chat, home.chat("local:family"))
        home.cursors.mkdir()
        last = Transcripts(home, Locks()).last("local:family")
        Cursors(home, Locks()).put("family", Cursor(jid="local:family", place=last, done=length))
        options = argparse.Namespace(group="family", folder="family", n=20)
        return [_timed(lambda: look(home, options)) for _ in range(ROUNDS)]
    finally:
        shutil.rmtree(root)


def _news(root: Path, chat: Path, length: int, silent: bool, restart: bool) -> list[float]:
    """Seconds of each look after one more message, on a copy of ``chat``."""
    home = _home(root, requires_trigger=silent)
    try:
        shutil.copytree(chat, home.chat("local:family"))
        settings = Settings(home)
        group = settings.groups["family"]

        def fresh() -> tuple[Transcripts, Cursors, Handover]:
            locks = Locks()
            transcripts, cursors = Transcripts(home, locks), Cursors(home, locks)
            return transcripts, cursors, Handover(locks, settings, transcripts, cursors)

        transcripts, cursors, handover = fresh()
        home.cursors.mkdir()
        cursors.put("family", Cursor() if silent else Cursor(place=transcripts.last("local:family"), done=length))
        handover.waits_until(group)
        times = []
        for number in range(length + 1, length + ROUNDS + 1):
            if restart:
                transcripts, cursors, handover = fresh()
            else:
                assert transcripts.append(_message(number)) is not None
            expected = None if silent or restart else 0.0
            times.append(_timed(lambda handover=handover: handover.waits_until(group)))
            assert handover.waits_until(group) == expected
            if not silent and not restart:
                cursors.put("family", Cursor(place=transcripts.last("local:family"), done=number))
        return times
    finally:
        shutil.rmtree(root)


def write_chat(directory: Path, length: int) -> None:
    """A chat as the host would have left it, without its fsyncs."""
    directory.mkdir(parents=True, exist_ok=True)
    number = 1
    while number <= length:
        size = 0
        with open(directory / f"{number:010d}.jsonl", "wb") as file:
            while number <= length and size < SEGMENT_BYTES:
                size += file.write(to_json(Line(number, WHEN, _message(number))))
                number += 1


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
