"""The kills: which, in which order, and how each is done. Every one begins with the start of a host and ends
without one.

A host is killed by itself at a step (``fault``), by SIGKILL or SIGTERM at a random instant (``kill``, ``term``) or
when Telegram has taken a message and the host cannot know it (``telegram``). It sees one of its containers killed first
(``container``), or the engine (``engine``: dockerd, by kill -9, which is started again by the command line that it
had), or one is killed when it is gone itself (``orphan``). ``hold`` kills nothing: from there on that is the policy for
what Telegram may have taken.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import nanoclaw
from nanoclaw.faults import STEPS
from tests.crash.scene import TELEGRAM, Scene
from tests.support.waiting import wait_for

TO_A_STEP = 12.0
"""s: a host that was not killed by its fault until then is killed by us; the fault comes again later, twice at most."""
TO_A_STOP = 10.0
ONCE = ("errand-claimed", "reply-failing", "reply-failed", "stop-asked", "stop-cancelled", "stopped")
"""Steps that one host comes to once, seldom twice."""
OF_A_RUN = ("claim-drafted", "claimed", "container-started", "run-started", "run-ended", "container-removed", "settled")
OF_A_RUN += ("told", "judged")
TRIES = 3
AT_LEAST_ONCE = ("container", "orphan", "telegram")


@dataclass(frozen=True)
class Kill:
    """``step`` and ``occurrence``: of a fault."""

    how: str
    step: str = ""
    occurrence: int = 1
    tries: int = 1


@dataclass
class Tally:
    """``kills`` by how, ``reached`` by step; ``strange``: what no kill explains."""

    kills: Counter[str] = field(default_factory=Counter)
    reached: Counter[str] = field(default_factory=Counter)
    strange: list[str] = field(default_factory=list)

    def unreached(self) -> list[str]:
        """Steps and ways of killing that did not come about."""
        steps = [step for step in wanted_steps() if not self.reached[step]]
        return steps + [how for how in AT_LEAST_ONCE if not self.kills[how]]


def placed_steps() -> set[str]:
    """The steps that stand somewhere in the sources."""
    sources = Path(nanoclaw.__file__).parent.rglob("*.py")
    return {step for path in sources for step in re.findall(r'\breach\("([a-z-]+)"\)', path.read_text())}


def wanted_steps() -> list[str]:
    """Those of ``STEPS`` at which a host can be killed; the steps of stopping only where it is built."""
    placed = placed_steps()
    return [step for step in STEPS if step in placed or not step.startswith("stop")]


def schedule(kills: int, rng: random.Random, engine: bool = False) -> list[Kill]:
    """About ``kills`` of them, shuffled in two halves, the second under ``hold``: each step in turn, as often as three
    quarters of them reach, with an occurrence that grows from round to round; the others at random instants. At least
    one of everything."""
    steps, hows = wanted_steps(), ["kill"] * 6 + ["term"] * 2 + list(AT_LEAST_ONCE) + (["engine"] if engine else [])
    rounds = max(1, round(kills * 0.75 / len(steps)))
    halves: tuple[list[Kill], list[Kill]] = ([], [Kill("telegram")])
    for n in range(rounds):
        halves[n % 2].extend(Kill("fault", step, 1 if step in ONCE else n // 2 % 4 + 1) for step in steps)
    halves[0].extend(Kill(how) for how in dict.fromkeys(hows))
    for n in range(kills - sum(map(len, halves))):
        halves[n % 2].append(Kill(rng.choice(hows)))
    for half in halves:
        rng.shuffle(half)
    return [*halves[0], Kill("hold"), *halves[1]]


def carry_out(scene: Scene, kills: Sequence[Kill], say: Callable[[str], None] = lambda text: None) -> Tally:
    """One after the other; what missed its step comes again at the end."""
    tally, left, began = Tally(), list(kills), time.monotonic()
    while left:
        kill = left.pop(0)
        if kill.how == "hold":
            scene.configure("hold")
        elif not _done(scene, kill, tally) and kill.tries < TRIES:
            left.append(replace(kill, occurrence=1, tries=kill.tries + 1))
        scene.note_cancelled()
        say(f"{time.monotonic() - began:4.0f} s, {len(left)} left: {kill.how} {kill.step}")
    return tally


def _done(scene: Scene, kill: Kill, tally: Tally) -> bool:
    """Carry out one; False: it missed."""
    if kill.how == "fault":
        return _provoke(scene, kill) and _at_a_step(scene, kill, tally)
    if kill.how == "telegram":
        scene.say(TELEGRAM, "say")
        return _at_a_step(scene, kill, tally)
    return _at_an_instant(scene, kill, tally)


def _at_a_step(scene: Scene, kill: Kill, tally: Tally) -> bool:
    host = scene.host(f"{kill.step}:{kill.occurrence}" if kill.step else "")
    scene.victim = host if kill.how == "telegram" else None
    try:
        code = host.wait(TO_A_STEP)
    except subprocess.TimeoutExpired:
        _end(host, signal.SIGKILL)
        tally.kills["kill"] += 1
        return False
    finally:
        scene.house.host = scene.victim = None
    if code == -signal.SIGKILL:
        tally.reached.update([kill.step] if kill.step else [])
        tally.kills[kill.how] += 1
    else:
        tally.strange.append(f"the host ended by itself with exit code {code} ({kill.how} {kill.step})")
    return code == -signal.SIGKILL


def _provoke(scene: Scene, kill: Kill) -> bool:
    """Lead to a step to which the scene's everyday life does not. False: nothing does, yet."""
    if kill.step == "errand-claimed":
        return scene.again("main") or scene.again("ann")
    if kill.step.startswith("stop"):
        scene.stop(in_the_chat=kill.step == "stop-asked")
    for number in range(kill.occurrence):
        if kill.step in OF_A_RUN:
            scene.another_run(("main", "ann")[number % 2])
        elif kill.step in ("reply-failing", "reply-failed"):
            scene.unsendable()
        elif kill.step == "refusal-kept":
            scene.refused()
        elif kill.step in ("request-done", "request-answered"):
            scene.script_says("main")
    return True


