"""``demo``: a conversation with a real agent in a real container, each claim about it verified; only the model is a stand-in.

It has a home of its own and touches neither the person's home nor their ~/.config/nanoclaw. What it shows is read from disk and from
the engine, never assumed: when something is not as claimed it ends with exit code 1. Its files stay, its containers do not.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from nanoclaw.commands import build
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import BrokenFile, write_bytes
from nanoclaw.files.locks import HomeLock
from nanoclaw.host import Host, make_home, write_host_file
from nanoclaw.models import Config
from nanoclaw.paths import PROJECT, Home
from nanoclaw.runs import processes
from nanoclaw.runs.command import MEMORY_LABEL
from nanoclaw.runs.engine_check import find_cli, why_unavailable
from nanoclaw.runs.image import image_state
from nanoclaw.runs.judge import VERDICTS
from nanoclaw.runs.local_process import ProcessRuntime, agent_python
from nanoclaw.runs.records import Records, Run
from nanoclaw.runs.runtime import COMMAND_SECONDS, CommandRuntime, Runtime, is_starting

ANSWER_SECONDS = 120.0
ONCE_SECONDS = 60.0
JID, FOLDER = "local:main", "main"
PROCESS_MARK = "WITHOUT ISOLATION"


@dataclass(frozen=True)
class _Place:
    """What runs the agents: ``cli`` is the engine's client, "" for the process runtime."""

    name: str
    cli: str
    runtime: Runtime


def run(runtime: str | None) -> int:
    """Show the conversation on ``runtime``, or on the first that can be used; 0 when all was as claimed. UserError: what was not."""
    print(
        "NanoClaw demo: a real agent, a real conversation. The model is the offline one: a few rules, nothing is paid.\n"
    )
    with _signals_interrupt():
        place = _forced(runtime) if runtime else _found()
        root = Path(tempfile.mkdtemp(prefix="nanoclaw-demo-", dir="/tmp"))  # sockets need a short path: not $TMPDIR
        home = Home(root, root / "config")
        home.state.mkdir()
        config = f'[container]\nruntime = "{place.name}"\n\n[model]\noffline = true\n'
        write_bytes(home.config_file, config.encode())
        home_id = make_home(home)
        print(f"\nThe demo's own home is {root}; yours is not touched.")
        demo = _Demo(home, place)
        try:
            demo.conversation()
        except BaseException:
            print(f"The demo broke off; its files are in {root}.", file=sys.stderr)
            raise
        finally:
            with _signals_ignored():
                demo.stop_host()
                _remove_containers(home, home_id, place)
        demo.show_files()
    return 0


# -- where the agents run ----------------------------------------------------------------------------------------------


def _found() -> _Place:
    """Docker, else Podman, else plain processes; says why each of the others cannot be used."""
    for name in ("docker", "podman"):
        try:
            return _forced(name)
        except UserError as error:
            print(f"{error.problem}\n  {error.fix}", flush=True)
    print("So the agent runs as a plain process on this machine.")
    return _forced("process")


def _forced(name: str) -> _Place:
    """``name`` made ready, with its image or the SDK; UserError where it cannot be."""
    if name == "process":
        print(
            f"{PROCESS_MARK}: no container keeps the agent from your files. It has your rights; the offline model is tame."
        )
        agent_python(lambda line: print(f"  {line}", flush=True))
        return _Place(name, "", ProcessRuntime())
    cli = find_cli(name)
    if unavailable := why_unavailable(cli):
        raise unavailable
    image = Config().image
    state = image_state(cli, image, PROJECT)
    if state == "current":
        print(f"Engine: {cli}. The image {image} is there and current.", flush=True)
    else:
        what = "is not there yet" if state == "absent" else "is older than its sources"
        print(f"Engine: {cli}. The image {image} {what}; it is built now, which may take some minutes.", flush=True)
        build.run(Home.from_environment(), None, False, runtime=name, image=image)
    return _Place(name, cli, CommandRuntime(cli, name))


# -- the conversation --------------------------------------------------------------------------------------------------


