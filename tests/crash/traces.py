"""What a house left behind: transcripts, claims, results, far sides. Files only, read when all is over.

Put messages are looked for by their markers, in the prompts themselves (``in/*.json``) and not by ranges of seqs: a
range may go over what another claim has answered.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.crash.scene import GROUPS, MARKER, STOPPED, TELEGRAM, Scene
from tests.support.scripted_model import message_texts

UNDER_WAY = ("inbox/*/[!.]*", "ipc/*/messages/*", "ipc/*/tasks/*", "outbox/*.json", "errands/*.json", "STOP*")
"""Below state/: what somebody still has to take."""


@dataclass
class Prompt:
    """A claim with what it covers. ``text``: what the agent reads. ``answer``: the text of the accepted result that
    finished it, None without one."""

    run: dict[str, Any]
    claim: dict[str, Any]
    markers: list[str]
    text: str
    answer: str | None

    @property
    def is_errand(self) -> bool:
        return bool(self.run["errand"]) and self.claim["n"] == 1


class Traces:
    """All that a house left on disk, read once."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.home = scene.house.home
        self.runs = scene.house.runs()
        self.results = {run["id"]: list(self._results(run["id"])) for run in self.runs}
        self.prompts = [prompt for run in self.runs for prompt in self._prompts(run)]
        self.transcripts = {folder: self._transcript(jid) for folder, jid in GROUPS.items()}

    def given_up(self, folder: str) -> list[dict[str, Any]]:
        """Replies that were set aside with their reason: Telegram refuses some for good."""
        found = [json.loads(path.read_bytes()) for path in sorted((self.home.outbox / "failed").glob("*.json"))]
        return [reply for reply in found if reply["folder"] == folder and reply["reason"]]

    def far_side(self, folder: str) -> list[dict[str, Any]]:
        """Lines with key (local only) and text."""
        if folder == TELEGRAM:
            return list(self.scene.telegram.sent)
        return lines(self.home.local / f"{folder}.jsonl")

    def discarded(self, run: dict[str, Any], event: dict[str, Any]) -> bool:
        """Did a stop come before this result was taken?"""
        finished = {claim["uuid"] for claim in run["claims"] if claim["state"] == "finished"}
        stopped = (self.home.runs / run["id"] / "stop").exists()
        return stopped and not (finished & set(event.get("uuids") or ()) and event["n"] <= run["accepted_through"])

    @cached_property
    def cancelled(self) -> set[str]:
        """Markers of cancelled claims, and of what waited when its group was stopped."""
        markers = {m for p in self.prompts if p.claim["state"] == "cancelled" for m in p.markers}
        for line in self.transcripts[STOPPED]:
            if line["seq"] in self.scene.cancelled:
                markers.update(MARKER.findall(line["text"]))
        return markers

    def _results(self, run_id: str) -> Iterable[dict[str, Any]]:
        for path in sorted((self.home.runs / run_id / "out").glob("[0-9]*.json")):
            event = json.loads(path.read_bytes())
            if event["type"] == "result":
                yield event

    def _prompts(self, run: dict[str, Any]) -> Iterable[Prompt]:
        for claim in run["claims"]:
            text = json.loads((self.home.runs / run["id"] / "in" / f"{claim['n']:06d}.json").read_bytes())["text"]
            named = [event for event in self.results[run["id"]] if claim["uuid"] in (event.get("uuids") or ())]
            taken = [event["text"] for event in named if event["n"] <= run["accepted_through"]]
            answer = taken[-1] if taken and claim["state"] == "finished" else None
            markers = MARKER.findall(" ".join(message_texts(text)))  # not those of a note about a failed answer
            yield Prompt(run, claim, markers, text, answer)

    def _transcript(self, jid: str) -> list[dict[str, Any]]:
        return [line for path in sorted(self.home.chat(jid).glob("*.jsonl")) for line in lines(path)]


def lines(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes() if path.exists() else b""
    found = []
    for line in data.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # a write that a kill cut off
            continue
    return found
