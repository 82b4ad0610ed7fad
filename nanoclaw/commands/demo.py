"""``demo``: a conversation with a real agent in a real container, every claim verified. Only the model is a stand-in.

It has a home of its own and touches neither the person's home nor their ~/.config/nanoclaw. What it says is read from
disk and from the engine; where something is not as claimed, it ends with exit code 1. Its files stay, its containers
do not.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from nanoclaw.commands.demo_place import Place, find, remove_containers
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import BrokenFile, write_bytes
from nanoclaw.files.home_lock import HomeLock
from nanoclaw.host import Host
from nanoclaw.paths import PROJECT, Home
from nanoclaw.runs.judge import VERDICTS
from nanoclaw.runs.records import Records, Run
from nanoclaw.stores.home import make_home, write_host_file

ANSWER_SECONDS = 120.0
ONCE_SECONDS = 60.0
JID, FOLDER = "local:main", "main"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def command(home: Home, arguments: argparse.Namespace) -> int:
    return run(arguments.runtime)


def run(runtime: str | None) -> int:
    """Show it on ``runtime``, or on the first that can be used. 0: all was as claimed; UserError: what was not."""
    print("NanoClaw demo: a real agent and the offline model (a few rules, no intelligence, nothing is paid).\n")
    with _signals(_interrupt):
        place = find(runtime)
        root = Path(tempfile.mkdtemp(prefix="nanoclaw-demo-", dir="/tmp"))  # not $TMPDIR: sockets need a short path
        home = Home(root, root / "config")
        home.state.mkdir(mode=0o700)
        write_bytes(home.config_file, f'[container]\nruntime = "{place.name}"\n\n[model]\noffline = true\n'.encode())
        home_id = make_home(home)
        print(f"The demo has a home of its own, {root}; yours is not touched.")
        demo = _Demo(home, place)
        try:
            demo.conversation()
        except BaseException:
            print(f"\nThe demo broke off. Its files are in {root}", file=sys.stderr)
            raise
        finally:
            with _signals(signal.SIG_IGN):  # tidying up is not ended half-way by a second Ctrl-C
                demo.stop_host()
                left = remove_containers(home, home_id, place)
        if left:
            raise _failed("nothing of it runs any more", f"{', '.join(left)} cannot be removed", home)
        demo.show_files()
    return 0


class _Demo:
    def __init__(self, home: Home, place: Place) -> None:
        self._home = home
        self._place = place
        self._lock = HomeLock(home.state)
        self._records = Records(home)
        self._host: Host | None = None
        self._pause = threading.Event()

    def conversation(self) -> None:
        """All of it; raises UserError at the first thing that is not as claimed."""
        _title("A message, and the agent's answer")
        self._start_host()
        first = self._ask("Good morning! My cat is called Mia.", "Mia")

        _title("A tool call: the agent writes a file in its group's folder")
        self._same(first, self._ask("write shopping.txt: milk", "shopping.txt"))
        self._show_file(self._home.group_folder(FOLDER) / "shopping.txt", "milk\n")

        _title("A follow-up, answered by the same living agent")
        self._same(first, self._ask("And bread tomorrow, perhaps.", "bread"))

        _title("The host ends and the agent lives on; the next host adopts it, and closes it because it is idle")
        self.stop_host()
        self._check_state(first, "running")
        _note(f"The host has ended. {self._place.called(first)} still runs.")
        self._close_idle(first)

        _title("The next message: another agent, which resumes the session")
        self._start_host()
        second = self._ask("What did I say?", "Mia")
        earlier = self._records.load(first.id).new_session
        self._claim(second.id != first.id, "another run answers", f"it was {second.id} again")
        self._claim(bool(earlier) and second.session == earlier, f"it resumes {earlier}", f"it had {second.session}")
        _note(f"It knows of Mia: the session {earlier} went on.")
        self.stop_host()
        self._close_idle(second)

    def _start_host(self) -> None:
        self._claim(self._lock.acquire(), f"{self._home.root} is the demo's alone", "another host lives there")
        write_host_file(self._home, "demo")
        self._host = Host(self._home)
        self._host.start()

    def stop_host(self) -> None:
        """As SIGTERM ends `run`: containers go on."""
        if self._host is not None:
            host, self._host = self._host, None
            host.stop()
            self._lock.release()

    def _ask(self, text: str, expected: str) -> Run:
        """Drop a message into the inbox, as a person would, and return the run that answered."""
        assert self._host is not None
        print(f"   you  > {text}", flush=True)
        before, known, since = self._host.transcripts.last(JID), self._records.ids(), time.monotonic()
        write_bytes(self._home.inbox / FOLDER / f"{time.time_ns()}.txt", text.encode() + b"\n")
        while not (
            answers := [line.message for line, _ in self._host.transcripts.since(JID, before) if line.message.is_bot]
        ):
            self._check_runs()
            self._claim(time.monotonic() < since + ANSWER_SECONDS, "an answer", f"none within {ANSWER_SECONDS:.0f} s")
            self._pause.wait(0.02)
        seconds, answer = time.monotonic() - since, answers[0]
        print(f"   Andy > {answer.text}")
        self._claim(not answer.id.startswith("notice-"), "an answer of the agent", "the host itself had to speak")
        self._claim(expected in answer.text, f"an answer that speaks of {expected!r}", "the above")
        self._claim(answer.run in self._records.ids(), "an answer that names its run", f"run {answer.run!r}")
        run = self._records.load(str(answer.run))
        self._check_state(run, "running")
        how = "as before" if run.id in known else "started for this"
        _note(f"{self._place.called(run)}, {how} and running: {seconds:.2f} s from the message to the answer.")
        return run

    def _same(self, first: Run, second: Run) -> None:
        self._claim(first.id == second.id, f"run {first.id} answers", f"it was {second.id}")

    def _show_file(self, path: Path, expected: str) -> None:
        content = path.read_text(errors="replace") if path.is_file() else ""
        self._claim(content == expected, f"{path} holds {expected!r}", f"{content!r}")
        _note(f"On disk, {path} holds {content!r}.")

    def _close_idle(self, one: Run) -> None:
        """By `run --once`, in a process of its own."""
        print(f"   $ NANOCLAW_HOME={self._home.root} python3 nanoclaw.py run --once", flush=True)
        variables = {"NANOCLAW_HOME": str(self._home.root), "NANOCLAW_CONFIG_DIR": str(self._home.user_config)}
        argv = [sys.executable, str(PROJECT / "nanoclaw.py"), "run", "--once"]
        env = {**os.environ, **variables}
        claim = "`run --once` closes it"
        try:
            done = subprocess.run(
                argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ONCE_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise _failed(claim, f"it did not end within {ONCE_SECONDS:.0f} s", self._home) from None
        self._claim(done.returncode == 0, claim, f"exit code {done.returncode}: {_last_line(done.stderr)}")
        self._check_state(one, "absent" if self._place.cli else "exited")
        outcome = self._records.load(one.id).outcome
        self._claim(outcome == "finished", "a run that ended well", f"{outcome!r}")
        _note(f"{self._place.called(one)} is gone.")

    def _check_state(self, run: Run, state: str) -> None:
        """Ask the engine (the process table) itself, not our records."""
        run = self._records.load(run.id)
        look = self._place.runtime.look(self._records.path(run.id), run.container, run.container_id)
        self._claim(
            look.state == state, f"{self._place.called(run)} is {state}", f"{self._place.name} says {look.state}"
        )

    def _check_runs(self) -> None:
        """A run that failed is tried again by the host; the demo does not wait for that."""
        for run_id in self._records.ids():
            with contextlib.suppress(BrokenFile, FileNotFoundError):
                run = self._records.load(run_id)
                good = run.outcome is None or VERDICTS[run.outcome].ok
                self._claim(good, f"run {run_id} answers", f"it ended with {run.outcome!r}: {self._last_words(run)}")

    def _last_words(self, run: Run) -> str:
        said = run.detail or str((run.error or {}).get("text") or "")
        with contextlib.suppress(OSError):
            said = said or (self._records.path(run.id) / "stderr.log").read_text(errors="replace")
        return _last_line(said)

    def _claim(self, holds: bool, claim: str, found: str) -> None:
        if not holds:
            raise _failed(claim, found, self._home)

    def show_files(self) -> None:
        """Where everything is; each path is there, or the demo failed."""
        home = self._home
        paths = [("transcript", path) for path in sorted(home.chat(JID).glob("*.jsonl"))]
        for run_id in self._records.ids():
            paths += [("run", self._records.path(run_id)), ("its command", self._records.path(run_id) / "command.sh")]
        paths += [("group's folder", home.group_folder(FOLDER)), ("settings", home.config_file)]
        paths += [("log", home.logs / "nanoclaw.log")]
        paths += [("journal", path) for path in sorted(home.logs.glob("journal-*.jsonl"))]
        print("\nAll of that is in files:")
        for what, path in paths:
            print(f"   {what:15} {path}")
            self._claim(path.exists(), f"{path} is there", "it is not")
        print(f"\nEverything was as claimed. To remove the demo's files: rm -rf {home.root}")


def _failed(claim: str, found: str, home: Home) -> UserError:
    return UserError(f"The demo failed. Expected: {claim}. Found: {found}.", f"See {home.logs / 'nanoclaw.log'}")


def _title(text: str) -> None:
    print(f"\n-- {text}", flush=True)


def _note(text: str) -> None:
    print(f"          [{text}]", flush=True)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["without a word"])[-1]


def _interrupt(number: int, frame: FrameType | None) -> None:
    """A SIGTERM or a closed terminal ends the demo as Ctrl-C does, so that it tidies up."""
    raise KeyboardInterrupt


@contextlib.contextmanager
def _signals(handler: signal._HANDLER) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