def _at_an_instant(scene: Scene, kill: Kill, tally: Tally) -> bool:
    rng, before = scene.rng, tally.kills[kill.how]
    if kill.how in ("kill", "term") and rng.random() < 0.2 and "stopped" in placed_steps():
        scene.stop(in_the_chat=rng.random() < 0.5)
    if kill.how == "orphan":
        scene.another_run("main")
    host = scene.host()
    _pass(rng.uniform(0.02, 1.5))
    if kill.how == "orphan":
        _pass(1.0)
    elif kill.how == "container":
        _pass(1.0)
        if _kill_a_container(scene, rng):
            tally.kills["container"] += 1
        _pass(rng.uniform(0.02, 1.5))
    elif kill.how == "engine":
        kill_engine()
        tally.kills["engine"] += 1
    if (early := host.poll()) is not None:
        tally.strange.append(f"the host ended by itself with exit code {early}")
    number = signal.SIGTERM if kill.how == "term" else signal.SIGKILL
    code = _end(host, number)
    scene.house.host = None
    tally.kills["term" if kill.how == "term" else "kill"] += 1
    if code not in (0, -number):
        tally.strange.append(f"the host ended with exit code {code} after {number.name}")
    if kill.how == "orphan" and _kill_a_container(scene, rng):
        tally.kills["orphan"] += 1
    return tally.kills[kill.how] > before


def _end(host: subprocess.Popen[bytes], number: signal.Signals) -> int:
    host.send_signal(number)
    try:
        return host.wait(TO_A_STOP)
    except subprocess.TimeoutExpired:
        host.kill()
        host.wait()
        return 1


def _pass(seconds: float) -> None:
    """The random instant: nothing is waited for."""
    threading.Event().wait(seconds)


def _kill_a_container(scene: Scene, rng: random.Random) -> bool:
    names = scene.house.containers(all_states=False)
    with contextlib.suppress(AssertionError):  # it ended by itself in between
        if names:
            scene.house.docker("kill", rng.choice(sorted(names)))
            return True
    return False


def kill_engine() -> None:
    """kill -9 dockerd, and start it again as it was."""
    pids = list(_pids("dockerd"))
    assert len(pids) == 1, f"one dockerd of this machine's own is needed, there are {len(pids)}"
    command = Path(f"/proc/{pids[0]}/cmdline").read_bytes().split(b"\0")[:-1]
    os.kill(pids[0], signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{pids[0]}").exists(), 30, "the end of dockerd")
    with open(os.devnull, "r+b") as null:
        subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)
    docker = shutil.which("docker") or "docker"
    wait_for(
        lambda: subprocess.run([docker, "version"], capture_output=True, check=False).returncode == 0, 60, "dockerd"
    )


def _pids(name: str) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
            if (path / "comm").read_text().strip() == name and state != "Z":
                yield int(path.name)