class _Demo:
    def __init__(self, home: Home, place: _Place) -> None:
        self._home = home
        self._place = place
        self._lock = HomeLock(home.state)
        self._records = Records(home)
        self._host: Host | None = None
        self._pause = threading.Event()

    def conversation(self) -> None:
        """The whole of it; raises UserError at the first thing that is not as it says."""
        _title("A message, and the agent's answer")
        self._start_host()
        first = self._ask("Good morning! My cat is called Mia.", "Mia")
        self._claim(self._is(first, "running"), f"run {first.id} lives after its answer, {self._place.name} denies it")

        _title("A tool call: the agent writes a file in its group's folder")
        self._same(first, self._ask("write shopping.txt: milk", "shopping.txt"))
        self._show_file(self._home.group_folder(FOLDER) / "shopping.txt", "milk\n")

        _title("A follow-up, answered by the same living agent")
        self._same(first, self._ask("And bread tomorrow, perhaps.", "bread"))

        _title("The host ends, the agent lives on; the next host adopts it and closes it")
        self.stop_host()
        self._claim(self._is(first, "running"), f"run {first.id} survives its host, {self._place.name} denies it")
        _note(f"The host has ended. {self._name(first)} still runs.")
        self._close_idle(first)

        _title("The next message: a new agent, which resumes the session")
        self._start_host()
        second = self._ask("What did I say?", "Mia")
        earlier = self._records.load(first.id).new_session
        self._claim(second.id != first.id, f"a new run answered, it was {first.id} again")
        self._claim(bool(earlier) and second.session == earlier, f"session {earlier} was resumed, not {second.session}")
        _note(f"It knows of Mia: session {second.session} went on in a new run.")
        self.stop_host()
        self._close_idle(second)

    def _start_host(self) -> None:
        self._claim(self._lock.acquire(), f"the host of {self._home.root} is this process, another one lives")
        write_host_file(self._home, "demo")
        self._host = Host(self._home)
        self._host.start()

    def stop_host(self) -> None:
        """As a SIGTERM to `run` does it: containers go on."""
        if self._host is not None:
            self._host.stop()
            self._lock.release()
            self._host = None

    def _ask(self, text: str, expected: str) -> Run:
        """Drop a message into the inbox, as a person would; the run that answered, once the answer stands in the transcript."""
        assert self._host is not None
        print(f"   you  > {text}", flush=True)
        place = self._host.transcripts.last(JID)
        known = self._records.ids()
        since = time.monotonic()
        write_bytes(self._home.inbox / FOLDER / f"{time.time_ns()}.txt", text.encode() + b"\n")
        while True:
            lines = [line.message for line, _ in self._host.transcripts.since(JID, place) if line.message.is_bot]
            if lines:
                break
            self._trouble()
            self._claim(time.monotonic() < since + ANSWER_SECONDS, f"an answer comes within {ANSWER_SECONDS:.0f} s")
            self._pause.wait(0.02)
        seconds, answer = time.monotonic() - since, lines[0]
        print(f"   Andy > {answer.text}")
        self._claim(not answer.id.startswith("notice-"), "the agent answers, the host had to say this instead")
        self._claim(expected in answer.text, f"the answer speaks of {expected!r}")
        self._claim(answer.run in self._records.ids(), f"the answer names its run, not {answer.run!r}")
        found = self._records.load(str(answer.run))
        _note(f"{self._name(found)}{', as before' if found.id in known else ', started for this'}: {seconds:.2f} s.")
        return found

    def _same(self, first: Run, second: Run) -> None:
        self._claim(first.id == second.id, f"run {first.id} answered, it was {second.id}")
        self._claim(self._is(first, "running"), f"run {first.id} still lives, {self._place.name} denies it")
        _note(f"{self._place.name} confirms: it is still running.")

    def _show_file(self, path: Path, expected: str) -> None:
        content = path.read_text() if path.is_file() else "nothing"
        _note(f"On disk: {path} holds {content!r}.")
        self._claim(content == expected, f"{path} holds {expected!r}")

    def _close_idle(self, one: Run) -> None:
        """`run --once` closes what is idle; afterwards the engine must not know the container any more."""
        print(f"   $ NANOCLAW_HOME={self._home.root} python3 nanoclaw.py run --once", flush=True)
        variables = {"NANOCLAW_HOME": str(self._home.root), "NANOCLAW_CONFIG_DIR": str(self._home.user_config)}
        argv = [sys.executable, str(PROJECT / "nanoclaw.py"), "run", "--once"]
        try:
            done = subprocess.run(
                argv,
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=ONCE_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise _failed(f"`run --once` ends within {ONCE_SECONDS:.0f} s", self._home) from None
        words = done.stderr.decode(errors="replace").strip().splitlines()
        self._claim(done.returncode == 0, f"`run --once` ends well, not with {done.returncode}: {''.join(words[-1:])}")
        gone = "exited" if self._place.name == "process" else "absent"
        self._claim(self._is(one, gone), f"run {one.id} is gone, {self._place.name} denies it")
        outcome = self._records.load(one.id).outcome
        self._claim(outcome == "finished", f"the verdict on run {one.id} is 'finished', not {outcome!r}")
        _note(f"{self._name(one)} is gone: {self._place.name} knows it no more.")

    def _trouble(self) -> None:
        """Not worth waiting for an answer when a run has failed already: it would only be tried again."""
        for run_id in self._records.ids():
            with contextlib.suppress(BrokenFile, FileNotFoundError):
                run = self._records.load(run_id)
                if run.outcome is not None and not VERDICTS[run.outcome].ok:
                    raise _failed(
                        f"run {run.id} works, it ended with {run.outcome!r}: {self._last_words(run)}", self._home
                    )

    def _last_words(self, run: Run) -> str:
        with contextlib.suppress(OSError, IndexError):
            said = (self._records.path(run.id) / "stderr.log").read_text(errors="replace").strip().splitlines()[-1]
            return run.detail or str((run.error or {}).get("text") or said)
        return run.detail or str((run.error or {}).get("text") or "it said nothing")

    def _is(self, run: Run, state: str) -> bool:
        latest = self._records.load(run.id)
        return (
            self._place.runtime.look(self._records.path(run.id), latest.container, latest.container_id).state == state
        )

    def _name(self, run: Run) -> str:
        if self._place.name != "process":
            return f"Container {run.container}"
        return f"Process {(run.container_id or '?').partition(':')[0]} ({PROCESS_MARK}, run {run.id})"

    def _claim(self, holds: bool, claim: str) -> None:
        if not holds:
            raise _failed(claim, self._home)

    def show_files(self) -> None:
        """Where everything is; each path exists, or the demo failed."""
        home, runs = self._home, [self._records.path(run_id) for run_id in self._records.ids()]
        paths = [("transcript", path) for path in sorted(home.chat(JID).glob("*.jsonl"))]
        for path in runs:
            paths += [("run", path), ("  its command", path / "command.sh")]
        paths += [("group's folder", home.group_folder(FOLDER)), ("settings", home.config_file)]
        paths += [
            ("log", home.logs / "nanoclaw.log"),
            *(("journal", path) for path in home.logs.glob("journal-*.jsonl")),
        ]
        print("\nAll of that is in files:")
        for what, path in paths:
            print(f"   {what:15} {path}")
            self._claim(path.exists(), f"{path} exists")
        self._claim({"transcript", "run", "journal"} <= {what for what, _ in paths}, "every stage left its file")
        print(f"\nEverything was as claimed. To remove the demo: rm -rf {home.root}")


def _failed(claim: str, home: Home) -> UserError:
    return UserError(f"The demo failed. Claimed: {claim}.", f"What happened: {home.logs / 'nanoclaw.log'}")


def _title(text: str) -> None:
    print(f"\n-- {text}", flush=True)


def _note(text: str) -> None:
    print(f"          [{text}]", flush=True)


# -- the end -----------------------------------------------------------------------------------------------------------


def _remove_containers(home: Home, home_id: str, place: _Place) -> None:
    """Remove what this demo started, and nothing else; a command that still starts a container is waited for."""
    records, pause, deadline = Records(home), threading.Event(), time.monotonic() + COMMAND_SECONDS
    for run_id in records.ids():
        while is_starting(records.path(run_id)) and time.monotonic() < deadline:
            pause.wait(0.05)
        pid_file = records.path(run_id) / "pid"
        if not place.cli and pid_file.exists():
            place.runtime.stop(run_id, pid_file.read_text(), 2.0)
    if place.cli:
        mine = ["--filter", f"label={MEMORY_LABEL}={home_id}"]
        left = processes.run([place.cli, "ps", "--all", "--quiet", *mine], COMMAND_SECONDS).stdout.split()
        if left:
            processes.run([place.cli, "rm", "--force", *left], COMMAND_SECONDS)


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """A SIGTERM or a closed terminal ends the demo as Ctrl-C does: by KeyboardInterrupt, so that it tidies up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _signals_ignored() -> Iterator[None]:
    """Tidying up takes a second or two; another Ctrl-C does not end it half-way."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
