"""The record of a run: ``state/runs/<id>/run.json``. The directory's rename from ``.new-<id>`` is the claim of its
first prompt.

A record is written by the one worker that owns the run (or by the restart, before there are workers); others only
read it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from nanoclaw.faults import reach
from nanoclaw.files.atomic import BrokenFile, fsync_directory, json_bytes, read_json, write_json, write_plain
from nanoclaw.paths import Home
from nanoclaw.stores.transcripts import Position


@dataclass
class Claim:
    """A prompt: the messages behind ``after`` through ``place``. ``state``: ``offered`` → ``consumed`` →
    ``finished``, or ``cancelled`` by a person. ``output``: something reached the chat after it was consumed.
    ``broken``: finished without its result. ``quote``: the id of the last message in it that woke the agent;
    ``wakers``: how many did."""

    n: int
    uuid: str
    after: Position
    place: Position
    state: str = "offered"
    output: bool = False
    broken: bool = False
    quote: str | None = None
    wakers: int = 0
    note: str | None = None


@dataclass
class Run:
    """``status``: ``prepared`` → ``started`` → ``ended`` → ``judged``. Times are UTC, ISO 8601; durations in s.

    ``group`` is what the group's settings were at the start; ``limits`` the image, runtime and timeouts that hold
    for this run. ``rotated_from``: the id of the group's session, which is too large to be resumed: its transcript is
    archived, and a fresh session begins.
    """

    id: str
    folder: str
    jid: str
    container: str
    runtime: str
    image: str
    group: dict[str, Any]
    timeout: float
    idle_timeout: float
    placeholder_hash: str
    socket: str
    created: str
    session: str | None = None
    anchor: str | None = None
    kind: str = "message"
    errand: str | None = None
    errand_tries: int = 0
    rotated_from: str | None = None
    idle: bool = False
    status: str = "prepared"
    container_id: str | None = None
    started: str | None = None
    ended: str | None = None
    claims: list[Claim] = field(default_factory=list)
    accepted_through: int = 0
    replies: int = 0
    new_session: str | None = None
    new_anchor: str | None = None
    error: dict[str, Any] | None = None
    why_ended: str | None = None
    timed_out: bool = False
    hung: bool = False
    stopped: str | None = None
    exit_code: int | None = None
    oom: bool = False
    outcome: str | None = None
    detail: str | None = None
    usage: list[dict[str, Any]] = field(default_factory=list)
    cost_usd: float | None = None

    @property
    def is_answered(self) -> bool:
        """Is every prompt finished?"""
        return all(claim.state == "finished" for claim in self.claims)

    @property
    def done_through(self) -> int | None:
        """The seq through which everything of this run is finished; None while it has no claim."""
        for claim in self.claims:
            if claim.state != "finished":
                return claim.after.seq
        return self.claims[-1].place.seq if self.claims else None


class Records:
    """All runs of a home, by id."""

    def __init__(self, home: Home) -> None:
        self._directory = home.runs

    def path(self, run_id: str) -> Path:
        return self._directory / run_id

    def new_id(self, folder: str, now: datetime) -> str:
        """``<folder>-<YYYYmmdd-HHMMSS-mmm>`` in local time, one that is not there yet."""
        while True:
            run_id = f"{folder}-{now.strftime('%Y%m%d-%H%M%S')}-{now.microsecond // 1000:03d}"
            if not self.path(run_id).exists():
                return run_id
            now = datetime.fromtimestamp(now.timestamp() + 0.001)

    def create(self, run: Run, fill: Callable[[Path], None]) -> Path:
        """Make a run's directory appear whole: ``fill`` writes in/, out/, … into the draft directory it is given."""
        draft, final = self._directory / f".new-{run.id}", self.path(run.id)
        draft.mkdir(mode=0o700)
        try:
            fill(draft)
            write_json(draft / "run.json", asdict(run), durable=False)
            fsync_directory(draft)
            reach("claim-drafted")
            os.rename(draft, final)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        fsync_directory(self._directory)
        reach("claimed")
        return final

    def save(self, run: Run) -> None:
        """Replace run.json (durable)."""
        write_json(self.path(run.id) / "run.json", asdict(run))

    def load(self, run_id: str) -> Run:
        """Read a record; raises BrokenFile, FileNotFoundError. Claims that only in/ knows are added as offered."""
        path = self.path(run_id) / "run.json"
        value = read_json(path)
        if value is None:
            raise FileNotFoundError(path)
        try:
            claims = [_claim(c) for c in value.pop("claims")]
            run = Run(**value, claims=claims)
        except (TypeError, KeyError, ValueError):
            raise BrokenFile(path, 0, "not the record of a run") from None
        if run.status != "judged":
            known = {claim.n for claim in run.claims}
            run.claims += self._offered(run_id, known)
            run.claims.sort(key=lambda claim: claim.n)
        return run

    def ids(self) -> list[str]:
        """All runs, the oldest first by name; what is being prepared is left out."""
        return sorted(e.name for e in os.scandir(self._directory) if e.is_dir() and not e.name.startswith("."))

    def remove_drafts(self) -> None:
        """A draft claimed nothing: a crash left it."""
        for path in self._directory.glob(".new-*"):
            shutil.rmtree(path, ignore_errors=True)

    def prune(self, keep: float, now: float) -> list[str]:
        """Remove judged runs whose directory was last touched more than ``keep`` s before Unix time ``now``;
        returns their ids. By descriptor, without following links: a container wrote into them."""
        removed = []
        for run_id in self.ids():
            try:
                if now - os.stat(self.path(run_id)).st_mtime > keep and self.load(run_id).status == "judged":
                    shutil.rmtree(self.path(run_id))
                    removed.append(run_id)
            except (OSError, BrokenFile, RecursionError):  # RecursionError: a container nested thousands of directories
                continue
        return removed

    def _offered(self, run_id: str, known: set[int]) -> Iterator[Claim]:
        for path in sorted((self.path(run_id) / "in").glob("[0-9]*.json")):
            value = read_json(path) if int(path.stem) not in known else None
            if value is not None:
                after, place = Position(**value["after"]), Position(**value["place"])
                more = {key: value[key] for key in ("quote", "wakers", "note") if key in value}
                yield Claim(value["n"], value["uuid"], after, place, **more)

    def write_prompt(self, directory: Path, claim: Claim, text: str, durable: bool) -> None:
        """in/NNNNNN.json: the claim of a prompt, readable in the container. Not ``durable``: in a draft whose
        run.json holds the claim, too, so that after a crash of the machine nobody reads this file."""
        value = {
            "n": claim.n,
            "uuid": claim.uuid,
            "from": claim.after.seq + 1,
            "through": claim.place.seq,
            "after": asdict(claim.after),
            "place": asdict(claim.place),
            "quote": claim.quote,
            "wakers": claim.wakers,
            "note": claim.note,
            "text": text,
        }
        path = directory / f"{claim.n:06d}.json"
        if durable:
            write_json(path, value, mode=0o644)
        else:
            write_plain(path, json_bytes(value), mode=0o644)


def _claim(value: dict[str, Any]) -> Claim:
    return Claim(**{**value, "after": Position(**value["after"]), "place": Position(**value["place"])})


def write_command(directory: Path, argv_text: str) -> None:
    """command.sh: what starts this run's container, to paste into a shell."""
    write_plain(directory / "command.sh", f"#!/bin/sh\nexec {argv_text}\n".encode(), mode=0o700)
