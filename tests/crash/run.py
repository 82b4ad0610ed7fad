"""One crash test from its first kill to its audit: what ``__main__`` and the tests call."""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.crash.audit import Report, audit
from tests.crash.kills import Kill, Tally, carry_out, schedule
from tests.crash.plants import PLANTS, program
from tests.crash.scene import GROUPS, TELEGRAM, Scene
from tests.crash.traces import UNDER_WAY
from tests.support.home import CLI
from tests.support.waiting import wait_for

SETTLE = 120.0
QUIET = 3.0
"""s without any change, nothing being on its way: then what has no answer will never get one."""


def crash(
    kills: Sequence[Kill] | int,
    seed: int,
    plant: str = "",
    engine: bool = False,
    say: Callable[[str], None] = lambda text: None,
    keep: bool = False,
) -> tuple[Tally, Report]:
    """``kills``: a number, or the kills themselves. ``keep``: leave the home where it is, and say where."""
    docker = shutil.which("docker")
    assert docker is not None, "there is no docker on this machine"
    root = Path(tempfile.mkdtemp(prefix="nc-crash-", dir="/tmp")).resolve()
    scene = Scene(root, docker, seed, program(plant) if plant else ("-c", CLI))
    planned = schedule(kills, random.Random(seed), engine) if isinstance(kills, int) else kills
    try:
        scene.start_feeding()
        tally = carry_out(scene, planned, say)
        scene.still()
        host = scene.host()
        try:
            settle(scene)
        except AssertionError as error:
            tally.strange.append(str(error))
        if host.poll() is None:
            scene.house.stop()
        scene.note_cancelled()
        report = audit(scene)
        report.other[:0] = tally.strange
        return tally, report
    finally:
        scene.close()
        if keep:
            say(f"kept: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)


def plant_kills(plant: str, times: int = 3) -> list[Kill]:
    """The kills that show a plant."""
    step = PLANTS[plant][1]
    if step == "telegram":
        return [Kill("telegram")] * min(times, 2)
    return [Kill("fault", step, number) for number in (1, 2, 1, 3, 2)[:times]]


def settle(scene: Scene) -> None:
    """Return when the host has worked off everything; AssertionError that says what is left. A note of a failure waits
    for the agent's next prompt: somebody writes again."""
    seen: list[object] = [None, time.monotonic()]

    def quiet() -> bool:
        now = _moving(scene)
        if now != seen[0]:
            seen[:] = [now, time.monotonic()]
        threading.Event().wait(0.2)
        if scene.house.cursor(TELEGRAM).get("note") and not _on_its_way(scene):
            scene.say(TELEGRAM, "say")
        return not _on_its_way(scene) and time.monotonic() - float(str(seen[1])) >= QUIET

    try:
        wait_for(quiet, SETTLE, "a house at rest")
    except AssertionError as error:
        raise AssertionError(f"{error}: {', '.join(_on_its_way(scene))}") from None


def _moving(scene: Scene) -> list[object]:
    state = scene.house.home.state
    paths = [*state.glob("cursors/*.json"), *state.glob("messages/*/*.jsonl"), *state.glob("runs/*/run.json")]
    return [(path, path.stat().st_mtime_ns) for path in sorted(paths)]


def _on_its_way(scene: Scene) -> list[str]:
    home = scene.house.home
    left = [str(path.relative_to(home.state)) for pattern in UNDER_WAY for path in home.state.glob(pattern)]
    left += [f"{run['id']} {run['status']}" for run in scene.house.runs() if run["status"] != "judged"]
    for folder in GROUPS:
        retry = scene.house.cursor(folder).get("retry")
        if retry and retry.get("kept_through") is None:
            left.append(f"{folder} tries again: {json.dumps(retry)}")
    held = scene.telegram.pending
    return left + ([f"{len(held)} updates of Telegram"] if held else [])


def shout(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
